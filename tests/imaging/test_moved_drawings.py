"""A drawing moves with the series that it was made on: between two series of a visit the patient may have moved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset

from imaging.annotations import read_annotation
from imaging.catalog import Series, read_catalog
from imaging.errors import ImagingError
from imaging.geometry import AnyArray, Volume
from imaging.preparation import prepare_visits
from tests.imaging import dicom_factory as factory
from tests.imaging.drawing_factory import write_segmentation, write_structure_set
from tests.imaging.drawings import LABELS
from tests.imaging.synthetic_head import seen_elsewhere, synthetic_head

SHIFT_MM = 4
BALL_MM = 12.0
STEP = (0, 0, 2)  # voxels by which the small visit's drawing has to move: 4 mm


def shift(millimetres: float) -> sitk.Euler3DTransform:
    """From points of the reference to points of a series acquired after the head has moved along the slices' axis."""
    transform = sitk.Euler3DTransform()
    transform.SetTranslation((0.0, 0.0, millimetres))
    return transform


def write(folder: Path, name: str, number: int, image: Volume) -> list[Path]:
    return factory.write_series(
        folder / name,
        image.array.round().astype(np.uint16),
        image.geometry.affine,
        name=name,
        attributes={**factory.CONTRASTS[name], "SeriesNumber": number},
    )


def test_a_drawing_on_a_displaced_flair_lies_where_the_tumour_is_on_the_t1ce(tmp_path: Path) -> None:
    head = synthetic_head(bend_mm=4.0, seed=1, folds=0.3)
    bright = head.image.with_array(np.where(head.image.array > 0, 320.0 - head.image.array, 0.0))
    grid = head.image.geometry
    places = grid.to_patient(np.moveaxis(np.indices(grid.shape), 0, -1))
    ball = Volume(np.linalg.norm(places - grid.centre - (20.0, 5.0, 15.0), axis=-1) < BALL_MM, grid)
    away = shift(SHIFT_MM).GetInverse()
    write(tmp_path, "t1ce", 1, head.image)
    flair = write(tmp_path, "flair", 2, seen_elsewhere(bright, away))
    on_flair = ball.resampled(grid, away, interpolation="nearest").array
    nothing = np.zeros_like(on_flair)
    write_segmentation(tmp_path / "seg.dcm", flair, {"ED": on_flair, "NCR": nothing, "ET": nothing})

    (visit,) = read_catalog(tmp_path).visits
    t1ce, flair_series = sorted(visit.series, key=lambda series: series.number or 0)
    (prepared,) = prepare_visits([(visit, {"t1ce": t1ce, "flair": flair_series})])

    assert prepared.correction is not None
    found = np.argwhere(prepared.correction.labels.array == 2)
    off = grid.to_patient(found.mean(axis=0)) - grid.to_patient(np.argwhere(ball.array).mean(axis=0))
    assert np.linalg.norm(off) < 0.7
    assert abs(len(found) / ball.array.sum() - 1) < 0.03


@pytest.fixture
def files(tmp_path: Path) -> dict[str, list[Path]]:
    """T1CE, T2 and FLAIR on one grid, so that the grid tells nothing."""
    return factory.write_visit(tmp_path, contrasts=("t1ce", "t2", "flair"))


def box(step: tuple[int, int, int] = (0, 0, 0)) -> AnyArray:
    mask = np.zeros(factory.SHAPE, dtype=bool)
    mask[4 + step[0] : 8 + step[0], 3 + step[1] : 6 + step[1], 3 + step[2] : 5 + step[2]] = True
    return mask


def draw(path: Path, kind: str, sources: list[Path]) -> Path:
    if kind == "SEG":
        masks = {label: box() if label == "ED" else np.zeros_like(box()) for label in LABELS}
        return write_segmentation(path, sources, masks)
    i, j = (3.5 - 20, 7.5 - 20), (2.5 - 30, 5.5 - 30)
    contours = [
        np.array([(i[0], j[0], z), (i[1], j[0], z), (i[1], j[1], z), (i[0], j[1], z)])
        for z in (40 + 2 * k for k in (3, 4))
    ]
    return write_structure_set(path, sources[0], {"ED": contours, "ET": [], "NCR": []})


def read(folder: Path, moved: str = "flair", millimetres: float = -2.0 * STEP[2]) -> AnyArray:
    """The drawing on the T1CE, after the head has moved before one series was acquired."""
    (visit,) = read_catalog(folder).visits
    named: dict[str, Series] = {
        name: series
        for series in visit.series
        for name in ("t1ce", "t2", "flair")
        if series.uid == factory.uid(f"visit_{name}")
    }
    geometry = named["t1ce"].geometry
    assert geometry is not None
    motions = {named[moved].uid: shift(millimetres)}
    found = read_annotation(visit, named["t1ce"], geometry, motions.get)
    assert found is not None
    return found.labels.array > 0


KINDS = pytest.mark.parametrize("kind", ["SEG", "RTSTRUCT"])


@KINDS
def test_it_moves_with_the_series_that_it_refers_to(
    tmp_path: Path, files: dict[str, list[Path]], kind: str
) -> None:
    draw(tmp_path / "drawing.dcm", kind, files["flair"])
    np.testing.assert_array_equal(read(tmp_path), box(STEP))


@KINDS
@pytest.mark.parametrize("drawn_on", ["t1ce", "t2"])
def test_and_with_no_other(tmp_path: Path, files: dict[str, list[Path]], kind: str, drawn_on: str) -> None:
    draw(tmp_path / "drawing.dcm", kind, files[drawn_on])
    np.testing.assert_array_equal(read(tmp_path), box())


@KINDS
@pytest.mark.parametrize("refers", ["to two", "to none", "to one that is not here"])
def test_it_stays_where_its_series_is_unknown(
    tmp_path: Path, files: dict[str, list[Path]], kind: str, refers: str
) -> None:
    drawing = draw(tmp_path / "drawing.dcm", kind, files["flair"])
    dataset = pydicom.dcmread(drawing)
    refer(dataset, {"to two": ["visit_flair", "visit_t1ce"], "to none": []}.get(refers, ["elsewhere"]))
    dataset.save_as(drawing)
    np.testing.assert_array_equal(read(tmp_path), box())


def refer(dataset: Dataset, names: list[str]) -> None:
    """Refer to these series, and to no instance."""
    series = []
    for name in names:
        series.append(Dataset())
        series[-1].SeriesInstanceUID = factory.uid(name)
    dataset.pop("SourceImageSequence", None)
    for groups in dataset.get("PerFrameFunctionalGroupsSequence") or []:
        groups.pop("DerivationImageSequence", None)
    if dataset.Modality == "SEG":
        dataset.ReferencedSeriesSequence = series
        return
    (frame,) = dataset.ReferencedFrameOfReferenceSequence
    frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence = series


def test_without_references_a_grid_of_its_own_tells_the_series(tmp_path: Path) -> None:
    stated = {"StudyInstanceUID": factory.uid("visit"), "FrameOfReferenceUID": factory.uid("visit frame")}
    factory.write_visit(tmp_path, contrasts=("t1ce",))
    flair = factory.write_series(
        tmp_path / "flair",
        factory.pattern(),
        factory.affine(origin=(-20.0, -30.0, 41.0)),
        name="visit_flair",
        attributes={**factory.CONTRASTS["flair"], **stated, "SeriesNumber": 2},
    )
    drawing = draw(tmp_path / "drawing.dcm", "SEG", flair)
    dataset = pydicom.dcmread(drawing)
    refer(dataset, [])
    dataset.save_as(drawing)
    np.testing.assert_array_equal(read(tmp_path, millimetres=1.0 - 2.0 * STEP[2]), box(STEP))


def test_what_the_motion_carries_outside_is_refused(tmp_path: Path, files: dict[str, list[Path]]) -> None:
    draw(tmp_path / "drawing.dcm", "SEG", files["flair"])
    with pytest.raises(ImagingError, match="draws tumour outside the images"):
        read(tmp_path, millimetres=-2.0 * factory.SHAPE[2])
