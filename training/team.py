"""Several processes that train one network: each does its own batches on its own thread, gradients are averaged.

On a CPU shared with other work two processes of one thread lose less to waiting than one process of two threads, whose
threads meet a thousand times a step; two processes meet once.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import distributed, nn
from torch.multiprocessing import ProcessExitedException


class Team:
    """This process's place among those that train together; alone without a process group."""

    def __init__(self) -> None:
        together = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if together else 0
        self.size = distributed.get_world_size() if together else 1

    def average_gradients(self, network: nn.Module) -> None:
        """Replace every gradient by its mean over the team."""
        if self.size == 1:
            return
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        distributed.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def agree(self, elapsed: float, stopping: bool) -> tuple[float, bool]:
        """The first process's clock, and whether any process wants to stop: the same answer everywhere."""
        if self.size == 1:
            return elapsed, stopping
        said = torch.tensor([elapsed if self.rank == 0 else 0.0, float(stopping)], dtype=torch.float64)
        distributed.all_reduce(said)
        return float(said[0]), bool(said[1] > 0)


def _member(rank: int, size: int, meeting: str, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // size))
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    try:
        work(*arguments)
    finally:
        distributed.destroy_process_group()


def run_together(size: int, work: Callable[..., Any], *arguments: Any) -> None:
    """Run `work(*arguments)` in `size` processes that find each other; returns when all have ended.

    SIGTERM to this process is passed on to them, and this function then returns when they have done what they do at it.
    Must be called in the main thread, as all that handles signals.

    Parameters
    ----------
    work
        A function of a module, so that a new process can import it; makes a `Team` of its own.

    Raises
    ------
    torch.multiprocessing.ProcessRaisedException, torch.multiprocessing.ProcessExitedException
        If a member fails or is killed without SIGTERM having come here.
    """
    members: list[BaseProcess] = []
    told = False

    def tell(number: int, frame: FrameType | None) -> None:
        nonlocal told
        told = True
        for member in members:
            member.terminate()

    before = signal.signal(signal.SIGTERM, tell)
    try:
        with tempfile.TemporaryDirectory() as folder:
            meeting = str(Path(folder) / "meeting")
            started = torch.multiprocessing.spawn(
                _member, (size, meeting, work, arguments), nprocs=size, join=False
            )
            members += started.processes
            if told:  # while they were being started
                tell(signal.SIGTERM, None)
            try:
                while not started.join():
                    pass
            except ProcessExitedException as ended:
                # A member that does not handle SIGTERM yet has nothing to save, and just ends.
                if not told or ended.signal_name != signal.SIGTERM.name:
                    raise
    finally:
        signal.signal(signal.SIGTERM, before)
