"""Stored pixels to measured values: slope, sign, padding, encoding. Rows 4, 6, 10 and 12 of the silent faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from imaging.catalog import Series
from imaging.errors import ImagingError, Reason
from imaging.reader import read_volume
from tests.imaging import dicom_factory as factory
from tests.imaging.reading import only, read, refused, same


def test_fault_04_fractional_slope_of_each_slice_is_kept(tmp_path: Path) -> None:
    array = factory.pattern()
    array[:, :, 0] = 0

    def scaled(k: int) -> dict[str, Any]:
        return {"RescaleSlope": factory.decimal(0.25 * (k + 1)), "RescaleIntercept": factory.decimal(k - 0.5)}

    factory.write_series(tmp_path, array, per_slice=scaled)
    k = np.arange(array.shape[2])
    np.testing.assert_array_equal(
        read(tmp_path).array, array.astype(np.float32) * (0.25 * (k + 1)) + (k - 0.5)
    )


def test_fault_04_stored_value_times_one_and_a_half_stays_fractional(tmp_path: Path) -> None:
    factory.write_series(
        tmp_path,
        np.ones(factory.SHAPE, np.uint16),
        attributes={"RescaleSlope": "1.5", "RescaleIntercept": "0"},
    )
    volume = read(tmp_path)
    assert volume.array.dtype == np.float32
    assert np.unique(volume.array).tolist() == [1.5]


def test_fault_06_enhanced_applies_the_slope_of_each_frame(tmp_path: Path) -> None:
    def scaled(k: int) -> dict[str, Any]:
        return {"PixelValueTransformationSequence": {"RescaleSlope": f"{k + 0.5}", "RescaleIntercept": "-1"}}

    array = factory.pattern()
    factory.write_series(tmp_path, array, enhanced=True, per_slice=scaled, file_order=list(range(8))[::-1])
    np.testing.assert_array_equal(read(tmp_path).array, array.astype(np.float32) * (np.arange(8) + 0.5) - 1)


@pytest.mark.parametrize("transfer_syntax", [ImplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize("cut", [10, 60, 200])
def test_fault_10_truncated_pixels_are_refused(tmp_path: Path, transfer_syntax: str, cut: int) -> None:
    files = factory.write_series(tmp_path, transfer_syntax=transfer_syntax)
    files[5].write_bytes(files[5].read_bytes()[:-cut])
    refused(tmp_path, Reason.TRUNCATED, files[5].name)


@pytest.mark.parametrize(
    "transfer_syntax",
    [ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian, RLELossless],
)
@pytest.mark.parametrize("enhanced", [False, True])
def test_fault_12_transfer_syntaxes(tmp_path: Path, transfer_syntax: str, enhanced: bool) -> None:
    factory.write_series(tmp_path, enhanced=enhanced, transfer_syntax=transfer_syntax)
    same(read(tmp_path), factory.pattern(), factory.affine())


def test_undecodable_pixels_are_refused_by_name(tmp_path: Path) -> None:
    files = factory.write_series(tmp_path, transfer_syntax=RLELossless)
    dataset = pydicom.dcmread(files[2])
    dataset.PixelData = pydicom.encaps.encapsulate([b"\x05\x00\x00\x00" + b"\xff" * 80])
    dataset.save_as(files[2])
    series = only(tmp_path)
    assert isinstance(series, Series)
    with pytest.raises(ImagingError, match=files[2].name) as error:
        read_volume(series)
    assert error.value.reason is Reason.UNDECODABLE


def test_signed_values(tmp_path: Path) -> None:
    array = factory.pattern().astype(np.int16) - 300
    factory.write_series(
        tmp_path, array, modality="CT", attributes={"RescaleIntercept": "-1024", "RescaleSlope": "1"}
    )
    np.testing.assert_array_equal(read(tmp_path).array, array.astype(np.float32) - 1024)


def test_bits_above_bits_stored_are_no_part_of_the_value(tmp_path: Path) -> None:
    array = factory.pattern()
    factory.write_series(tmp_path, array | 0xC000, attributes={"BitsStored": 12, "HighBit": 11})
    np.testing.assert_array_equal(read(tmp_path).array, array)


def test_sign_of_twelve_bits_is_extended(tmp_path: Path) -> None:
    array = factory.pattern().astype(np.int16) - 300
    stored = (array & 0x0FFF).astype(np.int16)
    factory.write_series(tmp_path, stored, attributes={"BitsStored": 12, "HighBit": 11})
    np.testing.assert_array_equal(read(tmp_path).array, array)


def test_padding_becomes_the_lowest_measured_value(tmp_path: Path) -> None:
    array = factory.pattern().astype(np.int16) + 5
    array[:2] = -2000
    factory.write_series(tmp_path, array, modality="CT", attributes={"PixelPaddingValue": -2000})
    volume = read(tmp_path)
    assert volume.array[:2].max() == array[2:].min()
    np.testing.assert_array_equal(volume.array[2:], array[2:])


def test_padding_value_among_measured_values_changes_nothing(tmp_path: Path) -> None:
    array = factory.pattern().astype(np.int16) - 300
    factory.write_series(tmp_path, array, attributes={"PixelPaddingValue": 0})
    np.testing.assert_array_equal(read(tmp_path).array, array)


@pytest.mark.parametrize(
    ("attributes", "reason", "word"),
    [
        ({"ImagePositionPatient": None}, Reason.MISSING_ATTRIBUTE, "ImagePositionPatient"),
        ({"ImageOrientationPatient": None}, Reason.MISSING_ATTRIBUTE, "ImageOrientationPatient"),
        (
            {"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]},
            Reason.MISSING_ATTRIBUTE,
            "ImageOrientationPatient",
        ),
        ({"PixelSpacing": None}, Reason.MISSING_ATTRIBUTE, "PixelSpacing"),
        ({"PixelSpacing": [0, 1]}, Reason.MISSING_ATTRIBUTE, "PixelSpacing"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]}, Reason.UNSUPPORTED, "MOSAIC"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, Reason.UNSUPPORTED, "MONOCHROME1"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, Reason.UNSUPPORTED, "PALETTE COLOR"),
        ({"HighBit": 13}, Reason.UNSUPPORTED, "HighBit"),
    ],
)
def test_unusable_attributes_are_named(
    tmp_path: Path, attributes: dict[str, Any], reason: Reason, word: str
) -> None:
    factory.write_series(tmp_path, attributes=attributes)
    refused(tmp_path, reason, word)


def test_colour_is_refused(tmp_path: Path) -> None:
    def colour(k: int) -> dict[str, Any]:
        pixels = np.zeros((10, 12, 3), np.uint8).tobytes()
        return {
            "SamplesPerPixel": 3,
            "PhotometricInterpretation": "RGB",
            "PlanarConfiguration": 0,
            "BitsAllocated": 8,
            "BitsStored": 8,
            "HighBit": 7,
            "PixelData": pixels,
        }

    factory.write_series(tmp_path, per_slice=colour)
    refused(tmp_path, Reason.UNSUPPORTED, "RGB")


@pytest.mark.parametrize("slope", ["0", "1,5"])
def test_useless_slope_is_refused(tmp_path: Path, slope: str) -> None:
    for file in factory.write_series(tmp_path, attributes={"RescaleSlope": "777", "RescaleIntercept": "0"}):
        file.write_bytes(file.read_bytes().replace(b"777 ", slope.encode().ljust(4)))
    series = only(tmp_path)
    assert isinstance(series, Series)
    with pytest.raises(ImagingError, match="RescaleSlope"):
        read_volume(series)


@pytest.mark.parametrize("enhanced", [False, True])
@pytest.mark.parametrize("slope", ["1e36", "1e308"])
def test_values_beyond_all_numbers_are_refused(tmp_path: Path, slope: str, enhanced: bool) -> None:
    stated = {"RescaleSlope": slope, "RescaleIntercept": "0"}
    scaled = {"PixelValueTransformationSequence": stated} if enhanced else stated
    factory.write_series(tmp_path, enhanced=enhanced, per_slice=lambda k: scaled)
    series = only(tmp_path)
    assert isinstance(series, Series)
    with pytest.raises(ImagingError, match="series 1 has a RescaleSlope") as error:
        read_volume(series)
    assert error.value.reason is Reason.UNSUPPORTED
