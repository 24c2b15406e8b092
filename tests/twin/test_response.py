"""The polynomial model of residuals: exact where they are quadratic, its draws have the moments they should."""

import numpy as np
import pytest

from tests.twin.posteriors import Bent
from twin.importance import student
from twin.response import Response, terms


def surface(bent, count=64, scale=1.0):
    generator = np.random.default_rng(1)
    root = scale * np.linalg.cholesky(bent.covariance)
    heads = bent.mean + student(count, 3, generator) @ root.T
    residuals = bent.residuals(heads)
    log = bent.sight.seen(heads, residuals)[0]
    return Response.fitted(bent.sight, bent.mean, root, heads, residuals, log)


@pytest.mark.parametrize("bend", [0.0, 0.7])
def test_quadratic_residuals_are_met_everywhere(bend):
    bent = Bent(bend)
    found = surface(bent)
    far = bent.mean + 4.0 * np.random.default_rng(2).standard_normal((50, 3))
    expected = bent.sight.seen(far, bent.residuals(far))
    for mine, theirs in zip(found(far), expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("bend", [0.0, 0.7])
def test_draws_have_the_moments_of_the_posterior(bend):
    bent = Bent(bend)
    draws = surface(bent).draw(4000, np.random.default_rng(3))
    standard = np.linalg.solve(np.linalg.cholesky(bent.covariance), (draws - bent.mean).T)
    assert standard.mean(axis=1) == pytest.approx(np.zeros(3), abs=0.07)
    # the second direction is bent by the square of the first
    sd = [1.0, np.sqrt(1.0 + 2.0 * bend**2), 1.0]
    assert standard.std(axis=1) == pytest.approx(sd, rel=0.06)
    straight = standard[1] - bend * (standard[0] ** 2 - 1.0)
    assert np.corrcoef(standard[0], straight)[0, 1] == pytest.approx(0.0, abs=0.06)
    assert len(np.unique(draws[:, 0])) > 3000


def test_chains_come_back_from_a_start_that_is_too_narrow():
    bent = Bent(0.0)
    draws = surface(bent, scale=0.3).draw(4000, np.random.default_rng(3))
    assert draws.std(axis=0) == pytest.approx(np.sqrt(np.diag(bent.covariance)), rel=0.08)


def test_terms_are_the_coefficients_of_a_quadratic_and_one_cube():
    assert [terms(size) for size in (1, 2, 5)] == [4, 7, 22]
