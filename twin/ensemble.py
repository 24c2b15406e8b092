"""Many draws grown side by side: where they start, how they run, and what is added up."""

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from twin.draws import Draw
from twin.grid import Box, voxels
from twin.observation import mask_density
from twin.results import Vector
from twin.scene import Scene, starting_width
from twin.solver import march
from twin.stepping import INFERENCE
from twin.wave import WaveProfile, wave_profile

_TRACE = 1e-6
"""Density that is nothing in a start: the front that passes there later comes from nearer to the tumour."""
_VISIBLE = 1e-4
"""Density that is nothing in a map."""
_GPU = threading.Lock()
"""Draws that share a GPU run one after the other: each fills it, and their launches must not mix in one graph."""
_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


class Starts:
    """Starting densities of many draws from the masks of a scene's first visit.

    Only cells near the tumour are computed: those are the first of a list sorted by distance.

    Parameters
    ----------
    scene : Scene
        The first of its visits is where growth starts.
    jitter : sequence of Tensor, optional
        Local displacements of the boundary, mm, (X, Y, Z) each; draws take them in turn.
    grain : sequence of Tensor, optional
        Errors of the density where it was measured, (X, Y, Z) each; draws take them in turn.
    """

    def __init__(self, scene: Scene, jitter: Sequence[Tensor] = (), grain: Sequence[Tensor] = ()) -> None:
        self._scene = scene
        distances = scene.distances[0]
        cells = scene.operator.domain.reshape(-1).nonzero()[:, 0]
        away, order = distances.whole.reshape(-1)[cells].float().sort()
        self._cells, self._away = cells[order], away
        self._distances = distances
        measured = scene.cellularity[0]
        self._measured = None if measured is None else measured.reshape(-1)[self._cells].to(away.dtype)
        self._core = None if distances.core is None else distances.core.reshape(-1)[self._cells].float()
        self._jitter = [field.reshape(-1)[self._cells].float() for field in jitter]
        self._grain = [field.reshape(-1)[self._cells].float() for field in grain]
        self._wobble = max((float(field.max()) for field in self._jitter), default=0.0)
        settings = scene.settings
        edge = settings.whole_threshold if distances.has_margin else settings.core_threshold
        self._ends = wave_profile().position(_TRACE) - wave_profile().position(edge)

    def density(
        self, number: int, position: Vector, shift: int, profile: WaveProfile | None = None
    ) -> Tensor:
        """Density that draw ``number`` starts from, (X, Y, Z).

        Parameters
        ----------
        number : int
            Of the draw.
        position : ndarray
            In the posterior's coordinates.
        shift : int
            Index of the core shift there; that of the whole tumour follows.
        profile : WaveProfile, optional
            Density against mm from the boundary of the whole tumour, instead of the steady wave.
        """
        width = self._scene.front_width_mm(starting_width(position)) if profile is None else 1.0
        core, whole = float(position[shift]), float(position[shift + 1])
        ends = self._ends * width if profile is None else math.inf
        far = torch.tensor(ends + max(core, whole, 0.0) + self._wobble)
        near = slice(int(torch.searchsorted(self._away, far)) if self._measured is None else None)
        local: Tensor | float = self._jitter[number % len(self._jitter)][near] if self._jitter else 0.0
        distances = replace(
            self._distances, core=None if self._core is None else self._core[near], whole=self._away[near]
        )
        values = mask_density(
            distances,
            width,
            self._scene.settings,
            core if self._core is None else core + local,
            whole + local,
            profile=profile,
        )
        if self._measured is not None:
            measured = self._measured
            if self._grain:
                measured = (measured + self._grain[number % len(self._grain)]).clamp(0.0, 1.0)
            values = torch.where(torch.isfinite(measured), measured, values)
        operator = self._scene.operator
        start = torch.zeros(operator.domain.numel(), dtype=operator.dtype)
        start[self._cells[near]] = values.to(operator.dtype)
        return start.view(operator.domain.shape)


@dataclass(frozen=True)
class Grown:
    """One draw.

    Parameters
    ----------
    counts : ndarray
        (2, days) voxels of core and whole tumour.
    kept : tuple
        Box of the scene and density there (float32) of each day to keep; None when there is nothing left to see.
    """

    counts: Vector
    kept: tuple[tuple[Box, Tensor] | None, ...]


def grow_draw(
    scene: Scene,
    start: Tensor,
    draw: Draw,
    days: Sequence[float],
    start_day: float,
    keep: Sequence[float] = (),
) -> Grown:
    """Grow one draw over ``days`` in one pass, with the densities of the days to ``keep``."""
    with nullcontext() if scene.operator.device.type == "cpu" else _GPU:
        return _grown(scene, start, draw, days, start_day, keep)


def _grown(
    scene: Scene, start: Tensor, draw: Draw, days: Sequence[float], start_day: float, keep: Sequence[float]
) -> Grown:
    model, settings = scene.model, scene.settings
    counts, kept = np.zeros((2, len(days)), dtype=np.int64), list[tuple[Box, Tensor] | None]()
    parameters = draw.parameters(model.parameters)
    states = march(model, parameters, start[None, None], days, start_day=start_day, accuracy=INFERENCE)
    for index, (day, state) in enumerate(zip(days, states, strict=True)):
        box = Box.of(state.fields[0, 0] > _VISIBLE)
        if box is not None:
            density = state.fields[0, 0][box.slices]
            counts[0, index] = voxels(density > settings.core_threshold)
            counts[1, index] = voxels(density > settings.whole_threshold)
        if day in keep:
            kept.append(None if box is None else (_moved(box, state.box), density.float().clone()))
    return Grown(counts, tuple(kept))


def _moved(box: Box, outer: Box) -> Box:
    """A box inside ``outer`` in the indices that ``outer`` is given in."""
    start = tuple(a + o for a, o in zip(box.start, outer.start, strict=True))
    stop = tuple(a + o for a, o in zip(box.stop, outer.start, strict=True))
    return Box((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))


class Sums:
    """Running sums over draws at one day, on the scene's box."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        shape = scene.operator.domain.shape
        self.count = 0
        self._density, self._square = torch.zeros(shape), torch.zeros(shape)
        self._core, self._whole = (torch.zeros(shape, dtype=torch.int32) for _ in range(2))

    def add(self, grown: tuple[Box, Tensor] | None) -> None:
        """Take in one draw."""
        self.count += 1
        if grown is None:
            return
        box, density = grown
        settings = self._scene.settings
        self._density[box.slices].add_(density)
        self._square[box.slices].addcmul_(density, density)
        self._core[box.slices].add_(density > settings.core_threshold)
        self._whole[box.slices].add_(density > settings.whole_threshold)

    def maps(self, shape: Sequence[int]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Mean and standard deviation of the density and probabilities of core and whole tumour on the full grid."""
        mean = self._density / self.count
        deviation = (self._square / self.count - mean**2).clamp(min=0.0).sqrt()
        made = []
        for values in (mean, deviation, self._core / self.count, self._whole / self.count):
            full = torch.zeros(tuple(shape))
            full[self._scene.box.slices] = values
            made.append(full)
        return made[0], made[1], made[2], made[3]


def in_order(function: Callable[[_Item], _Made], items: Iterable[_Item], workers: int) -> Iterator[_Made]:
    """Results of ``function`` in the order of ``items``, computed by threads a little ahead of who takes them."""
    waiting: deque[Future[_Made]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="twin-draw") as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
