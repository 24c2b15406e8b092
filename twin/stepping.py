"""Time stepping: Strang splitting with Heun or Runge-Kutta-Legendre diffusion.

One step is half a step of the exact reaction, a full step of diffusion, and half a step of reaction again; the half
steps of neighbouring steps are joined. Heun's method equals the average of the identity and two positive Euler steps,
so it is positive up to the Euler limit. RKL2 (Meyer, Balsara and Aslam, J. Comput. Phys. 257, 2014) reaches
(s^2 + s - 2) / 4 times that limit with s stages. It keeps smooth fronts positive but not isolated spikes, so the solver
checks, and falls back on Heun's method.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

MAX_STAGES = 9
"""Most stages of one RKL2 step."""
_HEUN_REACH = 0.9
"""Share of the Euler limit that a Heun step takes; at the limit itself the sharpest waves are not damped."""


@dataclass(frozen=True)
class Accuracy:
    """How large steps may be.

    Parameters
    ----------
    reaction : float
        Largest proliferation times step.
    least_heun, least_legendre : int
        Fewest steps of a whole trajectory: sharp initial edges are damped, not resolved, by the first ones.
    """

    reaction: float
    least_heun: int
    least_legendre: int


PRECISE = Accuracy(0.2, 14, 24)
"""Relative errors of the density, in the L2 norm, stay below 1e-4 (docs/twin.md)."""
INFERENCE = Accuracy(0.4, 10, 12)
"""Below 3e-3 after a third of the trajectory and 2e-4 at its end, volumes there within 1e-4: far below what scans can
show and what draws of a posterior differ by, at two thirds of the cost."""


@dataclass(frozen=True)
class StepPlan:
    """How an interval is cut: ``steps`` equal steps, each of ``stages`` RKL2 stages, or Heun if ``stages`` is 2."""

    steps: int
    stages: int


def plan(
    interval: float,
    diffusivity: float,
    proliferation: float,
    row_sum: float,
    horizon: float,
    max_step: float,
    *,
    accuracy: Accuracy = PRECISE,
    positive: bool = False,
) -> StepPlan:
    """Choose the cheapest stable plan that keeps the splitting error small.

    Parameters
    ----------
    interval : float
        Days to cross.
    diffusivity, proliferation : float
        mm2/day and 1/day.
    row_sum : float
        Of the operator, 1/mm2.
    horizon : float
        Days of the whole trajectory that the interval is part of.
    max_step : float
        Upper bound of the step, days.
    accuracy : Accuracy, optional
        How large steps may be.
    positive : bool, optional
        Take Heun's method whatever it costs.
    """
    euler = 1.0 / max(diffusivity * row_sum, 1e-12)
    wanted = min(max_step, accuracy.reaction / max(proliferation, 1e-12))
    heun = min(wanted, _HEUN_REACH * euler, horizon / accuracy.least_heun)
    best = StepPlan(_steps(interval, heun), 2)
    cost = best.steps * (best.stages + 1.0)  # the reaction costs about as much as a stage
    for stages in range(3, 3 if positive else MAX_STAGES + 1, 2):
        reach = euler * (stages * stages + stages - 2) / 4.0
        candidate = StepPlan(_steps(interval, min(wanted, reach, horizon / accuracy.least_legendre)), stages)
        price = candidate.steps * (1.2 * stages + 1.0)
        if price < cost:
            best, cost = candidate, price
    return best


def _steps(interval: float, step: float) -> int:
    return max(1, math.ceil(interval / step - 1e-9))


def scheme(stages: int) -> tuple[tuple[float, float, float, float], ...]:
    """Coefficients c1 to c4 of :mod:`twin.backends` of each stage, c4 for one day and a diffusivity of one."""
    return ((0.0, 0.0, 0.0, 1.0), (0.5, 0.0, 0.0, 0.5)) if stages == 2 else _legendre(stages)


@lru_cache
def _legendre(stages: int) -> tuple[tuple[float, float, float, float], ...]:
    """The RKL2 recursion; the operator applied to y0, which every stage needs, is recovered from the first stage."""
    b = [1.0 / 3.0] * 3 + [(j * j + j - 2) / (2.0 * j * (j + 1)) for j in range(3, stages + 1)]
    w1 = 4.0 / (stages * stages + stages - 2)
    first = b[1] * w1
    table = [(0.0, 0.0, 0.0, first)]
    for j in range(2, stages + 1):
        mu = (2 * j - 1) / j * b[j] / b[j - 1]
        nu = -(j - 1) / j * b[j] / b[j - 2]
        gamma = -(1.0 - b[j - 1]) * mu * w1 / first
        # the second stage has no stage before the previous one, and the first stage is the previous one
        table.append((mu + gamma, 0.0, 0.0, mu * w1) if j == 2 else (mu, nu, gamma, mu * w1))
    return tuple(table)
