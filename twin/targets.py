"""What the follow-up visits ask of the density: one target for each mask or cellularity map.

At first masks are compared as soft masks, which pull from any distance. Once the model's boundary has come near the
segmented one, displacements at its surface take over: see :mod:`twin.displacement`.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from twin.coordinates import Vector
from twin.correlation import LONGEST, effective_samples, informative_band, sum_squares
from twin.displacement import LEAST_NOISE_MM, Displacement, displacement
from twin.observation import soft_mask
from twin.scene import Scene, boundary_sd_mm
from twin.settings import CalibrationSettings

_LEAST_CELLULARITY_NOISE = 0.02
_FIRST_CELLULARITY_NOISE = 0.1
_ABSENT_WIDTHS = 1.0
"""A mask that is empty asks for a density this many threshold widths below its threshold."""
_ABSENT_NOISE = 0.25


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


Asked = Target | Displacement


def misfit(target: Asked, density: Tensor, position: Vector, settings: CalibrationSettings) -> float:
    """Weighted sum of squared residuals of a density (X, Y, Z)."""
    if isinstance(target, Displacement):
        return target.misfit(density, position)
    return target.weight * sum_squares(target.residual(target.seen(density, settings), position))


def rows(target: Asked, densities: Tensor, settings: CalibrationSettings) -> Vector:
    """Residuals (n, m) of densities (n, X, Y, Z) without shifts."""
    if isinstance(target, Displacement):
        return target.rows(densities)
    nothing = np.zeros(target.first_shift + 2)
    residual = target.residual(target.seen(densities, settings), nothing)
    residual = residual.flatten(1) if target.region is None else residual[:, target.region]
    return np.asarray(residual.numpy())


def shift_rows(target: Asked) -> Vector:
    """Derivatives (2, m) of :func:`rows` with respect to outward shifts of core and whole boundary."""
    if isinstance(target, Displacement):
        return target.shift_rows
    shifts = target.shifts.flatten(1) if target.region is None else target.shifts[:, target.region]
    return np.asarray(-shifts.numpy())


def targets(
    scene: Scene, log_width: float, grown: Sequence[Tensor] | None = None, position: Vector | None = None
) -> tuple[Asked, ...]:
    """Targets of all follow-up visits.

    Without anything known of the residuals, masks are soft, and weights take boundary errors of ``boundary_sd_mm`` and
    the shortest correlation length. With the densities ``grown`` at ``position``, masks ask for displacements, and the
    residuals left there weigh.

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
    made: list[Asked] = []
    for visit in range(1, len(scene.distances)):
        density = None if grown is None else grown[visit]
        if density is None or position is None:
            made += [_first_weight(scene, target) for target in _compared(scene, visit, log_width)]
            continue
        exact = dict[int, Displacement]()
        if scene.cellularity[visit] is None:
            found = {mask: displacement(scene, visit, mask, density) for mask in scene.distances[visit].seen}
            exact = {mask: target for mask, target in found.items() if target is not None}
        made += exact.values()
        for target in _compared(scene, visit, log_width, exact):
            seen = target.seen(density, scene.settings)
            made.append(_weighted(scene, target, seen, target.residual(seen, position)))
    return tuple(made)


def _compared(scene: Scene, visit: int, log_width: float, but: Collection[int] = ()) -> list[Target]:
    """Targets of a visit that compare voxels: its cellularity, else its masks ``but`` some; not weighted yet."""
    settings, first, dtype = scene.settings, scene.coordinates.shift(visit), scene.operator.dtype
    cellularity = scene.cellularity[visit]
    if cellularity is not None:
        region = torch.isfinite(cellularity) & scene.operator.domain
        values = cellularity.nan_to_num(0.0).to(dtype)
        nothing = torch.zeros((), dtype=dtype).expand(2, *values.shape)
        return [Target(visit, first, None, values, nothing, region, False)]
    masks = [mask for mask in scene.distances[visit].seen if mask not in but]
    if not masks:
        return []
    made, start = list[Target](), scene.start(visit, log_width)
    for mask in masks:
        threshold = (settings.core_threshold, settings.whole_threshold)[mask]
        if mask == 0 and scene.distances[visit].core is None:
            if scene.treated_before(visit) or scene.distances[0].core is None:
                made.append(_absent(scene, visit, threshold))
                continue
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
        least = LEAST_NOISE_MM**2 * sum_squares(target.shifts.sum(dim=0))
    else:
        band = target.region
        residual = torch.where(band, residual, 0.0)
        least = _LEAST_CELLULARITY_NOISE**2 * float(band.sum())
    shortest = scene.settings.boundary_correlation_mm
    effective = effective_samples(residual, band, scene.spacing_mm, shortest, LONGEST * shortest)
    weight = effective / max(sum_squares(residual), least, 1e-6)
    return replace(target, weight=weight, effective=effective)
