"""Train the default network on simulated cases: ``python -m training.train --preset cpu --out DIR [--minutes M]``."""

from __future__ import annotations

import argparse
import logging
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from segmentation.network import build_network
from training.generator import Examples, fill_pool
from training.losses import dice_cross_entropy

log = logging.getLogger("oncotwin.training")


@dataclass(frozen=True)
class Preset:
    """What a training run does; sizes in voxels of 2 mm.

    Attributes
    ----------
    patch_sizes
        Patch sizes, taken in turn, one per batch.
    minutes
        Wall time over which the learning rate falls to zero, earlier runs of a resumed training included.
    coarsen
        Voxels are this many times larger than 2 mm: cheap patches of the same extent for the start of a training.
    checkpoint_seconds
        Time between checkpoints.
    """

    patch_sizes: tuple[tuple[int, int, int], ...]
    batch: int
    cases: int
    minutes: float
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    warm_up_steps: int = 40
    coarsen: float = 1.0
    checkpoint_seconds: float = 240.0
    workers: int = 1
    seed: int = 0


PRESETS = {
    "cpu": Preset(patch_sizes=((48, 48, 48),), batch=2, cases=400, minutes=70),
    "gpu": Preset(patch_sizes=((96, 96, 96),), batch=8, cases=2000, minutes=25, workers=8),
}


class _From(Sampler[int]):
    """Batch numbers first, first + 1, ... without end; lets a resumed run see the batches that come next."""

    def __init__(self, first: int) -> None:
        self.first = first

    def __iter__(self):  # type: ignore[no-untyped-def]
        number = self.first
        while True:
            yield number
            number += 1


class Trainer:
    """Network, optimiser, moving average and clock of one training; saved and restored as a whole.

    Parameters
    ----------
    preset
        What to do.
    pool
        Folder of simulated cases.
    out
        Folder of ``checkpoint.pt`` (everything) and ``ema.pt`` (the averaged weights alone).
    steps
        Stop after this many steps in total, with the learning rate scheduled over them; None: by the clock.
    """

    def __init__(self, preset: Preset, pool: Path, out: Path, *, steps: int | None = None) -> None:
        torch.manual_seed(preset.seed)
        self.preset, self.pool, self.out, self.total_steps = preset, pool, out, steps
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = build_network().to(self.device, memory_format=torch.channels_last_3d)
        self.average = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=preset.learning_rate, weight_decay=preset.weight_decay
        )
        self.step = 0
        self.elapsed = 0.0
        self.until = 1.0

    @property
    def progress(self) -> float:
        """Share of the training that is done, 0 to 1."""
        if self.total_steps is not None:
            return self.step / self.total_steps
        return self.elapsed / (60 * self.preset.minutes)

    def learning_rate(self) -> float:
        """Linear warm-up, then half a cosine down to zero."""
        warm = min(1.0, (self.step + 1) / self.preset.warm_up_steps)
        return self.preset.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * min(1.0, self.progress)))

    def train_step(self, images: Tensor, labels: Tensor) -> float:
        """One optimiser step on a batch; returns the loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        images = images.to(self.device).contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = self.network(images)
        loss = dice_cross_entropy(logits.float(), labels.to(self.device))
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {float(loss)} at step {self.step}; lower the learning rate"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        decay = min(0.995, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for key, value in self.network.state_dict().items():
                self.average[key].lerp_(value, 1 - decay)
        self.step += 1
        return loss.item()

    def save(self) -> None:
        """Write ``checkpoint.pt`` and ``ema.pt``; a kill in between leaves the earlier ones whole."""
        state = {
            "network": self.network.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "elapsed": self.elapsed,
        }
        self.out.mkdir(parents=True, exist_ok=True)
        for name, content in (("checkpoint.pt", state), ("ema.pt", self.average)):
            torch.save(content, self.out / (name + ".part"))
            os.replace(self.out / (name + ".part"), self.out / name)

    def restore(self) -> None:
        """Continue from ``checkpoint.pt``."""
        path = self.out / "checkpoint.pt"
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: there is no training to resume")
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.elapsed = state["step"], state["elapsed"]

    def run(self) -> list[float]:
        """Train until the steps or the minutes are used up; returns the loss of each step of this run."""
        examples = Examples(
            self.pool,
            seed=self.preset.seed,
            sizes=self.preset.patch_sizes,
            batch=self.preset.batch,
            coarsen=self.preset.coarsen,
            growing=True,
        )
        loader = DataLoader(
            examples,
            batch_size=None,
            sampler=_From(self.step),
            num_workers=self.preset.workers,
            prefetch_factor=4 if self.preset.workers else None,
        )
        losses: list[float] = []
        saved = time.monotonic()
        before = saved
        for images, labels in loader:
            losses.append(self.train_step(images, labels))
            now = time.monotonic()
            self.elapsed += now - before
            before = now
            if self.step % 25 == 0:
                recent = sum(losses[-25:]) / len(losses[-25:])
                log.info(
                    "step %d, %.0f s, loss %.3f, done %.0f %%",
                    self.step,
                    self.elapsed,
                    recent,
                    100 * self.progress,
                )
            if now - saved > self.preset.checkpoint_seconds:
                self.save()
                saved = now
            if self.progress >= self.until:
                break
        self.save()
        return losses


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoints")
    parser.add_argument(
        "--pool", type=Path, help="folder of simulated cases (default: OUT/pool), filled where short"
    )
    parser.add_argument("--cases", type=int, help="number of simulated cases to grow")
    parser.add_argument("--minutes", type=float, help="wall time of the whole training")
    parser.add_argument("--patch", type=int, help="patch side in voxels, a multiple of 8")
    parser.add_argument("--batch", type=int, help="patches per step")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--coarsen", type=float, help="voxel size in units of 2 mm, for a cheap first stage")
    parser.add_argument(
        "--until", type=float, default=1.0, help="stop at this share of the minutes (then --resume)"
    )
    parser.add_argument("--resume", action="store_true", help="continue from OUT/checkpoint.pt")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")

    preset = PRESETS[options.preset]
    changes = {
        name: getattr(options, name) for name in ("cases", "minutes", "batch", "learning_rate", "coarsen")
    }
    preset = replace(preset, **{name: value for name, value in changes.items() if value is not None})
    if options.patch:
        preset = replace(preset, patch_sizes=((options.patch,) * 3,))
    if not torch.cuda.is_available():
        torch.set_num_threads(min(2, os.cpu_count() or 1))
    pool = options.pool or options.out / "pool"
    if preset.cases:
        fill_pool(pool, preset.cases)
    trainer = Trainer(preset, pool, options.out)
    if options.resume:
        trainer.restore()
    trainer.until = options.until
    trainer.run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
