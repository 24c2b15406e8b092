"""Drawings are read on the grid of the series that they were drawn on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from imaging.geometry import AnyArray
from tests.imaging import dicom_factory as factory
from tests.imaging.drawing_factory import write_segmentation, write_structure_set
from tests.imaging.drawings import LABELS, boxes, labels_of, read, write_drawn_visit

THIN, THICK = (12, 10, 31), (12, 10, 7)
RATIO = 5  # of the slice distances: every fifth slice of the thin series is one of the thick one
BOX = (slice(3, 7), slice(2, 8))
KINDS = pytest.mark.parametrize("kind", ["SEG", "RTSTRUCT"])


@pytest.fixture
def files(tmp_path: Path) -> dict[str, list[Path]]:
    return write_drawn_visit(tmp_path)


def test_drawn_on_another_series_of_the_same_frame_of_reference(tmp_path: Path, files: Any) -> None:
    """The T1 slices lie 1 mm apart, those of T1CE 2 mm: every second one is the same plane."""
    masks = {label: np.zeros((12, 10, 15), dtype=bool) for label in LABELS}
    for label, mask in boxes().items():
        masks[label][:, :, ::2] = mask
        masks[label][:, :, 1::2] = mask[:, :, :-1]
    write_segmentation(tmp_path / "seg.dcm", files["t1"], masks)
    found = read(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found[0], labels_of(boxes()))


def test_frames_without_tumour_left_out(tmp_path: Path, files: Any) -> None:
    """Without the source series in the folder only the drawn frames tell the grid."""
    masks = {label: np.zeros((12, 10, 15), dtype=bool) for label in LABELS}
    masks["ET"][3:6, 2:4, 4:8] = True
    masks["ED"][3:6, 2:4, 12] = True
    write_segmentation(tmp_path / "seg.dcm", files["t1"], masks)
    expected = np.where(masks["ET"], 3, 0) + np.where(masks["ED"], 2, 0)
    before = read(tmp_path, "t1_mprage_sag post")
    for file in files["t1"]:
        file.unlink()
    after = read(tmp_path, "t1_mprage_sag post")
    assert before is not None
    assert after is not None
    np.testing.assert_array_equal(before[0], expected[:, :, ::2])
    np.testing.assert_array_equal(after[0], expected[:, :, ::2])


@pytest.fixture
def thick_and_thin(tmp_path: Path) -> dict[str, list[Path]]:
    """T1CE of 1 mm and FLAIR of 5 mm slices; all FLAIR slices are planes of the T1CE."""
    written = {}
    for number, (name, shape, step) in enumerate((("t1ce", THIN, 1.0), ("flair", THICK, 5.0)), start=1):
        stated = {
            **factory.CONTRASTS[name],
            "StudyInstanceUID": factory.uid("visit"),
            "FrameOfReferenceUID": factory.uid("visit frame"),
            "SeriesNumber": number,
        }
        written[name] = factory.write_series(
            tmp_path / name,
            factory.pattern(shape),
            factory.affine(spacing=(1.0, 1.0, step)),
            name=name,
            attributes=stated,
        )
    return written


def draw(path: Path, kind: str, sources: list[Path], slices: list[int], depth: int, step: float) -> Path:
    """Oedema of some slices, as SEG or RTSTRUCT."""
    if kind == "SEG":
        masks = {label: np.zeros((*THIN[:2], depth), dtype=bool) for label in LABELS}
        masks["ED"][(*BOX, slices)] = True
        return write_segmentation(path, sources, masks)
    i, j = ((part.start - 20 - 0.5, part.stop - 20 - 0.5) for part in BOX)
    j = (j[0] - 10, j[1] - 10)
    contours = [
        np.array([(i[0], j[0], z), (i[1], j[0], z), (i[1], j[1], z), (i[0], j[1], z)])
        for z in (40 + step * k for k in slices)
    ]
    return write_structure_set(path, sources[0], {"ED": contours, "ET": [], "NCR": []})


def draw_on_flair(path: Path, kind: str, files: dict[str, list[Path]]) -> Path:
    return draw(path, kind, files["flair"], [2, 3, 4], THICK[2], 5.0)


def oedema(slices: range) -> AnyArray:
    expected = np.zeros(THIN, dtype=np.uint8)
    expected[(*BOX, slice(slices.start, slices.stop))] = 2
    return expected


def edit(path: Path, change: Callable[[Dataset], None]) -> None:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def without_references(dataset: Dataset) -> None:
    """Only the frame of reference is left."""
    for keyword in ("ReferencedSeriesSequence", "SourceImageSequence"):
        dataset.pop(keyword, None)
    for groups in dataset.get("PerFrameFunctionalGroupsSequence") or []:
        groups.pop("DerivationImageSequence", None)
    for frame in dataset.get("ReferencedFrameOfReferenceSequence") or []:
        del frame.RTReferencedStudySequence


@KINDS
def test_a_drawing_on_thick_slices_keeps_its_volume(tmp_path: Path, thick_and_thin: Any, kind: str) -> None:
    draw_on_flair(tmp_path / "drawing.dcm", kind, thick_and_thin)
    found = read(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found[0], oedema(range(8, 23)))
    on_flair = read(tmp_path, "flair")
    assert on_flair is not None
    assert np.flatnonzero(on_flair[0].any(axis=(0, 1))).tolist() == [2, 3, 4]


@KINDS
def test_without_references_the_coarsest_grid_is_taken(
    tmp_path: Path, thick_and_thin: Any, kind: str
) -> None:
    edit(draw_on_flair(tmp_path / "drawing.dcm", kind, thick_and_thin), without_references)
    found = read(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found[0], oedema(range(8, 23)))


@KINDS
def test_of_several_series_referred_to_the_reference_does_not_win(
    tmp_path: Path, thick_and_thin: Any, kind: str
) -> None:
    t1ce = Dataset()
    t1ce.SeriesInstanceUID = factory.uid("t1ce")

    def refer_to_both(dataset: Dataset) -> None:
        if kind == "SEG":
            dataset.ReferencedSeriesSequence.append(t1ce)
        else:
            (frame,) = dataset.ReferencedFrameOfReferenceSequence
            frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence.append(t1ce)

    edit(draw_on_flair(tmp_path / "drawing.dcm", kind, thick_and_thin), refer_to_both)
    found = read(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found[0], oedema(range(8, 23)))


@KINDS
def test_a_drawing_on_thin_slices_is_not_thickened(tmp_path: Path, thick_and_thin: Any, kind: str) -> None:
    """One slice drawn on the T1CE, and that is a plane of the FLAIR too."""
    draw(tmp_path / "drawing.dcm", kind, thick_and_thin["t1ce"], [RATIO * 3], THIN[2], 1.0)
    found = read(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found[0], oedema(range(15, 16)))


def test_a_segmentation_keeps_its_volume_without_the_series_it_was_drawn_on(
    tmp_path: Path, thick_and_thin: Any
) -> None:
    draw_on_flair(tmp_path / "drawing.dcm", "SEG", thick_and_thin)
    for file in thick_and_thin["flair"]:
        file.unlink()
    found = read(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found[0], oedema(range(8, 23)))
