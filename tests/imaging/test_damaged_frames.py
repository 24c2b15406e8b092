"""Multi-frame images of which a frame is missing, too many, or without a place: refused, never read short."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import ExplicitVRLittleEndian, RLELossless

from imaging.catalog import Series
from imaging.errors import ImagingError, Reason
from imaging.reader import read_volume
from tests.imaging import dicom_factory as factory
from tests.imaging.reading import only, refused


def damaged(folder: Path, damage: Callable[[Dataset], None], syntax: str = RLELossless) -> Path:
    """An enhanced image of eight frames after some damage."""
    (path,) = factory.write_series(folder, enhanced=True, transfer_syntax=syntax)
    dataset = pydicom.dcmread(path)
    damage(dataset)
    dataset.save_as(path)
    return path


def undecodable(folder: Path, path: Path, *words: str) -> None:
    """The header is in order, but the pixels are refused by file."""
    series = only(folder)
    assert isinstance(series, Series)
    with pytest.raises(ImagingError) as error:
        read_volume(series)
    assert error.value.reason is Reason.UNDECODABLE
    for word in (path.name, *words):
        assert word in error.value.message


def test_a_missing_compressed_frame_is_refused(tmp_path: Path) -> None:
    def lose_last(dataset: Dataset) -> None:
        frames = list(generate_frames(dataset.PixelData, number_of_frames=8))
        dataset.PixelData = encapsulate(frames[:-1])

    undecodable(tmp_path, damaged(tmp_path, lose_last), "cannot be decoded")


def test_a_compressed_frame_too_many_is_refused(tmp_path: Path) -> None:
    def repeat_first(dataset: Dataset) -> None:
        frames = list(generate_frames(dataset.PixelData, number_of_frames=8))
        dataset.PixelData = encapsulate([frames[0], *frames])

    undecodable(tmp_path, damaged(tmp_path, repeat_first), "9 frames", "NumberOfFrames")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_pixels_of_a_frame_that_the_header_does_not_know_are_refused(tmp_path: Path, syntax: str) -> None:
    def forget_last(dataset: Dataset) -> None:
        dataset.NumberOfFrames = 7
        del dataset.PerFrameFunctionalGroupsSequence[-1]

    undecodable(tmp_path, damaged(tmp_path, forget_last, syntax), "8 frames")


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("stated", [-3, 7, None])
def test_a_number_of_frames_that_is_not_that_of_places_is_refused(
    tmp_path: Path, syntax: str, stated: int | None
) -> None:
    damaged(tmp_path, lambda dataset: setattr(dataset, "NumberOfFrames", stated), syntax)
    refused(tmp_path, Reason.MISSING_ATTRIBUTE, "NumberOfFrames", "places for 8")


def test_a_number_of_frames_without_places_takes_no_time(tmp_path: Path) -> None:
    """A billion frames, none of which says where it lies."""

    def claim(dataset: Dataset) -> None:
        del dataset.PerFrameFunctionalGroupsSequence
        dataset.NumberOfFrames = 10**9

    damaged(tmp_path, claim)
    refused(tmp_path, Reason.MISSING_ATTRIBUTE, "NumberOfFrames")


def test_a_classic_image_with_pixels_for_two_is_refused(tmp_path: Path) -> None:
    files = factory.write_series(tmp_path)
    dataset = pydicom.dcmread(files[3])
    dataset.PixelData = dataset.PixelData * 2
    dataset.save_as(files[3])
    undecodable(tmp_path, files[3], "2 frames")
