"""Calibration and forecast on virtual patients that another grid and other steps have grown."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.twin.heads import CORE, WHOLE, grow, head, noisy_visit, resample
from twin import (
    CalibrationSettings,
    LogNormal,
    Priors,
    TissueMaps,
    TumourObservation,
    TwinError,
    calibrate,
    forecast,
)

SPACING = 3.0
QUICK = CalibrationSettings(samples=32, initial_ensemble=4)
TRUTH = {"diffusivity": 0.2, "proliferation": 0.04}


@pytest.fixture(scope="module")
def maps() -> TissueMaps:
    return head(SPACING)[0]


@pytest.fixture(scope="module")
def densities():
    """One patient on days 0, 60, 90 and 150, grown at 2 mm and seen at 3 mm."""
    grown = grow(TRUTH["diffusivity"], TRUTH["proliferation"], [0.0, 60.0, 90.0, 150.0])
    return dict(zip((0.0, 60.0, 90.0, 150.0), (resample(u, SPACING) for u in grown), strict=True))


def visit(day, density):
    return TumourObservation(day, density > CORE, density > WHOLE)


@pytest.fixture(scope="module")
def calibrated(maps, densities):
    visits = [visit(day, densities[day]) for day in (0.0, 90.0)]
    return visits, calibrate(maps, visits, settings=QUICK)


def estimates(calibration):
    return {p.name: p for p in calibration.parameters}


def test_parameters_are_recovered_within_their_intervals(calibrated):
    _, calibration = calibrated
    assert calibration.acceptable, calibration.verdict
    found = estimates(calibration)
    for name, true in TRUTH.items():
        assert found[name].interval95[0] < true < found[name].interval95[1]
    velocity = found["front_velocity"]
    assert velocity.identified and velocity.contraction < 0.5
    assert velocity.interval95[0] < 2 * math.sqrt(0.2 * 0.04) < velocity.interval95[1]
    assert 1 < calibration.effective_samples < 2000
    assert calibration.fit[1].dice_whole > 0.9
    assert calibration.skill is None


def test_forecast_holds_the_truth_and_keeps_its_promises(maps, densities, calibrated):
    visits, calibration = calibrated
    told = []
    predicted = forecast(calibration, maps, visits, [60.0], lambda phase, done: told.append((phase, done)))
    (horizon,) = predicted.horizons
    voxel = SPACING**3
    for volume, threshold in ((horizon.volume_core_mm3, CORE), (horizon.volume_whole_mm3, WHOLE)):
        true = float((densities[150.0] > threshold).sum()) * voxel
        assert volume.interval95[0] < true < volume.interval95[1]
        assert abs(volume.estimate / true - 1) < 0.2
    assert horizon.day == 150.0
    assert bool((horizon.probability_core <= horizon.probability_whole).all())
    assert 0 <= float(horizon.density_mean.min()) and float(horizon.density_mean.max()) <= 1
    tissue = maps.domain | visits[0].whole | visits[1].whole
    assert not bool(horizon.density_mean[~tissue].any())
    curve = predicted.curve
    assert bool((np.diff(curve.days) > 0).all()) and curve.days[0] == 0.0 and curve.days[-1] == 150.0
    assert bool(
        (curve.whole_lower <= curve.whole_median).all() and (curve.whole_median <= curve.whole_upper).all()
    )
    at_last = float(curve.whole_median[list(curve.days).index(90.0)])
    assert at_last == pytest.approx(float(visits[-1].whole.sum()) * voxel, rel=0.1)
    assert told[-1] == ("forecast", 1.0)


def test_results_repeat_and_inputs_are_left_alone(maps, calibrated):
    visits, calibration = calibrated
    copies = [v.whole.clone() for v in visits]
    few = replace(calibration, settings=replace(QUICK, samples=8))
    first, second = (forecast(few, maps, visits, [20.0]).horizons[0] for _ in range(2))
    assert first.volume_whole_mm3 == second.volume_whole_mm3
    assert torch.equal(first.density_mean, second.density_mean)
    assert all(torch.equal(a, v.whole) for a, v in zip(copies, visits, strict=True))


def test_gompertz_growth_is_recovered_and_forecast(maps):
    """Its fronts are wider than the logistic wave that masks are laid on: wide intervals that hold the truth."""
    true = {"diffusivity": 0.05, "proliferation": 0.1, "front_velocity": 2 * math.sqrt(0.05 * 0.1)}
    grown = grow(0.05, 0.1, [0.0, 60.0, 120.0], volume_ml=25.0, law="gompertz")
    *seen, later = (resample(u, SPACING) for u in grown)
    visits = [visit(day, u) for day, u in zip((0.0, 60.0), seen, strict=True)]
    calibration = calibrate(maps, visits, settings=replace(QUICK, growth_law="gompertz", refine=False))
    assert calibration.acceptable, calibration.verdict
    found = estimates(calibration)
    for name, value in true.items():
        assert found[name].interval95[0] < value < found[name].interval95[1]
    horizon = forecast(calibration, maps, visits, [60.0]).horizons[0]
    for volume, threshold in ((horizon.volume_core_mm3, CORE), (horizon.volume_whole_mm3, WHOLE)):
        assert volume.interval95[0] < float((later > threshold).sum()) * SPACING**3 < volume.interval95[1]
    whole = float((later > WHOLE).sum()) * SPACING**3
    assert horizon.volume_whole_mm3.estimate == pytest.approx(whole, rel=0.25)


def test_one_visit_identifies_nothing(maps, densities):
    visits = [visit(0.0, densities[0.0])]
    priors = Priors(LogNormal(0.2, 0.5), LogNormal(0.02, 0.4))
    calibration = calibrate(maps, visits, priors, QUICK)
    for parameter in calibration.parameters:
        assert not parameter.identified and parameter.contraction == pytest.approx(1.0)
        assert parameter.interval95 == pytest.approx(parameter.prior.interval95)
    predicted = forecast(replace(calibration, settings=replace(QUICK, samples=16)), maps, visits, [60.0])
    low, high = predicted.horizons[0].volume_whole_mm3.interval95
    assert high > 1.3 * low
    assert "priors" in predicted.warnings[0]


def test_a_shrinking_tumour_is_not_explained(maps, densities):
    visits = [visit(0.0, densities[90.0]), visit(90.0, densities[0.0])]
    calibration = calibrate(maps, visits, settings=QUICK)
    assert not calibration.acceptable and "shrank" in calibration.verdict
    assert not any(parameter.identified for parameter in calibration.parameters)
    predicted = forecast(replace(calibration, settings=replace(QUICK, samples=16)), maps, visits, [60.0])
    low, high = predicted.horizons[0].volume_whole_mm3.interval95
    now = float(visits[1].whole.sum()) * SPACING**3
    assert low < 0.8 * now and high > 1.1 * now
    assert any("does not explain" in warning for warning in predicted.warnings)


def test_a_tumour_without_core_and_one_without_oedema(maps, densities):
    bare = [replace(visit(d, densities[d]), core=torch.zeros_like(maps.domain)) for d in (0.0, 60.0)]
    calibration = calibrate(maps, bare, settings=QUICK)
    assert any("No tumour core" in warning for warning in calibration.warnings)
    solid = [replace(visit(d, densities[d]), core=densities[d] > WHOLE) for d in (0.0, 60.0)]
    calibration = calibrate(maps, solid, settings=QUICK)
    assert calibration.fit[0].observed_core_mm3 == calibration.fit[0].observed_whole_mm3
    assert all(math.isfinite(parameter.estimate) for parameter in calibration.parameters)


def test_three_visits_are_checked_against_persistence(maps, densities):
    visits = [visit(d, densities[d]) for d in (0.0, 60.0, 150.0)]
    calibration = calibrate(maps, visits, settings=QUICK)
    assert calibration.skill is not None and calibration.skill.day == 150.0
    assert calibration.skill.beats_persistence
    whole = calibration.skill.whole
    volumes = [float(v.whole.sum()) * SPACING**3 for v in visits]
    assert whole.observed_mm3 == volumes[2] and whole.unchanged_mm3 == volumes[1]
    assert whole.exponential_mm3 == pytest.approx(volumes[1] * (volumes[1] / volumes[0]) ** (90 / 60))
    assert whole.error_mm3 == abs(whole.forecast_mm3.estimate - volumes[2])
    assert calibration.skill.beats_exponential == (whole.error_mm3 < whole.exponential_error_mm3)


@pytest.mark.parametrize(
    "code", ["no_tumour", "zero_interval", "tumour_gone", "visit_order", "no_visit", "bad_visit"]
)
def test_visits_that_cannot_be_used_are_refused(code, maps, densities):
    seen, empty = visit(0.0, densities[0.0]), torch.zeros_like(maps.domain)
    small = torch.ones(3, 3, 3, dtype=torch.bool)
    visits = {
        "no_tumour": [TumourObservation(0.0, empty, empty)],
        "zero_interval": [seen, seen],
        "tumour_gone": [seen, TumourObservation(50.0, empty, empty)],
        "visit_order": [replace(seen, day=10.0), seen],
        "no_visit": [],
        "bad_visit": [TumourObservation(0.0, small, small)],
    }[code]
    with pytest.raises(TwinError) as caught:
        calibrate(maps, visits)
    assert caught.value.code == code and str(caught.value).endswith(".")


@pytest.mark.parametrize("horizons", [[], [0.0], [-30.0], [math.nan]])
def test_horizons_must_be_positive(horizons, maps, calibrated):
    visits, calibration = calibrated
    with pytest.raises(TwinError):
        forecast(calibration, maps, visits, horizons)


def test_priors_are_medians_and_physical():
    assert LogNormal.parse(("lognormal", 0.1, 0.5)) == LogNormal(0.1, 0.5)
    for bad in (("normal", 0.1, 0.5), ("lognormal", -1, 0.5), ("lognormal", 0.1), "lognormal"):
        with pytest.raises(TwinError):
            LogNormal.parse(bad)
    with pytest.raises(TwinError, match="proliferation"):
        Priors(LogNormal(0.1, 0.5), LogNormal(math.exp(0.05), 0.3))
    with pytest.raises(TwinError, match="diffusivity"):
        Priors(LogNormal(6.0, 0.5), LogNormal(0.03, 0.3))


def coverage(patients: int, spacing: float) -> tuple[int, int]:
    """Virtual patients with parameters from the prior and noisy masks: (intervals that hold the truth, all)."""
    generator = np.random.default_rng(7)
    maps, held, total = head(spacing)[0], 0, 0
    while total < 2 * patients:
        d = 0.1 * math.exp(0.6 * generator.standard_normal())
        rho = 0.03 * math.exp(0.4 * generator.standard_normal())
        grown = [resample(u, spacing) for u in grow(d, rho, [0.0, 70.0, 130.0], spacing=3.0)]
        visits = [noisy_visit(t, u, spacing, generator) for t, u in zip((0.0, 70.0), grown, strict=False)]
        calibration = calibrate(maps, visits, settings=QUICK)
        horizon = forecast(calibration, maps, visits, [60.0]).horizons[0]
        later = noisy_visit(130.0, grown[2], spacing, generator)
        for volume, mask in ((horizon.volume_core_mm3, later.core), (horizon.volume_whole_mm3, later.whole)):
            held += volume.interval95[0] <= float(mask.sum()) * spacing**3 <= volume.interval95[1]
            total += 1
    return held, total


@pytest.mark.slow
def test_forecast_intervals_cover_virtual_patients():
    held, total = coverage(6, 4.0)
    assert held / total >= 0.8


@pytest.mark.slow
def test_forecast_intervals_cover_a_cohort():
    held, total = coverage(100, 3.0)
    assert held / total >= 0.88
