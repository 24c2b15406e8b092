"""Importance weights with a known answer, and draws from posteriors whose moments are known."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import logsumexp

from tests.twin.heads import CORE, WHOLE, grow, head, noisy_visit, resample
from tests.twin.posteriors import COVARIANCE, MEAN, Bent
from twin import CalibrationSettings, Priors, TumourObservation, calibrate, calibration, sampling
from twin.coordinates import LOG_VELOCITY
from twin.importance import Weights, evenly, log_student, pareto_smoothed, resampled, student
from twin.likelihood import Likelihood
from twin.likelihood import grow as simulate
from twin.sampling import Marginal, sample
from twin.scene import Scene, Tissue, boundary_sd_mm, starting_width
from twin.targets import misfit, targets

SPACING = 4.0


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


def drawn(monkeypatch, *, bend=0.0, twist=0.0, count=1024, seed=0, off=0.0):
    """Draws where the Laplace approximation has a curvature that knows of no bend, and a mode ``off`` by sd."""
    known = Bent(bend, twist)
    monkeypatch.setattr(sampling, "Marginal", lambda likelihood: known)
    hessian = np.zeros((4, 4))
    hessian[:3, :3], hessian[3, 3] = np.linalg.inv(COVARIANCE), 4.0
    mode = np.append(MEAN + off * np.sqrt(np.diag(COVARIANCE)), 0.0)
    minimum = SimpleNamespace(position=mode, at=SimpleNamespace(hessian=hessian))
    return sample(None, minimum, count, seed)


def standard(draws):
    return np.linalg.solve(np.linalg.cholesky(COVARIANCE), (draws[:, :3] - MEAN).T)


@pytest.mark.parametrize("off", [0.0, 1.0])
@pytest.mark.parametrize("bend", [0.0, 1.5])
def test_a_known_posterior_is_met_in_a_few_rounds_of_solves(bend, off, monkeypatch):
    found = drawn(monkeypatch, bend=bend, off=off)
    assert found.khat < sampling.KHAT_LIMIT and not found.tempered
    assert found.solves <= (2 if not off else 3) * sampling._SOLVES and found.draws.shape == (
        sampling._DRAWS,
        4,
    )
    sd = [1.0, math.sqrt(1.0 + 2.0 * bend**2), 1.0]
    assert standard(found.draws).mean(axis=1) / sd == pytest.approx(np.zeros(3), abs=0.12)
    assert standard(found.draws).std(axis=1) == pytest.approx(sd, rel=0.12)
    # the integrated coordinate: mean 3 + x / 2, variance 0.25 + 0.5 / 4
    assert found.draws[:, 3].mean() == pytest.approx(3.0 + 0.5 * MEAN[0], abs=0.06)
    assert found.draws[:, 3].std() == pytest.approx(math.sqrt(0.25 + 0.25 * COVARIANCE[0, 0]), rel=0.1)


def test_a_surface_that_a_first_look_gets_wrong_is_taught_again(monkeypatch):
    """Residuals far from quadratic around a mode far off: more rounds, and the moments of plain integration."""
    found = drawn(monkeypatch, bend=0.5, twist=2.0, off=1.5)
    assert found.solves > 2 * sampling._SOLVES
    z = np.random.default_rng(9).standard_normal((200_000, 3))
    bent = z[:, 1] + 0.5 * (z[:, 0] ** 2 - 1.0) - 2.0 * np.expm1(z[:, 2] / 2.0)
    mine = standard(found.draws)[1]
    assert mine.mean() == pytest.approx(bent.mean(), abs=0.15 * bent.std())
    assert mine.std() == pytest.approx(bent.std(), rel=0.15)


def test_tempering_and_weights_agree_with_the_surface(monkeypatch):
    easy = drawn(monkeypatch, bend=0.7, count=2048)
    monkeypatch.setattr(sampling, "_GOOD_SHARE", 2.0)
    weighed = drawn(monkeypatch, bend=0.7, count=2048)
    assert not weighed.tempered and weighed.draws.shape == (2048, 4) and weighed.effective > 1000
    monkeypatch.setattr(sampling, "KHAT_LIMIT", math.nan)
    monkeypatch.setattr(sampling, "_PARTICLES", 512)
    tempered = drawn(monkeypatch, bend=0.7, count=512, off=1.0)
    assert tempered.tempered and tempered.draws.shape == (512, 4)
    sd = easy.draws.std(axis=0)
    for other in (weighed, tempered):
        assert np.abs(other.draws.mean(axis=0) - easy.draws.mean(axis=0)) / sd == pytest.approx(0.0, abs=0.2)
        assert other.draws.std(axis=0) / sd == pytest.approx(1.0, rel=0.2)


def test_intervals_are_those_of_many_solves_whatever_the_seed(monkeypatch):
    """Few solves say little of the tails: lower ends of the velocity's interval came out up to 2.5 sd too low."""
    asked = {}

    def kept(likelihood, minimum, count, seed):
        asked.update(likelihood=likelihood, minimum=minimum)
        return sample(likelihood, minimum, count, seed)

    monkeypatch.setattr(calibration, "sample", kept)
    days = (0.0, 60.0)
    visits = [
        noisy_visit(day, u, 3.0, np.random.default_rng(40 + number))
        for number, (day, u) in enumerate(zip(days, grow(0.06, 0.05, days, spacing=3.0), strict=True))
    ]
    calibrate(head(3.0)[0], visits)

    marginal, minimum = Marginal(asked["likelihood"]), asked["minimum"]
    size = marginal.size
    mode, root = minimum.position[:size], np.linalg.cholesky(np.linalg.inv(minimum.at.hessian)[:size, :size])
    points = student(1200, size, np.random.default_rng(99))
    heads = mode + 1.3 * points @ root.T
    log = marginal.sight.seen(heads, marginal.residuals(heads))[0] - log_student(points)
    weights = np.exp(log - logsumexp(log))
    assert 1.0 / (weights**2).sum() > 400
    order = np.argsort(heads[:, LOG_VELOCITY])
    velocity, share = heads[order, LOG_VELOCITY], np.cumsum(weights[order])
    ends = velocity[np.searchsorted(share, [0.025, 0.975])]
    sd = math.sqrt(np.cov(velocity, aweights=weights[order]))
    drawn = [sample(asked["likelihood"], minimum, 128, seed).draws[:, LOG_VELOCITY] for seed in range(8)]
    errors = (np.quantile(drawn, [0.025, 0.975], axis=1) - ends[:, None]) / sd
    assert np.sqrt(np.square(errors).mean(axis=1)) == pytest.approx(0.0, abs=0.45)


def test_a_seed_repeats_and_another_does_not(monkeypatch):
    first, again, other = (drawn(monkeypatch, count=128, seed=seed) for seed in (4, 4, 5))
    assert np.array_equal(first.draws, again.draws) and first.khat == again.khat
    assert not np.array_equal(first.draws, other.draws)


@pytest.fixture(scope="module", params=["soft", "displaced"])
def likelihood(request):
    """Two visits of a small virtual patient, compared in either way."""
    maps, settings = head(SPACING)[0], CalibrationSettings()
    densities = [resample(u, SPACING) for u in grow(0.2, 0.04, [0.0, 70.0], spacing=SPACING)]
    days = (0.0, 70.0)
    visits = [TumourObservation(d, u > CORE, u > WHOLE) for d, u in zip(days, densities, strict=True)]
    scene = Scene.build(Tissue.prepare(maps, visits, settings), visits, 15.0, settings)
    mean, covariance = scene.coordinates.prior(Priors(), boundary_sd_mm(settings, maps.spacing_mm))
    grown = None
    if request.param == "displaced":
        grown = [fields[0] for fields in simulate(scene, mean, tangents=False)]
    known = targets(scene, starting_width(mean), grown, mean)
    return Likelihood(scene, known, mean, np.linalg.inv(covariance))


def test_shifts_of_follow_ups_are_integrated_exactly(likelihood):
    marginal = Marginal(likelihood)
    mean, scene = likelihood.prior_mean, likelihood.scene
    assert marginal.size == scene.coordinates.size - 2
    heads = np.tile(mean[: marginal.size], (2, 1))
    heads[1] += [0.4, -0.2, 0.1, 0.5, -0.7]
    logs, shifts = marginal.sight.seen(heads, marginal.residuals(heads))
    reach = np.linspace(-7.0, 7.0, 57)
    spread = np.sqrt(np.diag(marginal.sight.tail_covariance))
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
    seen = marginal.sight.seen
    together = seen(heads, marginal.residuals(heads))
    alone = [seen(row[None], marginal.residuals(row[None])) for row in heads]
    # the box and the steps of a batch are those of its fastest member
    assert together[0] == pytest.approx(np.concatenate([log for log, _ in alone]), abs=0.02)
    assert together[1] == pytest.approx(np.concatenate([shift for _, shift in alone]), abs=0.01)
    assert marginal.solves == 10


@pytest.mark.parametrize("spread", [0.01, 3.0, 50.0, 200.0])
def test_a_tempering_step_leaves_half_of_the_particles_effective(spread):
    ratio = spread * np.random.default_rng(1).standard_normal(128)
    step = sampling._largest_step(ratio, 0.8)
    weights = np.exp(step * (ratio - ratio.max()))
    share = weights.sum() ** 2 / (weights**2).sum() / ratio.size
    assert step == 0.8 if spread < 1.0 else share == pytest.approx(0.5, abs=0.01)
