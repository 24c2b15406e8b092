"""RT Dose objects: what their numbers mean, where they lie, and what is refused rather than guessed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from imaging.__main__ import main
from imaging.catalog import read_catalog
from imaging.dose import chosen_dose, dose_on_grid, read_dose, require_usable_dose
from imaging.errors import ImagingError, Reason
from imaging.geometry import Geometry, Volume
from tests.imaging.dicom_factory import uid, write_dose, write_visit

SHAPE = (9, 7, 6)
GRID = np.diag([2.0, 2.5, 3.0, 1.0])
GRID[:3, 3] = (-10.0, 4.0, 25.0)
WriteDose = Callable[..., Path]


def gradient(matrix: np.ndarray) -> np.ndarray:
    """Dose in Gy that rises linearly through the patient, so that every place has its own."""
    index = np.stack(np.indices(SHAPE), axis=-1)
    points = index @ matrix[:3, :3].T + matrix[:3, 3]
    return 20.0 + points @ np.array([0.3, 0.5, 0.7])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_visit(tmp_path / "images")
    return tmp_path / "images"


@pytest.fixture
def write(folder: Path) -> WriteDose:
    source = next(folder.rglob("*_000.dcm"))

    def written(matrix: np.ndarray = GRID, **how: Any) -> Path:
        return write_dose(folder / how.pop("file", "dose.dcm"), source, gradient(matrix), matrix, **how)

    return written


def only(folder: Path) -> Volume:
    (dose,) = read_catalog(folder).doses
    return read_dose(dose)


@pytest.mark.parametrize("bits", [16, 32])
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("absolute_offsets", [False, True])
@pytest.mark.parametrize("prone", [False, True])
def test_every_voxel_has_its_dose_where_it_lies(
    folder: Path, write: WriteDose, bits: int, descending: bool, absolute_offsets: bool, prone: bool
) -> None:
    matrix = GRID @ np.diag([-1.0, -1.0, 1.0, 1.0]) if prone else GRID
    write(matrix, bits=bits, descending=descending, absolute_offsets=absolute_offsets)
    dose = only(folder)
    np.testing.assert_allclose(dose.geometry.affine, matrix, atol=1e-6)
    np.testing.assert_allclose(dose.array, gradient(matrix), atol=1e-3 if bits == 16 else 1e-5)
    assert dose.array.dtype == np.float32 and dose.geometry.frame_of_reference_uid == uid("visit frame")


def test_an_oblique_grid_counts_offsets_along_its_normal(folder: Path, write: WriteDose) -> None:
    turned = np.eye(4)
    turned[:3, :3] = _rotation(0.4)
    matrix = turned @ GRID
    write(matrix)
    dose = only(folder)
    np.testing.assert_allclose(dose.geometry.affine, matrix, atol=1e-4)
    np.testing.assert_allclose(dose.array, gradient(matrix), atol=1e-3)


def _rotation(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]]) @ np.array(
        [[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]
    )


def test_a_dose_planned_on_the_second_visit_follows_its_head(folder: Path, write: WriteDose) -> None:
    """In the frame of reference of visit two, carried to the first by the registration; nan beyond its grid."""
    write()
    (dose,) = read_catalog(folder).doses
    shift = sitk.TranslationTransform(
        3, (1.0, -2.0, 3.0)
    )  # points of the first visit to points of the second

    def visit(frame: str, transform: sitk.Transform | None) -> SimpleNamespace:
        reference = SimpleNamespace(geometry=Geometry((4, 4, 4), np.eye(4), frame))
        return SimpleNamespace(reference=reference, first_to_visit=transform)

    visits = [visit(uid("other"), None), visit(uid("visit frame"), shift)]
    grid = Geometry(
        (3, 3, 3), np.array([[1.5, 0, 0, -6.0], [0, 1.5, 0, 10.0], [0, 0, 1.5, 26.0], [0, 0, 0, 1]])
    )
    found = dose_on_grid(dose, visits, grid)
    points = grid.to_patient(np.stack(np.indices((3, 3, 3)), axis=-1)) + np.array([1.0, -2.0, 3.0])
    np.testing.assert_allclose(found.array, 20.0 + points @ np.array([0.3, 0.5, 0.7]), atol=2e-3)
    far = Geometry((2, 2, 2), np.diag([500.0, 500.0, 500.0, 1.0]))
    assert np.isnan(dose_on_grid(dose, visits, far).array).any()
    with pytest.raises(ImagingError, match="FrameOfReferenceUID") as caught:
        dose_on_grid(dose, visits[:1], grid)
    assert caught.value.reason is Reason.BAD_DOSE


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"DoseUnits": "RELATIVE"}, "DoseUnits RELATIVE"),
        ({"DoseUnits": None}, "DoseUnits absent"),
        ({"DoseType": "EFFECTIVE"}, "DoseType EFFECTIVE"),
        ({"DoseType": "ERROR"}, "DoseType ERROR"),
        ({"DoseSummationType": "BEAM"}, "DoseSummationType BEAM"),
        ({"DoseSummationType": "MULTI_PLAN"}, "DoseSummationType MULTI_PLAN"),
        ({"DoseGridScaling": None}, "DoseGridScaling"),
        ({"DoseGridScaling": "0"}, "DoseGridScaling"),
        ({"GridFrameOffsetVector": None}, "GridFrameOffsetVector"),
        ({"GridFrameOffsetVector": ["0", "3", "6", "9", "12", "16"]}, "equal distances"),
        ({"GridFrameOffsetVector": ["7", "10", "13", "16", "19", "22"]}, "neither begins with 0"),
        ({"GridFrameOffsetVector": ["0", "3", "6", "9", "12"]}, "6 planes of pixels, but 5"),
    ],
)
def test_what_does_not_say_its_dose_is_refused(
    folder: Path, write: WriteDose, attributes: dict[str, Any], named: str
) -> None:
    write(**attributes)
    with pytest.raises(ImagingError, match=named) as caught:
        only(folder)
    assert caught.value.reason is Reason.BAD_DOSE and "dose.dcm" in caught.value.message


def test_the_one_plan_is_taken_or_the_one_that_is_named(folder: Path, write: WriteDose) -> None:
    write(file="beam.dcm", DoseSummationType="BEAM")
    with pytest.raises(ImagingError, match="0 RT Dose objects"):
        chosen_dose(read_catalog(folder).doses, "auto")
    write(file="plan.dcm")
    doses = read_catalog(folder).doses
    assert chosen_dose(doses, "auto").path.name == "plan.dcm"
    assert chosen_dose(doses, uid("beam.dcm")).path.name == "beam.dcm"
    with pytest.raises(ImagingError, match=r"no RT Dose with the SOPInstanceUID 1\.2\.3"):
        chosen_dose(doses, "1.2.3")
    write(file="second.dcm")
    with pytest.raises(ImagingError, match="2 RT Dose objects"):
        chosen_dose(read_catalog(folder).doses, "auto")


def test_a_dose_is_listed_and_counts_in_the_digest(
    folder: Path, write: WriteDose, capsys: pytest.CaptureFixture[str]
) -> None:
    before = read_catalog(folder).digest
    path = write()
    catalog = read_catalog(folder)
    assert catalog.digest != before and not catalog.ignored
    assert main([str(folder), "--json"]) == 0
    (patient,) = json.loads(capsys.readouterr().out)["patients"]
    assert [dose["sop_instance_uid"] for dose in patient["doses"]] == [uid("dose.dcm")]
    assert main([str(folder)]) == 0
    assert "dose dose.dcm (PLAN" in capsys.readouterr().out
    assert pydicom.dcmread(path).Modality == "RTDOSE"


def test_a_dose_that_cannot_be_used_is_refused_before_anything_is_registered(
    folder: Path, write: WriteDose
) -> None:
    frames = {uid("visit frame")}
    with pytest.raises(ImagingError, match="0 RT Dose objects"):
        require_usable_dose(read_catalog(folder).doses, "auto", frames)
    write(file="plan.dcm")
    doses = read_catalog(folder).doses
    require_usable_dose(doses, "auto", frames)
    for others in (set(), {uid("other")}, {""}):
        with pytest.raises(ImagingError, match="FrameOfReferenceUID of plan"):
            require_usable_dose(doses, "auto", others)
    write(file="plan.dcm", DoseType="EFFECTIVE")
    with pytest.raises(ImagingError, match="DoseType EFFECTIVE"):
        require_usable_dose(read_catalog(folder).doses, "auto", frames)
