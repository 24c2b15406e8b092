"""Two processes that train one network agree with each other and on when to stop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from training.generator import fill_pool
from training.team import Team, run_together
from training.train import PRESETS, Stage, Trainer


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


def test_members_hold_the_same_network_after_different_batches(tmp_path: Path) -> None:
    fill_pool(tmp_path / "pool", 2)
    run_together(2, _train, tmp_path / "pool", tmp_path)
    one, other = (torch.load(tmp_path / f"member-{rank}-of-2.pt", weights_only=True) for rank in (0, 1))
    alone = Trainer(PRESETS["cpu"], tmp_path / "pool", tmp_path / "alone").network.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert any(not torch.equal(one[key], alone[key]) for key in one)
    for rank in (0, 1):
        gradient, (elapsed, stopping) = torch.load(tmp_path / f"said-{rank}.pt", weights_only=True)
        assert float(gradient) == 0.5 and elapsed == 10.0 and stopping
    assert (tmp_path / "run" / "ema.pt").is_file()
