"""Mixtures of multivariate normal distributions of a few MR contrasts, fitted by expectation maximisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_LEAST_WEIGHT = 1e-6


@dataclass(frozen=True, eq=False)
class Mixture:
    """Weighted normal distributions.

    Attributes
    ----------
    weights
        float64 (K,), sum 1.
    means
        float64 (K, C).
    covariances
        float64 (K, C, C).
    """

    weights: Array
    means: Array
    covariances: Array

    def log_joint(self, values: Array) -> Array:
        """Log of weight times density of each component, float64 (K, N), for values (N, C)."""
        parts = zip(self.weights, self.means, self.covariances, strict=True)
        return np.stack([np.log(w) + log_normal(values, mean, covariance) for w, mean, covariance in parts])

    def log_density(self, values: Array) -> Array:
        """Log of the density, float64 (N,), for values (N, C)."""
        return log_sum(self.log_joint(values))


def log_normal(values: Array, mean: Array, covariance: Array) -> Array:
    """Log density of a normal distribution at values (N, C): float64 (N,)."""
    root = np.linalg.cholesky(covariance)
    whitened = np.linalg.inv(root) @ (values - mean).T
    channels = values.shape[1]
    constant = np.log(np.diag(root)).sum() + 0.5 * channels * np.log(2 * np.pi)
    return np.asarray(-0.5 * np.einsum("cn,cn->n", whitened, whitened) - constant)


def log_sum(logs: Array) -> Array:
    """Log of the sum of exponentials over the first axis."""
    largest = logs.max(axis=0)
    return np.asarray(largest + np.log(np.exp(logs - largest).sum(axis=0)))


def spread(values: Array) -> Array:
    """Covariance of values (N, C) as a (C, C) array, also for one channel."""
    return np.atleast_2d(np.cov(values.T))


def moments(values: Array, shares: Array, prior: Array, strength: float = 0.0) -> tuple[Array, Array]:
    """Mean (C,) and covariance (C, C) of weighted values.

    Parameters
    ----------
    values
        float64 (N, C).
    shares
        float64 (N,), not negative.
    prior, strength
        Covariance (C, C) that is averaged in as if it had been seen `strength` times.
    """
    total = shares.sum() + _LEAST_WEIGHT
    mean = shares @ values / total
    away = values - mean
    scatter = (away.T * shares) @ away
    return mean, (scatter + strength * prior) / (total + strength)


def fit_mixture(values: Array, components: int, *, rounds: int = 20, floor: float = 0.02) -> Mixture:
    """Fit a mixture by expectation maximisation, started from equal parts along the longest axis of the data.

    Nothing is random, and the start moves little when the values do: nearly the same image gives nearly the same
    mixture.

    Parameters
    ----------
    values
        float64 (N, C), N well above the number of components.
    components
        Number of normal distributions.
    floor
        Share of the covariance of all values added to each component's, so that none collapses to a point.
    """
    whole = spread(values)
    extra = (
        floor * whole + 1e-6 * np.trace(whole) / len(whole) * np.eye(len(whole)) + 1e-12 * np.eye(len(whole))
    )
    axis = np.linalg.eigh(whole)[1][:, -1]
    order = np.argsort(values @ axis, kind="stable")
    shares = np.zeros((components, len(values)))
    for number, part in enumerate(np.array_split(order, components)):
        shares[number, part] = 1
    for _ in range(rounds):
        mixture = mixture_of(values, shares, extra)
        joint = mixture.log_joint(values)
        shares = np.exp(joint - log_sum(joint))
    return mixture_of(values, shares, extra)


def mixture_of(values: Array, shares: Array, extra: Array) -> Mixture:
    """The mixture whose components hold shares (K, N) of values (N, C); `extra` (C, C) is added to covariances."""
    fitted = [moments(values, one, extra) for one in shares]
    totals = shares.sum(axis=1) + _LEAST_WEIGHT
    return Mixture(
        totals / totals.sum(), np.stack([f[0] for f in fitted]), np.stack([f[1] + extra for f in fitted])
    )
