"""A known motion is found again; another head, a turned head and an empty image are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from imaging.errors import ImagingError, Reason
from imaging.geometry import Geometry, Volume
from imaging.multiresolution import transform_matrix
from imaging.registration import edge_agreement, register_rigid
from tests.imaging.synthetic_head import SyntheticHead, seen_elsewhere, synthetic_head


@pytest.fixture(scope="module")
def head() -> SyntheticHead:
    return synthetic_head(bend_mm=4.0, seed=1, folds=0.3)


@pytest.fixture(scope="module")
def other_head() -> SyntheticHead:
    return synthetic_head(bend_mm=8.0, stretch=(0.86, 0.95, 0.9), seed=2, folds=0.3)


def motion(geometry: Geometry, degrees: tuple[float, float, float], shift: tuple[float, float, float]):
    transform = sitk.Euler3DTransform()
    transform.SetCenter(geometry.centre.tolist())
    transform.SetRotation(*np.radians(degrees).tolist())
    transform.SetTranslation(list(shift))
    return transform


def error_mm(found: np.ndarray, true: np.ndarray, head: SyntheticHead) -> float:
    """Largest error over the brain of a map against the true one."""
    points = head.image.geometry.to_patient(np.argwhere(head.brain)[::50])
    difference = (found - true)[:3, :3] @ points.T + (found - true)[:3, 3:]
    return float(np.linalg.norm(difference, axis=0).max())


def oblique(geometry: Geometry, spacing: tuple[float, float, float]) -> Geometry:
    """A grid turned by 20 degrees with other voxels around the same place."""
    turn = transform_matrix(motion(geometry, (12.0, 8.0, 14.0), (0.0, 0.0, 0.0)))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = turn * spacing
    shape = tuple(int(250 / s) for s in spacing)
    affine[:3, 3] = geometry.centre - affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    return Geometry((shape[0], shape[1], shape[2]), affine)


def sheared(geometry: Geometry) -> Geometry:
    affine = geometry.affine.copy()
    affine[:3, 2] += 0.3 * affine[:3, 1]
    affine[:3, 3] = geometry.centre - affine[:3, :3] @ ((np.asarray(geometry.shape) - 1) / 2)
    return Geometry(geometry.shape, affine)


@pytest.mark.parametrize(
    ("degrees", "shift"),
    [
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ((4.0, -3.0, 5.0), (3.0, -6.0, 8.0)),
        ((25.0, 0.0, 0.0), (10.0, 20.0, 20.0)),
    ],
)
def test_known_motion_is_found(head, degrees, shift) -> None:
    moved_to = motion(head.image.geometry, degrees, shift)
    fixed = seen_elsewhere(head.image, moved_to)
    found = register_rigid(fixed, head.image, purpose="visit")
    assert error_mm(found.matrix, transform_matrix(moved_to), head) < 0.1
    assert found.quality.similarity > found.quality.threshold
    np.testing.assert_allclose(found.matrix @ found.inverse_matrix, np.eye(4), atol=1e-9)


@pytest.mark.parametrize("grid", ["oblique", "thick", "sheared"])
def test_any_grid_and_another_contrast(head, grid) -> None:
    base = head.image.geometry
    geometry = {
        "oblique": oblique(base, (2.0, 2.0, 2.0)),
        "thick": oblique(base, (1.5, 1.5, 5.0)),
        "sheared": sheared(base),
    }[grid]
    moved_to = motion(base, (3.0, 2.0, -4.0), (2.0, 4.0, -3.0))
    dark_for_bright = head.image.with_array(np.where(head.image.array > 0, 320.0 - head.image.array, 0.0))
    moving = seen_elsewhere(dark_for_bright, moved_to.GetInverse(), geometry)
    found = register_rigid(head.image, moving, purpose="series")
    assert error_mm(found.matrix, transform_matrix(moved_to), head) < 1.2


def test_skull_may_be_missing_in_one_image(head) -> None:
    dressed = synthetic_head(bend_mm=4.0, seed=1, folds=0.3, skull=True)
    moved_to = motion(head.image.geometry, (6.0, 0.0, -5.0), (5.0, 8.0, -6.0))
    true = transform_matrix(moved_to)
    found = register_rigid(seen_elsewhere(dressed.image, moved_to), head.image, purpose="visit")
    assert error_mm(found.matrix, true, head) < 1.0
    found = register_rigid(seen_elsewhere(head.image, moved_to), dressed.image, purpose="visit")
    assert error_mm(found.matrix, true, head) < 1.0


def test_same_bits_whatever_the_number_of_threads(head) -> None:
    moving = seen_elsewhere(head.image, motion(head.image.geometry, (5.0, 0.0, 3.0), (4.0, 0.0, 2.0)))
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    results = []
    try:
        for threads in (1, 2, 2):
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
            results.append(register_rigid(head.image, moving, purpose="visit"))
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)
    assert all((r.matrix == results[0].matrix).all() for r in results)
    assert {r.quality.similarity for r in results} == {results[0].quality.similarity}


def test_another_head_is_refused(head, other_head) -> None:
    with pytest.raises(ImagingError, match="one patient") as error:
        register_rigid(head.image, other_head.image, purpose="visit")
    assert error.value.reason is Reason.REGISTRATION_FAILED


def test_misalignment_lowers_the_measure(head) -> None:
    values = []
    for shift in (0.0, 4.0, 8.0):
        moved = motion(head.image.geometry, (0.0, 0.0, 0.0), (shift, 0.0, 0.0))
        values.append(edge_agreement(head.image, head.image, moved))
    assert values[0] > 0.99
    assert values[0] > values[1] > values[2]
    assert values[1] < 0.7


@pytest.mark.parametrize("flat", [0.0, 100.0])
def test_empty_image_is_refused(head, flat) -> None:
    with pytest.raises(ImagingError) as error:
        register_rigid(
            head.image, head.image.with_array(np.full_like(head.image.array, flat)), purpose="series"
        )
    assert error.value.reason is Reason.REGISTRATION_FAILED


def test_too_little_in_common_is_refused(head) -> None:
    """Two slabs of one head that share one centimetre."""
    array, middle = head.image.array, head.image.geometry.shape[2] // 2
    lower, upper = (
        Volume(array[:, :, part].copy(), head.image.geometry.crop(start, stop))
        for part, start, stop in (
            (slice(0, middle + 2), (0, 0, 0), (*array.shape[:2], middle + 2)),
            (slice(middle - 2, None), (0, 0, middle - 2), array.shape),
        )
    )
    with pytest.raises(ImagingError) as error:
        register_rigid(lower, upper, purpose="visit")
    assert error.value.reason is Reason.REGISTRATION_FAILED


def _case(path: Path) -> Volume:
    return Volume.load_nifti(path)


def test_real_follow_up_passes_and_real_stranger_does_not(shared: Path) -> None:
    visits = shared / "cases" / "glioma_two_visits"
    baseline = _case(visits / "BraTSReg_002_00_0000_t1ce.nii.gz")
    follow_up = _case(visits / "BraTSReg_002_01_0262_t1ce.nii.gz")
    stranger = _case(shared / "cases" / "glioma_one_visit" / "BraTS-GLI-00001-000-t1c.nii.gz")
    quality = register_rigid(baseline, follow_up, purpose="visit").quality
    assert quality.similarity > quality.threshold + 0.15
    with pytest.raises(ImagingError) as error:
        register_rigid(baseline, stranger, purpose="visit")
    assert error.value.reason is Reason.REGISTRATION_FAILED


def test_real_mirrored_head_is_refused(shared: Path) -> None:
    """Of this head the mirror image passes the threshold; only the comparison of both readings refuses it."""
    image = _case(shared / "cases" / "glioma_two_visits" / "BraTSReg_002_01_0262_t1ce.nii.gz")
    with pytest.raises(ImagingError, match="left and right"):
        register_rigid(image, image.with_array(image.array[::-1].copy()), purpose="visit")
