"""Likelihood of the follow-up visits, tempered to the effective sample size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from twin.coordinates import Vector
from twin.least_squares import Linearisation
from twin.scene import Scene, starting_width
from twin.solver import TANGENT_DIFFUSIVITY, TANGENT_PROLIFERATION, trajectory
from twin.targets import Target, misfit

_NOTHING = 1e-4
"""Residuals and slopes of the soft masks below this are left out of the normal equations."""


def grow(scene: Scene, position: Vector, *, tangents: bool) -> list[Tensor]:
    """Fields at every visit for one position, (F, X, Y, Z) each.

    With tangents the fields are the density and its derivatives with respect to the logarithms of the model's
    parameters, the log tail factor and the shifts of core and whole boundary at the first visit.
    """
    return [fields.clone() for fields in _growing(scene, position, tangents)]


def _growing(scene: Scene, position: Vector, tangents: bool) -> Iterator[Tensor]:
    """Like :func:`grow`, each a view that the next one overwrites."""
    where = scene.coordinates.shift(0)
    start = scene.start(0, starting_width(position), float(position[where]), float(position[where + 1]))
    dtype, therapies = scene.operator.dtype, len(scene.coordinates.therapies)
    if tangents:
        initial = torch.zeros(1, 6 + therapies, *start.density.shape, dtype=dtype)
        # log width = (log D - log rho) / 2; therapies have done nothing yet
        initial[0, TANGENT_DIFFUSIVITY] = start.by_log_width / 2
        initial[0, TANGENT_PROLIFERATION] = -start.by_log_width / 2
        for field, value in enumerate((start.by_log_width, start.by_core, start.by_whole)):
            initial[0, 3 + therapies + field] = value
    else:
        initial = torch.zeros(1, 1, *start.density.shape, dtype=dtype)
    initial[0, 0] = start.density
    values = scene.coordinates.physical(position)
    parameters = {name: torch.tensor([float(value)], dtype=torch.float64) for name, value in values.items()}
    days = [distance.day for distance in scene.distances]
    for state in trajectory(scene.model, parameters, initial, days, start_day=days[0]):
        yield state[0]


@dataclass(frozen=True)
class Likelihood:
    """Negative log posterior density over the coordinates, up to a constant.

    Parameters
    ----------
    scene : Scene
        Of all visits.
    known : sequence of Target
        What they ask for.
    prior_mean, prior_precision : ndarray
        Of the coordinates, (p,) and (p, p).
    """

    scene: Scene
    known: Sequence[Target]
    prior_mean: Vector
    prior_precision: Vector

    def linearise(self, position: Vector) -> Linearisation:
        """Value, gradient and Gauss-Newton Hessian at a position: one solve with all tangents."""
        away = position - self.prior_mean
        cost = 0.5 * float(away @ self.prior_precision @ away)
        gradient, hessian = self.prior_precision @ away, self.prior_precision.copy()
        for visit, fields in enumerate(_growing(self.scene, position, True)):
            asked = [target for target in self.known if target.visit == visit]
            if not asked:
                continue
            density, tangents = fields[0].contiguous(), fields[1:]
            for target in asked:
                where, jacobian, residual = self._normal(target, density, tangents, position)
                cost += 0.5 * target.weight * float(residual @ residual)
                gradient[where] += target.weight * (jacobian @ residual)
                hessian[np.ix_(where, where)] += target.weight * (jacobian @ jacobian.T)
        return Linearisation(cost, gradient, hessian)

    def _normal(
        self, target: Target, density: Tensor, tangents: Tensor, position: Vector
    ) -> tuple[Vector, Vector, Vector]:
        """Coordinates that a target depends on, derivatives (coordinates, voxels) and residuals (voxels)."""
        settings, coordinates = self.scene.settings, self.scene.coordinates
        seen = target.seen(density, settings)
        slope, residual = target.slope(seen, settings), target.residual(seen, position)
        matters = (residual.abs() > _NOTHING) | ((slope > _NOTHING) & (density > _NOTHING))
        if target.at_most:
            matters = residual > 0.0
        elif target.region is not None:
            matters &= target.region
        cells = tuple(torch.from_numpy(axis) for axis in np.nonzero(matters.numpy()))
        own = len(coordinates.therapies) + 2
        by_d, by_rho, *rest = (tangent[cells].double() for tangent in tangents)
        local = slope[cells].double()
        # of the model's tangents the therapies' come first, of the coordinates the tail
        columns = [by_d + by_rho, by_d - by_rho, rest[own - 2], *rest[: own - 2], *rest[own - 1 :]]
        jacobian = torch.stack(
            [*(local * column for column in columns), *(-shift[cells].double() for shift in target.shifts)]
        )
        where = np.array([*range(coordinates.first_shift + 2), target.first_shift, target.first_shift + 1])
        return where, jacobian.numpy(), residual[cells].double().numpy()

    def cost(self, position: Vector) -> float:
        """Value alone: one forward solve."""
        away = position - self.prior_mean
        total = 0.5 * float(away @ self.prior_precision @ away)
        for visit, fields in enumerate(_growing(self.scene, position, False)):
            for target in self.known:
                if target.visit == visit:
                    total += 0.5 * misfit(target, fields[0], position, self.scene.settings)
        return total
