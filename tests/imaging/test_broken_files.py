"""A file that is cut off takes its series out of the run, and the run says so; it stops where more may be lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from imaging.catalog import RefusedSeries, read_catalog, read_inventory
from imaging.errors import ImagingError, Reason
from imaging.role_selection import RoleSelection
from imaging.visit_selection import select_visits
from tests.imaging import dicom_factory as factory
from tests.imaging.drawing_factory import write_segmentation
from tests.imaging.folders import refuse

STUDY = {"StudyInstanceUID": factory.uid("visit"), "FrameOfReferenceUID": factory.uid("visit frame")}
DIFFUSION = {**factory.CONTRASTS["t2"], "SeriesDescription": "ep2d_diff_trace"}


def write_file(folder: Path, number: int = 7, **stated: Any) -> Path:
    """A series of one file, beside the T1CE and FLAIR of a visit."""
    factory.write_visit(folder, contrasts=("t1ce", "flair"))
    attributes = {**STUDY, "SeriesNumber": number, **stated}
    (path,) = factory.write_series(folder / "one", name="one", enhanced=True, attributes=attributes)
    return path


def cut(path: Path, before: bytes | None = None) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 200 if before is None else content.index(before)])


def chosen(folder: Path) -> tuple[RoleSelection, tuple[str, ...]]:
    found = select_visits(read_catalog(folder).visits, required=frozenset({"t1ce", "flair"}))
    ((_, selection),) = found.visits
    return selection, found.warnings


@pytest.mark.parametrize(
    "stated",
    [factory.CONTRASTS["flair"], DIFFUSION, factory.CONTRASTS["t2"]],
    ids=["a second FLAIR", "of no role", "of a role that is not needed"],
)
def test_a_series_of_one_file_is_left_out_with_a_warning(tmp_path: Path, stated: dict[str, Any]) -> None:
    cut(write_file(tmp_path, **stated))
    ((refused,),) = [visit.refused for visit in read_catalog(tmp_path).visits]
    assert (refused.reason, refused.number) == (Reason.TRUNCATED, 7)
    selection, (warning,) = chosen(tmp_path)
    assert {role: series.number for role, series in selection.chosen.items()} == {"t1ce": 1, "flair": 2}
    assert (
        warning.startswith("Visit 1: series 7 is incomplete: ")
        and "one.dcm is a DICOM file cut off" in warning
    )
    assert warning.endswith("take it out of the folder. The series was left out.")


def test_the_only_candidate_of_a_needed_role_ends_the_run_with_its_name(tmp_path: Path) -> None:
    cut(write_file(tmp_path, **factory.CONTRASTS["flair"]))
    for path in (tmp_path / "visit_flair").iterdir():
        path.unlink()
    with pytest.raises(
        ImagingError, match=r"no usable FLAIR series, because series 7 is incomplete: .*one.dcm"
    ) as error:
        chosen(tmp_path)
    assert error.value.reason is Reason.TRUNCATED


def test_what_lost_its_headers_is_named_where_a_role_is_missing(tmp_path: Path) -> None:
    """Cut behind its series: what it shows is unknown, and may be what is missing."""
    stated = {**factory.CONTRASTS["flair"], "SeriesDescription": None}
    cut(write_file(tmp_path, **stated), before=b"\x20\x00\x11\x00IS")
    _, (warning,) = chosen(tmp_path)
    assert "cut off in its header" in warning
    for path in (tmp_path / "visit_flair").iterdir():
        path.unlink()
    with pytest.raises(
        ImagingError, match=r"no usable FLAIR series, and what .* showed is unknown: .*one.dcm"
    ):
        chosen(tmp_path)


def test_alone_in_its_study_it_stops_the_run(tmp_path: Path) -> None:
    """It may have been a visit."""
    cut(write_file(tmp_path, StudyInstanceUID=factory.uid("another")))
    refuse(tmp_path, Reason.TRUNCATED, "one.dcm")


def test_it_is_refused_of_its_own_patient(tmp_path: Path) -> None:
    cut(write_file(tmp_path))
    factory.write_visit(tmp_path, name="other", contrasts=("t1ce",), attributes={"PatientID": "OTHER"})
    inventory = read_inventory(tmp_path)
    refused = {
        catalog.patient.patient_id: [series.number for visit in catalog.visits for series in visit.refused]
        for catalog in inventory.patients
    }
    assert not inventory.broken and refused == {"OTHER": [], "P-001": [7]}


@pytest.mark.parametrize("alone", [True, False])
def test_a_drawing_that_is_cut_off_stops_the_run(tmp_path: Path, alone: bool) -> None:
    """Else the network would answer where a clinician did, whatever else the drawing's series holds."""
    files = factory.write_visit(tmp_path, contrasts=("t1ce",))["t1ce"]
    mask = {"WT": np.ones(factory.SHAPE, bool)}
    series = {"SeriesInstanceUID": factory.uid("drawings")}
    if not alone:
        write_segmentation(tmp_path / "first.dcm", files, mask, attributes=series)
    cut(write_segmentation(tmp_path / "second.dcm", files, mask, attributes=series))
    refuse(tmp_path, Reason.TRUNCATED, "second.dcm")


def test_an_object_that_nobody_reads_is_ignored_broken_too(tmp_path: Path) -> None:
    path = write_file(tmp_path)
    picture = pydicom.dcmread(path)
    picture.SOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    picture.save_as(path)
    cut(path)
    (ignored,) = read_catalog(tmp_path).ignored
    assert ignored.reason == "broken, and not an MR or CT image"


def test_damage_in_one_value_leaves_the_others(tmp_path: Path) -> None:
    path = write_file(tmp_path, **factory.CONTRASTS["flair"])
    content = path.read_bytes()
    at = content.index(b"\x28\x00\x10\x00US")  # Rows
    path.write_bytes(content[: at + 4] + b"FD" + content[at + 6 :])
    ((refused,),) = [visit.refused for visit in read_catalog(tmp_path).visits]
    assert isinstance(refused, RefusedSeries) and "its Rows cannot be read" in refused.sentence
    assert (refused.modality, refused.description) == ("MR", "t2_flair_tra")
