"""Statistics of calibration: intervals of proportions, ranks and their bands, the conformal factor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom, norm

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Proportion:
    """A count out of a number with the 95 % interval of Wilson (J. Am. Stat. Assoc. 22, 1927)."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """The observed proportion; nan when there is nothing."""
        return self.count / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval; 0 to 1 when there is nothing."""
        if not self.total:
            return 0.0, 1.0
        z, n, p = float(norm.ppf(0.975)), self.total, self.value
        centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
        half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
        return max(centre - half, 0.0), min(centre + half, 1.0)


def probability_transform(draws: ArrayLike, value: float) -> float:
    """Rank of ``value`` among draws as a number in (0, 1), uniform if value and draws come from one distribution.

    The rank is (draws below + half the draws equal + 1/2) / (draws + 1).
    """
    sample = np.asarray(draws, dtype=float)
    below, equal = int((sample < value).sum()), int((sample == value).sum())
    return (below + 0.5 * equal + 0.5) / (sample.size + 1)


@dataclass(frozen=True)
class RankTest:
    """Empirical distribution of ranks against its simultaneous 95 % band under uniformity.

    Parameters
    ----------
    points : ndarray
        Where the distribution is taken, within 0..1.
    difference, lower, upper : ndarray
        Empirical distribution and band, all minus the points.
    """

    points: Vector
    difference: Vector
    lower: Vector
    upper: Vector

    @property
    def inside(self) -> bool:
        """Whether the distribution stays inside the band everywhere."""
        return bool(((self.difference >= self.lower - 1e-12) & (self.difference <= self.upper + 1e-12)).all())


def rank_test(ranks: Sequence[float]) -> RankTest:
    """Test of uniformity with the simultaneous band of Saeilynoja, Buerkner and Vehtari (Stat. Comput. 32, 2022).

    The pointwise level of the binomial band is the one that 95 % of simulated uniform samples stay inside of.
    """
    count = len(ranks)
    points = np.arange(1, 50) / 50
    level = _pointwise_level(count)
    lower = binom.ppf(level / 2, count, points) / count
    upper = binom.ppf(1 - level / 2, count, points) / count
    observed = _distribution(np.asarray(ranks, dtype=float)[None], points)[0] / count
    return RankTest(points, observed - points, lower - points, upper - points)


def _distribution(ranks: Vector, points: Vector) -> Vector:
    """Numbers of ranks not above each point, (samples, points)."""
    return np.stack([np.searchsorted(np.sort(sample), points, side="right") for sample in ranks])


@lru_cache(maxsize=16)
def _pointwise_level(count: int, simulations: int = 4000) -> float:
    generator, points = np.random.default_rng(0), np.arange(1, 50) / 50
    counts = _distribution(generator.random((simulations, count)), points)
    below = binom.cdf(counts, count, points)
    above = 1 - binom.cdf(counts - 1, count, points)
    return float(np.quantile(2 * np.minimum(below, above).min(axis=1), 0.05))


def stretch_needed(interval: Sequence[float], median: float, value: float) -> float:
    """Factor by which a log interval must be stretched about its median to reach ``value``.

    Infinite when no factor helps: a bound that sits on the median, or a median of zero below a positive value. Volumes
    that are both zero need none.
    """
    if value == median:
        return 0.0
    bound = interval[1] if value > median else interval[0]
    if median <= 0.0:
        return 0.0 if value <= bound else math.inf
    if bound <= 0.0:
        return 0.0
    if value <= 0.0:
        return math.inf
    reach = math.log(bound / median)
    return math.log(value / median) / reach if reach else math.inf


def conformal_factor(needed: Sequence[float], level: float = 0.95) -> float:
    """Split-conformal factor: the ceil(level (n + 1))-th smallest of the factors needed; infinite if n is too small."""
    ordered = sorted(needed)
    place = math.ceil(level * (len(ordered) + 1))
    return ordered[place - 1] if 0 < place <= len(ordered) else math.inf
