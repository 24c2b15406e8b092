"""What the image's size is spent on, as a Markdown table: ``python -m container.sizes`` inside the image."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

PACKAGES = "opt/venv/lib/python3.11/site-packages"
# The first prefix that fits counts.
GROUPS = (
    ("PyTorch", "torch torchgen functorch"),
    ("SimpleITK: registration, resampling", "SimpleITK"),
    ("numba with LLVM: growth solver", "numba llvmlite"),
    ("Holoscan, MONAI, Deploy SDK, Triton client", "holoscan monai triton grpc gevent nvidia wheel_axle"),
    ("numpy, scipy", "numpy scipy"),
    (
        "DICOM: pydicom, highdicom, decoders",
        "pydicom highdicom _gdcm gdcm python_gdcm pylibjpeg pyjpegls _libjpeg _openjpeg openjpeg libjpeg",
    ),
    (
        "matplotlib with fonts: PDF report",
        "matplotlib mpl_toolkits fontTools PIL pillow contourpy kiwisolver",
    ),
    ("nilearn: atlas", "nilearn"),
)
ELSEWHERE = (
    ("segmentation weights", ("opt/holoscan/models",)),
    ("OncoTwin itself and its documents", ("opt/holoscan",)),
    ("other Python packages", ("opt/venv",)),
    ("Debian and Python", ("",)),
)
_NOT_IN_IMAGE = ("proc", "sys", "dev", "tmp", "run", "var/holoscan/input", "var/holoscan/output")


def files(root: Path) -> Iterator[tuple[str, int]]:
    """Every file below a root as relative path and bytes."""
    for parent, folders, names in os.walk(root):
        inside = os.path.relpath(parent, root)
        folders[:] = [name for name in folders if os.path.normpath(f"{inside}/{name}") not in _NOT_IN_IMAGE]
        for name in names:
            yield os.path.normpath(f"{inside}/{name}"), os.lstat(os.path.join(parent, name)).st_size


def group_of(path: str) -> str:
    """Name of the row a file belongs to."""
    if path.startswith(PACKAGES):
        package = path.removeprefix(f"{PACKAGES}/")
        for name, prefixes in GROUPS:
            if package.startswith(tuple(prefixes.split())):
                return name
    return next(name for name, prefixes in ELSEWHERE if path.startswith(prefixes))


def table(root: Path) -> str:
    """Rows from the largest to the smallest, with the sum."""
    sums: dict[str, int] = {}
    for path, size in files(root):
        sums[group_of(path)] = sums.get(group_of(path), 0) + size
    rows = [*sorted(sums.items(), key=lambda row: -row[1]), ("together", sum(sums.values()))]
    return "\n".join(
        ["| part | MB |", "| --- | ---: |", *(f"| {name} | {size / 1e6:.0f} |" for name, size in rows)]
    )


if __name__ == "__main__":
    print(table(Path(sys.argv[1] if len(sys.argv) > 1 else "/")))
