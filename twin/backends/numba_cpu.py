"""Fused CPU backend: one numba kernel that needs no C compiler on the machine it runs on.

The kernel releases the interpreter's lock; large sweeps are split over threads here. numba's own parallel loops are not
used: they spin at their barriers, which stalls on a busy machine, and their fallback layer breaks when two threads of
an application enter it at once.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise

import torch
from torch import Tensor

AVAILABLE = find_spec("numba") is not None
_SPLIT = 100_000
"""Values that are worth a thread of their own in one sweep."""


def stage(
    out: Tensor,
    y0: Tensor,
    y1: Tensor,
    y2: Tensor,
    y3: Tensor,
    faces: tuple[Tensor, Tensor, Tensor],
    rows: Tensor,
    coefficients: Tensor,
    threads: int = 1,
) -> None:
    """Compute one stage on ``threads`` threads; see :class:`twin.backends.Stage`."""
    from twin.backends import kernels  # numba takes half a second to import

    flat = [tensor.detach().numpy().reshape(-1) for tensor in (out, y0, y1, y2, y3, *faces)]
    sweep: Callable[..., None] = kernels.sweep
    arguments = (*flat, rows.numpy(), coefficients.to(torch.float64).numpy(), out.shape[1])
    planes = coefficients.shape[0] * (rows.shape[0] - 2)
    parts = max(1, min(threads, out.numel() // _SPLIT, planes))
    cuts = [planes * part // parts for part in range(parts + 1)]
    waiting = [_pool(threads - 1).submit(sweep, *arguments, a, b) for a, b in pairwise(cuts[1:])]
    sweep(*arguments, cuts[0], cuts[1])
    for future in waiting:
        future.result()


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="twin-sweep")
