"""Two processes that train one network agree with each other and on when to stop."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from training.generator import fill_pool
from training.team import Team, run_together
from training.train import PRESETS, Stage, Trainer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two simulated cases."""
    folder = tmp_path_factory.mktemp("team") / "pool"
    fill_pool(folder, 2)
    return folder


def _train(pool: Path, out: Path) -> None:
    team = Team()
    preset = replace(PRESETS["cpu"], stages=(Stage(1.0, ((16, 1),)),), workers=0, warm_up_steps=1)
    trainer = Trainer(preset, pool, out / "run", steps=2)
    trainer.run()
    torch.save(trainer.network.state_dict(), out / f"member-{team.rank}-of-{team.size}.pt")
    gradients = torch.nn.Linear(1, 1, bias=False)
    gradients.weight.grad = torch.full((1, 1), float(team.rank))
    team.average_gradients(gradients)
    agreed = team.agree(10.0 + team.rank, team.rank == 1)
    torch.save((gradients.weight.grad, agreed), out / f"said-{team.rank}.pt")


@pytest.mark.slow
def test_members_hold_the_same_network_after_different_batches(pool: Path, tmp_path: Path) -> None:
    run_together(2, _train, pool, tmp_path)
    one, other = (torch.load(tmp_path / f"member-{rank}-of-2.pt", weights_only=True) for rank in (0, 1))
    alone = Trainer(PRESETS["cpu"], pool, tmp_path / "alone").network.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert any(not torch.equal(one[key], alone[key]) for key in one)
    for rank in (0, 1):
        gradient, (elapsed, stopping) = torch.load(tmp_path / f"said-{rank}.pt", weights_only=True)
        assert float(gradient) == 0.5 and elapsed == 10.0 and stopping
    assert (tmp_path / "run" / "ema.pt").is_file()


def _until(condition: Callable[[], bool], seconds: float = 300) -> bool:
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)
    return condition()


@pytest.mark.slow  # three processes import torch
def test_a_training_of_two_processes_saves_and_ends_when_its_parent_is_told_to(
    pool: Path, tmp_path: Path
) -> None:
    words = "--processes 2 --cases 2 --minutes 60 --patch 16".split()
    with (tmp_path / "log").open("wb") as log:
        training = subprocess.Popen(
            [sys.executable, "-m", "training.train", "--pool", pool, "--out", tmp_path / "out", *words],
            cwd=ROOT, stderr=log,
        )  # fmt: skip
    try:
        assert _until(lambda: (tmp_path / "log").read_bytes().count(b"begins at step 0") == 2)
        training.terminate()
        assert training.wait(120) == 0
    finally:
        training.kill()
    assert torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)["step"] >= 1
