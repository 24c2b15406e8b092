"""Draws from the posterior itself, by solves of the growth model around the Laplace approximation.

The follow-up visits' boundary shifts enter the residuals linearly and have Gaussian priors: given everything else they
are Gaussian and are integrated out exactly. What is left, growth, profile, therapies and the first visit's shifts, is
drawn from a Student t around the Laplace approximation and weighed by the model. Where the weights cannot be trusted,
proposals with the moments of the weighted draws join (Cornuet, Marin, Mira and Robert, Scand. J. Stat. 39, 2012). Where
that does not help, tempered sequential Monte Carlo takes over (Del Moral, Doucet and Jasra, J. R. Stat. Soc. B 68,
2006).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Tensor

from twin.coordinates import Vector
from twin.importance import Weights, log_student, normalised, pareto_smoothed, resampled, student
from twin.least_squares import Minimum
from twin.likelihood import Likelihood
from twin.scene import starting_width
from twin.solver import trajectory

KHAT_LIMIT = 0.7
_MEMBERS = 16
"""Tumours grown side by side."""
_LARGEST_BATCH = 16_000_000
"""Most cells of one batch; two buffers of it are kept."""
_FIRST = 64
"""Draws of a first look, which tells whether the Laplace approximation needs to be corrected at all."""
_GOOD_KHAT, _GOOD_SHARE = 0.4, 0.4
_ROUNDS = 3
_PARTICLES = 128
_LEAST_SHARE = 0.5
"""Share of the particles that a tempering step keeps effective."""
_MOVES = 3


@dataclass(frozen=True)
class Sample:
    """Equally weighted draws.

    Parameters
    ----------
    draws : ndarray
        (n, p), all coordinates.
    khat : float
        Of all importance weights; see :class:`twin.importance.Weights`.
    effective : float
        Effective number of draws.
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
    """Log posterior density of all coordinates but the follow-up shifts, and these given the others.

    Parameters
    ----------
    likelihood : Likelihood
        With a prior that does not tie the follow-up shifts to anything else.
    """

    def __init__(self, likelihood: Likelihood) -> None:
        self._likelihood, scene = likelihood, likelihood.scene
        self.size = scene.coordinates.shift(1)
        self.solves = 0
        self._mean, precision = likelihood.prior_mean, likelihood.prior_precision
        self._head, self._tail = precision[: self.size, : self.size], precision[self.size :, self.size :]
        curvature = self._tail.copy()
        for target in likelihood.known:
            where = slice(target.first_shift - self.size, target.first_shift - self.size + 2)
            shifts = target.shifts.reshape(2, -1).double()
            curvature[where, where] += target.weight * (shifts @ shifts.T).numpy()
        self.tail_covariance = np.linalg.inv(curvature)
        cells = max(scene.operator.domain.numel(), 1)
        self._members = max(1, min(_MEMBERS, _LARGEST_BATCH // cells))

    def __call__(self, heads: Vector) -> tuple[Vector, Vector]:
        """Log densities (n,), up to a constant, and mean follow-up shifts (n, q), at ``heads`` (n, size)."""
        parts = [
            self._batch(heads[first : first + self._members]) for first in range(0, len(heads), self._members)
        ]
        return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])

    def _batch(self, heads: Vector) -> tuple[Vector, Vector]:
        self.solves += len(heads)
        away = heads - self._mean[: self.size]
        cost = 0.5 * np.einsum("ni,ij,nj->n", away, self._head, away)
        pull = np.tile(self._tail @ self._mean[self.size :], (len(heads), 1))
        settings = self._likelihood.scene.settings
        for visit, density in enumerate(self._densities(heads)):
            for target in self._likelihood.known:
                if target.visit != visit:
                    continue
                nothing = np.zeros(target.first_shift + 2)
                residual = target.residual(target.seen(density, settings), nothing).reshape(len(heads), -1)
                norms = torch.linalg.vector_norm(residual, dim=1, dtype=torch.float64).numpy()
                cost += 0.5 * target.weight * norms**2
                where = slice(target.first_shift - self.size, target.first_shift - self.size + 2)
                pull[:, where] += target.weight * (residual @ target.shifts.reshape(2, -1).T).double().numpy()
        shifts = pull @ self.tail_covariance
        return 0.5 * (pull * shifts).sum(axis=1) - cost, shifts

    def _densities(self, heads: Vector) -> Iterator[Tensor]:
        """Densities (n, X, Y, Z) at every visit, each a view that the next overwrites."""
        scene = self._likelihood.scene
        first = scene.coordinates.shift(0)
        starts = torch.stack(
            [
                scene.density(0, starting_width(head), head[first], head[first + 1]).to(scene.operator.dtype)
                for head in heads
            ]
        )
        values = scene.coordinates.physical(heads)
        parameters = {name: torch.from_numpy(value) for name, value in values.items()}
        days = [distance.day for distance in scene.distances]
        for state in trajectory(scene.model, parameters, starts[:, None], days, start_day=days[0]):
            yield state[:, 0]


def sample(likelihood: Likelihood, minimum: Minimum, count: int, seed: int) -> Sample:
    """Draw from the posterior whose mode and curvature are those of ``minimum``.

    Parameters
    ----------
    likelihood : Likelihood
        Negative log posterior.
    minimum : Minimum
        Its mode, with the Gauss-Newton Hessian.
    count : int
        Importance samples of each of up to three rounds, unless a first look at a few shows that the approximation
        needs no correction; as many draws are returned.
    seed : int
        Of all random numbers.
    """
    generator, marginal = np.random.default_rng(seed), Marginal(likelihood)
    covariance = np.linalg.inv(minimum.at.hessian)[: marginal.size, : marginal.size]
    law = _Proposal(minimum.position[: marginal.size], np.linalg.cholesky(covariance))
    clouds: list[_Cloud] = []
    laws: list[_Proposal] = []
    for drawn_now in (min(_FIRST, count), *(count for _ in range(_ROUNDS))):
        laws.append(law)
        heads = law.draw(drawn_now, generator)
        clouds.append(_Cloud(heads, *marginal(heads)))
        cloud = _Cloud.joined(clouds)
        shares = [len(some.heads) / len(cloud.heads) for some in clouds]
        weights = pareto_smoothed(cloud.log_target - mixture(laws, shares, cloud.heads))
        if weights.khat <= KHAT_LIMIT and len(clouds) > 1:
            break
        if weights.khat <= _GOOD_KHAT and weights.effective >= _GOOD_SHARE * len(cloud.heads):
            # so little to correct that many draws of the approximation say more than few corrected ones
            root = np.linalg.cholesky(np.linalg.inv(minimum.at.hessian))
            draws = minimum.position + generator.standard_normal((count, len(root))) @ root.T
            return Sample(draws, weights.khat, weights.effective, marginal.solves, False)
        if len(clouds) > 1:
            law = _Proposal.around(cloud.heads, weights.values)
    if weights.khat <= KHAT_LIMIT:
        drawn, effective = cloud.take(resampled(weights, count, generator)), weights.effective
    else:
        drawn = _Tempering(marginal, law, generator).run(min(count, _PARTICLES))
        effective = float(len(np.unique(drawn.heads[:, 0])))
        drawn = drawn.take(generator.permutation(np.resize(np.arange(len(drawn.heads)), count)))
    spread = np.linalg.cholesky(marginal.tail_covariance)
    shifts = drawn.shifts + generator.standard_normal(drawn.shifts.shape) @ spread.T
    draws = np.concatenate([drawn.heads, shifts], axis=1)
    return Sample(draws, weights.khat, effective, marginal.solves, not weights.khat <= KHAT_LIMIT)


@dataclass(frozen=True)
class _Proposal:
    """Multivariate Student t."""

    mode: Vector
    root: Vector

    @classmethod
    def around(cls, heads: Vector, weights: Vector) -> "_Proposal":
        """With the moments of weighted points."""
        mode = weights @ heads
        away = heads - mode
        scatter = (weights[:, None] * away).T @ away
        own = np.diag(np.diag(scatter))
        # few points with weight say little of correlations
        trust = 1.0 / (1.0 + heads.shape[1] * float((weights**2).sum()))
        return cls(mode, np.linalg.cholesky(trust * scatter + (1.0 - trust) * own))

    def draw(self, count: int, generator: np.random.Generator) -> Vector:
        """Points (count, size)."""
        return np.asarray(self.mode + student(count, self.mode.size, generator) @ self.root.T)

    def log_density(self, heads: Vector) -> Vector:
        """Up to a constant that all proposals share, (n,)."""
        standard = np.linalg.solve(self.root, (heads - self.mode).T).T
        return np.asarray(log_student(standard) - np.log(np.diag(self.root)).sum())


def mixture(laws: Sequence[_Proposal], shares: Sequence[float], heads: Vector) -> Vector:
    """Log density of a mixture of proposals with ``shares`` that sum to one, (n,)."""
    logs = [law.log_density(heads) + math.log(share) for law, share in zip(laws, shares, strict=True)]
    return np.asarray(logsumexp(logs, axis=0))


@dataclass
class _Cloud:
    """Points with log posterior density and mean follow-up shifts."""

    heads: Vector
    log_target: Vector
    shifts: Vector

    @classmethod
    def joined(cls, clouds: "Sequence[_Cloud]") -> "_Cloud":
        """All points of several."""
        return cls(
            np.concatenate([cloud.heads for cloud in clouds]),
            np.concatenate([cloud.log_target for cloud in clouds]),
            np.concatenate([cloud.shifts for cloud in clouds]),
        )

    def take(self, index: Vector) -> "_Cloud":
        """The points at ``index``."""
        return _Cloud(self.heads[index], self.log_target[index], self.shifts[index])


@dataclass(frozen=True)
class _Tempering:
    """Sequential Monte Carlo along proposal^(1 - b) posterior^b, b from 0 to 1."""

    marginal: Marginal
    law: _Proposal
    generator: np.random.Generator

    def run(self, count: int) -> _Cloud:
        """``count`` draws from the posterior."""
        heads = self.law.draw(count, self.generator)
        cloud, done = _Cloud(heads, *self.marginal(heads)), 0.0
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

    def _move(self, cloud: _Cloud, root: Vector, share: float) -> None:
        """One Metropolis step of every point."""
        heads = cloud.heads + self.generator.standard_normal(cloud.heads.shape) @ root.T
        there = _Cloud(heads, *self.marginal(heads))
        gain = share * (there.log_target - cloud.log_target)
        gain += (1.0 - share) * (self.law.log_density(heads) - self.law.log_density(cloud.heads))
        accepted = np.log(self.generator.random(len(heads))) < gain
        for name in ("heads", "log_target", "shifts"):
            getattr(cloud, name)[accepted] = getattr(there, name)[accepted]


def _largest_step(ratio: Vector, most: float) -> float:
    """Largest step of the temperature that leaves half of the particles effective."""
    low, high = 0.0, most
    for _ in range(40):
        middle = high if low == 0.0 and high == most else (low + high) / 2.0
        weights = np.exp(normalised(middle * ratio))
        if 1.0 / (weights**2).sum() >= _LEAST_SHARE * ratio.size:
            if middle == most:
                return most
            low = middle
        else:
            high = middle
    return max(low, 1e-4)
