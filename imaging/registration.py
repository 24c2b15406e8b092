"""Rigid registration of two images of one head, and the evidence that it is one head.

A registration always returns some transform. What a report may rely on is therefore not the optimiser's
success but a second opinion that the optimiser did not maximise: whether the edges of both images run in the
same directions, place by place. ``docs/registration.md`` has the measurements behind the thresholds.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from imaging.errors import ImagingError, Reason
from imaging.geometry import FloatArray, Volume
from imaging.head_mask import HeadMask, find_head
from imaging.multiresolution import Level, Schedule, pooled, rotation_angle, single_thread, transform_matrix
from imaging.report_content import RegistrationQuality

Purpose = Literal["series", "visit"]

METRIC = "median agreement of edge directions"
# Unrelated edges in space agree to 1/3, identical ones to 1; docs/registration.md says what lies between.
THRESHOLDS: dict[Purpose, float] = {"series": 0.55, "visit": 0.55}
# A mirrored head reaches 0.77; an image that agrees better than this cannot be one.
MIRROR_CHECK_BELOW = 0.85
# No head lies in a scanner turned this far against another day; beyond it an orientation attribute is wrong.
LARGEST_ROTATION_DEGREES = 60.0

_WHAT: dict[Purpose, str] = {
    "series": "A series cannot be aligned with the reference series of its examination",
    "visit": "A follow-up cannot be aligned with the baseline",
}

_LOGGER = logging.getLogger("oncotwin.imaging")
# Below the brain the neck bends, so only this much from the top of the head downwards is aligned.
_HEAD_DEPTH_MM = 150.0
_COARSE = Schedule(spacing=6.0, blur=4.0, samples=4_000, largest_step=4.0, iterations=30)
_MIDDLE = Schedule(spacing=4.0, blur=2.0, samples=10_000, largest_step=1.0, iterations=30)
_FINE = Schedule(spacing=2.0, blur=1.0, samples=40_000, largest_step=0.5, iterations=60)
_START_ROTATIONS_DEGREES = (-20.0, 20.0)
_SMALLEST_OVERLAP_MM3 = 1.5e5


@dataclass(frozen=True, eq=False)
class RigidRegistration:
    """A rigid motion between two images and how far to trust it.

    Parameters
    ----------
    transform : SimpleITK.Euler3DTransform
        Maps LPS points of the fixed image to LPS points of the moving image (ITK's convention), so that
        ``moving.resampled(fixed.geometry, transform)`` shows the moving image on the fixed grid.
    quality : RegistrationQuality
        Measured agreement and size of the motion.
    """

    transform: sitk.Euler3DTransform
    quality: RegistrationQuality

    @property
    def matrix(self) -> FloatArray:
        """``(4, 4)`` matrix of :attr:`transform`, fixed LPS to moving LPS in mm."""
        return transform_matrix(self.transform)

    @property
    def inverse_matrix(self) -> FloatArray:
        """``(4, 4)`` matrix from moving LPS to fixed LPS in mm."""
        inverse: FloatArray = np.linalg.inv(self.matrix)
        return inverse


@dataclass(frozen=True, eq=False)
class _Prepared:
    """An image made small: about 2 mm, outliers clipped, head found."""

    image: Volume
    head: HeadMask
    centre: FloatArray

    def mirrored(self) -> _Prepared:
        """The same head with left and right exchanged about its centre."""
        reflection = np.diag([-1.0, 1.0, 1.0, 1.0])
        reflection[0, 3] = 2 * self.centre[0]
        grid = self.image.geometry.moved(reflection, self.image.geometry.frame_of_reference_uid)
        mask = replace(self.head, mask=Volume(self.head.mask.array, grid))
        return _Prepared(Volume(self.image.array, grid), mask, self.centre)

    def zone(self, margin_mm: float) -> Volume:
        """The rigid part of the head grown by a margin, 0..1 on a 4 mm grid."""
        head = pooled(self.head.mask, 4.0)
        inside = head.array > 0.5
        distance = ndimage.distance_transform_edt(~inside, sampling=head.geometry.spacing)
        zone = (distance <= margin_mm) & _upper_part(head.with_array(inside))
        return head.with_array(zone.astype(np.float32))


def register_rigid(fixed: Volume, moving: Volume, *, purpose: Purpose, seed: int = 0) -> RigidRegistration:
    """Align two images of one head.

    Mattes mutual information is searched from several starts on a 6 mm copy and refined at 4 and 2 mm. Both
    images may be stripped of the skull or not, oblique, sheared, and of any contrast.

    Parameters
    ----------
    fixed, moving : Volume
        The reference and the image to be brought onto it.
    purpose : {"series", "visit"}
        A series of the same examination, or another examination of the same patient.
    seed : int
        Of the random choice of voxels; the same seed gives the same bits.

    Returns
    -------
    RigidRegistration
        Transform and quality.

    Raises
    ------
    ImagingError
        If the images do not agree after the registration, or overlap too little to tell.
    """
    transform, quality = measure_rigid(fixed, moving, purpose=purpose, seed=seed)
    _LOGGER.info(
        "%s registration: agreement %.3f (needs %.2f), rotation %.1f degrees, shift %.1f mm",
        purpose,
        quality.similarity,
        quality.threshold,
        quality.rotation_degrees,
        quality.translation_mm,
    )
    _require_success(quality, purpose)
    if quality.similarity < MIRROR_CHECK_BELOW:
        _require_not_mirrored(quality.similarity, mirror_agreement(fixed, moving, seed=seed), purpose)
    return RigidRegistration(transform, quality)


def measure_rigid(
    fixed: Volume, moving: Volume, *, purpose: Purpose, seed: int = 0
) -> tuple[sitk.Euler3DTransform, RegistrationQuality]:
    """As :func:`register_rigid`, but hands back what was found even when it is not good enough."""
    fixed_work, moving_work = _prepare(fixed), _prepare(moving)
    transform = _align_either_way(fixed_work, moving_work, seed)
    quality = RegistrationQuality(
        similarity=_edge_agreement(fixed_work, moving_work, transform),
        metric=METRIC,
        threshold=THRESHOLDS[purpose],
        rotation_degrees=rotation_angle(transform_matrix(transform)[:3, :3]),
        translation_mm=_displacement(transform, fixed_work.centre),
    )
    return transform, quality


def edge_agreement(fixed: Volume, moving: Volume, transform: sitk.Transform) -> float:
    """How well the edges of two images run in the same directions, 1/3 (by chance) to 1.

    At every place the squared scalar product of both gradients is averaged in a Gaussian window of 8 mm and
    divided by the average of the product of their squared lengths (normalised gradient fields, Haber and
    Modersitzki 2006, in a local form); the median over the head is returned. The square makes it blind to
    which of two tissues is brighter, so any two contrasts can be compared; the median makes it robust to a
    tumour that has grown or has been removed.

    Parameters
    ----------
    fixed, moving : Volume
        The images.
    transform : SimpleITK.Transform
        Maps LPS points of ``fixed`` to LPS points of ``moving``.

    Returns
    -------
    float
        The median, or 0 when the heads overlap too little.
    """
    return _edge_agreement(_prepare(fixed), _prepare(moving), transform)


def _prepare(image: Volume) -> _Prepared:
    small = pooled(image, 2.0)
    head = find_head(pooled(small, 4.0))
    # A painted background is exact only in the original voxels; pooling is repeated there.
    if head.stripped:
        mask = pooled(image.with_array(image.array != head.background), 2.0)
        found = mask.with_array(ndimage.binary_fill_holes(mask.array > 0.5))
    else:
        found = head.mask.resampled(small.geometry, interpolation="nearest")
    head = replace(head, mask=found)
    if not found.array.any():
        raise ImagingError(Reason.REGISTRATION_FAILED, "An image to be aligned shows no head.")
    inside = small.array[found.array]
    low, high = np.percentile(inside, (0.5, 99.5))
    clipped = small.with_array(np.clip(small.array, min(low, head.background), high))
    points = found.geometry.to_patient(np.argwhere(found.array & _upper_part(found)))
    return _Prepared(clipped, head, points.mean(axis=0))


def _upper_part(head: Volume) -> npt.NDArray[np.bool_]:
    """Voxels less than ``_HEAD_DEPTH_MM`` below the top of the head."""
    i, j, k = np.ogrid[tuple(slice(n) for n in head.geometry.shape)]
    superior = head.geometry.affine[2]
    height = superior[0] * i + superior[1] * j + superior[2] * k + superior[3]
    top = np.percentile(height[head.array], 99.8)
    upper: npt.NDArray[np.bool_] = height > top - _HEAD_DEPTH_MM
    return upper


def mirror_agreement(fixed: Volume, moving: Volume, *, seed: int = 0) -> float:
    """Agreement of ``fixed`` with the mirror image of ``moving``, after aligning that one.

    Left and right of one brain are alike enough that a mirrored head passes for the right one; only the
    comparison of both readings tells which is true.
    """
    fixed_work, mirrored = _prepare(fixed), _prepare(moving).mirrored()
    return _edge_agreement(fixed_work, mirrored, _align_either_way(fixed_work, mirrored, seed))


def _align_either_way(fixed: _Prepared, moving: _Prepared, seed: int) -> sitk.Euler3DTransform:
    with single_thread():
        # Points are drawn inside the mask of the fixed image: that must be the stripped one, if one is.
        if moving.head.stripped and not fixed.head.stripped:
            return _inverse(_align(moving, fixed, seed))
        return _align(fixed, moving, seed)


def _align(fixed: _Prepared, moving: _Prepared, seed: int) -> sitk.Euler3DTransform:
    zone = fixed.zone(margin_mm=5.0)
    coarse, middle, fine = (
        Level.of(fixed.image, moving.image, zone, schedule, seed) for schedule in (_COARSE, _MIDDLE, _FINE)
    )
    starts = sorted(_starts(fixed.centre, moving.centre), key=coarse.value, reverse=True)
    best = max((coarse.refine(start) for start in starts[:2]), key=coarse.value)
    refined = fine.polish(middle.refine(best))
    # Scanners know where the table was: what they say stands unless the images say something better.
    identity = sitk.Euler3DTransform()
    identity.SetCenter(fixed.centre.tolist())
    return max((identity, refined), key=fine.value)


def _starts(fixed_centre: FloatArray, moving_centre: FloatArray) -> list[sitk.Euler3DTransform]:
    """Identity and heads centred on each other, each straight and turned both ways about every axis."""
    turns = [np.zeros(3)]
    turns += [np.radians(angle) * axis for axis in np.eye(3) for angle in _START_ROTATIONS_DEGREES]
    starts = []
    for shift in (np.zeros(3), moving_centre - fixed_centre):
        for turn in turns:
            start = sitk.Euler3DTransform()
            start.SetCenter(fixed_centre.tolist())
            start.SetTranslation(shift.tolist())
            start.SetRotation(*turn.tolist())
            starts.append(start)
    return starts


def _edge_agreement(fixed: _Prepared, moving: _Prepared, transform: sitk.Transform) -> float:
    grid = fixed.image.geometry
    seen = moving.image.resampled(grid, transform, outside=moving.head.background)
    covered = moving.image.with_array(np.ones(moving.image.geometry.shape, dtype=np.float32))
    common = fixed.head.mask.array & moving.head.mask.resampled(grid, transform, "nearest").array
    common &= covered.resampled(grid, transform).array > 0.99
    if not (fixed.head.stripped or moving.head.stripped):
        common &= _upper_part(fixed.head.mask)
    # The outline of a mask is an edge that a program drew; only what lies well inside counts.
    inner = ndimage.distance_transform_edt(np.pad(common, 1), sampling=grid.spacing)[1:-1, 1:-1, 1:-1] > 6.0
    if inner.sum() * grid.voxel_volume_mm3 < _SMALLEST_OVERLAP_MM3:
        return 0.0
    fixed_edges, moving_edges = _gradient(fixed.image), _gradient(seen)
    parallel = (fixed_edges * moving_edges).sum(axis=0) ** 2
    strength = (fixed_edges**2).sum(axis=0) * (moving_edges**2).sum(axis=0)
    window = [8.0 / s for s in grid.spacing]
    aligned = ndimage.gaussian_filter(np.where(inner, parallel, 0.0), window, truncate=3.0)
    possible = ndimage.gaussian_filter(np.where(inner, strength, 0.0), window, truncate=3.0)
    usable = inner & (possible > 0)
    return float(np.median(aligned[usable] / possible[usable])) if usable.any() else 0.0


def _gradient(image: Volume, sigma_mm: float = 1.5) -> FloatArray:
    """``(3, I, J, K)`` derivatives along i, j, k per mm after Gaussian smoothing."""
    scale = float(np.ptp(image.array)) or 1.0
    array = image.array.astype(np.float64) / scale
    sigma = [sigma_mm / s for s in image.geometry.spacing]
    parts = [
        ndimage.gaussian_filter(array, sigma, order=[int(a == axis) for a in range(3)], mode="nearest")
        / image.geometry.spacing[axis]
        for axis in range(3)
    ]
    return np.stack(parts)


def _inverse(transform: sitk.Euler3DTransform) -> sitk.Euler3DTransform:
    """The reverse motion, again as angles and a shift."""
    inverse = sitk.Euler3DTransform()
    matrix = np.linalg.inv(transform_matrix(transform))
    inverse.SetMatrix(matrix[:3, :3].ravel().tolist(), 1e-9)
    inverse.SetTranslation(matrix[:3, 3].tolist())
    return inverse


def _displacement(transform: sitk.Euler3DTransform, point: FloatArray) -> float:
    """How far the centre of the head moves, which unlike the translation depends on no origin."""
    return float(np.linalg.norm(np.asarray(transform.TransformPoint(point.tolist())) - point))


def _require_not_mirrored(similarity: float, mirrored: float, purpose: Purpose) -> None:
    if mirrored >= similarity:
        raise ImagingError(
            Reason.REGISTRATION_FAILED,
            f"{_WHAT[purpose]}: its mirror image fits better ({mirrored:.2f} against {similarity:.2f}); check "
            "whether left and right were exchanged.",
        )


def _require_success(quality: RegistrationQuality, purpose: Purpose) -> None:
    if quality.similarity < quality.threshold:
        raise ImagingError(
            Reason.REGISTRATION_FAILED,
            f"{_WHAT[purpose]}: {quality.metric} is {quality.similarity:.2f}, at least "
            f"{quality.threshold:.2f} is needed; check that both show the head of one patient and that their "
            "orientation is right.",
        )
    if quality.rotation_degrees > LARGEST_ROTATION_DEGREES:
        raise ImagingError(
            Reason.REGISTRATION_FAILED,
            f"{_WHAT[purpose]}: it fits only when turned by {quality.rotation_degrees:.0f} degrees, which no head does "
            "in a scanner; check its image orientation.",
        )
