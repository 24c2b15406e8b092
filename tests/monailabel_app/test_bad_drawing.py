"""A drawing that cannot be used: told in a sentence where its patient is opened, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from monailabel_app.answers import Answers
from monailabel_app.cases import Cases
from monailabel_app.datastore import ExaminationDatastore
from monailabel_app.opened import OpenedCases
from monailabel_app.refusal import Refusal
from monailabel_app.sampling import FinishedCase
from monailabel_app.studies import FolderStudies
from tests.imaging import dicom_factory as factory
from tests.imaging.drawing_factory import write_segmentation
from tests.imaging.test_inventory import SENTENCE, write_patients

GOOD, BAD = factory.uid("good"), factory.uid("visit0")
ANY: Any = None


def datastore(folder: Path) -> ExaminationDatastore:
    """Of the studies in a folder."""
    (folder / "temporary").mkdir()
    studies = FolderStudies(folder / "studies", 4.0, ())
    opened = OpenedCases(folder / "opened.json")
    cases = Cases(folder / "images", 0)
    return ExaminationDatastore(studies, cases, ANY, opened, Answers(), folder / "temporary")


def draw(folder: Path, name: str, patient: str, label: str = "WT") -> None:
    """A drawing on a visit of a patient."""
    sources = sorted(folder.rglob(f"{name}_t1ce/*"))
    path = write_segmentation(folder / f"{name}.dcm", sources, {label: np.ones(factory.SHAPE, bool)})
    drawing = pydicom.dcmread(path)
    drawing.PatientID = patient
    drawing.save_as(path)


def test_a_drawing_of_two_visits_blocks_its_patient_alone(tmp_path: Path) -> None:
    write_patients(tmp_path / "studies")
    served = datastore(tmp_path)
    assert sorted(served.list_images()) == sorted([GOOD, BAD, factory.uid("visit1")])
    assert served.status()["total"] == 3
    assert Path(served.get_image_uri(GOOD)).is_file()
    for ask in (served.get_image_uri, served.get_image_info, lambda key: served.get_label_uri(key, "final")):
        with pytest.raises(Refusal) as error:
            ask(BAD)
        assert (error.value.status_code, error.value.detail) == (400, SENTENCE)


def test_next_sample_goes_on_after_a_case_that_cannot_be_opened(tmp_path: Path) -> None:
    write_patients(tmp_path / "studies")
    draw(tmp_path / "studies", "good", "GOOD")
    draw(tmp_path / "studies", "visit0", "BAD")
    served = datastore(tmp_path)
    finished = FinishedCase(served._opened)
    offered = []
    for _ in range(2):
        picked = finished({}, served)
        assert picked is not None
        offered.append(picked["id"])
        if picked["id"] == BAD:
            with pytest.raises(Refusal, match="refers to 2 visits"):
                served.note_opened(BAD, "anna")
        else:
            served.note_opened(picked["id"], "anna")
    assert sorted(offered) == sorted([GOOD, BAD])


def test_a_drawing_that_cannot_be_read_is_told_to_the_viewer(tmp_path: Path) -> None:
    write_patients(tmp_path / "studies")
    draw(tmp_path / "studies", "good", "GOOD", label="Blob")
    with pytest.raises(Refusal) as error:
        datastore(tmp_path).get_label_uri(GOOD, "final")
    assert error.value.status_code == 400 and "Segment 'Blob' of good.dcm" in error.value.detail


def test_an_image_that_cannot_be_decoded_is_told_to_the_viewer(tmp_path: Path) -> None:
    write_patients(tmp_path / "studies")
    path = sorted((tmp_path / "studies" / "good" / "good_t1ce").iterdir())[2]
    image = pydicom.dcmread(path)
    image.PixelData = image.PixelData * 2
    image.save_as(path)
    with pytest.raises(Refusal) as error:
        datastore(tmp_path).get_image_uri(GOOD)
    assert error.value.status_code == 400 and path.name in error.value.detail
