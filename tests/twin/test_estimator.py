"""The estimator: one call, parameters with intervals."""

import math
from dataclasses import FrozenInstanceError, replace

import pytest

from tests.twin.heads import CORE, WHOLE, grow, head, resample
from twin import (
    CalibrationSettings,
    LogNormal,
    ParameterEstimator,
    Priors,
    TumourObservation,
    TwinError,
    calibrate,
)

SPACING = 3.0
QUICK = CalibrationSettings(importance_samples=64)
SHORT = CalibrationSettings(importance_samples=0, refine=False, max_iterations=2)
PRIORS = {"diffusivity": ("lognormal", 0.15, 0.8), "proliferation": ("lognormal", 0.03, 0.5)}


@pytest.fixture(scope="module")
def patient():
    densities = [resample(u, SPACING) for u in grow(0.2, 0.04, [0.0, 90.0])]
    days = (0.0, 90.0)
    return head(SPACING)[0], *(
        TumourObservation(d, u > CORE, u > WHOLE) for d, u in zip(days, densities, strict=True)
    )


@pytest.fixture(scope="module")
def estimated(patient):
    return ParameterEstimator("reaction_diffusion", "bayesian", QUICK).estimate(*patient, 90.0, PRIORS)


def test_parameters_come_with_intervals_that_hold_the_truth(estimated):
    truth = {"diffusivity": 0.2, "proliferation": 0.04, "front_velocity": 2 * math.sqrt(0.2 * 0.04)}
    assert set(estimated.parameters) == set(truth)
    for name, true in truth.items():
        found = estimated.parameters[name]
        assert found.interval95[0] < true < found.interval95[1]
        assert found.interval95[0] < found.estimate < found.interval95[1]
    assert estimated.parameters["front_velocity"].identified
    assert estimated.parameters["front_velocity"].contraction < 0.5
    assert estimated.acceptable and "explains" in estimated.verdict
    assert math.isfinite(estimated.khat) and estimated.effective_samples > 1
    with pytest.raises(FrozenInstanceError):
        estimated.khat = 0.0


def test_it_is_the_calibration_and_nothing_else(patient):
    maps, *visits = patient
    estimated = ParameterEstimator(settings=SHORT).estimate(*patient, 90.0, PRIORS)
    direct = calibrate(maps, visits, Priors(LogNormal(0.15, 0.8), LogNormal(0.03, 0.5)), SHORT)
    assert tuple(estimated.parameters.values()) == direct.parameters
    assert estimated.calibration.priors == direct.priors
    assert estimated.effective_samples == direct.effective_samples


def test_a_tumour_that_shrank_keeps_its_priors(patient):
    maps, first, later = patient
    swapped = replace(later, day=0.0), replace(first, day=90.0)
    found = ParameterEstimator(settings=QUICK).estimate(maps, *swapped, 90.0)
    assert not found.acceptable and "shrank" in found.verdict and math.isnan(found.khat)
    assert found.parameters["diffusivity"].estimate == pytest.approx(Priors().diffusivity.median)


@pytest.mark.parametrize(
    ("code", "priors"),
    [
        ("unphysical_prior", {"proliferation": ("lognormal", math.exp(0.05), 0.3)}),
        ("unphysical_prior", {"diffusivity": ("lognormal", 30.0, 0.3)}),
        ("bad_prior", {"diffusivity": ("normal", 0.1, 0.3)}),
        ("bad_prior", {"diffusivity": ("lognormal", -0.1, 0.3)}),
        ("bad_prior", {"diffusivity": 0.1}),
        ("unknown_prior", {"difusivity": ("lognormal", 0.1, 0.3)}),
    ],
)
def test_priors_that_cannot_be_are_refused(code, priors, patient):
    with pytest.raises(TwinError) as caught:
        ParameterEstimator().estimate(*patient, 90.0, priors)
    assert caught.value.code == code


@pytest.mark.parametrize("interval", [60.0, -90.0, 0.0, math.nan])
def test_an_interval_that_contradicts_the_visits_is_refused(interval, patient):
    with pytest.raises(TwinError) as caught:
        ParameterEstimator().estimate(*patient, interval)
    assert caught.value.code == "bad_interval"


def test_only_what_exists_can_be_asked_for():
    with pytest.raises(TwinError, match="reaction_diffusion"):
        ParameterEstimator(model_type="lotka_volterra")
    with pytest.raises(TwinError, match="bayesian"):
        ParameterEstimator(optimization="genetic")
