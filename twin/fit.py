"""The most probable parameters: multi-start Levenberg-Marquardt from a coarse grid to the fine one."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from twin.coarse import coarsened
from twin.coordinates import LOG_VELOCITY, LOG_WIDTH, Vector
from twin.grid import leak
from twin.inputs import TumourObservation
from twin.least_squares import Minimum, minimise
from twin.likelihood import Likelihood, grow
from twin.results import Posterior
from twin.scene import Scene, starting_width
from twin.targets import targets
from twin.treatment import Therapy

MARGINS_MM = (15.0, 30.0, 60.0, math.inf)
_LEAK = 1e-3
_ROUNDS, _FINE_ROUNDS = 2, 2
"""Of weighing the residuals and fitting, after the first look."""
_VELOCITIES = (0.0, -1.2, 0.9)
_SENSITIVITIES = (0.0, -1.5)
_UNCHECKED = 0.5
_FEW = 4
_SPEED_ERROR = 0.035
"""Relative excess of the speed of a simulated front per square of voxel over front width (docs/twin.md)."""


@dataclass(frozen=True)
class Stage:
    """Where Levenberg-Marquardt ended on one grid."""

    likelihood: Likelihood
    minimum: Minimum


@dataclass(frozen=True)
class Fit:
    """Result of :func:`fit`.

    Parameters
    ----------
    fine, coarse : Stage
        On the grid of the visits and on the coarser one where the search began; the same where that is as coarse as
        may be.
    iterations : int
        Steps in all.
    """

    fine: Stage
    coarse: Stage
    iterations: int

    @property
    def end(self) -> Stage:
        """Where a fit on a finer grid begins, with all steps so far."""
        return Stage(self.fine.likelihood, replace(self.fine.minimum, iterations=self.iterations))


def speed_excess(spacing_mm: Sequence[float], front_width_mm: float) -> float:
    """Relative error of the simulated front speed on a grid."""
    return _SPEED_ERROR * (max(spacing_mm) / front_width_mm) ** 2


def look(scene: Scene, unknown: Posterior, report: Callable[[float], None]) -> Stage:
    """One round of Levenberg-Marquardt on the coarse grid: where the most probable parameters are, roughly."""
    search = _Search(unknown, np.linalg.inv(unknown.covariance), report)
    return search.run(coarsened(scene) or scene, None, 1)


def fit(
    scene: Scene,
    visits: Sequence[TumourObservation],
    therapies: Sequence[Therapy],
    unknown: Posterior,
    report: Callable[[float], None],
    *,
    begun: Stage | None,
) -> Fit:
    """Alternate Levenberg-Marquardt and weighing of the residuals, on a larger box if the tumour reaches its edge.

    Parameters
    ----------
    scene : Scene
        On the smallest box that is tried.
    visits, therapies
        On the whole grid.
    unknown : Posterior
        The prior.
    report : callable
        Told the fraction done, 0..1.
    begun : Stage or None
        Result of :func:`look`, or the end of a fit on a coarser grid. None takes a few steps on the coarse grid alone,
        for a model that is going to be refused.
    """
    precision = np.linalg.inv(unknown.covariance)
    search = _Search(unknown, precision, report)
    if begun is None:
        coarse = search.run(coarsened(scene) or scene, None, 1, _FEW)
        known = targets(scene, starting_width(coarse.minimum.position))
        asked = Likelihood(scene, known, unknown.mean, precision)
        return Fit(Stage(asked, coarse.minimum), coarse, search.iterations)
    search.iterations, position = begun.minimum.iterations, begun.minimum.position
    for attempt, margin in enumerate(MARGINS_MM):
        if attempt > 0:
            scene = Scene.build(scene.tissue, visits, margin, scene.settings, therapies=therapies)
        first = coarsened(scene) or scene
        coarse = search.run(first, position, _ROUNDS)
        position = coarse.minimum.position
        last = grow(first, position, tangents=False)[-1]
        if leak(last[0], scene.box, scene.tissue.limit) < _LEAK:
            break
    if first is scene:
        return Fit(coarse, coarse, search.iterations)
    start = coarse.minimum.position.copy()
    width = math.exp(start[LOG_WIDTH])
    start[LOG_VELOCITY] += math.log1p(speed_excess(first.spacing_mm, width))
    start[LOG_VELOCITY] -= math.log1p(speed_excess(scene.spacing_mm, width))
    fine = search.run(scene, start, _FINE_ROUNDS)
    return Fit(fine, coarse, search.iterations)


class _Search:
    """Runs of Levenberg-Marquardt that share a prior and a count of steps."""

    def __init__(self, unknown: Posterior, precision: Vector, report: Callable[[float], None]) -> None:
        self._unknown, self._precision, self._report = unknown, precision, report
        self._scale = 3.0 * np.sqrt(np.diag(unknown.covariance))
        self._scale[[LOG_VELOCITY, LOG_WIDTH]] = 0.8
        self.iterations = 0

    def run(self, scene: Scene, position: Vector | None, rounds: int, limit: int | None = None) -> Stage:
        """From ``position`` or, without one, from the best of several, with at most ``limit`` steps a round."""
        settings = scene.settings
        if position is None:
            position = self._begin(scene)
            likelihood = self._likelihood(scene, position, known=False)
        else:
            likelihood = self._likelihood(scene, position)
        for round_ in range(rounds):
            if round_ > 0:
                likelihood = self._likelihood(scene, position)
            usual = settings.max_iterations if round_ == 0 else max(5, settings.max_iterations // 3)
            minimum = minimise(
                likelihood.linearise,
                position,
                self._scale,
                limit or usual,
                unchecked=_UNCHECKED,
                on_step=self._stepped,
            )
            position = minimum.position
            self.iterations += minimum.iterations
        return Stage(likelihood, minimum)

    def _begin(self, scene: Scene) -> Vector:
        """The prior mean, or the most probable of several velocities and sensitivities to therapies around it."""
        mean, coordinates = self._unknown.mean, scene.coordinates
        if not scene.settings.multi_start:
            return mean.copy()
        likelihood = self._likelihood(scene, mean, known=False)
        own = slice(LOG_WIDTH + 2, coordinates.first_shift)
        starts = []
        for faster in _VELOCITIES:
            for stronger in _SENSITIVITIES if coordinates.therapies else (0.0,):
                start = mean.copy()
                start[LOG_VELOCITY] += faster
                start[own] += stronger
                starts.append(start)
        return starts[int(np.argmin([likelihood.cost(start) for start in starts]))]

    def _likelihood(self, scene: Scene, position: Vector, *, known: bool = True) -> Likelihood:
        """With weights from the residuals at ``position`` once something is known of it."""
        densities = None
        if known:
            densities = [fields[0] for fields in grow(scene, position, tangents=False)]
        asked = targets(scene, starting_width(position), densities, position if known else None)
        return Likelihood(scene, asked, self._unknown.mean, self._precision)

    def _stepped(self, number: int) -> None:
        # how many steps there will be is not known: come ever closer to the end
        self._report(1.0 - 0.5 ** ((self.iterations + number) / 8.0))
