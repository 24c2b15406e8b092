"""Files as exchange media and planning systems leave them: without a suffix, without a preamble, without content."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset

from imaging.errors import ImagingError, Reason
from imaging.files import read_again, read_folder
from tests.imaging import dicom_factory as factory


def without_preamble(path: Path, first: str) -> None:
    """Write a file again as a bare dataset that begins with a certain element, implicit little endian."""
    kept = {tag: element for tag, element in pydicom.dcmread(path).items() if tag >= pydicom.tag.Tag(first)}
    Dataset(kept).save_as(path, implicit_vr=True, little_endian=True)


@pytest.mark.parametrize("first", ["SpecificCharacterSet", "InstanceCreationDate", "SOPClassUID"])
def test_whatever_element_comes_first_a_bare_dataset_is_read(tmp_path: Path, first: str) -> None:
    (path, *others) = factory.write_series(tmp_path, transfer_syntax=pydicom.uid.ExplicitVRLittleEndian)
    for other in others:
        other.unlink()
    dataset = pydicom.dcmread(path)
    dataset.SpecificCharacterSet, dataset.InstanceCreationDate = "ISO_IR 100", "20240101"
    del dataset.ImageType
    dataset.save_as(path)
    without_preamble(path, first)
    assert path.read_bytes()[128:132] != b"DICM"
    (file,) = read_folder(tmp_path).objects
    again = read_again(file.path)
    assert again.SOPInstanceUID == dataset.SOPInstanceUID
    assert again.file_meta.TransferSyntaxUID == pydicom.uid.ImplicitVRLittleEndian


def test_a_file_that_only_begins_like_dicom_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "notes").write_bytes(b"\x08\x00\x12\x00" + bytes(range(256)) * 4)
    content = read_folder(tmp_path)
    assert not content.objects and not content.broken
    assert [file.path for file in content.ignored] == ["notes"]


@pytest.mark.parametrize("name", ["IM000007", "1.2.840.113619.7"])
def test_an_empty_file_beside_images_may_have_been_a_slice(tmp_path: Path, name: str) -> None:
    files = factory.write_series(tmp_path)
    files[-1].unlink()
    (tmp_path / name).touch()
    (broken,) = read_folder(tmp_path).broken
    assert name in broken.sentence and "copy it again" in broken.sentence


@pytest.mark.parametrize("name", [".keep", "notes.txt", "elsewhere/LOCK"])
def test_other_empty_files_are_ignored(tmp_path: Path, name: str) -> None:
    factory.write_series(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    content = read_folder(tmp_path)
    assert not content.broken
    assert [file.path for file in content.ignored] == [name]


def test_pixels_that_share_their_colour_are_complete(tmp_path: Path) -> None:
    (path, *others) = factory.write_series(tmp_path)
    for other in others:
        other.unlink()
    dataset: Any = pydicom.dcmread(path)
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "YBR_FULL_422"
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PlanarConfiguration = 7, 0
    dataset.PixelData = bytes(dataset.Rows * dataset.Columns * 2)
    dataset.save_as(path)
    assert not read_folder(tmp_path).broken
    dataset.PixelData = dataset.PixelData[:-2]
    dataset.save_as(path)
    (broken,) = read_folder(tmp_path).broken
    assert "cut off" in broken.sentence


def test_a_file_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(ImagingError, match="cannot be read any more") as error:
        read_again(tmp_path / "gone.dcm")
    assert error.value.reason is Reason.UNDECODABLE
