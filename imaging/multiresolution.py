"""One resolution of an intensity-based registration, and what every resolution needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from imaging.geometry import FloatArray, Geometry, Volume
from imaging.similarity import Measure, Similarity

LinearTransform = TypeVar(
    "LinearTransform", sitk.Euler3DTransform, sitk.Similarity3DTransform, sitk.AffineTransform
)

# Voxels on which positions are compared.
_POINTS = 8_000
_SMALLEST_STEP_MM = 0.005
_BRAIN_RADIUS_MM = 80.0


@contextmanager
def single_thread() -> Iterator[None]:
    """One ITK thread: sums shared out among threads differ in the last digit from run to run.

    The images are so small by then that more threads would not be faster either.
    """
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def transform_matrix(transform: sitk.Transform) -> FloatArray:
    """``(4, 4)`` matrix in mm of a transform that has a matrix, a centre and a translation."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    centre = np.asarray(transform.GetCenter())
    matrix[:3, 3] = np.asarray(transform.GetTranslation()) + centre - matrix[:3, :3] @ centre
    return matrix


def affine_transform(matrix: FloatArray) -> sitk.AffineTransform:
    """Transform of a ``(4, 4)`` matrix in mm."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    return transform


def rotation_angle(matrix: FloatArray) -> float:
    """Degrees by which a ``(3, 3)`` matrix turns; of the nearest rotation when it also stretches."""
    left, _, right = np.linalg.svd(matrix)
    cosine = (np.trace(left @ right) - 1) / 2
    return float(np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))))


def pooled(image: Volume, spacing_mm: float) -> Volume:
    """A smaller copy: whole voxels averaged until the spacing is about ``spacing_mm``.

    Axes that are coarser already are left alone. A sheared image is resampled to an axis-aligned grid first.
    Values that are not finite count as 0.
    """
    if not image.geometry.is_orthogonal:
        image = image.resampled(
            image.geometry.axis_aligned_cover(max(spacing_mm, min(image.geometry.spacing)))
        )
    geometry = image.geometry
    factors = [
        min(n, max(1, round(spacing_mm / s))) for n, s in zip(geometry.shape, geometry.spacing, strict=True)
    ]
    i, j, k = (n // f for n, f in zip(geometry.shape, factors, strict=True))
    whole = np.asarray(image.array[: i * factors[0], : j * factors[1], : k * factors[2]], dtype=np.float32)
    if not np.isfinite(whole).all():
        whole = np.nan_to_num(whole, posinf=0.0, neginf=0.0)
    blocks = whole.reshape(i, factors[0], j, factors[1], k, factors[2])
    affine = geometry.affine.copy()
    affine[:3, 3] = geometry.to_patient((np.asarray(factors) - 1) / 2)
    affine[:3, :3] *= factors
    return Volume(blocks.mean(axis=(1, 3, 5)), Geometry((i, j, k), affine, geometry.frame_of_reference_uid))


def blurred(image: Volume, sigma_mm: float) -> Volume:
    """After a Gaussian filter."""
    sigma = [sigma_mm / s for s in image.geometry.spacing]
    return image.with_array(ndimage.gaussian_filter(image.array, sigma, mode="nearest"))


@dataclass(frozen=True)
class Schedule:
    """How one resolution is worked: lengths in mm, ``samples`` the number of voxels on which the search compares."""

    spacing: float
    blur: float
    samples: int
    largest_step: float
    iterations: int


@dataclass(frozen=True, eq=False)
class Level:
    """Both images at one resolution.

    Build with :meth:`of`.
    """

    fixed: sitk.Image
    moving: sitk.Image
    mask: sitk.Image
    similarity: Similarity
    measure: Measure
    schedule: Schedule
    seed: int

    @classmethod
    def of(
        cls,
        fixed: Volume,
        moving: Volume,
        zone: Volume,
        schedule: Schedule,
        seed: int,
        measure: Measure = "mutual_information",
    ) -> Level:
        """Blur and pool two images.

        Parameters
        ----------
        fixed, moving : Volume
            On orthogonal grids.
        zone : Volume
            Where voxels of the fixed image count (> 0.5), on any grid.
        schedule : Schedule
            Resolution.
        seed : int
            Of the random choice of voxels.
        measure : {"mutual_information", "correlation"}
            What to maximise.
        """
        fixed = blurred(pooled(fixed, schedule.spacing), schedule.blur)
        moving = blurred(pooled(moving, schedule.spacing), schedule.blur)
        mask = zone.resampled(fixed.geometry).array > 0.5
        similarity = Similarity(fixed, moving, mask, measure, _POINTS, seed)
        mask_image = fixed.with_array(mask.astype(np.uint8)).to_sitk()
        return cls(fixed.to_sitk(), moving.to_sitk(), mask_image, similarity, measure, schedule, seed)

    def value(self, transform: sitk.Transform) -> float:
        """Likeness at a position."""
        return self.similarity(transform_matrix(transform))

    def refine(self, start: LinearTransform) -> LinearTransform:
        """Climb from ``start``, which may be far away; ``start`` itself when that leads nowhere better."""
        method = self._method()
        # Searching along each line matters: fixed steps that shrink at every turn stop millimetres short.
        method.SetOptimizerAsConjugateGradientLineSearch(
            learningRate=1.0,
            numberOfIterations=self.schedule.iterations,
            convergenceMinimumValue=1e-5,
            convergenceWindowSize=8,
            lineSearchLowerLimit=0.0,
            lineSearchUpperLimit=5.0,
            lineSearchEpsilon=0.05,
            lineSearchMaximumIterations=10,
            estimateLearningRate=method.EachIteration,
            maximumStepSizeInPhysicalUnits=self.schedule.largest_step,
        )
        method.SetOptimizerScalesFromPhysicalShift()
        return max((self._climbed(method, start), start), key=self.value)

    def polish(self, start: sitk.Euler3DTransform) -> sitk.Euler3DTransform:
        """Climb the last millimetre or two in steps that shrink at every turn, in a third of the time of lines."""
        method = self._method()
        method.SetOptimizerAsRegularStepGradientDescent(
            learningRate=self.schedule.largest_step,
            minStep=_SMALLEST_STEP_MM,
            numberOfIterations=self.schedule.iterations,
            relaxationFactor=0.6,
            gradientMagnitudeTolerance=1e-8,
        )
        # Angles count by what they move at the surface of the brain.
        method.SetOptimizerScales([_BRAIN_RADIUS_MM**2] * 3 + [1.0] * 3)
        costs: list[float] = []
        method.AddCommand(sitk.sitkIterationEvent, lambda: costs.append(method.GetMetricValue()))
        found = self._climbed(method, start)
        # Hundredths of a millimetre show in the many voxels of the search only, not in the few of the value.
        is_better = len(costs) > 1 and costs[-1] < costs[0] and np.isfinite(self.value(found))
        return found if is_better else start

    def _method(self) -> sitk.ImageRegistrationMethod:
        method = sitk.ImageRegistrationMethod()
        if self.measure == "mutual_information":
            method.SetMetricAsMattesMutualInformation(32)
        else:
            method.SetMetricAsCorrelation()
        method.SetMetricFixedMask(self.mask)
        method.SetMetricSamplingStrategy(method.RANDOM)
        # ITK draws a share of all voxels and drops what the mask does not hold; it takes seed 0 as the time of day.
        share = self.schedule.samples / max(1, int(sitk.GetArrayViewFromImage(self.mask).sum()))
        method.SetMetricSamplingPercentage(min(1.0, share), self.seed + 1)
        method.SetInterpolator(sitk.sitkLinear)
        return method

    def _climbed(self, method: sitk.ImageRegistrationMethod, start: LinearTransform) -> LinearTransform:
        found = type(start)(start)
        method.SetInitialTransform(found, inPlace=True)
        try:
            method.Execute(self.fixed, self.moving)
        except RuntimeError:
            # ITK's way of saying that the images slid apart.
            return start
        return found
