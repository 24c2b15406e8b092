"""The grid type and the image on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.transform import Rotation

from imaging.errors import ImagingError, Reason
from imaging.geometry import Geometry, Volume
from tests.imaging.dicom_factory import affine


@st.composite
def geometries(draw: st.DrawFn, sheared: bool = True) -> Geometry:
    """Grids of any rotation, spacing, origin and, if wanted, gantry tilt."""
    spacing = draw(st.tuples(*[st.floats(0.3, 5)] * 3))
    origin = draw(st.tuples(*[st.floats(-200, 200)] * 3))
    turn = Rotation.from_rotvec(draw(hnp.arrays(np.float64, 3, elements=st.floats(-3, 3)))).as_matrix()
    tilt = draw(st.tuples(*[st.floats(-0.5, 0.5)] * 2)) if sheared else (0.0, 0.0)
    shape = draw(st.tuples(*[st.integers(1, 9)] * 3))
    return Geometry(shape, affine(spacing, origin, turn, tilt), "1.2.3")


def smooth(geometry: Geometry) -> Volume:
    """Linear function of the place, which linear interpolation reproduces exactly."""
    points = geometry.to_patient(np.moveaxis(np.indices(geometry.shape), 0, -1))
    return Volume((points @ [0.3, -0.2, 0.5] + 7).astype(np.float64), geometry)


@settings(max_examples=50, deadline=None)
@given(geometry=geometries(), index=hnp.arrays(np.float64, (5, 3), elements=st.floats(-20, 20)))
def test_index_and_patient_coordinates_are_inverse(geometry: Geometry, index: Any) -> None:
    np.testing.assert_allclose(geometry.to_index(geometry.to_patient(index)), index, atol=1e-9)


@settings(max_examples=50, deadline=None)
@given(geometry=geometries())
def test_cover_covers_every_voxel(geometry: Geometry) -> None:
    cover = geometry.axis_aligned_cover(1.5)
    corners = geometry.to_patient(np.indices((2, 2, 2)).reshape(3, -1).T * np.array(geometry.shape) - 0.5)
    index = cover.to_index(corners)
    assert (index >= -0.5 - 1e-5).all()
    assert (index <= np.array(cover.shape) - 0.5 + 1e-5).all()
    assert cover.spacing == pytest.approx((1.5, 1.5, 1.5))
    np.testing.assert_allclose(cover.directions, np.eye(3), atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(geometry=geometries(), axes=st.permutations(range(3)), flips=st.sets(st.integers(0, 2)))
def test_canonical_form_does_not_depend_on_the_order_of_voxels(
    geometry: Geometry, axes: list[int], flips: set[int]
) -> None:
    volume = Volume(np.arange(np.prod(geometry.shape)).reshape(geometry.shape), geometry)
    matrix, array = np.array(geometry.affine), np.flip(volume.array, tuple(flips)).transpose(axes)
    for axis in flips:
        matrix[:3, 3] += matrix[:3, axis] * (geometry.shape[axis] - 1)
        matrix[:3, axis] *= -1
    other = Volume(array, Geometry(array.shape, matrix[:, [*axes, 3]], "1.2.3"))
    canonical = volume.canonical()
    np.testing.assert_array_equal(canonical.array, other.canonical().array)
    np.testing.assert_allclose(canonical.geometry.affine, other.canonical().geometry.affine, atol=2e-6)
    np.testing.assert_array_equal(canonical.stored_as(geometry).array, volume.array)
    first = np.argwhere(canonical.array == 0)[0]
    np.testing.assert_allclose(canonical.geometry.to_patient(first), geometry.affine[:3, 3], atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(geometry=geometries(), data=st.data())
def test_crop_keeps_places(geometry: Geometry, data: st.DataObject) -> None:
    start = np.array([data.draw(st.integers(0, n - 1)) for n in geometry.shape])
    stop = np.array([data.draw(st.integers(s + 1, n)) for s, n in zip(start, geometry.shape, strict=True)])
    crop = geometry.crop(start, stop)
    np.testing.assert_allclose(crop.to_patient((0, 0, 0)), geometry.to_patient(start), atol=1e-9)
    np.testing.assert_allclose(
        crop.to_patient(np.array(crop.shape) - 1), geometry.to_patient(stop - 1), atol=1e-9
    )


@settings(max_examples=30, deadline=None)
@given(source=geometries(), target=geometries())
def test_resampling_looks_where_the_target_is(source: Geometry, target: Geometry) -> None:
    seen = smooth(source).resampled(target, outside=-1e6)
    index = source.to_index(target.to_patient(np.moveaxis(np.indices(target.shape), 0, -1)))
    inside = ((index > 1e-3) & (index < np.array(source.shape) - 1 - 1e-3)).all(axis=-1)
    np.testing.assert_allclose(seen.array[inside], smooth(target).array[inside], atol=1e-4)
    outside = ((index < -0.51) | (index > np.array(source.shape) - 0.49)).any(axis=-1)
    assert (seen.array[outside] == -1e6).all()


@settings(max_examples=20, deadline=None)
@given(geometry=geometries())
def test_resampling_to_the_same_grid_changes_nothing(geometry: Geometry) -> None:
    volume = Volume(np.random.default_rng(0).random(geometry.shape).astype(np.float32), geometry)
    for how in ("linear", "nearest"):
        np.testing.assert_allclose(
            volume.resampled(geometry, interpolation=how).array, volume.array, atol=1e-6
        )


@settings(max_examples=20, deadline=None)
@given(geometry=geometries())
def test_nifti_round_trip(tmp_path_factory: pytest.TempPathFactory, geometry: Geometry) -> None:
    path = tmp_path_factory.mktemp("nifti") / "v.nii.gz"
    volume = Volume(np.random.default_rng(0).random(geometry.shape).astype(np.float32), geometry)
    volume.save_nifti(path)
    again = Volume.load_nifti(path)
    np.testing.assert_array_equal(again.array, volume.array)
    np.testing.assert_allclose(again.geometry.affine, geometry.affine, atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(geometry=geometries(sheared=False))
def test_itk_sees_voxels_at_the_same_places(geometry: Geometry) -> None:
    image = smooth(geometry).to_sitk()
    last = tuple(n - 1 for n in geometry.shape)
    np.testing.assert_allclose(
        image.TransformIndexToPhysicalPoint(last), geometry.to_patient(last), atol=1e-6
    )
    assert image.GetPixel(last) == pytest.approx(smooth(geometry).array[last])


def test_transform_maps_target_to_source() -> None:
    """ITK's convention: the transform takes points of the fixed image to the moving one."""
    geometry = Geometry((10, 10, 10), np.eye(4))
    volume = Volume(np.arange(1000.0).reshape(10, 10, 10), geometry)
    moved = volume.resampled(geometry, transform=sitk.TranslationTransform(3, (2.0, 0.0, 0.0)))
    np.testing.assert_array_equal(moved.array[:8], volume.array[2:])


def test_rotated_grid_and_transform_agree() -> None:
    """Carrying the grid by a rigid transform shows what resampling through the transform shows."""
    source = Volume(
        np.random.default_rng(1).random((9, 8, 7)), Geometry((9, 8, 7), affine((1, 1.5, 2), (3, 4, 5)))
    )
    rigid = np.eye(4)
    rigid[:3, :3] = Rotation.from_euler("z", 30, degrees=True).as_matrix()
    rigid[:3, 3] = (1, -2, 3)
    target = Geometry((6, 6, 6), affine((1, 1, 1), (4, 5, 7)))
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(rigid[:3, :3].ravel().tolist())
    transform.SetTranslation(rigid[:3, 3].tolist())
    by_transform = source.resampled(target, transform=transform)
    by_grid = source.resampled(target.moved(rigid, ""))
    np.testing.assert_allclose(by_transform.array, by_grid.array, atol=1e-9)


def test_labels_stay_labels() -> None:
    geometry = Geometry((6, 6, 6), np.eye(4))
    labels = Volume(np.random.default_rng(2).integers(0, 4, (6, 6, 6)).astype(np.uint8), geometry)
    finer = Geometry((11, 11, 11), np.diag([0.5, 0.5, 0.5, 1]))
    seen = labels.resampled(finer, interpolation="nearest")
    assert seen.array.dtype == np.uint8
    assert set(np.unique(seen.array)) <= {0, 1, 2, 3}
    np.testing.assert_array_equal(seen.array[::2, ::2, ::2], labels.array)


def test_masks_stay_masks() -> None:
    geometry = Geometry((6, 6, 6), np.eye(4))
    mask = Volume(np.random.default_rng(2).random((6, 6, 6)) > 0.5, geometry)
    seen = mask.resampled(geometry, interpolation="nearest")
    assert seen.array.dtype == bool
    np.testing.assert_array_equal(seen.array, mask.array)


def test_voxel_volume_of_a_sheared_grid_is_not_the_product_of_its_spacings() -> None:
    tilted = Geometry((2, 2, 2), affine((1, 1, 2), tilt=(0, 1.0)))
    assert tilted.voxel_volume_mm3 == pytest.approx(2.0)
    assert not tilted.is_orthogonal


def test_sheared_grid_cannot_be_an_itk_image() -> None:
    tilted = Geometry((2, 2, 2), affine(tilt=(0, 1.0)))
    with pytest.raises(ValueError, match="sheared"):
        Volume(np.zeros((2, 2, 2)), tilted).to_sitk()


@pytest.mark.parametrize(
    ("shape", "matrix"),
    [
        ((1, 1), np.eye(4)),
        ((0, 1, 1), np.eye(4)),
        ((1, 1, 1), np.eye(3)),
        ((1, 1, 1), np.diag([1.0, 1, 0, 1])),
        ((1, 1, 1), np.full((4, 4), np.nan)),
        ((1, 1, 1), np.diag([1.0, 1, 1, 2])),
    ],
)
def test_impossible_grids_cannot_be_made(shape: Any, matrix: Any) -> None:
    with pytest.raises(ValueError):
        Geometry(shape, matrix)


def test_array_must_fit_its_grid() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Volume(np.zeros((2, 3, 4)), Geometry((4, 3, 2), np.eye(4)))


def test_affine_cannot_be_changed_afterwards() -> None:
    matrix = np.eye(4)
    geometry = Geometry((1, 1, 1), matrix)
    matrix[0, 0] = 9
    assert geometry.affine[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine[0, 0] = 9


@pytest.mark.parametrize("content", [b"", b"not nifti", None])
def test_unreadable_nifti_is_refused_by_name(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "image.nii.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImagingError, match=r"image\.nii\.gz") as error:
        Volume.load_nifti(path)
    assert error.value.reason is Reason.UNDECODABLE


def test_truncated_nifti_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.nii.gz"
    Volume(np.random.default_rng(0).random((20, 20, 20)), Geometry((20, 20, 20), np.eye(4))).save_nifti(path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ImagingError, match=r"image\.nii\.gz"):
        Volume.load_nifti(path)


def test_four_dimensional_nifti_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "series.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3, 5), dtype=np.float32), np.eye(4)), path)
    with pytest.raises(ImagingError, match="4 dimensions") as error:
        Volume.load_nifti(path)
    assert error.value.reason is Reason.NOT_A_VOLUME
