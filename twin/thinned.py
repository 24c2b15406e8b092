"""The front that a therapy has left behind: what ties density to distance when the steady wave no longer does."""

import math

import numpy as np
from torch import Tensor

from twin.grid import surface_mm2
from twin.settings import CalibrationSettings
from twin.wave import STEP, WaveProfile

_LEAST = 1e-6
_DEEP_MM = 200.0


def thinned_profile(
    density: Tensor, spacing_mm: tuple[float, float, float], settings: CalibrationSettings
) -> WaveProfile | None:
    """Density against outward distance (mm) from the boundary of the whole tumour, of a density that has been grown.

    Distances follow from volumes: between two levels lies the difference of their equivalent radii, corrected for a
    surface larger than a sphere's. None where the density nowhere shows as whole tumour.

    Parameters
    ----------
    density : Tensor
        (X, Y, Z), all there is.
    spacing_mm : tuple of float
        Voxel size, mm.
    settings : CalibrationSettings
        Threshold of the whole tumour.
    """
    values = np.sort(density[density > _LEAST].double().numpy())[::-1]
    enclosed = int((values > settings.whole_threshold).sum())
    if not enclosed:
        return None
    voxel = math.prod(spacing_mm)
    radii = (3.0 * voxel / (4.0 * math.pi) * np.arange(1, values.size + 1)) ** (1.0 / 3.0)
    edge = (3.0 * voxel / (4.0 * math.pi) * enclosed) ** (1.0 / 3.0)
    surface = surface_mm2(density > settings.whole_threshold, spacing_mm)
    away = (radii - edge) * min(4.0 * math.pi * edge**2 / surface, 1.0)
    places = np.arange(math.floor(-_DEEP_MM / STEP), math.ceil(_DEEP_MM / STEP) + 1) * STEP
    table = np.interp(places, away, values, left=values[0], right=0.0)
    return WaveProfile(start=float(places[0]), values=np.append(table[:-1], 0.0))


def shows_core(profile: WaveProfile, settings: CalibrationSettings) -> bool:
    """Whether the profile reaches the density of the tumour core."""
    return bool(profile.values[0] > settings.core_threshold)
