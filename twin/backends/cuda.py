"""Fused CUDA backend: kernels that NVRTC compiles through CuPy at first use, without a C compiler.

One kernel computes a stage of all fields, the last stage with the reaction. Steps do not wait for the device: tables of
scheme and reaction are uploaded once as long as they stay the same, and a step that comes again with the same tables
and buffers is replayed as a CUDA graph. Only :meth:`CudaSweeps.follow` waits, because it must answer. What it finds
narrows a box on the device; voxels outside it are left as they are.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from twin.backends import LAWS, Medium, Reaction, Triple
from twin.errors import TwinError
from twin.model import GOMPERTZ_FLOOR

SOURCE = Path(__file__).with_name("cuda_kernels.cu")
_log = logging.getLogger("oncotwin.twin")
_THREADS = 512
"""Of a block, as the kernels declare."""
_REMEMBERED = 64
"""Most steps whose launches are kept."""
KERNELS = ("stage", "react", "extent")
_REAL: dict[torch.dtype, tuple[str, type[np.floating[Any]]]] = {
    torch.float32: ("float", np.float32),
    torch.float64: ("double", np.float64),
}


@dataclass(frozen=True)
class Launch:
    """One kernel call; blocks and threads count along z, y and x of the volume, arguments are numpy scalars."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    arguments: tuple[Any, ...]


class Kernels(Protocol):
    """The compiled kernels of one floating type and growth law."""

    def run(self, launches: Sequence[Launch]) -> None:
        """Enqueue in order."""

    def record(self, launches: Sequence[Launch]) -> Callable[[], None]:
        """A function that enqueues all of them at once."""


def options(dtype: torch.dtype, law: str) -> tuple[str, ...]:
    """Definitions that the kernels are compiled with."""
    return (
        f"-DREAL={_REAL[dtype][0]}",
        f"-DGOMPERTZ={LAWS.index(law)}",
        f"-DLOG_FLOOR={-math.log(GOMPERTZ_FLOOR)!r}",
    )


@cache
def available() -> bool:
    """Whether there is a device, and CuPy with its compiler."""
    if not torch.cuda.is_available():
        return False
    try:
        import cupy

        cupy.cuda.nvrtc.getVersion()
    except (ImportError, OSError, RuntimeError) as reason:
        # no CuPy, no writable folder CUPY_CACHE_DIR, no NVRTC library
        _log.info("no CUDA backend: %s", reason)
        return False
    return True


class CudaSweeps:
    """See :class:`twin.backends.Sweeps`.

    Parameters
    ----------
    medium : Medium
        On the device.
    kernels : Kernels
        Compiled for the medium's floating type and law.
    """

    def __init__(self, medium: Medium, kernels: Kernels) -> None:
        self._kernels = kernels
        self._dtype, self._device = medium.faces[0].dtype, medium.domain.device
        self._real = _REAL[self._dtype][1]
        nx, ny, nz = medium.faces[0].shape
        self._shape = nx, ny, nz
        self._visited: tuple[int, ...] | None = None
        self._box = self._on_device([1, 1, 1, nx - 1, ny - 1, nz - 1])
        maps = (medium.local_growth, medium.capacity)
        # kept here, for kernels know addresses only
        self._faces = [face.contiguous() for face in medium.faces]
        self._maps = [None if value is None else value.to(self._dtype).contiguous() for value in maps]
        self._work: dict[torch.Size, tuple[Tensor, Tensor]] = {}
        self._steps: dict[tuple[Any, ...], _Step] = {}

    def step(self, out: Tensor, y: Tensor, scheme: Tensor, reaction: Reaction) -> None:
        """One launch a stage, or one replay of all."""
        tables = scheme.numpy().tobytes(), reaction.table.numpy().tobytes()
        key = (self._address(out), self._address(y), y.shape, *tables)
        step = self._steps.get(key)
        if step is None:
            if len(self._steps) >= _REMEMBERED:
                self._steps.clear()
            table = self._upload(scheme.flatten(1), reaction)
            step = _Step(table, self._stages(out, y, table, scheme.shape[1]))
            self._steps[key] = step
            self._kernels.run(step.launches)
            return
        if step.replay is None:
            step.replay = self._kernels.record(step.launches)
        step.replay()

    def react(self, y: Tensor, reaction: Reaction) -> None:
        """The reaction alone."""
        table = self._upload(torch.empty(len(y), 0, dtype=torch.float64), reaction)
        arguments = self._arguments(y, self._box, *self._maps, table, y.shape[1], *self._shape)
        self._kernels.run([Launch("react", *self._tiles(len(y)), arguments)])

    def follow(self, y: Tensor, threshold: float, reach: int) -> tuple[Triple, Triple]:
        """Compute only in the box that the tumour can have reached."""
        edge = max(self._shape)
        found = self._on_device([edge] * 3 + [0] * 3)
        arguments = self._arguments(found, y, self._box, self._real(threshold), y.shape[1], *self._shape)
        self._kernels.run([Launch("extent", *self._tiles(len(y)), arguments)])
        a, b, c, d, e, f = found.tolist()
        if a == edge:
            return (0, 0, 0), (0, 0, 0)
        low = [max(1, n - reach) for n in (a, b, c)]
        high = [min(n + 1 + reach, most - 1) for n, most in zip((d, e, f), self._shape, strict=True)]
        if self._visited is None:
            # stages must find zeros beyond the box
            self._work.clear()
            self._steps.clear()
        else:
            low = [min(pair) for pair in zip(low, self._visited[:3], strict=True)]
            high = [max(pair) for pair in zip(high, self._visited[3:], strict=True)]
        if self._visited != (*low, *high):
            self._visited = (*low, *high)
            self._box.copy_(torch.tensor(self._visited, dtype=torch.int32), non_blocking=True)
        return (a - 1, b - 1, c - 1), (d, e, f)

    def _stages(self, out: Tensor, y: Tensor, table: Tensor, stages: int) -> tuple[Launch, ...]:
        """Launches of a step; y_1 has a buffer of its own, later stages alternate between another one and ``out``."""
        if y.shape not in self._work:
            self._work[y.shape] = torch.zeros_like(y), torch.zeros_like(y)
        first, other = self._work[y.shape]
        made = [y, y]
        launches = []
        for number in range(stages):
            if number == stages - 1 or (number > 0 and (stages - 1 - number) % 2 == 0):
                into = out
            else:
                into = first if number == 0 else other
            arguments = self._arguments(
                into,
                y,
                made[-1],
                made[-2],
                made[min(2, number + 1)],
                *self._faces,
                self._box,
                *self._maps,
                table,
                number,
                stages,
                y.shape[1],
                *self._shape,
            )
            launches.append(Launch("stage", *self._tiles(len(y)), arguments))
            made.append(into)
        return tuple(launches)

    def _upload(self, scheme: Tensor, reaction: Reaction) -> Tensor:
        """The tables as the kernels read them: both growths in one, and the survival, where nothing is killed."""
        own = reaction.table.numpy().copy()
        alone = ~own[:, 2:].any(axis=1)
        own[alone, 0] += own[alone, 1]
        own[alone, 1] = 0.0
        own[:, 2] = np.exp(-own[:, 2])
        packed = np.concatenate([scheme.numpy(), own], axis=1, dtype=self._real)
        # pageable memory is staged before the call returns, so that the copy need not be waited for
        return torch.from_numpy(packed).to(self._device, non_blocking=True)

    def _on_device(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int32).to(self._device, non_blocking=True)

    def _tiles(self, members: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Grid and block of kernels over voxels; lines along z are cut into equal parts of about a warp."""
        x, y, z = (n - 2 for n in self._shape)
        along = -(-z // max(1, round(z / 32)))
        planes = max(1, min(4, _THREADS // (4 * along)))
        return (members * -(-x // planes), -(-y // 4), -(-z // along)), (along, 4, planes)

    def _arguments(self, *values: Tensor | int | np.floating[Any] | None) -> tuple[Any, ...]:
        """Kernel arguments: addresses and numbers."""
        made: list[Any] = []
        for value in values:
            if isinstance(value, Tensor):
                made.append(np.uint64(self._address(value)))
            elif value is None:
                made.append(np.uint64(0))
            else:
                made.append(np.int32(value) if isinstance(value, int) else value)
        return tuple(made)

    def _address(self, value: Tensor) -> int:
        expected = torch.int32 if value.dtype == torch.int32 else self._dtype
        if value.dtype != expected or value.device != self._device or not value.is_contiguous():
            raise TwinError(
                "bad_fields",
                f"The CUDA backend needs contiguous {expected} tensors on {self._device}; one is {value.dtype} "
                f"on {value.device}{'' if value.is_contiguous() else ', not contiguous'}.",
            )
        return value.data_ptr()


@dataclass
class _Step:
    """What a step with its tables and buffers launches; ``table`` is kept alive for it."""

    table: Tensor
    launches: tuple[Launch, ...]
    replay: Callable[[], None] | None = None


class CupyKernels:
    """Kernels on a device, on the stream that is torch's current one at each call."""

    def __init__(self, device: torch.device, dtype: torch.dtype, law: str) -> None:
        import cupy

        self._cupy = cupy
        self._index = torch.cuda.current_device() if device.index is None else device.index
        with cupy.cuda.Device(self._index):
            self._functions = _functions(self._index, options(dtype, law))

    def run(self, launches: Sequence[Launch]) -> None:
        """Enqueue one by one."""
        with self._current():
            self._enqueue(launches)

    def record(self, launches: Sequence[Launch]) -> Callable[[], None]:
        """A CUDA graph; the kernels must have run before, for they are loaded at their first launch."""
        with self._cupy.cuda.Device(self._index):
            stream = self._cupy.cuda.Stream(non_blocking=True)
            with stream:
                stream.begin_capture()
                self._enqueue(launches)
                graph = stream.end_capture()

        def replay() -> None:
            with self._current() as current:
                graph.launch(current)

        return replay

    def _enqueue(self, launches: Sequence[Launch]) -> None:
        for launch in launches:
            self._functions[launch.kernel](launch.grid, launch.block, launch.arguments)

    @contextmanager
    def _current(self) -> Iterator[Any]:
        with self._cupy.cuda.Device(self._index):
            stream = self._cupy.cuda.Stream.from_external(torch.cuda.current_stream(self._index))
            with stream:
                yield stream


@cache
def _functions(device: int, definitions: tuple[str, ...]) -> dict[str, Any]:
    """The compiled kernels of a device; CuPy keeps machine code on disk under CUPY_CACHE_DIR."""
    import cupy

    module = cupy.RawModule(code=SOURCE.read_text(), options=definitions)
    return {name: module.get_function(name) for name in KERNELS}
