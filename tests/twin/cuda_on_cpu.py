"""The CUDA kernels compiled as C++ and run on the CPU: the same source, thread after thread."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from twin.backends.cuda import SOURCE, Launch, options


def compiled(folder: Path, dtype: torch.dtype, law: str) -> ctypes.CDLL:
    """The kernels of one floating type and law as a shared library in ``folder``."""
    if shutil.which("g++") is None:
        pytest.fail("g++ is missing: the CUDA source is tested as C++. Install g++ (make system-tools does).")
    library = folder / f"kernels_{str(dtype)[-2:]}_{law}.so"
    if not library.exists():
        shim = Path(__file__).with_suffix(".cpp")
        flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        done = subprocess.run(
            [
                "g++",
                *flags,
                *options(dtype, law),
                f'-DKERNEL_SOURCE="{SOURCE}"',
                "-o",
                str(library),
                str(shim),
            ],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    return ctypes.CDLL(str(library))


class CpuKernels:
    """See :class:`twin.backends.cuda.Kernels`; ``backwards`` runs the threads in the opposite order."""

    def __init__(self, library: ctypes.CDLL, *, backwards: bool = False) -> None:
        self._launch = library.launch
        self._launch.restype = ctypes.c_bool
        self._backwards = backwards
        self.recorded = self.replayed = 0

    def run(self, launches: Sequence[Launch]) -> None:
        for launch in launches:
            assert np.prod(launch.block) <= 512 and max(launch.grid[1:]) < 65536 and launch.block[2] <= 64
            cells = [np.array(value) for value in launch.arguments]
            done = self._launch(
                launch.kernel.encode(),
                (ctypes.c_uint * 3)(*launch.grid),
                (ctypes.c_uint * 3)(*launch.block),
                (ctypes.c_void_p * len(cells))(*(cell.ctypes.data for cell in cells)),
                (ctypes.c_int * len(cells))(*(cell.itemsize for cell in cells)),
                ctypes.c_int(len(cells)),
                ctypes.c_bool(self._backwards),
            )
            assert done, f"{launch.kernel} takes other arguments than it is given"

    def record(self, launches: Sequence[Launch]) -> Callable[[], None]:
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            self.run(launches)

        return replay
