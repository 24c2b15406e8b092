"""NIfTI files for the command line."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from torch import Tensor

from twin.errors import TwinError
from twin.inputs import TissueMaps, TumourObservation

CORE_LABELS, WHOLE_LABELS = (1, 3), (1, 2, 3)
_ROUNDING = 1e-3


@dataclass(frozen=True)
class Grid:
    """Shape and affine (voxel index to mm) that all volumes of a run share."""

    shape: tuple[int, ...]
    affine: Any


def read_volume(path: Path, grid: Grid | None = None) -> tuple[Tensor, Grid]:
    """Read a volume with three axes, float32, and refuse one that is not on ``grid``.

    Raises
    ------
    TwinError
        If the file is missing, not NIfTI or on another grid.
    """
    try:
        image = nibabel.load(path)
        data = np.asarray(image.dataobj, dtype=np.float32)
    except (OSError, ImageFileError, EOFError) as error:
        raise TwinError("bad_file", f"{path} cannot be read as NIfTI: {error}.") from error
    if data.ndim != 3:
        raise TwinError("bad_file", f"{path} has {data.ndim} axes; a volume with three is needed.")
    own = Grid(data.shape, image.affine)
    if grid is not None and (own.shape != grid.shape or not np.allclose(own.affine, grid.affine, atol=1e-3)):
        raise TwinError("bad_file", f"{path} is not on the grid of the tissue maps; resample it.")
    return torch.from_numpy(data), own


def read_maps(white: Path, gray: Path, domain: Path | None) -> tuple[TissueMaps, Grid]:
    """Read tissue maps; without a domain, tissue is where white and grey matter together exceed one half."""
    wm, grid = read_volume(white)
    gm, _ = read_volume(gray, grid)
    mask = read_volume(domain, grid)[0] > 0.5 if domain else wm + gm > 0.5
    x, y, z = (float(h) for h in np.linalg.norm(grid.affine[:3, :3], axis=0))
    return TissueMaps(wm, gm, mask, (x, y, z)), grid


def read_visit(text: str, grid: Grid) -> TumourObservation:
    """Read ``DAY:FILE`` with BraTS labels.

    Raises
    ------
    TwinError
        If the text or the labels are not as said.
    """
    day, separator, path = text.partition(":")
    try:
        when = float(day)
    except ValueError as error:
        raise TwinError("bad_visit", f"A visit is written DAY:FILE, not {text!r}.") from error
    if not separator:
        raise TwinError("bad_visit", f"A visit is written DAY:FILE, not {text!r}.")
    labels, _ = read_volume(Path(path), grid)
    # integers that a file keeps scaled come back rounded
    whole_numbers = labels.round()
    if not bool(((labels - whole_numbers).abs() < _ROUNDING).all()):
        raise TwinError(
            "bad_visit",
            f"{path} holds values that are no labels; take a label map that was not interpolated.",
        )
    labels = whole_numbers
    unknown = sorted({int(v) for v in np.unique(labels.numpy())} - {0, *WHOLE_LABELS})
    if unknown:
        raise TwinError("bad_visit", f"{path} holds the labels {unknown}; only 0, 1, 2 and 3 are known.")
    core, whole = (torch.isin(labels, torch.tensor(known).float()) for known in (CORE_LABELS, WHOLE_LABELS))
    return TumourObservation(when, core, whole)


def write_volume(path: Path, volume: Tensor, grid: Grid) -> None:
    """Write a volume on ``grid``."""
    nibabel.save(nibabel.Nifti1Image(volume.cpu().numpy(), grid.affine), path)
