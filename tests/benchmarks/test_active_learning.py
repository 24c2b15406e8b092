"""The simulation of active learning goes by the server's strategies, learns, and counts drawings as it says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.active_learning import (
    STRATEGIES,
    Protocol,
    Run,
    Site,
    against_random,
    around_tumour,
    dice_of,
    found_by_scores,
    midpoint,
    needed,
    simulate,
    table,
)
from monailabel_app.fine_tuning import DrawnCase, Plan
from segmentation.bundle import load_bundle
from tests.monailabel_app.conftest import small_bundle

__all__ = ["small_bundle"]  # the fixture


def head_with(seed: int, contrast: float) -> DrawnCase:
    """A noisy cube of tumour in an empty image."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.zeros(16, 16, 16, dtype=torch.uint8)
    labels[4:11, 3 + seed % 3 : 11, 4:11] = 3
    images = {
        role: 100 + contrast * labels + 5 * torch.randn(16, 16, 16, generator=generator)
        for role in ("t1ce", "flair")
    }
    return DrawnCase(images, labels)


@pytest.fixture(scope="module")
def outcome(small_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, list[Run]]:
    pool = {name: head_with(n, 80.0) for n, name in enumerate("abcd")}
    scores = {
        "random": {},
        "epistemic": {"a": 0.1, "b": 0.2, "c": 0.9, "d": 0.5},
        "twin": {"b": 3.0, "d": 1.0},
    }
    site = Site(pool, [head_with(9, 80.0)], scores, [])
    protocol = Protocol(offered=4, counts=(1, 2), repetitions=2, plan=Plan("all layers", 4, 1e-2, patch=16))
    return site, simulate(site, small_bundle, protocol, tmp_path_factory.mktemp("opened"))


@pytest.mark.slow
def test_cases_are_drawn_in_the_order_of_the_servers_strategies(outcome: tuple[Site, list[Run]]) -> None:
    _, runs = outcome
    assert [(run.strategy, run.repetition) for run in runs] == [(s, r) for r in range(2) for s in STRATEGIES]
    orders = {run.strategy: run.order for run in runs}
    assert orders["epistemic"] == ("c", "d") and orders["twin"] == ("b", "d")
    assert len({run.order for run in runs if run.strategy == "random"}) == 2, "by chance"


@pytest.mark.slow
def test_a_score_that_orders_cases_by_their_error_correlates_fully(
    outcome: tuple[Site, list[Run]], small_bundle: Path
) -> None:
    site, _ = outcome
    description, shipped = load_bundle(small_bundle)
    # The shipped network finds nothing: a case without tumour is right, every other wrong.
    empty = replace(site.pool["a"], labels=torch.zeros_like(site.pool["a"].labels))
    assert dice_of(description, shipped, empty) == 1 and dice_of(description, shipped, site.pool["a"]) == 0
    two = replace(
        site,
        pool={"a": site.pool["a"], "b": empty},
        scores={"epistemic": {"a": 2.0, "b": 1.0}, "twin": {"a": 1.0, "b": 3.0}},
    )
    assert found_by_scores(two, small_bundle) == pytest.approx({"epistemic": 1.0, "twin": -1.0})


@pytest.mark.slow
def test_drawings_teach(outcome: tuple[Site, list[Run]]) -> None:
    _, runs = outcome
    assert len({run.dice[0] for run in runs}) == 1, "all begin with the same model"
    assert all(run.dice[2] > run.dice[0] + 0.2 for run in runs)


def test_the_box_holds_the_tumour_and_fits_the_image() -> None:
    labels = torch.zeros(70, 80, 90, dtype=torch.uint8)
    labels[60:68, 2:9, 40:50] = 2
    image = torch.arange(70 * 80 * 90).reshape(70, 80, 90).float()
    cut = around_tumour(DrawnCase({"t1ce": image}, labels, labels > 0))
    assert cut.labels.shape == (64, 64, 64) and cut.labels.sum() == labels.sum()
    assert cut.region is not None and torch.equal(cut.region, cut.labels > 0)
    assert torch.equal(cut.images["t1ce"][cut.labels > 0], image[labels > 0])


def test_drawings_needed_and_gain_over_chance_are_counted_right() -> None:
    def run(strategy: str, repetition: int, *dice: float) -> Run:
        return Run(strategy, repetition, (0, 1, 2, 4), dice, ())

    runs = [run("random", n, 0.5, 0.5 + 0.1 * n, 0.7, 0.9) for n in range(3)]
    runs += [run("epistemic", n, 0.5, 0.7 + 0.1 * n, 0.7, 0.9) for n in range(3)]
    runs += [run("twin", n, 0.5, 0.5, 0.5, 0.6 + n) for n in range(3)]
    assert [needed(one, 0.7) for one in runs[:6]] == [2, 2, 1, 1, 1, 1]
    assert needed(runs[0], 0.95) == np.inf
    assert midpoint(runs[:6]) == pytest.approx(0.7)
    mean, half = against_random(runs, "epistemic")
    assert mean == pytest.approx(0.2 / 3) and half == pytest.approx(0, abs=1e-12)
    mean, half = against_random(runs, "twin")
    assert half > abs(mean), "three repetitions that differ by as much as this show nothing"
    rows = table(runs, (0.7,)).splitlines()
    assert len(rows) == 2 + len(STRATEGIES) and "| 2 (1 to 2) |" in rows[2] and "never" in rows[4]
