"""Series on disk to volumes: geometry and values, right or refused. Rows 1 to 6 and 9 to 12 of the silent faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from scipy.spatial.transform import Rotation

from imaging.catalog import RefusedSeries, Series, read_inventory
from imaging.errors import ImagingError, Reason
from imaging.geometry import Volume
from imaging.reader import read_volume
from tests.imaging import dicom_factory as factory


def only(folder: Path) -> Series | RefusedSeries:
    """The one series of a folder, usable or not."""
    (patient,) = read_inventory(folder).patients
    found = [*patient.unplaced]
    for visit in patient.visits:
        found += [*visit.series, *visit.refused]
    (series,) = found
    return series


def read(folder: Path) -> Volume:
    series = only(folder)
    assert isinstance(series, Series), series.sentence
    return read_volume(series)


def refused(folder: Path, reason: Reason, *words: str) -> None:
    """The series is refused for this reason, in a sentence that has these words."""
    series = only(folder)
    assert isinstance(series, RefusedSeries)
    assert series.reason is reason, series.sentence
    for word in ("series 1", *words):
        assert word in series.sentence
    assert series.sentence.endswith(".")


def same(volume: Volume, array: Any, matrix: Any) -> None:
    """Exact voxels and the affine to the precision of decimal strings."""
    np.testing.assert_allclose(volume.geometry.affine, matrix, atol=1e-6)
    np.testing.assert_array_equal(volume.array, array.astype(np.float32))


def test_fault_01_non_square_pixels_keep_rows_and_columns_apart(tmp_path: Path) -> None:
    matrix = factory.affine(spacing=(1.5, 0.5, 2.0))
    factory.write_series(tmp_path, factory.pattern(), matrix)
    volume = read(tmp_path)
    same(volume, factory.pattern(), matrix)
    assert volume.geometry.spacing == pytest.approx((1.5, 0.5, 2.0))


def test_fault_02_missing_slice_is_refused(tmp_path: Path) -> None:
    files = factory.write_series(tmp_path)
    files[3].unlink()
    refused(tmp_path, Reason.MISSING_SLICE, "1 of 8 slices", "ImagePositionPatient")


def test_fault_02_several_missing_slices_are_counted(tmp_path: Path) -> None:
    files = factory.write_series(tmp_path)
    for n in (2, 3, 5):
        files[n].unlink()
    refused(tmp_path, Reason.MISSING_SLICE, "3 of 8 slices")


def test_fault_02_varying_slice_distance_is_refused(tmp_path: Path) -> None:
    def shifted(k: int) -> dict[str, Any]:
        return {"ImagePositionPatient": [-20, -30, 40 + 2 * k + (0.7 if k > 3 else 0)]}

    factory.write_series(tmp_path, per_slice=shifted)
    refused(tmp_path, Reason.MISSING_SLICE, "uneven")


@pytest.mark.parametrize(
    ("keyword", "values"),
    [
        ("EchoTime", ("12", "96")),
        ("DiffusionBValue", (0.0, 1000.0)),
        ("TemporalPositionIdentifier", (1, 2)),
        ("AcquisitionNumber", (1, 2)),
    ],
)
def test_fault_03_several_images_of_a_position_are_refused(
    tmp_path: Path, keyword: str, values: tuple[Any, Any]
) -> None:
    for n, value in enumerate(values):
        common = {"SeriesInstanceUID": factory.uid("both"), keyword: value}
        factory.write_series(tmp_path, name=f"part{n}", attributes=common)
    refused(tmp_path, Reason.DUPLICATE_POSITION, keyword)


def test_fault_03_indistinguishable_images_of_a_position_are_refused(tmp_path: Path) -> None:
    for n in range(2):
        common = {"SeriesInstanceUID": factory.uid("both"), "InstanceNumber": 1}
        factory.write_series(tmp_path, name=f"part{n}", attributes=common)
    refused(tmp_path, Reason.DUPLICATE_POSITION, "nothing in the header")


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


def test_fault_05_mixed_orientations_are_refused(tmp_path: Path) -> None:
    common = {"SeriesInstanceUID": factory.uid("both")}
    factory.write_series(tmp_path, name="axial", attributes=common)
    sagittal = factory.affine(rotation=np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]))
    factory.write_series(tmp_path, factory.pattern(), sagittal, name="sagittal", attributes=common)
    refused(tmp_path, Reason.MIXED_ORIENTATION, "ImageOrientationPatient")


def test_fault_05_slices_turned_by_half_a_turn_are_refused(tmp_path: Path) -> None:
    common = {"SeriesInstanceUID": factory.uid("both")}
    factory.write_series(tmp_path, name="one", attributes=common)
    turned = factory.affine(origin=(-20, -30, 60), rotation=np.diag([-1.0, -1.0, 1.0]))
    factory.write_series(tmp_path, factory.pattern(), turned, name="two", attributes=common)
    refused(tmp_path, Reason.MIXED_ORIENTATION)


@pytest.mark.parametrize("modality", ["MR", "CT"])
def test_fault_06_enhanced_multi_frame_is_read(tmp_path: Path, modality: str) -> None:
    matrix = factory.affine(
        spacing=(1.5, 0.5, 2.0), rotation=Rotation.from_euler("xyz", (10, 20, 30), True).as_matrix()
    )
    factory.write_series(
        tmp_path,
        factory.pattern(),
        matrix,
        enhanced=True,
        modality=modality,
        file_order=[3, 0, 7, 1, 2, 6, 5, 4],
    )
    series = only(tmp_path)
    assert isinstance(series, Series)
    assert series.is_multiframe
    same(read_volume(series), factory.pattern(), matrix)


def test_fault_06_enhanced_applies_the_slope_of_each_frame(tmp_path: Path) -> None:
    def scaled(k: int) -> dict[str, Any]:
        return {"PixelValueTransformationSequence": {"RescaleSlope": f"{k + 0.5}", "RescaleIntercept": "-1"}}

    array = factory.pattern()
    factory.write_series(tmp_path, array, enhanced=True, per_slice=scaled, file_order=list(range(8))[::-1])
    np.testing.assert_array_equal(read(tmp_path).array, array.astype(np.float32) * (np.arange(8) + 0.5) - 1)


@pytest.mark.parametrize(
    ("group", "keyword", "values"),
    [
        ("MREchoSequence", "EffectiveEchoTime", (10.0, 90.0)),
        ("MRDiffusionSequence", "DiffusionBValue", (0.0, 1000.0)),
        ("FrameContentSequence", "TemporalPositionIndex", (1, 2)),
    ],
)
def test_fault_06_enhanced_with_several_volumes_is_refused(
    tmp_path: Path, group: str, keyword: str, values: tuple[Any, Any]
) -> None:
    array = np.concatenate([factory.pattern()] * 2, axis=2)

    def frame(k: int) -> dict[str, Any]:
        position = {"ImagePositionPatient": factory.plane(factory.affine(), k % 8)[0]}
        return {"PlanePositionSequence": position, group: {keyword: values[k // 8]}}

    factory.write_series(tmp_path, array, enhanced=True, per_slice=frame)
    refused(tmp_path, Reason.DUPLICATE_POSITION, keyword)


def test_fault_08_array_and_affine_share_one_order(tmp_path: Path) -> None:
    array = np.zeros((12, 10, 8), np.uint16)
    array[7, 4, 2] = 100
    matrix = factory.affine(spacing=(1.5, 0.5, 2.0))
    factory.write_series(tmp_path, array, matrix)
    volume = read(tmp_path)
    (brightest,) = np.argwhere(volume.array == 100)
    np.testing.assert_allclose(volume.geometry.to_patient(brightest), (matrix @ [7, 4, 2, 1])[:3], atol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_fault_09_order_of_files_and_instance_numbers_does_not_matter(tmp_path: Path, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(8).tolist()
    factory.write_series(tmp_path, file_order=order)
    same(read(tmp_path), factory.pattern(), factory.affine())


def test_fault_10_different_rows_are_refused(tmp_path: Path) -> None:
    common = {"SeriesInstanceUID": factory.uid("both")}
    factory.write_series(tmp_path, factory.pattern((12, 10, 4)), name="one", attributes=common)
    lower = factory.affine(origin=(-20, -30, 60))
    factory.write_series(tmp_path, factory.pattern((12, 9, 4)), lower, name="two", attributes=common)
    refused(tmp_path, Reason.MIXED_GEOMETRY, "Rows")


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


def test_gantry_tilt_gives_a_sheared_grid(tmp_path: Path) -> None:
    matrix = factory.affine(tilt=(0.0, 0.6))
    factory.write_series(tmp_path, factory.pattern(), matrix)
    volume = read(tmp_path)
    same(volume, factory.pattern(), matrix)
    assert not volume.geometry.is_orthogonal


@pytest.mark.parametrize(
    "rotation",
    [
        np.array([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]),
        np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]]),
        np.diag([-1.0, 1.0, -1.0]),
    ],
    ids=["sagittal", "coronal", "head to foot"],
)
def test_orientations(tmp_path: Path, rotation: Any) -> None:
    matrix = factory.affine(rotation=rotation)
    factory.write_series(tmp_path, factory.pattern(), matrix)
    same(read(tmp_path), factory.pattern(), matrix)


def test_slices_stored_from_head_to_foot_are_turned_with_their_positions(tmp_path: Path) -> None:
    matrix = factory.affine()
    flipped = matrix.copy()
    flipped[:3, 2] *= -1
    flipped[:3, 3] = (matrix @ [0, 0, 7, 1])[:3]
    factory.write_series(tmp_path, factory.pattern()[:, :, ::-1], flipped)
    same(read(tmp_path), factory.pattern(), matrix)


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


def test_single_slice_is_refused(tmp_path: Path) -> None:
    factory.write_series(tmp_path, factory.pattern((12, 10, 1)))
    refused(tmp_path, Reason.SINGLE_POSITION)


def test_many_images_of_one_position_are_refused(tmp_path: Path) -> None:
    factory.write_series(tmp_path, attributes={"ImagePositionPatient": [0, 0, 0]})
    refused(tmp_path, Reason.SINGLE_POSITION, "ImagePositionPatient")


def test_slices_off_a_straight_line_are_refused(tmp_path: Path) -> None:
    def bent(k: int) -> dict[str, Any]:
        return {"ImagePositionPatient": [-20 + 0.2 * k * k, -30, 40 + 2 * k]}

    factory.write_series(tmp_path, per_slice=bent)
    refused(tmp_path, Reason.NOT_A_VOLUME, "ImagePositionPatient")


def test_several_frames_of_reference_are_refused(tmp_path: Path) -> None:
    factory.write_series(
        tmp_path, per_slice=lambda k: {"FrameOfReferenceUID": factory.uid(f"frame {k // 4}")}
    )
    refused(tmp_path, Reason.MIXED_GEOMETRY, "FrameOfReferenceUID")


def test_different_files_of_one_instance_are_refused(tmp_path: Path) -> None:
    factory.write_series(tmp_path / "a")
    factory.write_series(tmp_path / "b", factory.pattern(seed=1))
    refused(tmp_path, Reason.DUPLICATE_POSITION, "SOPInstanceUID")


def test_frame_of_reference_reaches_the_volume(tmp_path: Path) -> None:
    factory.write_series(tmp_path)
    assert read(tmp_path).geometry.frame_of_reference_uid == factory.uid("frame")


def test_files_and_datasets_follow_the_slice_axis(tmp_path: Path) -> None:
    factory.write_series(tmp_path, file_order=[5, 2, 7, 0, 1, 3, 6, 4])
    series = only(tmp_path)
    assert isinstance(series, Series)
    heights = [float(dataset.ImagePositionPatient[2]) for dataset in series.datasets()]
    assert heights == sorted(heights)
    assert [dataset.SOPInstanceUID for dataset in series.datasets()] == list(series.instance_uids)


def test_a_series_changed_after_it_was_listed_is_refused(tmp_path: Path) -> None:
    files = factory.write_series(tmp_path)
    series = only(tmp_path)
    assert isinstance(series, Series)
    files[1].write_bytes(files[2].read_bytes())
    with pytest.raises(ImagingError, match="changed on disk"):
        read_volume(series)


coordinates = st.floats(-200, 200, allow_nan=False)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(2, 7), st.integers(2, 7), st.integers(2, 7)),
    spacing=st.tuples(st.floats(0.2, 4), st.floats(0.2, 4), st.floats(0.3, 8)),
    turn=hnp.arrays(np.float64, 3, elements=st.floats(-np.pi, np.pi)),
    origin=st.tuples(coordinates, coordinates, coordinates),
    tilt=st.tuples(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5)),
    enhanced=st.booleans(),
    data=st.data(),
)
def test_any_grid_survives_dicom(
    tmp_path_factory: pytest.TempPathFactory,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    turn: Any,
    origin: tuple[float, float, float],
    tilt: tuple[float, float],
    enhanced: bool,
    data: st.DataObject,
) -> None:
    folder = tmp_path_factory.mktemp("grid")
    matrix = factory.affine(spacing, origin, Rotation.from_rotvec(turn).as_matrix(), tilt)
    order = data.draw(st.permutations(range(shape[2])))
    array = factory.pattern(shape)
    factory.write_series(folder, array, matrix, enhanced=enhanced, file_order=order)
    volume = read(folder)
    np.testing.assert_array_equal(volume.array, array)
    corners = volume.geometry.corners()
    expected = np.c_[np.indices(shape).reshape(3, -1).T, np.ones(int(np.prod(shape)))] @ matrix.T
    assert np.abs(corners.min(axis=0) - expected[:, :3].min(axis=0)).max() < 1e-4
    np.testing.assert_allclose(volume.geometry.affine, matrix, atol=1e-5)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lost=st.sets(st.integers(1, 8), min_size=1, max_size=7))
def test_no_hole_goes_unseen(tmp_path_factory: pytest.TempPathFactory, lost: set[int]) -> None:
    """Whatever inner slices are lost: refused, unless what is left is regular, then with its true spacing."""
    folder = tmp_path_factory.mktemp("hole")
    array = factory.pattern((4, 4, 10))
    kept = [k for k in range(10) if k not in lost]
    factory.write_series(folder, array, file_order=kept)
    series = only(folder)
    gaps = np.diff(kept)
    if np.ptp(gaps) > 0:
        assert isinstance(series, RefusedSeries)
        assert series.reason is Reason.MISSING_SLICE
    else:
        assert isinstance(series, Series)
        assert series.geometry is not None
        assert series.geometry.spacing[2] == pytest.approx(2.0 * gaps[0])
