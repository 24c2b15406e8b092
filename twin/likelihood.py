"""Likelihood of the follow-up visits, tempered to the effective sample size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from twin.coordinates import LOG_VELOCITY, LOG_WIDTH, Vector
from twin.least_squares import Linearisation
from twin.normal_equations import gram
from twin.scene import Scene, starting_width
from twin.solver import TANGENT_DIFFUSIVITY, TANGENT_PROLIFERATION, trajectory
from twin.stepping import INFERENCE
from twin.targets import Asked, misfit


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
    states = trajectory(scene.model, parameters, initial, days, start_day=days[0], accuracy=INFERENCE)
    for state in states:
        yield state[0]


@dataclass(frozen=True)
class Likelihood:
    """Negative log posterior density over the coordinates, up to a constant.

    Parameters
    ----------
    scene : Scene
        Of all visits.
    known : sequence of Target or Displacement
        What they ask for.
    prior_mean, prior_precision : ndarray
        Of the coordinates, (p,) and (p, p).
    """

    scene: Scene
    known: Sequence[Asked]
    prior_mean: Vector
    prior_precision: Vector

    def linearise(self, position: Vector) -> Linearisation:
        """Value, gradient and Gauss-Newton Hessian at a position: one solve with all tangents."""
        away = position - self.prior_mean
        cost = 0.5 * float(away @ self.prior_precision @ away)
        gradient, hessian = self.prior_precision @ away, self.prior_precision.copy()
        threads = self.scene.operator.threads
        for visit, fields in enumerate(_growing(self.scene, position, True)):
            asked = [target for target in self.known if target.visit == visit]
            for target in asked:
                where, change = self._coordinates(target)
                found = change @ gram(target, fields, position, self.scene.settings, threads) @ change.T
                cost += 0.5 * target.weight * found[-1, -1]
                gradient[where] += target.weight * found[:-1, -1]
                hessian[np.ix_(where, where)] += target.weight * found[:-1, :-1]
        return Linearisation(cost, gradient, hessian)

    def _coordinates(self, target: Asked) -> tuple[Vector, Vector]:
        """Coordinates (c,) that a target depends on, and the rows (c + 1, F + 2) that make them of the Gram matrix's.

        The model's tangents are those of log D and log rho, which the logarithms of velocity and width mix.
        """
        coordinates = self.scene.coordinates
        first, therapies = coordinates.first_shift, len(coordinates.therapies)
        where = np.array([*range(first + 2), target.first_shift, target.first_shift + 1])
        # of the model's tangents the therapies' come first, of the coordinates the tail
        order = [0, 1, 2 + therapies, *range(2, 2 + therapies), *range(first, first + 5)]
        change = np.eye(first + 5)[order]
        change[LOG_VELOCITY, :2], change[LOG_WIDTH, :2] = (1.0, 1.0), (1.0, -1.0)
        return where, change

    def cost(self, position: Vector) -> float:
        """Value alone: one forward solve."""
        away = position - self.prior_mean
        total = 0.5 * float(away @ self.prior_precision @ away)
        for visit, fields in enumerate(_growing(self.scene, position, False)):
            for target in self.known:
                if target.visit == visit:
                    total += 0.5 * misfit(target, fields[0], position, self.scene.settings)
        return total
