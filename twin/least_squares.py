"""Levenberg-Marquardt on normal equations."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from twin.results import Vector


@dataclass(frozen=True)
class Linearisation:
    """Half the weighted sum of squares at a point, with its gradient and Gauss-Newton Hessian."""

    cost: float
    gradient: Vector
    hessian: Vector


@dataclass(frozen=True)
class Minimum:
    """Where Levenberg-Marquardt stopped."""

    position: Vector
    at: Linearisation
    iterations: int
    converged: bool


def minimise(
    linearise: Callable[[Vector], Linearisation],
    start: Vector,
    scale: Vector,
    max_iterations: int,
    tolerance: float = 0.02,
    unchecked: float = 0.0,
    on_step: Callable[[int], None] | None = None,
) -> Minimum:
    """Minimise a sum of squares.

    Parameters
    ----------
    linearise : callable
        Cost, gradient and Gauss-Newton Hessian at a position.
    start : ndarray
        First position.
    scale : ndarray
        Largest change of each coordinate in one step.
    max_iterations : int
        Most trial steps.
    tolerance : float, optional
        Stop when the cost that the next step promises to save is below ``tolerance``; in units of a log-likelihood,
        0.02 moves no parameter by more than a fifth of its posterior standard deviation.
    unchecked : float, optional
        A step that promises less than this is the last and is taken without looking at the cost there: below half a
        unit it is shorter than a posterior standard deviation, over which a sum of squares is close to its quadratic.
        So is what a rejected step leaves: the parabola through the cost at both its ends and the slope at its start
        says how far along it the least cost lies, and what that saves.
    on_step : callable, optional
        Told the number of each trial.
    """
    position, here, damping = start, linearise(start), 1e-3
    for iteration in range(1, max_iterations + 1):
        step = _step(here, damping, scale)
        promised = -float(here.gradient @ step + 0.5 * step @ here.hessian @ step)
        if promised < tolerance:
            return Minimum(position, here, iteration - 1, True)
        if promised < unchecked:
            return Minimum(position + step, here, iteration, True)
        there = linearise(position + step)
        if on_step is not None:
            on_step(iteration)
        gain = (here.cost - there.cost) / promised
        if gain > 1e-3:
            position, here = position + step, there
        else:
            share, left = _parabola(float(here.gradient @ step), there.cost - here.cost)
            if left < unchecked:
                return Minimum(position + share * step, here, iteration, True)
        damping = damping * (0.2 if gain > 0.7 else 1.0 if gain > 0.25 else 8.0)
        damping = min(max(damping, 1e-6), 1e6)
    return Minimum(position, here, max_iterations, False)


def _parabola(slope: float, rise: float) -> tuple[float, float]:
    """Where along a rejected step the cost is least, as a share of it, and what is saved there."""
    bend = rise - slope
    return -slope / (2.0 * bend), slope * slope / (4.0 * bend)


def _step(here: Linearisation, damping: float, scale: Vector) -> Vector:
    """Damped Gauss-Newton step, shortened to the allowed change."""
    damped = here.hessian + damping * np.diag(np.diag(here.hessian))
    step = np.linalg.solve(damped, -here.gradient)
    return np.asarray(step / max(1.0, float((np.abs(step) / scale).max())))
