"""Folders of many patients: what is wrong with one of them stays with that one."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from imaging.__main__ import main
from imaging.catalog import read_catalog, read_inventory
from imaging.errors import ImagingError, Reason
from tests.imaging import dicom_factory as factory
from tests.imaging.drawing_factory import write_segmentation

SENTENCE = "drawing.dcm refers to 2 visits; draw each visit on its own images."


def write_patients(folder: Path) -> None:
    """Two patients, one of whom has a drawing that refers to both of his visits."""
    factory.write_visit(folder / "good", name="good", contrasts=("t1ce",), attributes={"PatientID": "GOOD"})
    files = [
        factory.write_visit(
            folder / "bad",
            factory.DATE + timedelta(days=60 * n),
            name=f"visit{n}",
            contrasts=("t1ce",),
            attributes={"PatientID": "BAD"},
        )["t1ce"]
        for n in range(2)
    ]
    mask = np.ones(factory.SHAPE, bool)
    drawing = pydicom.dcmread(write_segmentation(folder / "bad" / "drawing.dcm", files[0], {"WT": mask}))
    other = Dataset()
    other.SeriesInstanceUID = pydicom.dcmread(files[1][0]).SeriesInstanceUID
    other.ReferencedInstanceSequence = []
    drawing.ReferencedSeriesSequence.append(other)
    drawing.PatientID = "BAD"
    drawing.save_as(folder / "bad" / "drawing.dcm")


def test_a_drawing_of_two_visits_stays_with_its_patient(tmp_path: Path) -> None:
    write_patients(tmp_path)
    bad, good = read_inventory(tmp_path).patients
    (refused,) = bad.refused_annotations
    assert (refused.reason, refused.sentence) == (Reason.BAD_ANNOTATION, SENTENCE)
    assert len(bad.visits) == 2 and not any(visit.annotations for visit in bad.visits)
    assert len(good.visits) == 1 and not good.refused_annotations


def test_a_run_on_that_patient_ends_with_the_sentence(tmp_path: Path) -> None:
    write_patients(tmp_path)
    with pytest.raises(ImagingError, match="refers to 2 visits") as error:
        read_catalog(tmp_path / "bad")
    assert error.value.reason is Reason.BAD_ANNOTATION
    assert read_catalog(tmp_path / "good").visits


def test_the_command_line_lists_all_and_names_the_drawing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_patients(tmp_path)
    assert main([str(tmp_path)]) == 0
    output = capsys.readouterr().out
    for words in ("Patient GOOD", "Patient BAD", f"! {SENTENCE}"):
        assert words in output
