"""Likelihood of the follow-up masks: soft thresholds on both sides, tempered to the effective sample size."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from twin.correlation import effective_samples, informative_band, sum_squares
from twin.least_squares import Linearisation
from twin.observation import soft_mask
from twin.results import Vector
from twin.scene import (
    FIRST_SHIFT,
    LOG_TAIL,
    LOG_VELOCITY,
    LOG_WIDTH,
    Scene,
    boundary_sd_mm,
    physical,
    starting_width,
)
from twin.solver import FIRST_INITIAL_TANGENT, TANGENT_DIFFUSIVITY, TANGENT_PROLIFERATION, trajectory

_LEAST_NOISE_MM = 0.3
"""Residuals are never believed to be smaller than a boundary error of this many millimetres would make them."""


@dataclass(frozen=True)
class Target:
    """One mask of one follow-up visit as the likelihood sees it.

    Parameters
    ----------
    visit : int
        Number of the visit, from 1.
    threshold : float
        Density at the mask's boundary.
    values : Tensor
        Soft mask of the density that the observed masks stand for, (X, Y, Z).
    shifts : Tensor
        Its derivatives with respect to outward shifts of core and whole boundary, (2, X, Y, Z), 1/mm.
    weight : float
        Precision given to every squared residual: effective samples over the sum of squared residuals.
    effective : float
        Effective samples.
    """

    visit: int
    threshold: float
    values: Tensor
    shifts: Tensor
    weight: float
    effective: float


def targets(scene: Scene, log_width: float) -> tuple[Target, ...]:
    """Targets of all follow-up visits before anything is known about the residuals.

    The first weights take boundary errors of ``boundary_sd_mm`` with the shortest correlation length.
    """
    settings = scene.settings
    thresholds = [settings.whole_threshold]
    if any(d.core is not None for d in scene.distances):
        thresholds.insert(0, settings.core_threshold)
    sd = boundary_sd_mm(settings, scene.tissue.spacing_mm)
    made = []
    for visit in range(1, len(scene.distances)):
        start = scene.start(visit, log_width)
        for threshold in thresholds:
            values = soft_mask(start.density, threshold, settings)
            slope = values * (1.0 - values) / settings.threshold_width
            shifts = torch.stack([slope * start.by_core, slope * start.by_whole]).to(scene.operator.dtype)
            values = values.to(scene.operator.dtype)
            target = Target(visit, threshold, values, shifts, 1.0, 1.0)
            made.append(_weighted(scene, target, values, shifts.sum(dim=0) * sd))
    return tuple(made)


def _weighted(scene: Scene, target: Target, model: Tensor, residual: Tensor) -> Target:
    """The target with the weight that belongs to ``residual``."""
    band = informative_band(model, target.values) & scene.operator.domain
    effective = effective_samples(
        residual, band, scene.tissue.spacing_mm, scene.settings.boundary_correlation_mm
    )
    least = _LEAST_NOISE_MM**2 * sum_squares(target.shifts.sum(dim=0))
    weight = effective / max(sum_squares(residual), least, 1e-6)
    return replace(target, weight=weight, effective=effective)


def reweighted(scene: Scene, known: Sequence[Target], position: Vector) -> tuple[Target, ...]:
    """The targets again, built with the front width at ``position`` and weighed by the residuals left there."""
    fresh = targets(scene, starting_width(position))
    densities = grow(scene, position, tangents=False)
    made = []
    for target, _ in zip(fresh, known, strict=True):
        model = soft_mask(densities[target.visit][0], target.threshold, scene.settings)
        made.append(_weighted(scene, target, model, model - shifted(target, position)))
    return tuple(made)


def shifted(target: Target, position: Vector) -> Tensor:
    """Target of the true boundary when the segmented one is displaced as ``position`` says."""
    first = FIRST_SHIFT + 2 * target.visit
    core, whole = float(position[first]), float(position[first + 1])
    return target.values + core * target.shifts[0] + whole * target.shifts[1]


def grow(scene: Scene, position: Vector, *, tangents: bool) -> list[Tensor]:
    """Fields at every visit for one position, (F, X, Y, Z) each.

    With tangents the fields are the density and its derivatives with respect to log D, log rho, the log tail factor and
    the shifts of core and whole boundary at the first visit.
    """
    diffusivity, proliferation = physical(position)
    shifts = (float(position[FIRST_SHIFT]), float(position[FIRST_SHIFT + 1]))
    start = scene.start(0, starting_width(position), *shifts)
    fields = [start.density]
    if tangents:
        # log width = (log D - log rho) / 2
        by_width = start.by_log_width
        fields += [by_width / 2, -by_width / 2, by_width, start.by_core, start.by_whole]
    days = [distance.day - scene.distances[0].day for distance in scene.distances]
    parameters = (torch.tensor([diffusivity]), torch.tensor([proliferation]))
    initial = torch.stack(fields)[None].to(scene.operator.dtype)
    return [state[0].clone() for state in trajectory(scene.operator, *parameters, initial, days)]


def linearise(
    scene: Scene, known: Sequence[Target], prior_mean: Vector, prior_precision: Vector, position: Vector
) -> Linearisation:
    """Negative log posterior of ``position`` with gradient and Gauss-Newton Hessian."""
    away = position - prior_mean
    cost = 0.5 * float(away @ prior_precision @ away)
    gradient, hessian = prior_precision @ away, prior_precision.copy()
    visits = grow(scene, position, tangents=True)
    for target in known:
        fields = visits[target.visit]
        model = soft_mask(fields[0], target.threshold, scene.settings)
        slope = model * (1.0 - model) / scene.settings.threshold_width
        by_d, by_rho = fields[TANGENT_DIFFUSIVITY], fields[TANGENT_PROLIFERATION]
        columns = [slope * (by_d + by_rho), slope * (by_d - by_rho)]
        columns += [slope * field for field in fields[FIRST_INITIAL_TANGENT:]]
        columns += [-target.shifts[0], -target.shifts[1]]
        first = FIRST_SHIFT + 2 * target.visit
        where = np.array([LOG_VELOCITY, LOG_WIDTH, LOG_TAIL, FIRST_SHIFT, FIRST_SHIFT + 1, first, first + 1])
        jacobian = torch.stack([column.reshape(-1) for column in columns]).double()
        residual = (model - shifted(target, position)).reshape(-1).double()
        cost += 0.5 * target.weight * float(residual @ residual)
        gradient[where] += target.weight * (jacobian @ residual).numpy()
        hessian[np.ix_(where, where)] += target.weight * (jacobian @ jacobian.T).numpy()
    return Linearisation(cost, gradient, hessian)


def cost(
    scene: Scene, known: Sequence[Target], prior_mean: Vector, prior_precision: Vector, position: Vector
) -> float:
    """Negative log posterior alone: one forward solve."""
    away = position - prior_mean
    total = 0.5 * float(away @ prior_precision @ away)
    visits = grow(scene, position, tangents=False)
    for target in known:
        model = soft_mask(visits[target.visit][0], target.threshold, scene.settings)
        total += 0.5 * target.weight * sum_squares(model - shifted(target, position))
    return total
