"""Pareto-smoothed importance sampling."""

import math
from dataclasses import dataclass

import numpy as np

from twin.coordinates import Vector

FREEDOM = 5
"""Degrees of freedom of the proposal: tails heavier than those of any posterior it is meant for."""

_EQUAL = 1e-6
"""Relative difference of the largest ratios that is rounding."""


@dataclass(frozen=True)
class Weights:
    """Normalised importance weights and how far to trust them.

    Parameters
    ----------
    log : ndarray
        (n,), logarithms of weights that sum to one.
    khat : float
        Shape of the generalised Pareto distribution of the largest ratios. Above 0.7 averages over the weights do not
        converge in practice.
    """

    log: Vector
    khat: float

    @property
    def values(self) -> Vector:
        """Weights that sum to one."""
        return np.asarray(np.exp(self.log))

    @property
    def effective(self) -> float:
        """Effective sample size 1 / sum of squared weights."""
        return float(1.0 / (self.values**2).sum())


def pareto_smoothed(log_ratios: Vector) -> Weights:
    """Replace the largest ratios by quantiles of the Pareto distribution fitted to them.

    Vehtari, Simpson, Gelman, Yao and Gabry, J. Mach. Learn. Res. 25 (2024).

    Parameters
    ----------
    log_ratios : ndarray
        (n,), target over proposal; a constant does not matter, minus infinity is allowed.
    """
    ratios = log_ratios - log_ratios.max()
    count = int(min(0.2 * ratios.size, 3.0 * math.sqrt(ratios.size)))
    if count < 5:
        return Weights(normalised(ratios), math.inf)
    order = np.argsort(ratios)
    tail, cutoff = order[-count:], ratios[order[-count - 1]]
    exceed = np.exp(ratios[tail]) - math.exp(cutoff)
    if exceed[-1] <= _EQUAL:
        # equal ratios have no tail: every draw counts as much
        return Weights(normalised(ratios), -math.inf)
    if exceed[0] <= 0.0:
        return Weights(normalised(ratios), math.inf)
    shape, scale = _fit_pareto(exceed)
    places = (np.arange(count) + 0.5) / count
    quantiles = (
        -scale * np.log1p(-places)
        if abs(shape) < 1e-9
        else scale * np.expm1(-shape * np.log1p(-places)) / shape
    )
    smoothed = ratios.copy()
    smoothed[tail] = np.minimum(np.log(quantiles + math.exp(cutoff)), 0.0)
    return Weights(normalised(smoothed), shape)


def _fit_pareto(exceed: Vector) -> tuple[float, float]:
    """Shape and scale of a generalised Pareto distribution, Zhang and Stephens, Technometrics 51 (2009).

    The shape is pulled towards 1/2 as by ten observations, as PSIS does.
    """
    n = exceed.size
    grid = 30 + int(math.sqrt(n))
    quartile = exceed[int(n / 4 + 0.5) - 1]
    theta = 1.0 / exceed[-1] + (1.0 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))) / (3.0 * quartile)
    shapes = np.log1p(-theta[:, None] * exceed).mean(axis=1)
    likelihood = n * (np.log(-theta / shapes) - shapes - 1.0)
    weight = 1.0 / np.exp(likelihood[None] - likelihood[:, None]).sum(axis=1)
    best = float((theta * weight).sum() / weight.sum())
    shape = float(np.log1p(-best * exceed).mean())
    return (n * shape + 5.0) / (n + 10.0), -shape / best


def normalised(log: Vector) -> Vector:
    """Logarithms of weights that sum to one."""
    return np.asarray(log - (np.log(np.exp(log - log.max()).sum()) + log.max()))


def student(count: int, size: int, generator: np.random.Generator) -> Vector:
    """Draws (count, size) of the standard multivariate Student t."""
    normal = generator.standard_normal((count, size))
    return np.asarray(normal / np.sqrt(generator.chisquare(FREEDOM, count) / FREEDOM)[:, None])


def log_student(points: Vector) -> Vector:
    """Log density (n,) of the standard multivariate Student t at ``points`` (n, size), up to a constant."""
    return np.asarray(-0.5 * (FREEDOM + points.shape[1]) * np.log1p((points**2).sum(axis=1) / FREEDOM))


def resampled(weights: Weights, count: int, generator: np.random.Generator) -> Vector:
    """Indices (count,) drawn by systematic resampling, in random order."""
    places = (np.arange(count) + generator.random()) / count
    index = np.searchsorted(np.cumsum(weights.values), places).clip(max=weights.log.size - 1)
    return np.asarray(generator.permutation(index))


def evenly(values: Vector) -> Vector:
    """Order (n,) in which every beginning of the sequence spreads evenly over the ranks of ``values``.

    Ranks follow the van der Corput sequence, so that a few draws, taken first, stand for all.
    """
    count = values.size
    bits = max(int(count - 1).bit_length(), 1)
    places = np.arange(2**bits)
    reverse = np.zeros_like(places)
    for bit in range(bits):
        reverse = (reverse << 1) | ((places >> bit) & 1)
    return np.asarray(np.argsort(values)[reverse[reverse < count]])
