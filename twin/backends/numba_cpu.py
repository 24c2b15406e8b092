"""Fused CPU backend: numba kernels that need no C compiler on the machine they run on.

The kernels release the interpreter's lock; large sweeps are split over threads here. numba's own parallel loops are not
used: they spin at their barriers, which stalls on a busy machine, and their fallback layer breaks when two threads of
an application enter it at once.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.ndimage import maximum_filter1d, minimum_filter1d
from torch import Tensor

from twin.backends import LAWS, Medium, Reaction, Triple

AVAILABLE = find_spec("numba") is not None
_SPLIT = 40_000
"""Values that are worth a thread of their own in one sweep."""


class NumbaSweeps:
    """See :class:`twin.backends.Sweeps`."""

    def __init__(self, medium: Medium, threads: int) -> None:
        from twin.backends import kernels  # numba takes half a second to import

        self._kernels = kernels
        self._faces = [_flat(face) for face in medium.faces]
        planes, rows = medium.domain.shape[:2]
        self._spans = np.zeros((planes + 2, 2), np.int32)
        self._spans[1:-1] = 1, rows + 1
        self._whole = True
        self._law = LAWS.index(medium.law)
        none = torch.empty(0, dtype=medium.faces[0].dtype)
        self._maps = [
            _flat(none if value is None else value.to(none))
            for value in (medium.local_growth, medium.capacity)
        ]
        self._threads = threads
        self._cuts: dict[int, list[int]] = {}

    def step(self, out: Tensor, y: Tensor, scheme: Tensor, reaction: Reaction) -> None:
        """A whole step in one sweep."""
        rest = (*self._faces, scheme.numpy(), reaction.table.numpy())
        self._run(self._kernels.step, (out, y), rest)

    def react(self, y: Tensor, reaction: Reaction) -> None:
        """The reaction alone."""
        self._run(self._kernels.react, (y,), (reaction.table.numpy(),))

    def follow(self, y: Tensor, threshold: float, reach: int) -> tuple[Triple, Triple]:
        """Visit in every plane only those rows that the tumour can have reached."""
        found, (low, high) = self._kernels.extents(y.numpy(), self._spans, threshold)
        planes = np.flatnonzero(found[:, 0] < found[:, 1])
        if not planes.size:
            return (0, 0, 0), (0, 0, 0)
        first, last = found[planes, 0].min(), found[planes, 1].max()
        self._narrow(found, reach, y.shape[3] - 2)
        start = int(planes[0]) - 1, int(first) - 1, int(low) - 1
        return start, (int(planes[-1]), int(last) - 1, int(high) - 1)

    def _narrow(self, found: Any, reach: int, rows: int) -> None:
        """Rows within ``reach`` of those found, and those that were visited before."""
        empty = found[:, 0] >= found[:, 1]
        low, high = np.where(empty, rows + 2, found[:, 0]), np.where(empty, 0, found[:, 1])
        span = 2 * reach + 1
        low = minimum_filter1d(low, span, mode="constant", cval=rows + 2) - reach
        high = maximum_filter1d(high, span, mode="constant", cval=0) + reach
        before = self._spans
        if not self._whole:
            known = before[:, 0] < before[:, 1]
            low = np.where(known, np.minimum(low, before[:, 0]), low)
            high = np.where(known, np.maximum(high, before[:, 1]), high)
        spans = np.stack([low.clip(min=1), high.clip(max=rows + 1)], axis=1).astype(np.int32)
        spans[spans[:, 0] >= spans[:, 1]] = 0
        spans[[0, -1]] = 0
        self._spans, self._whole = spans, False
        self._cuts.clear()

    def _run(self, sweep: Callable[..., None], fields: tuple[Tensor, ...], rest: tuple[Any, ...]) -> None:
        shape = np.array(fields[0].shape)
        arguments = (*(_flat(field) for field in fields), shape, self._spans, *rest, self._law, *self._maps)
        cuts = self._split(shape)
        waiting = [_pool(self._threads - 1).submit(sweep, *arguments, a, b) for a, b in pairwise(cuts[1:])]
        sweep(*arguments, cuts[0], cuts[1])
        for future in waiting:
            future.result()

    def _split(self, shape: Any) -> list[int]:
        """Plane numbers between the threads' parts, so that each has as many cells."""
        members, fields, depth = int(shape[0]), int(shape[1]), int(shape[4])
        if members not in self._cuts:
            rows = np.tile(self._spans[1:-1, 1] - self._spans[1:-1, 0], members)
            done = np.cumsum(rows)
            parts = max(1, min(self._threads, int(done[-1]) * depth * fields // _SPLIT))
            wanted = done[-1] * np.arange(1, parts) / parts
            self._cuts[members] = [0, *(int(n) + 1 for n in np.searchsorted(done, wanted)), rows.size]
        return self._cuts[members]


def _flat(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().numpy().reshape(-1)


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="twin-sweep")
