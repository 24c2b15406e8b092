"""Drawings whose parts do not fit each other are refused: they are neither empty nor a fault of the program."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from imaging.catalog import read_catalog
from imaging.errors import Reason
from tests.imaging.drawing_factory import write_segmentation, write_structure_set
from tests.imaging.drawings import LABELS, boxes, read, reference, refuse, write_drawn_visit

Change = Callable[[Dataset], None]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, list[Path]]:
    return write_drawn_visit(tmp_path)


def change(path: Path, how: Change) -> None:
    dataset = pydicom.dcmread(path)
    how(dataset)
    dataset.save_as(path)


def without_groups(dataset: Dataset) -> None:
    del dataset.PerFrameFunctionalGroupsSequence


def one_group_more(dataset: Dataset) -> None:
    dataset.PerFrameFunctionalGroupsSequence.append(dataset.PerFrameFunctionalGroupsSequence[-1])


def one_group_fewer(dataset: Dataset) -> None:
    dataset.PerFrameFunctionalGroupsSequence.pop()


def no_frames_stated(dataset: Dataset) -> None:
    dataset.NumberOfFrames = 0


def only_groups(dataset: Dataset) -> None:
    dataset.NumberOfFrames = 0
    del dataset.PixelData


def only_pixels(dataset: Dataset) -> None:
    del dataset.NumberOfFrames, dataset.PerFrameFunctionalGroupsSequence


@pytest.mark.parametrize(
    "how", [without_groups, one_group_more, one_group_fewer, no_frames_stated, only_groups, only_pixels]
)
def test_frames_that_do_not_fit_their_number_are_refused(tmp_path: Path, files: Any, how: Change) -> None:
    change(write_segmentation(tmp_path / "seg.dcm", files["t1ce"], boxes()), how)
    refuse(tmp_path, "seg.dcm", "NumberOfFrames", "PerFrameFunctionalGroupsSequence")


def test_more_pixels_than_frames_are_refused(tmp_path: Path, files: Any) -> None:
    masks = {label: mask.astype(np.float32) for label, mask in boxes().items()}
    path = write_segmentation(tmp_path / "seg.dcm", files["t1ce"], masks, kind="FRACTIONAL")
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless, generate_instance_uid=False)
    dataset.PerFrameFunctionalGroupsSequence.pop()
    dataset.NumberOfFrames -= 1
    dataset.save_as(path)
    refuse(tmp_path, "seg.dcm", "NumberOfFrames", reason=Reason.UNDECODABLE)


def without_segment_number(dataset: Dataset) -> None:
    del dataset.SegmentSequence[0].SegmentNumber


def empty_segment_number(dataset: Dataset) -> None:
    dataset.SegmentSequence[0].SegmentNumber = None


def equal_segment_numbers(dataset: Dataset) -> None:
    dataset.SegmentSequence[1].SegmentNumber = dataset.SegmentSequence[0].SegmentNumber


def without_referenced_segment(dataset: Dataset) -> None:
    (item,) = dataset.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence
    del item.ReferencedSegmentNumber


@pytest.mark.parametrize(
    "how", [without_segment_number, empty_segment_number, equal_segment_numbers, without_referenced_segment]
)
def test_segments_without_a_number_of_their_own_are_refused(tmp_path: Path, files: Any, how: Change) -> None:
    change(write_segmentation(tmp_path / "seg.dcm", files["t1ce"], boxes()), how)
    refuse(tmp_path, "seg.dcm", "SegmentNumber")


def without_roi_number(dataset: Dataset) -> None:
    del dataset.StructureSetROISequence[0].ROINumber


def empty_roi_number(dataset: Dataset) -> None:
    dataset.StructureSetROISequence[0].ROINumber = None


def equal_roi_numbers(dataset: Dataset) -> None:
    dataset.StructureSetROISequence[1].ROINumber = dataset.StructureSetROISequence[0].ROINumber


def without_referenced_roi(dataset: Dataset) -> None:
    del dataset.ROIContourSequence[0].ReferencedROINumber


def one_coordinate(dataset: Dataset) -> None:
    dataset.ROIContourSequence[0].ContourSequence[0].ContourData = "1.5"


@pytest.mark.parametrize(
    ("how", "word"),
    [
        (without_roi_number, "ROINumber"),
        (empty_roi_number, "ROINumber"),
        (equal_roi_numbers, "ROINumber"),
        (without_referenced_roi, "ReferencedROINumber"),
        (one_coordinate, "contour"),
    ],
)
def test_structure_sets_that_do_not_fit_are_refused(
    tmp_path: Path, files: Any, how: Change, word: str
) -> None:
    geometry = reference(read_catalog(tmp_path)).geometry
    assert geometry is not None
    square = geometry.to_patient([(1.5, 1.5, 3), (6.5, 1.5, 3), (6.5, 7.5, 3), (1.5, 7.5, 3)])
    path = write_structure_set(tmp_path / "rt.dcm", files["t1ce"][0], {label: [square] for label in LABELS})
    assert read(tmp_path) is not None
    change(path, how)
    refuse(tmp_path, "rt.dcm", word)
