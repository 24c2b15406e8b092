"""Series on disk to volumes: geometry, right or refused. Rows 1 to 3, 5, 6 and 8 to 10 of the silent faults."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.transform import Rotation

from imaging.catalog import RefusedSeries, Series
from imaging.errors import ImagingError, Reason
from imaging.reader import read_volume
from tests.imaging import dicom_factory as factory
from tests.imaging.reading import only, read, refused, same


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
