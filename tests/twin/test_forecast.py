"""Forecasts: where draws start, what their intervals are made of, and what treatment changes."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.twin.heads import CORE, WHOLE, grow, head, resample
from twin import (
    CalibrationSettings,
    TissueMaps,
    TumourObservation,
    TwinError,
    calibrate,
    compare_treatments,
    forecast,
)
from twin.conformal import Conformal, shipped, stretched
from twin.coordinates import Coordinates
from twin.draws import draws_of, grain_fields, jitter_fields
from twin.ensemble import Starts, in_order
from twin.observation import density_from_masks, mask_density
from twin.prediction import Future, _past_bands, unobserved
from twin.results import Posterior
from twin.scene import Scene, Tissue, starting_width
from twin.solver import trajectory
from twin.treatment import Chemotherapy, Radiotherapy
from twin.volumes import quantiles

SPACING = 3.0
QUICK = CalibrationSettings(samples=16, initial_ensemble=2)


@pytest.fixture(scope="module")
def maps() -> TissueMaps:
    return head(SPACING)[0]


@pytest.fixture(scope="module")
def visits():
    grown = grow(0.2, 0.04, [0.0, 90.0])
    seen = zip((0.0, 90.0), (resample(u, SPACING) for u in grown), strict=True)
    return [TumourObservation(day, u > CORE, u > WHOLE) for day, u in seen]


@pytest.fixture(scope="module")
def calibration(maps, visits):
    return calibrate(maps, visits, settings=QUICK)


def scene_of(maps, visits):
    tissue = Tissue.prepare(maps, visits, QUICK)
    return Scene.build(tissue, [visits[-1]], 30.0, QUICK, threads=1)


def whole(predicted, index=0):
    return predicted.horizons[index].volume_whole_mm3


@pytest.mark.parametrize("kind", ["masks", "coreless", "cellularity"])
def test_a_start_is_the_density_of_the_visit(kind, maps, visits, calibration):
    seen = visits[-1]
    if kind == "coreless":
        seen = replace(seen, core=torch.zeros_like(seen.core))
    if kind == "cellularity":
        seen = replace(seen, cellularity=torch.where(seen.core, 0.77, math.nan))
    scene = scene_of(maps, [visits[0], seen])
    jitter = jitter_fields(scene, QUICK)
    draw = draws_of(calibration)[3]
    shift = calibration.posterior.coordinates.shift(1)
    start = Starts(scene, jitter).density(3, draw.position, shift)
    core, edge = (float(draw.position[shift + n]) + jitter[1] for n in (0, 1))
    if kind == "coreless":
        core = float(draw.position[shift])  # says how dense the tumour is inside, which no jitter changes
    full = scene.density(0, starting_width(draw.position), core, edge)
    assert float((start - full).abs().max()) < 1e-5
    assert not bool(start[~scene.operator.domain].any())
    assert (kind == "cellularity") == bool((start == 0.77).any())
    width, distances = scene.front_width_mm(0.3), scene.distances[0]
    alone = mask_density(distances, width, QUICK, core, edge)
    torch.testing.assert_close(alone, density_from_masks(distances, width, QUICK, core, edge).density)


def test_intervals_are_made_of_the_draws(maps, visits, calibration):
    plain = Conformal(1.0, 1.0, "test")
    (horizon,) = forecast(calibration, maps, visits, [60.0], conformal=plain).horizons
    assert horizon.volume_draws.shape == (2, QUICK.samples)
    for draws, volume in zip(
        horizon.volume_draws, (horizon.volume_core_mm3, horizon.volume_whole_mm3), strict=True
    ):
        assert (volume.interval95[0], volume.estimate, volume.interval95[1]) == pytest.approx(
            tuple(quantiles(draws))
        )
        assert np.unique(draws).size > QUICK.samples / 2


def test_a_conformal_factor_stretches_about_the_median(maps, visits, calibration):
    narrow = whole(forecast(calibration, maps, visits, [60.0], conformal=Conformal(1.0, 1.0, "test")))
    predicted = forecast(calibration, maps, visits, [60.0], conformal=Conformal(1.0, 2.0, "a test"))
    wide = whole(predicted)
    assert wide.estimate == narrow.estimate
    for edge in (0, 1):
        ratios = [math.log(v.interval95[edge] / v.estimate) for v in (wide, narrow)]
        assert ratios[0] == pytest.approx(2 * ratios[1])
    assert "2.00" in predicted.conformal.sentence and "a test" in predicted.conformal.sentence


def test_no_volume_stays_no_volume_when_stretched():
    band = np.array([[0.0, 0.0], [0.0, 4.0], [3.0, 8.0]])
    np.testing.assert_allclose(stretched(band, 2.0), [[0.0, 0.0], [0.0, 4.0], [3.0, 16.0]])


@pytest.mark.parametrize(
    "written",
    [
        {"whole": {"factor": 0.9}, "core": {"factor": 1.0}, "provenance": "x"},
        {"whole": {"factor": math.nan}, "core": {"factor": 1.0}, "provenance": "x"},
        {"whole": {"factor": 1.0}, "core": {"factor": 1.0}, "provenance": " "},
        {"whole": {"factor": 1.0}, "core": {"factor": 1.0}},
        {"whole": 1.0, "core": {"factor": 1.0}, "provenance": "x"},
    ],
)
def test_conformal_factors_are_checked(written):
    with pytest.raises(TwinError) as caught:
        Conformal.parse(json.loads(json.dumps(written)))
    assert caught.value.code == "bad_conformal"


def test_the_shipped_factors_can_be_read():
    assert shipped().core >= 1.0 and shipped().whole >= 1.0 and shipped().provenance


def test_planned_radiotherapy_acts_from_the_last_visit_on(maps, visits, calibration):
    untreated = forecast(calibration, maps, visits, [20.0, 60.0])
    days = [130.0 + n for n in range(20)]
    plan = Radiotherapy(days, [3.0] * 20)
    treated = forecast(calibration, maps, visits, [20.0, 60.0], therapies=[plan])
    assert whole(treated).estimate == pytest.approx(whole(untreated).estimate, rel=1e-3)
    assert whole(treated, 1).estimate < 0.8 * whole(untreated, 1).estimate
    assert any("radiosensitivity" in warning for warning in treated.warnings)
    assert not any("sensitivity" in warning for warning in untreated.warnings)
    kept = forecast(replace(calibration, therapies=(plan,)), maps, visits, [20.0, 60.0])
    assert whole(kept, 1) == whole(treated, 1)


@pytest.mark.parametrize(
    ("therapy", "guessed"),
    [
        (Radiotherapy([-30.0, -29.0], [2.0, 2.0]), ()),
        (Radiotherapy([200.0], [2.0]), ()),
        (Chemotherapy([-10.0], [75.0]), ()),
        (Chemotherapy([89.9], [75.0]), ("chemosensitivity",)),
        (Radiotherapy([100.0], [2.0]), ("radiosensitivity",)),
    ],
    ids=["before the visits", "after the last horizon", "drug long gone", "drug still there", "planned"],
)
def test_only_treatment_that_acts_in_the_forecast_is_said_to_follow_its_prior(
    therapy, guessed, visits, calibration
):
    assert unobserved(calibration, [therapy], visits, 60.0) == guessed


def test_what_is_left_of_a_drug_acts_after_the_last_visit(maps, visits, calibration):
    slow = Chemotherapy([80.0], [75.0 * 20], decay_rate=0.05)
    gone = Chemotherapy([80.0], [75.0 * 20], decay_rate=50.0)
    left = forecast(calibration, maps, visits, [60.0], therapies=[slow])
    nothing = forecast(calibration, maps, visits, [60.0], therapies=[gone])
    untreated = forecast(calibration, maps, visits, [60.0])
    assert whole(left).estimate < 0.9 * whole(untreated).estimate
    assert whole(nothing).estimate == pytest.approx(whole(untreated).estimate, rel=1e-3)


def test_threads_hand_back_in_order():
    assert list(in_order(lambda n: n * n, range(50), 3)) == [n * n for n in range(50)]


def test_arms_are_compared_draw_by_draw(maps, visits, calibration):
    arms = {
        "none": [],
        "again none": [],
        "radiotherapy": [Radiotherapy([100.0], [2.0])],
        "more": [Radiotherapy([100.0, 101.0], [2.0, 2.0])],
    }
    found = compare_treatments(calibration, maps, visits, [60.0, 30.0], arms)
    assert found.horizons_days == (30.0, 60.0)
    none, again, some, more = found.arms
    for same in (none, again):
        assert all(less.interval95 == (0.0, 0.0) for less in (*same.core_less_mm3, *same.whole_less_mm3))
    assert again.whole_mm3 == none.whole_mm3
    low, high = some.whole_less_mm3[1].interval95
    assert 0 < low < some.whole_less_mm3[1].estimate < high
    assert high - low < np.diff(none.whole_mm3[1].interval95)[0], "what the arms share must cancel"
    assert more.whole_less_mm3[1].estimate > 1.5 * some.whole_less_mm3[1].estimate
    assert not none.unobserved and some.unobserved == ("radiosensitivity",)
    assert len(found.warnings) == 2 and "radiotherapy" in found.warnings[0]
    alone = whole(forecast(calibration, maps, visits, [30.0, 60.0], therapies=[]), 1)
    # the forecast's steps also end on the days of its curve
    assert none.whole_mm3[1].estimate == pytest.approx(alone.estimate, rel=1e-3)
    assert none.whole_mm3[1].interval95 == pytest.approx(alone.interval95, rel=1e-3)


def test_the_band_before_the_last_visit_leaves_out_the_outermost_draws(visits):
    """Of 16 draws, 95 % are all of them: the band was their minimum and maximum."""
    grown = []

    class Past:
        draws, scene = range(64), SimpleNamespace(spacing_mm=(1.0, 1.0, 1.0))

        def grow(self, number, days):
            grown.append(number)
            return SimpleNamespace(counts=np.full((2, len(days)), float(number)))

    past = Past()
    past.visits = visits
    _, band = _past_bands(past)
    assert band.shape[:2] == (2, 3)
    for low, high in zip(band[:, 0].ravel(), band[:, 2].ravel(), strict=True):
        assert sum(n < low for n in grown) >= 1 and sum(n > high for n in grown) >= 1
        assert 0.9 < sum(low <= n <= high for n in grown) / len(grown) < 0.96


def test_arms_of_a_refused_model_hold_no_change_and_the_trend_as_its_forecast_does(maps, visits, calibration):
    refused = replace(calibration, acceptable=False)
    found = compare_treatments(refused, maps, visits, [60.0], {"a": [], "b": [Radiotherapy([100.0], [2.0])]})
    now = float(visits[-1].whole.sum()) * SPACING**3
    trend = now * (now / (float(visits[0].whole.sum()) * SPACING**3)) ** (60.0 / 90.0)
    for arm in found.arms:
        low, high = arm.whole_mm3[0].interval95
        assert low <= now and high >= trend * (1 - 1e-9)
    alone = forecast(refused, maps, visits, [60.0], therapies=[]).horizons[0].volume_whole_mm3
    assert found.arms[0].whole_mm3[0].interval95 == pytest.approx(alone.interval95, rel=1e-3)


def test_one_arm_is_no_comparison(maps, visits, calibration):
    with pytest.raises(TwinError, match="two arms"):
        compare_treatments(calibration, maps, visits, [30.0], {"only": []})


def test_a_sampled_posterior_is_used_as_it_is(calibration):
    posterior = calibration.posterior
    drawn = posterior.mean + np.arange(5.0)[:, None] * 0.01
    sampled = replace(calibration, posterior=replace(posterior, draws=drawn))
    positions = np.stack([draw.position for draw in draws_of(sampled)])
    np.testing.assert_array_equal(positions, drawn[np.arange(QUICK.samples) % 5])
    gaussian = draws_of(replace(calibration, posterior=replace(posterior, draws=None)))
    spread = np.std([draw.position[0] for draw in gaussian])
    assert spread == pytest.approx(math.sqrt(posterior.covariance[0, 0]), rel=0.4)


def test_a_forecast_starts_from_the_front_that_radiotherapy_left(maps, visits, calibration):
    """Truth of the same model: growth, radiotherapy, masks; the start must be nearer to it than a steady wave is."""
    therapy = Radiotherapy([60.0 + n for n in range(12)], [2.0] * 12)
    settings = replace(QUICK, samples=8)
    tissue = Tissue.prepare(maps, visits, settings)
    before = Scene.build(tissue, visits, 40.0, settings, therapies=[therapy])
    parameters = {
        name: torch.tensor([value])
        for name, value in zip(before.model.parameters, (0.2, 0.04, 0.06), strict=True)
    }
    first = before.density(0, math.log(math.sqrt(0.2 / 0.04)))
    (state,) = trajectory(before.model, parameters, first[None, None], [90.0])
    truth = torch.zeros(maps.shape)
    truth[before.box.slices] = state[0, 0].float()
    seen = [visits[0], TumourObservation(90.0, truth > CORE, truth > WHOLE)]
    coordinates = Coordinates(("radiosensitivity",), 2)
    mean = np.zeros(coordinates.size)
    mean[:2] = math.log(2 * math.sqrt(0.2 * 0.04)), math.log(math.sqrt(0.2 / 0.04))
    mean[3] = math.log(0.06)
    posterior = Posterior(mean, 1e-8 * np.eye(mean.size), coordinates)
    known = replace(calibration, posterior=posterior, therapies=(therapy,), settings=settings)
    future = Future.prepare(known, maps, seen, draws_of(known), 30.0)
    true = truth[future.scene.box.slices]
    tumour = seen[1].whole[future.scene.box.slices]
    errors = [
        float((future.starts.density(0, mean, future.shift, front) - true)[tumour].abs().mean())
        for front in (future.past.front(0), None)
    ]
    assert errors[0] < 0.06 and errors[0] < 0.5 * errors[1], errors
    untreated = replace(known, therapies=())
    assert Future.prepare(untreated, maps, seen, draws_of(known), 30.0).past.front(0) is None


def test_draws_from_a_measured_density_carry_its_noise(maps, visits, calibration):
    generator = torch.Generator().manual_seed(1)
    last = visits[-1]
    noisy = (0.5 + 0.1 * torch.randn(last.core.shape, generator=generator)).clamp(0.0, 1.0)
    seen = [visits[0], replace(last, cellularity=torch.where(last.whole, noisy, math.nan))]
    draws, shift = draws_of(calibration), calibration.posterior.coordinates.shift(1)
    future = Future.prepare(calibration, maps, seen, draws, 10.0)
    drawn = future.starts.density(0, draws[0].position, shift)
    as_measured = Starts(future.scene, jitter_fields(future.scene, QUICK)).density(
        0, draws[0].position, shift
    )
    measured = torch.isfinite(future.scene.cellularity[0]) & future.scene.operator.domain
    assert float((drawn - as_measured)[measured].std()) == pytest.approx(0.1, rel=0.25)
    assert torch.equal(drawn[~measured], as_measured[~measured])
    assert grain_fields(scene_of(maps, visits), QUICK) == []
