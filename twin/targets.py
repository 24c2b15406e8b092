"""What the follow-up visits ask of the density: one target for each mask or cellularity map."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from twin.coordinates import Vector
from twin.correlation import effective_samples, informative_band, sum_squares
from twin.observation import signed_distance, soft_mask
from twin.scene import Scene, boundary_sd_mm
from twin.settings import CalibrationSettings

_LONGEST_CORRELATION = 3.0
"""Errors of a boundary are correlated over so many correlation lengths at most: what a whole boundary has in common is
a shift, and those are parameters of their own. Without a limit one poor step makes a mask worth a single observation,
and the fit then never comes back to it."""
_LEAST_NOISE_MM = 0.3
"""Residuals are never believed to be smaller than a boundary error of this many millimetres would make them."""
_LEAST_CELLULARITY_NOISE = 0.02
_FIRST_CELLULARITY_NOISE = 0.1
_ABSENT_WIDTHS = 1.0
"""A mask that is empty asks for a density this many threshold widths below its threshold."""
_ABSENT_NOISE = 0.25
_PROFILE_STEP = 0.5


@dataclass(frozen=True)
class Target:
    """One mask or cellularity map of one follow-up visit as the likelihood sees it.

    Parameters
    ----------
    visit : int
        Number of the visit, from 1.
    first_shift : int
        Where its boundary shifts begin among the coordinates.
    threshold : float or None
        Density at the mask's boundary; None for a cellularity map, which is compared with the density itself.
    values : Tensor
        What is observed, (X, Y, Z): soft mask of the density that the masks stand for, or cellularity.
    shifts : Tensor
        Its derivatives with respect to outward shifts of core and whole boundary, (2, X, Y, Z), 1/mm.
    region : Tensor or None
        bool (X, Y, Z), voxels that were measured; None means all.
    at_most : bool
        Whether only a model above ``values`` is at odds with them: the mask is empty.
    weight : float
        Precision given to every squared residual: effective samples over the sum of squared residuals.
    effective : float
        Effective samples.
    """

    visit: int
    first_shift: int
    threshold: float | None
    values: Tensor
    shifts: Tensor
    region: Tensor | None
    at_most: bool
    weight: float = 1.0
    effective: float = 1.0

    def seen(self, density: Tensor, settings: CalibrationSettings) -> Tensor:
        """What a density (..., X, Y, Z) looks like to this target."""
        return density if self.threshold is None else soft_mask(density, self.threshold, settings)

    def slope(self, seen: Tensor, settings: CalibrationSettings) -> Tensor:
        """Derivative of :meth:`seen` in the density."""
        if self.threshold is None:
            return torch.ones_like(seen)
        return seen * (1.0 - seen) / settings.threshold_width

    def shifted(self, position: Vector) -> Tensor:
        """Observed values if the true boundary is displaced from the segmented one as ``position`` says."""
        core, whole = (float(position[self.first_shift + n]) for n in (0, 1))
        values = self.values
        if core:
            values = values.add(self.shifts[0], alpha=core)
        if whole:
            values = values.add(self.shifts[1], alpha=whole)
        return values

    def residual(self, seen: Tensor, position: Vector) -> Tensor:
        """Model minus observation, zero where nothing was measured, (..., X, Y, Z)."""
        left = seen - self.shifted(position)
        if self.at_most:
            left = left.clamp(min=0.0)
        return left if self.region is None else torch.where(self.region, left, 0.0)


def misfit(target: Target, density: Tensor, position: Vector, settings: CalibrationSettings) -> float:
    """Weighted sum of squared residuals of a density (X, Y, Z)."""
    return target.weight * sum_squares(target.residual(target.seen(density, settings), position))


def targets(
    scene: Scene, log_width: float, grown: Sequence[Tensor] | None = None, position: Vector | None = None
) -> tuple[Target, ...]:
    """Targets of all follow-up visits.

    Without anything known of the residuals, weights take boundary errors of ``boundary_sd_mm`` and the shortest
    correlation length. With the densities ``grown`` at ``position``, the residuals left there weigh. A front that a
    therapy has thinned is no steady wave: after one, the profile that ties density to distance is the model's own.

    Parameters
    ----------
    scene : Scene
        Of all visits.
    log_width : float
        Log front width of the densities that stand for masks.
    grown : sequence of Tensor, optional
        Density of every visit, (X, Y, Z).
    position : ndarray, optional
        Coordinates that made ``grown``.
    """
    made = []
    for visit in range(1, len(scene.distances)):
        density = None if grown is None else grown[visit]
        for target in _unweighted(scene, visit, log_width, density):
            if density is None or position is None:
                made.append(_first_weight(scene, target))
            else:
                seen = target.seen(density, scene.settings)
                made.append(_weighted(scene, target, seen, target.residual(seen, position)))
    return tuple(made)


def _unweighted(scene: Scene, visit: int, log_width: float, density: Tensor | None) -> list[Target]:
    settings, first, dtype = scene.settings, scene.coordinates.shift(visit), scene.operator.dtype
    cellularity = scene.cellularity[visit]
    if cellularity is not None:
        region = torch.isfinite(cellularity) & scene.operator.domain
        values = cellularity.nan_to_num(0.0).to(dtype)
        nothing = torch.zeros((), dtype=dtype).expand(2, *values.shape)
        return [Target(visit, first, None, values, nothing, region, False)]
    distances, made = scene.distances[visit], []
    changed = scene.treated_before(visit)
    start = scene.start(visit, log_width)
    for number, threshold in enumerate((settings.core_threshold, settings.whole_threshold)):
        boundary = (distances.core, distances.whole)[number]
        if number == 0 and boundary is None and (changed or all(d.core is None for d in scene.distances)):
            if changed:
                made.append(_absent(scene, visit, threshold))
            continue
        profile = None if density is None or boundary is None else _profile(scene, density, threshold)
        if changed and profile is not None and boundary is not None:
            wanted, fall = profile(boundary)
            values = soft_mask(wanted, threshold, settings)
            slope = values * (1.0 - values) / settings.threshold_width
            shifts = torch.zeros(2, *values.shape, dtype=dtype)
            shifts[number] = -(slope * fall).to(dtype)
        else:
            values = soft_mask(start.density, threshold, settings)
            slope = values * (1.0 - values) / settings.threshold_width
            shifts = torch.stack([slope * start.by_core, slope * start.by_whole]).to(dtype)
        made.append(Target(visit, first, threshold, values.to(dtype), shifts, None, False))
    return made


def _absent(scene: Scene, visit: int, threshold: float) -> Target:
    """No density may show as a mask that is empty."""
    settings, shape, dtype = scene.settings, scene.operator.domain.shape, scene.operator.dtype
    least = torch.tensor(threshold - _ABSENT_WIDTHS * settings.threshold_width, dtype=dtype)
    values = soft_mask(least, threshold, settings).expand(shape)
    nothing = torch.zeros((), dtype=dtype).expand(2, *shape)
    return Target(visit, scene.coordinates.shift(visit), threshold, values, nothing, None, True)


class _Profile:
    """Mean density against signed distance to the model's own boundary, never rising outwards."""

    def __init__(self, places: Vector, means: Vector) -> None:
        self._places, self._means = places, means

    def __call__(self, distance: Tensor) -> tuple[Tensor, Tensor]:
        """Density and its derivative, 1/mm, at a signed distance."""
        where = distance.numpy()
        step = self._places[1] - self._places[0]
        rises = np.diff(self._means) / step
        bins = np.clip(((where - self._places[0]) / step).astype(np.int64), 0, rises.size - 1)
        inside = (where >= self._places[0]) & (where <= self._places[-1])
        values = np.interp(where, self._places, self._means)
        return torch.from_numpy(values), torch.from_numpy(np.where(inside, rises[bins], 0.0))


def _profile(scene: Scene, density: Tensor, threshold: float) -> _Profile | None:
    """Profile of the model's front around ``threshold``; None where it has no such boundary."""
    mask = (density > threshold) & scene.operator.domain
    if not bool(mask.any()):
        return None
    distance = signed_distance(mask, scene.spacing_mm)[scene.operator.domain].numpy()
    values = density[scene.operator.domain].double().numpy()
    step = _PROFILE_STEP * min(scene.spacing_mm)
    low, high = float(distance.min()), min(float(distance.max()), 20.0)
    count = max(int((high - low) / step), 2)
    bins = np.clip(((distance - low) / step).astype(np.int64), 0, count)
    sums, totals = np.bincount(bins, minlength=count + 1), np.bincount(bins, values, minlength=count + 1)
    places = low + step * (np.arange(count) + 0.5)
    filled = sums[:count] > 0
    means = np.interp(places, places[filled], totals[:count][filled] / sums[:count][filled])
    return _Profile(places, np.minimum.accumulate(means))


def _first_weight(scene: Scene, target: Target) -> Target:
    """The weight that a plausible error gives."""
    if target.threshold is None:
        return _weighted(
            scene, target, target.values, torch.full_like(target.values, _FIRST_CELLULARITY_NOISE)
        )
    sd = boundary_sd_mm(scene.settings, scene.spacing_mm)
    if target.at_most:
        # how much may look like core is not seen in residuals that are zero: patches of the shortest correlation
        patch = (2.0 * math.pi) ** 1.5 * scene.settings.boundary_correlation_mm**3
        share = min(math.prod(scene.spacing_mm) / patch, 1.0)
        return replace(target, weight=share / _ABSENT_NOISE**2)
    return _weighted(scene, target, target.values, target.shifts.sum(dim=0) * sd)


def _weighted(scene: Scene, target: Target, model: Tensor, residual: Tensor) -> Target:
    """The target with the weight that belongs to ``residual``."""
    if target.at_most:
        return _first_weight(scene, target)
    if target.region is None:
        band = informative_band(model, target.values) & scene.operator.domain
        least = _LEAST_NOISE_MM**2 * sum_squares(target.shifts.sum(dim=0))
    else:
        band = target.region
        residual = torch.where(band, residual, 0.0)
        least = _LEAST_CELLULARITY_NOISE**2 * float(band.sum())
    shortest = scene.settings.boundary_correlation_mm
    effective = effective_samples(residual, band, scene.spacing_mm, shortest, _LONGEST_CORRELATION * shortest)
    weight = effective / max(sum_squares(residual), least, 1e-6)
    return replace(target, weight=weight, effective=effective)
