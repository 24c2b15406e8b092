"""The scoring finds what is wrong and passes what is right, on forecasts whose worth is known."""

import math

import numpy as np
import pytest

from benchmarks.validation import summary
from benchmarks.validation.statistics import (
    Proportion,
    conformal_factor,
    probability_transform,
    rank_test,
    stretch_needed,
)
from twin.conformal import Conformal


def test_wilson_interval_of_known_counts():
    # Wilson's interval of 190 out of 200, from its formula by hand
    low, high = Proportion(190, 200).interval
    assert (low, high) == pytest.approx((0.9104, 0.9726), abs=2e-4)
    assert Proportion(0, 0).interval == (0.0, 1.0)
    assert Proportion(10, 10).interval == pytest.approx((0.7225, 1.0), abs=2e-4)


def test_ranks_of_exact_draws_stay_in_the_band_as_often_as_promised():
    generator = np.random.default_rng(1)
    inside = [rank_test(list(generator.random(200))).inside for _ in range(400)]
    assert 0.92 < np.mean(inside) < 0.98


@pytest.mark.parametrize("sd", [0.4, 2.0])
def test_ranks_of_a_wrong_width_leave_the_band(sd):
    generator = np.random.default_rng(2)
    ranks = [
        probability_transform(sd * generator.standard_normal(99), generator.standard_normal())
        for _ in range(200)
    ]
    assert not rank_test(ranks).inside


def test_ranks_of_a_bias_leave_the_band():
    ranks = np.random.default_rng(3).random(200) ** 1.5
    assert not rank_test(list(ranks)).inside


def test_rank_counts_draws_below_and_half_of_the_equal_ones():
    assert probability_transform([1.0, 2.0, 3.0], 2.5) == pytest.approx(2.5 / 4)
    assert probability_transform([0.0, 0.0, 0.0], 0.0) == pytest.approx(0.5)


def test_stretch_that_an_interval_needs():
    assert stretch_needed((1.0, 4.0), 2.0, 8.0) == pytest.approx(2.0)
    assert stretch_needed((1.0, 4.0), 2.0, 0.5) == pytest.approx(2.0)
    assert stretch_needed((1.0, 4.0), 2.0, 2.0) == 0.0
    assert stretch_needed((0.0, 4.0), 2.0, 0.0) == 0.0
    assert stretch_needed((1.0, 4.0), 2.0, 0.0) == math.inf
    assert stretch_needed((0.0, 4.0), 0.0, 3.0) == 0.0


def test_conformal_factor_is_the_right_order_statistic():
    assert conformal_factor(range(1, 20)) == 19
    assert conformal_factor(range(18)) == math.inf


def rows(spread: float, claimed: float, count: int, seed: int = 0) -> list[dict]:
    """Forecasts whose median is off by a log-normal error of ``spread`` and whose interval claims ``claimed``."""
    generator = np.random.default_rng(seed)
    made = []
    for patient in range(count):
        median, seen = 2e4, 2e4 * math.exp(spread * generator.standard_normal())
        bounds = [median * math.exp(sign * 1.96 * claimed) for sign in (-1, 1)]
        volume = {
            "true": seen,
            "seen": seen,
            "estimate": median,
            "interval": bounds,
            "raw": [bounds[0], median, bounds[1]],
            "rank": 0.5 * math.erfc(-math.log(seen / median) / claimed / math.sqrt(2)),
            "persistence": 1.2e4,
            "exponential": 6e4,
            "dice": 0.9,
            "distance_mm": 1.0,
        }
        made.append(
            {
                "patient": patient,
                "refused": "",
                "acceptable": True,
                "parameters": {},
                "horizons": {"90": {"core": volume, "whole": volume}},
                "medians": {"90": median},
            }
        )
    return made


def test_an_honest_forecast_is_on_target_and_an_overconfident_one_is_not():
    none = Conformal(1.0, 1.0, "none")
    honest = summary.scored(rows(0.2, 0.2, 200), 90.0, none)
    assert honest["whole"]["judgement"] == "on target"
    # a covariance ten times too small
    proud = summary.scored(rows(0.2, 0.2 / math.sqrt(10), 200), 90.0, none)
    assert proud["whole"]["judgement"] == "too narrow"
    tests = summary.rank_tests(rows(0.2, 0.2 / math.sqrt(10), 200), 90.0)
    assert not tests["whole volume"][1].inside
    timid = summary.scored(rows(0.2, 1.0, 200), 90.0, none)
    assert timid["whole"]["judgement"] == "too wide"
    assert honest["whole"]["beats_persistence"] > 0.8 and honest["whole"]["error"] < 0.2


def test_who_leaves_a_horizon_is_not_chosen_by_the_truth():
    """A truth that ends once it is large leaves the small ones: honest forecasts must not look too large for that."""
    some = rows(0.4, 0.4, 400)
    for number, row in enumerate(some):
        row["medians"]["90"] = 1e5 if number % 2 else 3e5
        if row["horizons"]["90"]["whole"]["seen"] > 3e4:
            row["horizons"] = {}
    (entry,) = summary.by_horizon(some, [90.0], Conformal(1.0, 1.0, "none"))
    lost = sum(not row["horizons"] for row in some[1::2])
    assert lost > 10
    assert entry["ended"] == lost and entry["whole"]["patients"] == 200 - lost


def test_ranks_leave_out_whom_the_model_was_refused_for():
    some = rows(0.2, 0.2, 200)
    for row in some[:40]:
        row["acceptable"], row["horizons"]["90"]["whole"]["rank"] = False, 0.01
    ranks, test = summary.rank_tests(some, 90.0)["whole volume"]
    assert len(ranks) == 160 and test.inside


def test_the_learned_factor_repairs_held_out_patients():
    learned = summary.learn({"one": rows(0.3, 0.1, 400), "two": rows(0.3, 0.1, 400, seed=5)}, 90.0, "whole")
    assert learned.factor == pytest.approx(3.0, rel=0.15)
    assert learned.before.value < 0.6
    assert 0.91 < learned.after.value < 0.98


def test_a_factor_is_never_below_one_and_few_patients_give_none():
    assert summary.learn({"one": rows(0.1, 0.3, 200)}, 90.0, "core").factor == 1.0
    assert summary.learn({"one": rows(0.1, 0.3, 10)}, 90.0, "core").factor == math.inf


def test_refusals_are_counted_apart():
    some = rows(0.2, 0.2, 4)
    some[0]["acceptable"] = False
    some[1] |= {"refused": "tumour_gone", "acceptable": False, "horizons": {}}
    score = summary.scored(some, 90.0, Conformal(1.0, 1.0, "none"))
    assert score["outcome"] == {"not explained": 1, "tumour_gone": 1, "accepted": 2}
    assert score["whole"]["accepted"]["of"] == 2 and score["whole"]["all"]["of"] == 3
