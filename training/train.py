"""Train the default network on simulated cases: ``python -m training.train --preset cpu --out DIR [--minutes M]``."""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.tensorboard import SummaryWriter

from segmentation.network import build_network
from segmentation.resources import has_native_bfloat16
from training.generator import Examples, fill_pool
from training.losses import brain_loss, dice_cross_entropy
from training.refinement import Refiner
from training.team import Team, run_together

log = logging.getLogger("oncotwin.training")


@dataclass(frozen=True)
class Stage:
    """A part of a training.

    Attributes
    ----------
    until
        Share of the whole training, 0 to 1, at which it ends.
    batches
        (patch side in voxels or None for whole heads, patches in a batch), taken in turn.
    """

    until: float
    batches: tuple[tuple[int | None, int], ...]


@dataclass(frozen=True)
class Preset:
    """What a training run does; sizes in voxels of 2 mm.

    Attributes
    ----------
    stages
        From small patches, which are many, to whole heads, which are what inference sees.
    minutes
        Wall time over which the learning rate falls to zero, earlier runs of a resumed training included.
    coarsen
        Voxels are this many times larger than 2 mm: cheap patches of the same extent for the start of a training.
    checkpoint_seconds
        Time between checkpoints.
    """

    stages: tuple[Stage, ...]
    cases: int
    minutes: float
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5
    warm_up_steps: int = 40
    coarsen: float = 1.0
    checkpoint_seconds: float = 120.0
    workers: int = 1
    seed: int = 0


PRESETS = {
    "cpu": Preset(
        stages=(
            Stage(0.3, ((64, 2), (96, 1))),
            Stage(0.6, ((64, 2), (96, 1), (None, 1))),
            Stage(1.0, ((96, 1), (None, 1))),
        ),
        cases=400,
        minutes=90,
    ),
    # On from a bundle's weights, on two cores. Patches of several sizes before whole heads, so that the group
    # normalisation learns to answer alike whatever the size of what it is given. Small patches come in twos: PyTorch
    # leaves oneDNN for a single image whose layers are small, and a step with one patch of 48^3 then takes nearly as
    # long as with two.
    "tune": Preset(
        stages=(
            Stage(0.3, ((64, 2), (80, 1), (48, 2), (80, 1))),
            Stage(1.0, ((None, 1), (64, 2))),
        ),
        cases=160,
        minutes=90,
        learning_rate=3e-4,
    ),
    "gpu": Preset(
        stages=(Stage(0.5, ((96, 8),)), Stage(1.0, ((96, 8), (None, 4)))), cases=2000, minutes=25, workers=8
    ),
}


class _From(Sampler[int]):
    """Batch numbers first, first + stride, ... without end; lets a resumed run see the batches that come next."""

    def __init__(self, first: int, stride: int) -> None:
        self.first, self.stride = first, stride

    def __iter__(self):  # type: ignore[no-untyped-def]
        number = self.first
        while True:
            yield number
            number += self.stride


def _plain_copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights in the plain memory order, the only one that safetensors can hold."""
    return {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in state.items()}


class Trainer:
    """Network, optimiser, moving average and clock of one training; saved and restored as a whole.

    Parameters
    ----------
    preset
        What to do.
    pool
        Folder of simulated cases.
    out
        Folder of ``checkpoint.pt`` (everything), ``ema.pt`` (the averaged weights alone) and TensorBoard's files.
    steps
        Stop after this many steps in total, with the learning rate scheduled over them; None: by the clock.
    refiner
        Makes simulated patches look like a site's, see `training.refinement`.
    """

    def __init__(
        self,
        preset: Preset,
        pool: Path,
        out: Path,
        *,
        steps: int | None = None,
        refiner: Refiner | None = None,
    ) -> None:
        torch.manual_seed(preset.seed)
        self.preset, self.pool, self.out, self.total_steps = preset, pool, out, steps
        self.refiner = refiner
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.stopping = False
        self.team = Team()
        self.bfloat16 = has_native_bfloat16(self.device)
        # Channels-last is faster but on a CPU with AMX: 1.28 s a step at 96^3 in the plain order there, 1.45 s in the
        # other; on one with AVX2 alone 10.7 s and 8.2 s (`benchmarks.training`).
        plain = self.device.type == "cpu" and self.bfloat16
        self.order = torch.contiguous_format if plain else torch.channels_last_3d
        self.network = build_network().to(self.device, memory_format=self.order)
        self.average = _plain_copy(self.network.state_dict())
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

    def initialise(self, weights: Path) -> None:
        """Start from a bundle's weights; output channels it does not have stay random."""
        state, found = self.network.state_dict(), load_file(weights)
        for key, value in state.items():
            rows = min(len(value), len(found[key])) if value.dim() else 0
            if value.dim() == 0 or value[:rows].shape != found[key][:rows].shape:
                raise ValueError(f"{weights} is of another network: {key} does not fit")
            value[:rows] = found[key][:rows].to(value)
        self.network.load_state_dict(state)
        self.average = _plain_copy(state)

    def train_step(self, images: Tensor, labels: Tensor, brain: Tensor) -> float:
        """One optimiser step on a batch; returns the loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate()
        images = images.to(self.device).contiguous(memory_format=self.order)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16):
            logits = self.network(images)
        logits = logits.float()
        loss = dice_cross_entropy(logits[:, :4], labels.to(self.device))
        loss = loss + 0.3 * brain_loss(logits[:, 4], brain.to(self.device))
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss became {float(loss)} at step {self.step}; lower the learning rate"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.team.average_gradients(self.network)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        decay = min(0.997, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for key, value in self.network.state_dict().items():
                self.average[key].lerp_(value, 1 - decay)
        self.step += 1
        return loss.item()

    def stop(self) -> None:
        """Save and end after the step at hand."""
        self.stopping = True

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
        losses: list[float] = []
        board = SummaryWriter(self.out, purge_step=self.step + 1) if self.team.rank == 0 else None
        for stage in self.preset.stages:
            end = min(stage.until, self.until)
            if self.progress < end and not self.stopping:
                losses += self._run_stage(stage, end, board)
        if board is not None:
            board.close()
            self.save()
        return losses

    def _run_stage(self, stage: Stage, end: float, board: SummaryWriter | None) -> list[float]:
        examples = Examples(
            self.pool,
            seed=self.preset.seed,
            batches=stage.batches,
            team=self.team.size,
            coarsen=self.preset.coarsen,
            growing=True,
            refiner=self.refiner,
        )
        loader = DataLoader(
            examples,
            batch_size=None,
            sampler=_From(self.step * self.team.size + self.team.rank, self.team.size),
            num_workers=self.preset.workers,
            prefetch_factor=4 if self.preset.workers else None,
        )
        losses: list[float] = []
        before = saved = time.monotonic()
        waited = 0.0
        for images, labels, brain in loader:
            waited += time.monotonic() - before
            losses.append(self.train_step(images, labels, brain))
            if board is not None:
                board.add_scalar("loss", losses[-1], self.step)
                board.add_scalar("learning rate", self.learning_rate(), self.step)
            now = time.monotonic()
            self.elapsed, self.stopping = self.team.agree(self.elapsed + now - before, self.stopping)
            before = now
            if self.step % 25 == 0 and self.team.rank == 0:
                self._report(losses[-25:], waited)
                waited = 0.0
            if now - saved > self.preset.checkpoint_seconds and self.team.rank == 0:
                self.save()
                saved = now
            if self.progress >= end or self.stopping:
                break
        return losses

    def _report(self, recent: list[float], waited: float) -> None:
        loss = sum(recent) / len(recent)
        log.info(
            "step %d, %.0f s (%.0f s of the last steps waiting for examples), loss %.3f, done %.0f %%",
            self.step,
            self.elapsed,
            waited,
            loss,
            100 * self.progress,
        )


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
    parser.add_argument("--patch", type=int, help="one patch side in voxels, a multiple of 8, all the time")
    parser.add_argument("--batch", type=int, default=1, help="patches per step, with --patch")
    parser.add_argument("--init", type=Path, help="start from these weights (model.safetensors of a bundle)")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--coarsen", type=float, help="voxel size in units of 2 mm, for a cheap first stage")
    parser.add_argument(
        "--seed", type=int, help="of what is drawn; another one trains on with heads not seen yet"
    )
    parser.add_argument("--refiner", type=Path, help="folder of python -m training.refinement")
    parser.add_argument(
        "--until", type=float, default=1.0, help="stop at this share of the minutes (then --resume)"
    )
    parser.add_argument("--resume", action="store_true", help="continue from OUT/checkpoint.pt")
    parser.add_argument(
        "--processes", type=int, default=1, help="train in this many processes (see training.team)"
    )
    options = parser.parse_args(arguments)
    preset = PRESETS[options.preset]
    changes = {
        name: getattr(options, name) for name in ("cases", "minutes", "learning_rate", "coarsen", "seed")
    }
    preset = replace(preset, **{name: value for name, value in changes.items() if value is not None})
    if options.patch:
        preset = replace(preset, stages=(Stage(1.0, ((options.patch, options.batch),)),))
    pool = options.pool or options.out / "pool"
    if preset.cases:
        fill_pool(pool, preset.cases)
    if options.processes > 1:
        run_together(options.processes, _train, replace(preset, workers=0), pool, options)
    else:
        if not torch.cuda.is_available():
            torch.set_num_threads(min(2, torch.get_num_threads()))
        _train(preset, pool, options)
    return 0


def _train(preset: Preset, pool: Path, options: argparse.Namespace) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    refiner = None if options.refiner is None else Refiner.load(options.refiner)
    trainer = Trainer(preset, pool, options.out, refiner=refiner)
    if options.resume:
        trainer.restore()
    elif options.init:
        trainer.initialise(options.init)
    trainer.until = options.until
    signal.signal(signal.SIGTERM, lambda *_: trainer.stop())
    log.info("process %d of %d begins at step %d", trainer.team.rank + 1, trainer.team.size, trainer.step)
    trainer.run()


if __name__ == "__main__":
    raise SystemExit(main())
