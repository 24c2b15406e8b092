"""Mixtures against SciPy's normal density, known mixtures, and the law that the likelihood never falls."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from segmentation.mixture import Mixture, fit_mixture, log_normal, moments

TRUE = Mixture(
    np.array([0.2, 0.3, 0.5]),
    np.array([[-3.0, 1.0], [0.0, -2.0], [2.5, 2.0]]),
    np.array([[[0.4, 0.1], [0.1, 0.3]], [[0.5, -0.2], [-0.2, 0.6]], [[0.3, 0.0], [0.0, 0.8]]]),
)


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Values (6000, 2) drawn from `TRUE`, and the component of each."""
    rng = np.random.default_rng(4)
    component = rng.choice(3, 6000, p=TRUE.weights)
    values = np.stack([rng.multivariate_normal(TRUE.means[c], TRUE.covariances[c]) for c in component])
    return values, component


def test_density_is_that_of_scipy(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    values = drawn[0][:50]
    expected = multivariate_normal(TRUE.means[1], TRUE.covariances[1]).logpdf(values)
    np.testing.assert_allclose(log_normal(values, TRUE.means[1], TRUE.covariances[1]), expected, rtol=1e-10)
    parts = [w * multivariate_normal(m, c).pdf(values) for w, m, c in zip(*vars(TRUE).values(), strict=True)]
    np.testing.assert_allclose(TRUE.log_density(values), np.log(np.sum(parts, axis=0)), rtol=1e-10)


def test_a_known_mixture_is_found(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    values, component = drawn
    found = fit_mixture(values, 3, rounds=100, floor=0.0)
    order = np.argsort(found.means[:, 0])
    found = Mixture(found.weights[order], found.means[order], found.covariances[order])
    np.testing.assert_allclose(found.weights, TRUE.weights, atol=0.02)
    np.testing.assert_allclose(found.means, TRUE.means, atol=0.1)
    np.testing.assert_allclose(found.covariances, TRUE.covariances, atol=0.1)
    assert (found.log_joint(values).argmax(0) == component).mean() > 0.98


def test_likelihood_never_falls(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    values = drawn[0][::10]
    levels = [fit_mixture(values, 4, rounds=r, floor=0.0).log_density(values).sum() for r in range(12)]
    # The one part in a million that keeps covariances regular may cost as much.
    assert (np.diff(levels) > -1e-3).all() and levels[-1] > levels[0] + 10


def test_one_constant_contrast_does_not_break_the_fit() -> None:
    values = np.random.default_rng(0).normal(size=(500, 2))
    values[:, 1] = 3.0
    assert np.isfinite(fit_mixture(values, 3).log_density(values)).all()


def test_moments_lean_on_what_is_assumed_when_little_is_seen() -> None:
    values = np.array([[0.0, 0.0], [2.0, 4.0]])
    mean, covariance = moments(values, np.array([1.0, 1.0]), np.eye(2), strength=1e9)
    np.testing.assert_allclose(mean, [1, 2], atol=1e-5)
    np.testing.assert_allclose(covariance, np.eye(2), atol=1e-6)
