"""The course of the disease: where the tumour began, and its cell density at every visit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from imaging.geometry import Geometry, Volume
from training.virtual_patient.anatomy import BRAIN_HIGH, BRAIN_LOW, Anatomy
from training.virtual_patient.fields import Float32Array, smooth_noise, stream, upsampled
from training.virtual_patient.growth import FisherKpp
from training.virtual_patient.scanner import FloatArray
from training.virtual_patient.settings import PhantomSettings

# The tumour starts from several foci close together, which makes it lobed as real ones are.
FOCI = 5
FOCUS_DISTANCE_MM = 6.0
FOCUS_SIGMA_MM = 1.8


def grow(
    anatomy: Anatomy, settings: PhantomSettings, spacing_mm: float
) -> tuple[Geometry, list[Float32Array], float]:
    """Growth grid, density at every visit, and days of growth before the first."""
    grid = _growth_grid(spacing_mm)
    white, gray = (
        upsampled(Volume(anatomy.fractions[name], anatomy.geometry), grid) for name in ("white", "gray")
    )
    brain = _largest_part(white + gray > 0.5)
    diffusivity = settings.diffusivity * np.where(brain, white + gray / settings.gray_matter_ratio, 0)
    model = FisherKpp(diffusivity, settings.proliferation, spacing_mm)
    none = np.zeros(grid.shape, np.float32)
    days, age = settings.visit_days, 0.0
    gone_from = len(days) if settings.tumour_gone_from is None else settings.tumour_gone_from
    densities: list[Float32Array] = []
    if gone_from > 0:
        start = _onset(anatomy, settings, grid, brain)
        density, age = model.grow_until(start, settings.thresholds.core, settings.first_visit_core_ml * 1000)
        densities.append(density)
    for index in range(len(densities), len(days)):
        visible = index < gone_from
        densities.append(
            _treated(model, densities[-1], days[index - 1], days[index], settings.treatment)
            if visible
            else none
        )
    return grid, densities, age


def _treated(
    model: FisherKpp,
    density: Float32Array,
    start: float,
    stop: float,
    treatment: Sequence[tuple[float, float]],
) -> Float32Array:
    """Density on day ``stop`` of what was there on day ``start``; treatment on day ``start`` acts after it."""
    now = start
    for day, survival in treatment:
        if start <= day < stop:
            density = model.advance(density, day - now) * np.float32(survival)
            now = day
    return model.advance(density, stop - now)


def visible(density: Volume, settings: PhantomSettings) -> Volume:
    """Density as imaging shows it: the level at which a border is seen differs from place to place.

    The same places differ in the same way at all visits of a patient.
    """
    noise = smooth_noise(density.geometry, stream(settings.seed, "borders"), 6.0)
    np.clip(noise, -2, 2, out=noise)
    return density.with_array(density.array + np.float32(settings.roughness) * noise * (density.array > 0))


def _growth_grid(spacing_mm: float) -> Geometry:
    shape = np.floor((BRAIN_HIGH - BRAIN_LOW) / spacing_mm).astype(int)
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = BRAIN_LOW
    return Geometry((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def _largest_part(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    parts, count = ndimage.label(mask)
    largest: npt.NDArray[np.bool_] = parts == 1 + np.argmax(
        np.bincount(parts.ravel(), minlength=count + 1)[1:]
    )
    return largest


def _onset(
    anatomy: Anatomy,
    settings: PhantomSettings,
    grid: Geometry,
    brain: npt.NDArray[np.bool_],
) -> Float32Array:
    """A few cubic mm of tumour cells where the disease began."""
    rng = stream(settings.seed, "onset")
    if settings.onset_mni_mm is not None:
        centre = anatomy.from_atlas(settings.onset_mni_mm)
    else:
        centre = _random_onset(rng, anatomy)
    healthy = np.ones(grid.shape)
    for _ in range(FOCI):
        direction = rng.standard_normal(3)
        focus = centre + direction / np.linalg.norm(direction) * FOCUS_DISTANCE_MM * rng.uniform()
        i, j, k = (
            grid.affine[n, 3] + grid.spacing[n] * np.arange(grid.shape[n]) - focus[n] for n in range(3)
        )
        bells = [np.exp(-(line**2) / (2 * FOCUS_SIGMA_MM**2)) for line in (i, j, k)]
        healthy -= 0.6 * healthy * (bells[0][:, None, None] * bells[1][None, :, None] * bells[2])
    start = np.where(brain, 1 - healthy, 0).astype(np.float32)
    if start.max() < 0.2:
        raise ValueError(f"the onset {settings.onset_mni_mm} (MNI mm) lies outside the brain; move it inside")
    return start


def _random_onset(rng: np.random.Generator, anatomy: Anatomy) -> FloatArray:
    """White matter of the cerebrum, 12 mm or more from the midline and from anything that is not brain."""
    step = max(1, round(3 / anatomy.geometry.spacing[0]))
    every = slice(None, None, step)
    white, brain = anatomy.fractions["white"][every, every, every], anatomy.brain[every, every, every]
    inside = ndimage.binary_closing(brain, iterations=2)
    depth = ndimage.distance_transform_edt(inside, sampling=step * anatomy.geometry.spacing[0])
    points = anatomy.geometry.to_patient(step * np.argwhere((white > 0.8) & (depth >= 12)))
    points = points[(np.abs(points[:, 0]) > 12) & (points[:, 2] > -5)]
    chosen: FloatArray = points[rng.integers(len(points))]
    return chosen
