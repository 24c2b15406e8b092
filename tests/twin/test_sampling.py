"""Importance weights with a known answer, and draws from posteriors whose moments are known."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import logsumexp

from tests.twin.heads import CORE, WHOLE, grow, head, resample
from twin import CalibrationSettings, Priors, TumourObservation, sampling
from twin.importance import Weights, evenly, pareto_smoothed, resampled
from twin.likelihood import Likelihood
from twin.likelihood import grow as simulate
from twin.sampling import Marginal, sample
from twin.scene import Scene, Tissue, boundary_sd_mm, starting_width
from twin.targets import misfit, targets

SPACING = 4.0
MEAN = np.array([0.3, -1.0, 2.0])
COVARIANCE = np.array([[0.5, 0.2, 0.0], [0.2, 0.3, -0.1], [0.0, -0.1, 0.8]])


def gaussian(points, sd=1.0):
    return -0.5 * (points / sd) ** 2 - math.log(sd)


def test_equal_ratios_count_alike():
    weights = pareto_smoothed(np.full(400, -3.7))
    assert weights.values == pytest.approx(np.full(400, 1 / 400))
    assert weights.khat == -math.inf
    assert weights.effective == pytest.approx(400)


def test_few_or_impossible_ratios_are_not_trusted():
    assert pareto_smoothed(np.zeros(12)).khat == math.inf
    lonely = np.full(400, -math.inf)
    lonely[7] = 0.0
    weights = pareto_smoothed(lonely)
    assert weights.khat == math.inf and weights.values[7] == pytest.approx(1.0)


def test_a_wider_proposal_gives_the_moments_of_the_target():
    points = 1.5 * np.random.default_rng(3).standard_normal(4000)
    weights = pareto_smoothed(gaussian(points) - gaussian(points, 1.5))
    assert weights.khat < 0.5
    assert weights.values.sum() == pytest.approx(1.0)
    mean = weights.values @ points
    assert mean == pytest.approx(0.0, abs=0.05)
    assert weights.values @ (points - mean) ** 2 == pytest.approx(1.0, rel=0.06)
    assert 0.6 * 4000 < weights.effective < 4000


def test_tails_that_are_too_light_are_noticed():
    # target over proposal grows like exp(0.5 x^2 (1 / 0.4^2 - 1)): the shape is 1 - 0.4^2 in the limit
    points = 0.4 * np.random.default_rng(3).standard_normal(4000)
    assert pareto_smoothed(gaussian(points) - gaussian(points, 0.4)).khat > 0.7


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_the_shape_of_a_pareto_tail_is_found(shape):
    uniform = np.random.default_rng(5).random(40_000)
    ratios = -shape * np.log(uniform)
    assert pareto_smoothed(ratios).khat == pytest.approx(shape, abs=0.12)


def test_resampling_keeps_the_shares():
    weights = Weights(np.log([0.1, 0.2, 0.3, 0.4]), 0.0)
    counts = np.bincount(resampled(weights, 1000, np.random.default_rng(0)), minlength=4)
    assert np.abs(counts - [100, 200, 300, 400]).max() <= 1


@pytest.mark.parametrize("count", [1, 7, 64, 100])
def test_any_beginning_spreads_evenly(count):
    values = np.random.default_rng(1).permutation(count).astype(float)
    order = evenly(values)
    assert sorted(order) == list(range(count))
    for first in (8, 16, 32):
        if first <= count:
            gaps = np.diff(np.sort(values[order[:first]]))
            assert gaps.max() <= 2.1 * count / first


class Known:
    """A density over three coordinates with one more that is Gaussian given them, in place of a growth model."""

    def __init__(self, skew=0.0):
        self.size, self.solves, self.tail_covariance = 3, 0, np.array([[0.25]])
        self._root, self._skew = np.linalg.cholesky(COVARIANCE), skew

    def __call__(self, heads):
        self.solves += len(heads)
        standard = np.linalg.solve(self._root, (heads - MEAN).T).T
        log = -0.5 * (standard**2).sum(axis=1)
        if self._skew:
            # a log-gamma law in the first direction
            first = standard[:, 0]
            log += 0.5 * first**2 + (first * self._skew - np.exp(first * self._skew)) / self._skew**2
        return log, 3.0 + 0.5 * heads[:, :1]


def drawn(monkeypatch, *, skew=0.0, count=1024, seed=0, off=0.0, look=False):
    """Draws where the Laplace approximation has the true curvature and a mode ``off`` by standard deviations.

    Without ``look`` the first few draws are never enough.
    """
    monkeypatch.setattr(sampling, "Marginal", lambda likelihood: Known(skew))
    if not look:
        monkeypatch.setattr(sampling, "_GOOD_SHARE", 2.0)
    hessian = np.zeros((4, 4))
    hessian[:3, :3], hessian[3, 3] = np.linalg.inv(COVARIANCE), 4.0
    mode = np.append(MEAN + off * np.sqrt(np.diag(COVARIANCE)), 0.0)
    minimum = SimpleNamespace(position=mode, at=SimpleNamespace(hessian=hessian))
    return sample(None, minimum, count, seed)


@pytest.mark.parametrize("off", [0.0, 1.0])
def test_a_gaussian_posterior_is_met(off, monkeypatch):
    found = drawn(monkeypatch, off=off)
    assert found.khat < sampling.KHAT_LIMIT and not found.tempered
    assert found.draws.shape == (1024, 4) and found.effective > 128
    sd = np.sqrt(np.diag(COVARIANCE))
    assert np.abs((found.draws[:, :3].mean(axis=0) - MEAN) / sd).max() < 0.12
    assert found.draws[:, :3].std(axis=0) == pytest.approx(sd, rel=0.1)
    # the integrated coordinate: mean 3 + x / 2, variance 0.25 + 0.5 / 4
    assert found.draws[:, 3].mean() == pytest.approx(3.0 + 0.5 * MEAN[0], abs=0.06)
    assert found.draws[:, 3].std() == pytest.approx(math.sqrt(0.25 + 0.25 * COVARIANCE[0, 0]), rel=0.1)


@pytest.mark.parametrize("skew", [0.0, 0.8])
def test_tempering_agrees_with_importance_sampling(skew, monkeypatch):
    weighed = drawn(monkeypatch, skew=skew, count=2048)
    assert not weighed.tempered
    monkeypatch.setattr(sampling, "KHAT_LIMIT", -math.inf)
    monkeypatch.setattr(sampling, "_PARTICLES", 512)
    tempered = drawn(monkeypatch, skew=skew, count=512, off=1.5)
    assert tempered.tempered and tempered.draws.shape == (512, 4)
    assert tempered.effective > 128
    sd = weighed.draws.std(axis=0)
    assert np.abs(tempered.draws.mean(axis=0) - weighed.draws.mean(axis=0)) / sd == pytest.approx(
        0.0, abs=0.2
    )
    assert tempered.draws.std(axis=0) / sd == pytest.approx(1.0, rel=0.2)


def test_a_first_look_ends_the_search_only_where_the_approximation_is_good(monkeypatch):
    good = drawn(monkeypatch, look=True)
    assert good.solves == sampling._FIRST and good.effective >= sampling._GOOD_SHARE * good.solves
    sd = np.sqrt(np.diag(COVARIANCE))
    # no more than the noise of so few draws
    noise = 3.0 / math.sqrt(good.effective)
    assert np.abs((good.draws[:, :3].mean(axis=0) - MEAN) / sd).max() < noise
    assert drawn(monkeypatch, off=2.0, look=True).solves > sampling._FIRST + 1000


def test_a_seed_repeats_and_another_does_not(monkeypatch):
    first, again, other = (drawn(monkeypatch, count=128, seed=seed) for seed in (4, 4, 5))
    assert np.array_equal(first.draws, again.draws) and first.khat == again.khat
    assert not np.array_equal(first.draws, other.draws)


@pytest.fixture(scope="module")
def likelihood():
    """Two visits of a small virtual patient."""
    maps, settings = head(SPACING)[0], CalibrationSettings()
    densities = [resample(u, SPACING) for u in grow(0.2, 0.04, [0.0, 70.0], spacing=SPACING)]
    days = (0.0, 70.0)
    visits = [TumourObservation(d, u > CORE, u > WHOLE) for d, u in zip(days, densities, strict=True)]
    scene = Scene.build(Tissue.prepare(maps, visits, settings), visits, 15.0, settings)
    mean, covariance = scene.coordinates.prior(Priors(), boundary_sd_mm(settings, maps.spacing_mm))
    return Likelihood(scene, targets(scene, starting_width(mean)), mean, np.linalg.inv(covariance))


def test_shifts_of_follow_ups_are_integrated_exactly(likelihood):
    marginal = Marginal(likelihood)
    mean, scene = likelihood.prior_mean, likelihood.scene
    assert marginal.size == scene.coordinates.size - 2
    heads = np.tile(mean[: marginal.size], (2, 1))
    heads[1] += [0.4, -0.2, 0.1, 0.5, -0.7]
    logs, shifts = marginal(heads)
    reach = np.linspace(-7.0, 7.0, 57)
    spread = np.sqrt(np.diag(marginal.tail_covariance))
    reference, means = [], []
    for head_, shift in zip(heads, shifts, strict=True):
        start = np.append(head_, shift)
        density = simulate(scene, start, tangents=False)[1][0]
        grid, costs = [], []
        for a in shift[0] + spread[0] * reach:
            for b in shift[1] + spread[1] * reach:
                position = np.array([*head_, a, b])
                away = position - mean
                cost = 0.5 * away @ likelihood.prior_precision @ away
                cost += sum(0.5 * misfit(t, density, position, scene.settings) for t in likelihood.known)
                grid.append((a, b))
                costs.append(cost)
        total = logsumexp(-np.array(costs))
        reference.append(total)
        means.append(np.exp(-np.array(costs) - total) @ np.array(grid))
        # the value at the middle is the posterior's own
        assert costs[len(costs) // 2] == pytest.approx(likelihood.cost(start), rel=1e-4)
    assert logs[1] - logs[0] == pytest.approx(reference[1] - reference[0], abs=2e-3)
    assert shifts == pytest.approx(np.array(means), abs=2e-3)


def test_members_of_a_batch_do_not_touch_each_other(likelihood):
    marginal = Marginal(likelihood)
    generator = np.random.default_rng(2)
    heads = likelihood.prior_mean[: marginal.size] + 0.3 * generator.standard_normal((5, marginal.size))
    together, alone = marginal(heads), [marginal(row[None]) for row in heads]
    # the box and the steps of a batch are those of its fastest member
    assert together[0] == pytest.approx(np.concatenate([log for log, _ in alone]), abs=0.02)
    assert together[1] == pytest.approx(np.concatenate([shift for _, shift in alone]), abs=0.01)
    assert marginal.solves == 10
