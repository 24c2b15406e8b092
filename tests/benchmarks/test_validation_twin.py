"""The twin on a few virtual patients of several scenarios, and a twin that is too sure of itself."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.validation import cohort_run, report, summary, trial
from benchmarks.validation.cohort import PRIORS, draw
from benchmarks.validation.cohort_run import Plan
from benchmarks.validation.scenarios import SCENARIOS
from twin import CalibrationSettings, TwinError, calibrate, forecast

SEED, PATIENTS, SPACING = 7, 4, 3.0
QUICK = CalibrationSettings(samples=40, initial_ensemble=4, importance_samples=0, check_skill=False)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    """True courses, shared by the tests."""
    return tmp_path_factory.mktemp("pool")


def overconfident(calibration):
    """A calibration with a posterior covariance a hundred times too small."""
    posterior = calibration.posterior
    shrunk = replace(posterior, covariance=posterior.covariance / 100)
    parameters = tuple(
        replace(
            found,
            interval95=tuple(found.estimate * (bound / found.estimate) ** 0.1 for bound in found.interval95),
        )
        for found in calibration.parameters
    )
    return replace(calibration, posterior=shrunk, parameters=parameters)


def rows(name, pool, predict, patients=PATIENTS):
    scenario = SCENARIOS[name]
    made = []
    for number in range(patients):
        patient = draw(number, SEED)
        case = trial.build(scenario, patient, SEED, pool, SPACING)
        made.append(trial.run(scenario, patient, case, predict))
    return made


def parameters_covered(some) -> float:
    shares = [
        summary.parameter_coverage(some, name) for name in ("diffusivity", "proliferation", "front_velocity")
    ]
    return sum(share.count for share in shares) / sum(share.total for share in shares)


def test_intervals_hold_in_the_model_and_shrunk_ones_are_caught(pool):
    calibrations = []

    def honest(case, horizons):
        calibrations.append(calibrate(case.tissue, case.visits, settings=QUICK))
        return calibrations[-1], forecast(
            calibrations[-1], case.tissue, case.visits, horizons, conformal=trial.UNSTRETCHED
        )

    def proud(case, horizons):
        shrunk = overconfident(calibrations.pop(0))
        return shrunk, forecast(shrunk, case.tissue, case.visits, horizons, conformal=trial.UNSTRETCHED)

    first, second = (rows("exact_first", pool, predict) for predict in (honest, proud))
    assert parameters_covered(first) >= 0.75
    assert parameters_covered(second) < parameters_covered(first) - 0.15
    for mask in ("core", "whole"):
        before, after = (summary.volumes(some, 90.0, mask) for some in (first, second))
        assert summary.proportion(v.covered for v in before).value >= 0.5
        assert summary.width(after) < summary.width(before)
        assert all(v.dice is None or 0 <= v.dice <= 1 for v in before)


@pytest.mark.slow
def test_a_mismatch_is_scored_without_parameters_it_does_not_have(pool):
    some = rows("two_species", pool, trial.twin_predictor(QUICK), patients=2)
    assert all(not row["parameters"] for row in some)
    found = summary.volumes(some, 90.0, "whole")
    assert len(found) + sum(bool(row["refused"]) for row in some) == 2
    assert summary.proportion(v.covered for v in found).value >= 0.5


def test_an_error_of_the_twin_is_a_row_of_its_own(pool):
    def refuse(case, horizons):
        raise TwinError("tumour_gone", "There is no tumour.")

    scenario, patient = SCENARIOS["exact_first"], draw(0, SEED)
    row = trial.run(scenario, patient, trial.build(scenario, patient, SEED, pool, SPACING), refuse)
    assert row["refused"] == "tumour_gone" and row["horizons"] == {}


def test_patients_are_drawn_from_the_priors_and_noise_is_shared_by_scenarios(pool):
    logs = np.array(
        [
            [math.log(draw(n, 3).tumour.diffusivity), math.log(draw(n, 3).tumour.proliferation)]
            for n in range(400)
        ]
    )
    laws = PRIORS.diffusivity, PRIORS.proliferation
    assert np.exp(logs.mean(0)) == pytest.approx([law.median for law in laws], rel=0.06)
    assert logs.std(0) == pytest.approx([law.sigma_log for law in laws], rel=0.1)
    patient = draw(1, SEED)
    told, hidden = (
        trial.build(SCENARIOS[name], patient, SEED, pool, SPACING)
        for name in ("noisy_correlated", "hidden_tissue")
    )
    assert all(bool((a.whole == b.whole).all()) for a, b in zip(told.visits, hidden.visits, strict=True))
    assert float(told.tissue.gray_matter.sum()) > 0 and float(hidden.tissue.gray_matter.sum()) == 0


def test_a_treated_patient_comes_with_the_schedule_or_without(pool):
    patient = draw(2, SEED)
    told, untold = (
        trial.build(SCENARIOS[name], patient, SEED, pool, SPACING)
        for name in ("treated_told", "treated_untold")
    )
    assert len(told.visits) == 3 and len(told.therapies) == 2 and untold.therapies == ()
    between = [day for day in told.therapies[0].times if told.visits[1].day < day < told.visits[2].day]
    assert len(between) == 6


def test_a_run_goes_on_from_its_rows_and_writes_its_page(tmp_path, monkeypatch):
    calls = []

    def quick(scenario, patient, case, predict):
        calls.append(patient.number)
        volume = {
            "true": 2e4,
            "seen": 2e4 + patient.number,
            "estimate": 2e4,
            "interval": [1e4, 4e4],
            "raw": [1e4, 2e4, 4e4],
            "rank": (patient.number + 0.5) / 4,
            "persistence": 1.5e4,
            "exponential": 3e4,
            "dice": 0.9,
            "distance_mm": 1.0,
        }
        found = {
            "true": 0.1,
            "interval": [0.05, 0.2],
            "identified": True,
            "rank": (patient.number + 0.5) / 4,
        }
        return {
            "patient": patient.number,
            "refused": "",
            "acceptable": True,
            "seconds": 0.1,
            "parameters": {"diffusivity": found},
            "horizons": {f"{h:g}": {"core": volume, "whole": volume} for h in scenario.horizons},
            "medians": {f"{h:g}": 2e4 for h in scenario.horizons},
        }

    monkeypatch.setattr(trial, "build", lambda *a: None)
    monkeypatch.setattr(trial, "run", quick)
    plan = Plan(("in_model", "noisy_correlated", "two_species"), 4, SEED, 40, 0, tmp_path / "pool")
    cohort_run.run(plan, 1, lambda words: None, lambda: len(calls) == 5)
    assert len(calls) == 5
    cohort_run.run(plan, 1, lambda words: None, lambda: False)
    assert len(calls) == 12
    page = tmp_path / "docs" / "validation.md"
    page.parent.mkdir()
    document = report.write(plan, "the command", tmp_path / "out", page)
    text = page.read_text("utf-8")
    assert "the command" in text and "1.00 [0.51, 1.00]" in text and "$" not in text
    assert len(list((page.parent / "images").glob("*.png"))) == 4
    assert document["scenarios"]["two_species"]["whole"]["all"]["covered"] == 4
    with pytest.raises(ValueError, match="run more patients"):
        report.conformal_document(plan, "the command")
