"""Folders of NIfTI files whose names tell the contrasts (BraTS's t1c, t1n, t2w, t2f, or T1c, Flair)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_NAMES = {
    "reference": r"seg|otmulticlass|label",
    "t1ce": r"t1c|t1ce|t1gd|t1post",
    "flair": r"flair|t2f",
    "t2": r"t2w|t2",
    "t1": r"t1n|t1",
}


def case_files(folder: Path) -> Iterator[tuple[str, dict[str, Path]]]:
    """Name and files of every folder below `folder` with NIfTI files: "t1", "t1ce", "t2", "flair", "reference"."""
    for place in sorted({path.parent for path in folder.rglob("*.nii*")}):
        files: dict[str, Path] = {}
        for path in sorted(place.glob("*.nii*")):
            words = re.sub(r"[^a-z0-9]+", " ", path.name.lower().split(".nii")[0]).split()
            kind = next((k for k, pattern in _NAMES.items() for w in words if re.fullmatch(pattern, w)), None)
            if kind is not None and kind not in files:
                files[kind] = path
        if files:
            yield place.name, files
