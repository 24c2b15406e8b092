"""Draws from the posterior itself, by solves of the growth model around the Laplace approximation.

The follow-up visits' boundary shifts enter the residuals linearly and have Gaussian priors: given everything else they
are Gaussian and are integrated out exactly. For what is left, growth, profile, therapies and the first visit's shifts,
a few solves teach a polynomial model of the residuals (:mod:`twin.response`). Solves at draws from its posterior weigh
them (PSIS); where the weights are far from equal these solves teach it again. Where that does not help, tempered
sequential Monte Carlo takes over (Del Moral, Doucet and Jasra, J. R. Stat. Soc. B 68, 2006).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from twin.coordinates import LOG_VELOCITY, LOG_WIDTH, Vector
from twin.ensemble import Starts
from twin.importance import Weights, normalised, pareto_smoothed, resampled, student
from twin.least_squares import Minimum
from twin.likelihood import Likelihood
from twin.response import Response, Sight, terms
from twin.solver import trajectory
from twin.stepping import INFERENCE
from twin.targets import Asked, rows, shift_rows

KHAT_LIMIT = 0.7
_MEMBERS = 8
"""Tumours grown side by side."""
_LARGEST_BATCH = 16_000_000
"""Most cells of one batch; two buffers of it are kept."""
_SOLVES = 64
"""Of a round; the first has at least three for each coefficient that it teaches."""
_GOOD_SHARE = 0.8
"""Share of effective draws from which on the weights tell the surface's posterior from the model's no more."""
_DRAWS = 1024
"""From a surface that can be trusted, where draws cost nothing."""
_PARTICLES = 128
_LEAST_SHARE = 0.5
"""Share of the particles that a tempering step keeps effective."""
_MOVES = 3
_LEAST_STEP = 1e-3
"""Of the tempering, so that it ends whatever the surface is like."""


@dataclass(frozen=True)
class Sample:
    """Equally weighted draws.

    Parameters
    ----------
    draws : ndarray
        (n, p), all coordinates.
    khat : float
        Of the last importance weights; see :class:`twin.importance.Weights`.
    effective : float
        Effective number of draws among those that were solved.
    solves : int
        Growth simulations.
    tempered : bool
        Whether the weights were refused and sequential Monte Carlo took over.
    """

    draws: Vector
    khat: float
    effective: float
    solves: int
    tempered: bool


class Marginal:
    """Residuals of the follow-up visits at heads: all coordinates but the follow-up shifts.

    Parameters
    ----------
    likelihood : Likelihood
        With a prior that does not tie the follow-up shifts to anything else.
    """

    def __init__(self, likelihood: Likelihood) -> None:
        self._likelihood, scene = likelihood, likelihood.scene
        self.size = scene.coordinates.shift(1)
        self.solves = 0
        mean, precision = likelihood.prior_mean, likelihood.prior_precision
        tails = len(mean) - self.size
        by_shift = []
        for target in self._asked():
            part = shift_rows(target) * math.sqrt(target.weight)
            padded = np.zeros((tails, part.shape[1]), dtype=part.dtype)
            first = target.first_shift - self.size
            padded[first : first + 2] = part
            by_shift.append(padded)
        self.sight = Sight(
            mean[: self.size],
            precision[: self.size, : self.size],
            mean[self.size :],
            precision[self.size :, self.size :],
            np.concatenate(by_shift, axis=1),
        )
        self._starts = Starts(scene)
        cells = max(scene.operator.domain.numel(), 1)
        self._members = max(1, min(_MEMBERS, _LARGEST_BATCH // cells))

    def _asked(self) -> Iterator[Asked]:
        """Targets in the order of their residuals."""
        for visit in range(len(self._likelihood.scene.distances)):
            yield from (target for target in self._likelihood.known if target.visit == visit)

    def residuals(self, heads: Vector) -> Vector:
        """Weighted residuals (n, m) without follow-up shifts at ``heads`` (n, size)."""
        self.solves += len(heads)
        settings, made = self._likelihood.scene.settings, np.empty((len(heads), self.sight.by_shift.shape[1]))
        # the largest diffusivity of a batch sets its step
        order = np.argsort(heads[:, LOG_VELOCITY] + heads[:, LOG_WIDTH])
        for batch in np.split(order, range(self._members, len(order), self._members)):
            parts = []
            for visit, density in enumerate(self._densities(heads[batch])):
                asked = [target for target in self._likelihood.known if target.visit == visit]
                parts += [rows(target, density, settings) * math.sqrt(target.weight) for target in asked]
            made[batch] = np.concatenate(parts, axis=1)
        return made

    def _densities(self, heads: Vector) -> Iterator[Tensor]:
        """Densities (n, X, Y, Z) at every visit, each a view that the next overwrites."""
        scene = self._likelihood.scene
        first = scene.coordinates.shift(0)
        starts = torch.stack([self._starts.density(0, head, first) for head in heads])
        values = scene.coordinates.physical(heads)
        parameters = {name: torch.from_numpy(value) for name, value in values.items()}
        days = [distance.day for distance in scene.distances]
        states = trajectory(
            scene.model, parameters, starts[:, None], days, start_day=days[0], accuracy=INFERENCE
        )
        for state in states:
            yield state[:, 0]


def sample(likelihood: Likelihood, minimum: Minimum, count: int, seed: int) -> Sample:
    """Draw from the posterior whose mode and curvature are about those of ``minimum``.

    Parameters
    ----------
    likelihood : Likelihood
        Negative log posterior.
    minimum : Minimum
        Its mode, with the Gauss-Newton Hessian.
    count : int
        Solves at draws of a surface that needs weights, twice as many where their tail is too heavy; as many draws are
        returned.
    seed : int
        Of all random numbers.
    """
    generator, marginal = np.random.default_rng(seed), Marginal(likelihood)
    size, sight = marginal.size, marginal.sight
    mode, root = minimum.position[:size], np.linalg.cholesky(np.linalg.inv(minimum.at.hessian)[:size, :size])
    cloud = _Cloud.solved(marginal, mode + student(max(_SOLVES, 3 * terms(size)), size, generator) @ root.T)
    for solves, weighed in ((_SOLVES, False), (_SOLVES, False), (count, True), (2 * count, True)):
        law = Response.fitted(sight, mode, root, cloud.heads, cloud.residuals, cloud.log_target)
        fresh = _Cloud.solved(marginal, law.draw(solves, generator))
        weights = pareto_smoothed(fresh.log_target - law.log_density(fresh.heads))
        cloud = cloud.joined(fresh)
        if weights.khat <= KHAT_LIMIT and weights.effective >= _GOOD_SHARE * len(fresh.heads):
            # A tail that the posterior does not have takes few of these solves, and so hardly shows in their weights.
            # It can make an interval twice as wide: those few teach the surface better.
            law = Response.fitted(sight, mode, root, cloud.heads, cloud.residuals, cloud.log_target)
            heads = law.draw(_DRAWS, generator)
            drawn = _Particles(heads, *law(heads))
            break
        if weights.khat <= KHAT_LIMIT and weighed:
            drawn = fresh.particles(sight).take(resampled(weights, count, generator))
            break
    else:
        drawn = _Tempering(marginal, law, generator).run(min(count, _PARTICLES))
        drawn = drawn.take(generator.permutation(np.resize(np.arange(len(drawn.heads)), count)))
    spread = np.linalg.cholesky(sight.tail_covariance)
    shifts = drawn.shifts + generator.standard_normal(drawn.shifts.shape) @ spread.T
    draws = np.concatenate([drawn.heads, shifts], axis=1)
    return Sample(draws, weights.khat, weights.effective, marginal.solves, not weights.khat <= KHAT_LIMIT)


@dataclass
class _Particles:
    """Points with log posterior density and mean follow-up shifts."""

    heads: Vector
    log_target: Vector
    shifts: Vector

    def take(self, index: Vector) -> "_Particles":
        """The points at ``index``."""
        return _Particles(self.heads[index], self.log_target[index], self.shifts[index])


@dataclass(frozen=True)
class _Cloud:
    """Points that were solved."""

    heads: Vector
    residuals: Vector
    log_target: Vector

    @classmethod
    def solved(cls, marginal: Marginal, heads: Vector) -> "_Cloud":
        """Solves at ``heads``."""
        residuals = marginal.residuals(heads)
        return cls(heads, residuals, marginal.sight.seen(heads, residuals)[0])

    def joined(self, other: "_Cloud") -> "_Cloud":
        """All points of two."""
        return _Cloud(
            np.concatenate([self.heads, other.heads]),
            np.concatenate([self.residuals, other.residuals]),
            np.concatenate([self.log_target, other.log_target]),
        )

    def particles(self, sight: Sight) -> _Particles:
        """With their mean follow-up shifts."""
        return _Particles(self.heads, *sight.seen(self.heads, self.residuals))


@dataclass(frozen=True)
class _Tempering:
    """Sequential Monte Carlo along surface^(1 - b) posterior^b, b from 0 to 1."""

    marginal: Marginal
    law: Response
    generator: np.random.Generator

    def run(self, count: int) -> _Particles:
        """``count`` draws from the posterior."""
        heads = self.law.draw(count, self.generator)
        cloud, done = self._solved(heads), 0.0
        while done < 1.0:
            ratio = cloud.log_target - self.law.log_density(cloud.heads)
            step = _largest_step(ratio, 1.0 - done)
            weights = Weights(normalised(step * ratio), math.nan)
            cloud = cloud.take(resampled(weights, count, self.generator))
            done = 1.0 if step >= 1.0 - done else done + step
            size = cloud.heads.shape[1]
            covariance = np.cov(cloud.heads.T) + 1e-12 * np.eye(size)
            root = 2.38 / math.sqrt(size) * np.linalg.cholesky(covariance)
            for _ in range(_MOVES):
                self._move(cloud, root, done)
        return cloud

    def _solved(self, heads: Vector) -> _Particles:
        return _Cloud.solved(self.marginal, heads).particles(self.marginal.sight)

    def _move(self, cloud: _Particles, root: Vector, share: float) -> None:
        """One Metropolis step of every point."""
        heads = cloud.heads + self.generator.standard_normal(cloud.heads.shape) @ root.T
        there = self._solved(heads)
        gain = share * (there.log_target - cloud.log_target)
        gain += (1.0 - share) * (self.law.log_density(heads) - self.law.log_density(cloud.heads))
        accepted = np.log(self.generator.random(len(heads))) < gain
        for name in ("heads", "log_target", "shifts"):
            getattr(cloud, name)[accepted] = getattr(there, name)[accepted]


def _largest_step(ratio: Vector, most: float) -> float:
    """Largest step of the temperature that leaves half of the particles effective."""

    def share(step: float) -> float:
        weights = np.exp(normalised(step * ratio))
        return float(1.0 / (weights**2).sum() / ratio.size)

    if share(most) >= _LEAST_SHARE:
        return most
    low, high = 0.0, most
    for _ in range(30):
        middle = (low + high) / 2.0
        low, high = (middle, high) if share(middle) >= _LEAST_SHARE else (low, middle)
    return max(low, _LEAST_STEP)
