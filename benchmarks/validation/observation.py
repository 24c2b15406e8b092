"""What is seen of a true tumour: masks with errors of known laws, displaced or deformed tissue."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.fft import dstn, idstn
from scipy.ndimage import gaussian_filter, map_coordinates, shift
from scipy.special import expit

from benchmarks.validation.levels import Levels
from benchmarks.validation.truth import CORE, WHOLE
from twin import TumourObservation


@dataclass(frozen=True)
class Noise:
    """Law of the errors of one segmented boundary.

    The boundary moves outward by a Gaussian shift of the whole mask plus a Gaussian field with the correlation
    exp(-r^2 / (2 L^2)), new for every visit and mask; then the density gets independent noise in every voxel and is
    compared with the threshold.

    Parameters
    ----------
    whole_mm, local_mm : float
        Standard deviations of the shift and of the field, mm.
    length_mm : float
        Correlation length L, mm.
    density : float
        Standard deviation of the noise of a voxel's density.
    """

    whole_mm: float = 0.0
    local_mm: float = 0.0
    length_mm: float = 5.0
    density: float = 0.0


@dataclass(frozen=True)
class Segmenter:
    """Where one patient's boundaries are drawn, the same at all visits.

    Parameters
    ----------
    core, whole : float
        Densities at the boundaries.
    core_offset_mm, whole_offset_mm : float
        Outward displacement of all boundaries, mm.
    """

    core: float = CORE
    whole: float = WHOLE
    core_offset_mm: float = 0.0
    whole_offset_mm: float = 0.0


def segment(
    day: float,
    levels: Levels,
    spacing: float,
    noise: Noise,
    generator: np.random.Generator,
    segmenter: Segmenter,
) -> TumourObservation:
    """Masks of a true tumour on one day."""
    masks = {}
    for name in ("core", "whole"):
        logit, slope = getattr(levels, name), getattr(levels, f"{name}_slope")
        moved = getattr(segmenter, f"{name}_offset_mm") + noise.whole_mm * generator.standard_normal()
        field = correlated(logit.shape, noise.length_mm / spacing, generator) * noise.local_mm
        density = expit(logit + slope * (moved + field))
        density = density + noise.density * generator.standard_normal(logit.shape)
        masks[name] = torch.from_numpy(density > getattr(segmenter, name))
    return TumourObservation(day, masks["core"] & masks["whole"], masks["whole"])


def correlated(
    shape: tuple[int, ...], length: float, generator: np.random.Generator
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Gaussian field of unit variance with the correlation exp(-r^2 / (2 length^2)), r in voxels."""
    smooth = gaussian_filter(generator.standard_normal(shape), length / np.sqrt(2), mode="wrap", truncate=3.0)
    # the variance that white noise keeps under a Gaussian kernel, axis by axis
    kernel = np.zeros(201)
    kernel[100] = 1.0
    kept = float((gaussian_filter(kernel, length / np.sqrt(2), truncate=3.0) ** 2).sum())
    return smooth / kept**1.5


def displaced(levels: Levels, millimetres: tuple[float, float, float], spacing: float) -> Levels:
    """The tumour at a place that a registration error puts it at."""
    voxels = [value / spacing for value in millimetres]
    return _mapped(levels, lambda field: shift(field, voxels, order=1, mode="nearest"))


def deformed(levels: Levels, first: Levels, strength: float, spacing: float) -> Levels:
    """The tumour after the tissue that has filled since the first visit has pushed its surroundings away.

    The displacement is the gradient of a potential whose Laplacian is ``strength`` times the gain of density, zero at
    the edge of the grid; so the tissue of the gain takes ``strength`` times more room.
    """
    gain = strength * (expit(levels.whole) - expit(first.whole))
    waves = [2 - 2 * np.cos(np.pi * np.arange(1, n + 1) / (n + 1)) for n in gain.shape]
    operator = waves[0][:, None, None] + waves[1][None, :, None] + waves[2][None, None, :]
    potential = idstn(-dstn(gain, type=1) / operator, type=1)
    # unit voxels: the gradient is the displacement in voxels
    away = np.stack(np.gradient(potential))
    places = np.stack(np.meshgrid(*map(np.arange, gain.shape), indexing="ij")) - away
    return _mapped(levels, lambda field: map_coordinates(field, places, order=1, mode="nearest"))


def _mapped(levels: Levels, change) -> Levels:  # type: ignore[no-untyped-def]
    core, core_slope = change(levels.core), change(levels.core_slope)
    if levels.whole is levels.core:
        return Levels(core, core_slope, core, core_slope)
    return Levels(core, core_slope, change(levels.whole), change(levels.whole_slope))
