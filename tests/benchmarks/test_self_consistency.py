"""The strict test of the inference draws what it says it draws."""

import numpy as np
import pytest

from benchmarks.validation import restart
from benchmarks.validation.self_consistency import PRIORS, draw, one, rank_tests, settings_for
from benchmarks.validation.trial import tissue_maps
from twin.coordinates import LOG_TAIL, LOG_VELOCITY, LOG_WIDTH

SEED = 5


def test_a_patient_is_drawn_from_prior_and_masks_and_repeats():
    tissue, settings = tissue_maps(True, 2.0), settings_for(0)
    drawn, again = draw(3, SEED, tissue, settings), draw(3, SEED, tissue, settings)
    assert np.array_equal(drawn.position, again.position)
    first, later = drawn.visits
    assert bool((later.whole == again.visits[1].whole).all())
    assert bool((first.core <= first.whole).all()) and bool((later.core <= later.whole).all())
    assert not bool((later.whole & ~tissue.domain).any())
    # it grew, as every drawn velocity makes it
    assert int(later.whole.sum()) > int(first.whole.sum())


def test_coordinates_have_the_priors_spread():
    tissue, settings = tissue_maps(True, 4.0), settings_for(0)
    drawn = np.array([draw(number, SEED, tissue, settings).position[:3] for number in range(40)])
    log_d, log_rho = PRIORS.diffusivity, PRIORS.proliferation
    expected = np.zeros(3)
    expected[LOG_WIDTH] = (log_d.mean_log - log_rho.mean_log) / 2
    expected[LOG_VELOCITY] = np.log(2.0) + (log_d.mean_log + log_rho.mean_log) / 2
    spread = np.array([0.32, 0.32, 0.3])
    assert np.abs(drawn.mean(axis=0) - expected).max() < 3 * spread.max() / np.sqrt(40)
    assert drawn[:, LOG_TAIL].std() == pytest.approx(0.3, rel=0.4)


def test_a_row_holds_ranks_and_a_wrong_posterior_would_show():
    row = one(1, SEED, settings_for(0))
    assert all(0.0 < rank < 1.0 for rank in row["ranks"].values())

    def ranked(ranks, acceptable=True):
        return [{"acceptable": acceptable, "ranks": dict.fromkeys(row["ranks"], rank)} for rank in ranks]

    honest = ranked([(n + 0.5) / 60 for n in range(60)])
    narrow = ranked([0.01 if n % 2 else 0.99 for n in range(60)])
    refused = ranked([0.01] * 30, acceptable=False)
    assert all(test.inside for _, test in rank_tests(honest + refused).values())
    assert not any(test.inside for _, test in rank_tests(narrow).values())


def test_a_restart_with_a_wider_tail_runs_ahead(capsys):
    tissue, settings = tissue_maps(True, 2.0), settings_for(0)
    drawn = draw(2, SEED, tissue, settings)
    assert int((drawn.densities[0] > settings.whole_threshold).sum()) < int(
        (drawn.densities[1] > settings.whole_threshold).sum()
    )
    kept, steady = (restart.lost(drawn, tissue, settings, tail=tail) for tail in (True, False))
    assert np.abs(kept[1]) < 0.5 and np.abs(steady[1]) < 0.5
    # a wider tail runs ahead
    assert np.sign(kept[1] - steady[1]) == np.sign(drawn.position[LOG_TAIL])
    restart.main(["--patients", "2", "--seed", str(SEED)])
    assert "restart with the steady wave" in capsys.readouterr().out
