"""A polynomial model of all residuals, learned from a few solves, and draws from the posterior that belongs to it.

Residuals that are close to linear in the parameters make a sum of squares whose valleys bend, which no Gaussian
follows. Their squares and products taken along (Box and Wilson, J. R. Stat. Soc. B 13, 1951), the posterior needs
a matrix product a point instead of a solve of the growth model, and can be explored by plain Metropolis steps. The
cube of the first coordinate is taken along too: where the front hardly moves residuals level off, and a parabola
through them comes back to zero beyond, a tail that the posterior does not have.
"""

import math
from dataclasses import dataclass

import numpy as np

from twin.coordinates import Vector
from twin.importance import Weights, normalised, resampled, student

_CHAINS, _STEPS = 256, 150
_FORGIVEN = 3.0
"""Solves count in the regression by exp(-excess / this), the excess being that of their cost over the lowest."""
_LEAST = 1e-3


@dataclass(frozen=True)
class Sight:
    """What turns residuals into a log posterior density.

    Heads are all coordinates but the follow-up shifts, tails these.

    Parameters
    ----------
    head_mean, head_precision : ndarray
        Prior of the heads, (p,) and (p, p).
    tail_mean, tail_precision : ndarray
        Prior of the tails, (q,) and (q, q).
    by_shift : ndarray
        (q, m) derivatives of the residuals with respect to the tails.
    """

    head_mean: Vector
    head_precision: Vector
    tail_mean: Vector
    tail_precision: Vector
    by_shift: Vector

    @property
    def tail_covariance(self) -> Vector:
        """Covariance of the tails given the heads."""
        return np.linalg.inv(self.tail_precision + self.by_shift @ self.by_shift.T)

    def seen(self, heads: Vector, residuals: Vector) -> tuple[Vector, Vector]:
        """:meth:`marginal` of ``residuals`` (n, m)."""
        squares = np.einsum("nm,nm->n", residuals, residuals)
        return self.marginal(heads, squares, residuals @ self.by_shift.T)

    def marginal(self, heads: Vector, squares: Vector, products: Vector) -> tuple[Vector, Vector]:
        """Log density (n,) of the heads, tails integrated out, up to a constant, and mean tails (n, q).

        ``squares`` (n,) are the sums of squared residuals, ``products`` (n, q) those with ``by_shift``.
        """
        away = heads - self.head_mean
        cost = 0.5 * (np.einsum("ni,ij,nj->n", away, self.head_precision, away) + squares)
        pull = self.tail_precision @ self.tail_mean - products
        tails = pull @ self.tail_covariance
        return 0.5 * (pull * tails).sum(axis=1) - cost, tails


@dataclass(frozen=True)
class Response:
    """Response surface of the residuals: quadratic, and cubic in the first coordinate.

    Parameters
    ----------
    sight : Sight
        Priors and shifts.
    origin, root : ndarray
        Heads are origin + root @ z; the surface is a polynomial in z.
    squares : ndarray
        (f, f) products of the coefficients: sum of squared residuals = features @ squares @ features.
    products : ndarray
        (f, q) the same with the derivatives in the shifts.
    """

    sight: Sight
    origin: Vector
    root: Vector
    squares: Vector
    products: Vector

    @classmethod
    def fitted(
        cls, sight: Sight, origin: Vector, root: Vector, heads: Vector, residuals: Vector, log_target: Vector
    ) -> "Response":
        """Weighted regression on solves at ``heads`` (n, p) with ``residuals`` (n, m)."""
        features = _features(np.linalg.solve(root, (heads - origin).T).T)
        count = np.exp((log_target - log_target.max()) / _FORGIVEN / 2).clip(min=_LEAST)[:, None]
        inverse = np.linalg.pinv(features * count, rcond=1e-6) * count.T
        coefficients = inverse @ residuals
        return cls(sight, origin, root, coefficients @ coefficients.T, coefficients @ sight.by_shift.T)

    def __call__(self, heads: Vector) -> tuple[Vector, Vector]:
        """Log density (n,) and mean tails (n, q), see :meth:`Sight.marginal`."""
        features = _features(np.linalg.solve(self.root, (heads - self.origin).T).T)
        squares = np.einsum("nf,fg,ng->n", features, self.squares, features)
        return self.sight.marginal(heads, squares, features @ self.products)

    def log_density(self, heads: Vector) -> Vector:
        """Log density (n,) alone."""
        return self(heads)[0]

    def draw(self, count: int, generator: np.random.Generator) -> Vector:
        """Heads (count, p) from the posterior of the surface: Metropolis chains that start spread out."""
        size = self.origin.size
        spread = 2.0 * student(20 * _CHAINS, size, generator)
        wide = self.origin + spread @ self.root.T
        log = self.log_density(wide) + 0.5 * (5 + size) * np.log1p((spread**2).sum(axis=1) / 4.0 / 5.0)
        here = wide[resampled(Weights(normalised(log), math.nan), max(_CHAINS, count), generator)]
        value = self.log_density(here)
        for step in range(_STEPS):
            if step % 25 == 0:
                scatter = np.cov(here.T) + 1e-9 * np.eye(size)
                jump = 2.0 / math.sqrt(size) * np.linalg.cholesky(scatter)
            there = here + generator.standard_normal(here.shape) @ jump.T
            found = self.log_density(there)
            better = np.log(generator.random(len(here))) < found - value
            here, value = np.where(better[:, None], there, here), np.where(better, found, value)
        return np.asarray(here[generator.permutation(len(here))[:count]])


def terms(size: int) -> int:
    """Coefficients of the polynomial in ``size`` coordinates."""
    return (size + 1) * (size + 2) // 2 + 1


def _features(points: Vector) -> Vector:
    """One, the coordinates, their products and the cube of the first, (n, ``terms(p)``), of points (n, p)."""
    first, second = np.triu_indices(points.shape[1])
    products = points[:, first] * points[:, second]
    return np.concatenate([np.ones((len(points), 1)), points, products, points[:, :1] ** 3], axis=1)
