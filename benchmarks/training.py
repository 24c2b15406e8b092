"""Time of a training step on a CPU thread: ``python -m benchmarks.training``.

Each row is a process of its own: patches, memory order of the network, and whether the C library gives freed memory
back to the system or keeps it, as the container and `make train` do. Time spent in the system is that of new pages.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.segmentation import ALLOCATOR, container_allocator
from training.train import PRESETS, Trainer

_STEPS = 4


@dataclass(frozen=True)
class Row:
    """Patches of ``side`` cubed, ``batch`` at a time; ``kept``: freed memory is kept."""

    side: int
    batch: int
    channels_last: bool
    kept: bool


ROWS = (
    *(Row(side, batch, False, False) for side, batch in ((48, 1), (48, 2), (64, 2), (96, 1))),
    *(Row(side, batch, True, False) for side, batch in ((64, 2), (96, 1))),
    *(Row(side, batch, True, True) for side, batch in ((48, 1), (48, 2), (64, 2), (80, 1), (96, 1))),
)


def _measure(row: Row) -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(PRESETS["tune"], Path(folder), Path(folder))
        trainer.order = torch.channels_last_3d if row.channels_last else torch.contiguous_format
        trainer.network.to(memory_format=trainer.order)
        images = torch.randn(row.batch, 4, *(row.side,) * 3)
        labels = torch.randint(0, 4, (row.batch, *(row.side,) * 3), dtype=torch.uint8)
        trainer.train_step(images, labels, labels > 0)
        clock, before = time.perf_counter(), os.times()
        for _ in range(_STEPS):
            trainer.train_step(images, labels, labels > 0)
        after = os.times()
    seconds = (time.perf_counter() - clock) / _STEPS
    user, system = ((after[k] - before[k]) / _STEPS for k in (0, 1))
    order = "channels-last" if row.channels_last else "plain"
    voxels = row.batch * row.side**3
    print(
        f"{row.batch} x {row.side}^3  {order:13}  {'kept' if row.kept else 'given back':10}  "
        f"{seconds:5.2f} s a step by the clock, {user:5.2f} s in the program, {system:4.2f} s in the system, "
        f"{1e6 * (user + system) / voxels:.1f} microseconds a voxel",
        flush=True,
    )


def main() -> int:
    """Print every row."""
    context = multiprocessing.get_context("spawn")
    for row in ROWS:
        os.environ[ALLOCATOR] = container_allocator() if row.kept else ""
        process = context.Process(target=_measure, args=(row,))
        process.start()
        process.join()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
