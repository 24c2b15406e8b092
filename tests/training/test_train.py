"""Training learns, survives a stop exactly, exports what inference loads."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from segmentation.bundle import load_bundle
from training.export import export_weights
from training.generator import fill_pool
from training.losses import brain_loss, dice_cross_entropy, region_dice
from training.train import PRESETS, Stage, Trainer

SMALL = replace(
    PRESETS["cpu"],
    stages=(Stage(0.5, ((16, 1),)), Stage(1.0, ((16, 2), (24, 1)))),
    cases=2,
    workers=0,
    warm_up_steps=1,
)
BUNDLE = Path(__file__).parents[2] / "models" / "oncotwin_brats"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pool")
    fill_pool(folder, 2)
    return folder


def test_resumed_training_equals_an_uninterrupted_one(pool: Path, tmp_path: Path) -> None:
    whole = Trainer(SMALL, pool, tmp_path / "whole", steps=4)
    losses = whole.run()
    assert len(losses) == 4 and all(math.isfinite(loss) for loss in losses)

    stopped = Trainer(SMALL, pool, tmp_path / "parts", steps=4)
    stopped.until = 0.5
    first = stopped.run()
    resumed = Trainer(SMALL, pool, tmp_path / "parts", steps=4)
    resumed.restore()
    second = resumed.run()
    assert first + second == losses
    for key, value in whole.average.items():
        assert torch.equal(value, resumed.average[key])


def test_tensorboard_shows_every_step_of_a_resumed_training(pool: Path, tmp_path: Path) -> None:
    first = Trainer(SMALL, pool, tmp_path, steps=4)
    first.until = 0.5
    losses = first.run()
    second = Trainer(SMALL, pool, tmp_path, steps=4)
    second.restore()
    losses += second.run()
    board = EventAccumulator(str(tmp_path)).Reload()
    shown = board.Scalars("loss")
    assert [event.step for event in shown] == [1, 2, 3, 4]
    assert [event.value for event in shown] == pytest.approx(losses)
    assert all(event.value >= 0 for event in board.Scalars("learning rate"))


def test_training_lowers_the_loss_on_one_batch(pool: Path, tmp_path: Path) -> None:
    trainer = Trainer(SMALL, pool, tmp_path, steps=25)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 4, (1, 4, 4, 4), generator=generator)
    labels = coarse.repeat_interleave(4, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
    images = torch.nn.functional.one_hot(labels, 4).movedim(-1, 1).float()
    losses = [trainer.train_step(images, labels, labels > 0) for _ in range(25)]
    assert losses[-1] < 0.8 * losses[0]


def test_nothing_to_resume(pool: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no training to resume"):
        Trainer(SMALL, pool, tmp_path).restore()


def test_export_writes_a_bundle_that_loads(pool: Path, tmp_path: Path) -> None:
    trainer = Trainer(SMALL, pool, tmp_path / "run", steps=1)
    trainer.save()
    shutil.copytree(BUNDLE / "configs", tmp_path / "bundle" / "configs")
    digest = export_weights(tmp_path / "run" / "ema.pt", tmp_path / "bundle", version="9.9.9")
    description, network = load_bundle(tmp_path / "bundle")
    assert (description.version, description.sha256) == ("9.9.9", digest)
    assert (
        json.loads((tmp_path / "bundle/configs/metadata.json").read_text())["oncotwin"]["weights_sha256"]
        == digest
    )
    for key, value in network.state_dict().items():
        assert torch.allclose(value, trainer.average[key], atol=1e-3)
    assert (tmp_path / "bundle/models/model.safetensors").stat().st_size < 10e6


def test_perfect_logits_cost_nothing_and_one_label_for_all_costs_more_than_three() -> None:
    labels = torch.randint(0, 4, (1, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    perfect = 40 * torch.nn.functional.one_hot(labels, 4).movedim(-1, 1).float()
    all_enhancing = 40 * torch.nn.functional.one_hot(torch.where(labels > 0, 3, 0), 4).movedim(-1, 1).float()
    assert float(dice_cross_entropy(perfect, labels)) == pytest.approx(0, abs=1e-3)
    assert float(dice_cross_entropy(all_enhancing, labels)) > 3
    assert math.isfinite(float(dice_cross_entropy(perfect, torch.zeros_like(labels))))


def test_region_dice_counts_nested_regions() -> None:
    reference = torch.tensor([0, 1, 2, 3], dtype=torch.uint8)
    assert region_dice(reference, reference) == {"WT": 1.0, "TC": 1.0, "ET": 1.0}
    swapped = torch.tensor([0, 3, 2, 1], dtype=torch.uint8)
    assert region_dice(swapped, reference) == {"WT": 1.0, "TC": 1.0, "ET": 0.0}
    assert math.isnan(region_dice(torch.zeros(4, dtype=torch.uint8), torch.zeros(4, dtype=torch.uint8))["ET"])


def test_brain_loss_is_zero_for_the_truth_and_large_for_its_opposite() -> None:
    brain = torch.zeros(2, 8, 8, 8)
    brain[:, 2:6] = 1
    assert float(brain_loss(40 * (2 * brain - 1), brain)) == pytest.approx(0, abs=1e-3)
    assert float(brain_loss(-40 * (2 * brain - 1), brain)) > 10


def test_training_starts_from_a_bundle(pool: Path, tmp_path: Path) -> None:
    """Channels the weights have are taken, a channel they lack stays random."""
    trainer = Trainer(SMALL, pool, tmp_path)
    four = {
        k: v[:4].clone() + 1 if v.shape[:1] == (5,) else v.clone() + 1 for k, v in trainer.average.items()
    }
    save_file(four, tmp_path / "four.safetensors")
    before = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    trainer.initialise(tmp_path / "four.safetensors")
    for key, value in trainer.network.state_dict().items():
        rows = len(four[key]) if value.shape[:1] == (5,) else len(value)
        assert torch.equal(value[:rows], four[key][:rows]) and torch.equal(value[rows:], before[key][rows:])
        assert torch.equal(trainer.average[key], value)


def test_a_stop_is_saved_and_resumed(pool: Path, tmp_path: Path) -> None:
    trainer = Trainer(SMALL, pool, tmp_path, steps=4)
    trainer.stop()
    assert len(trainer.run()) == 0
    again = Trainer(SMALL, pool, tmp_path, steps=4)
    again.restore()
    assert len(again.run()) == 4
