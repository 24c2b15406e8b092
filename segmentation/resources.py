"""What the machine offers, device, free memory, native bfloat16, and how much of it the network takes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from segmentation.errors import ModelError

_CGROUP = Path("/sys/fs/cgroup")
_BYTES_PER_VOXEL = 500  # SegResNet with 16 filters in float32: 380 measured, and a margin


def pick_device(name: str) -> torch.device:
    """The device of "auto", "cpu", "cuda" or "cuda:N".

    Raises
    ------
    ModelError
        If there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"device {name!r} is not known; use auto, cpu or cuda.") from error
    if device.type not in ("cpu", "cuda"):
        raise ModelError(f"device {name!r} is not supported; use auto, cpu or cuda.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ModelError(
            f"device {name!r} is not there: {torch.cuda.device_count()} CUDA devices are visible."
        )
    return device


def bytes_of_crop(size: Sequence[int]) -> int:
    """Memory that the network takes for a crop of so many voxels along each axis."""
    return math.prod(size) * _BYTES_PER_VOXEL


def available_bytes(device: torch.device) -> int:
    """Memory free on the device: of the GPU, or of this container (cgroup v2) or machine."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = []
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        free += [
            int(li.split()[1]) * 1024
            for li in meminfo.read_text().splitlines()
            if li.startswith("MemAvailable")
        ]
    limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
        free.append(int(limit.read_text()) - int(used.read_text()) + _cached_files())
    return min(free) if free else 4 << 30


def _cached_files() -> int:
    """Bytes of file cache that the container's use counts and the kernel gives back when they are needed."""
    statistics = _CGROUP / "memory.stat"
    if not statistics.is_file():
        return 0
    entries = dict(line.split() for line in statistics.read_text().splitlines())
    return int(entries.get("inactive_file", 0)) + int(entries.get("active_file", 0))


def has_native_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is faster than float32 here; emulated on a CPU without the instructions it is far slower."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return False
    flags = next((li.split() for li in cpuinfo.read_text().splitlines() if li.startswith("flags")), [])
    return "avx512_bf16" in flags or "amx_bf16" in flags
