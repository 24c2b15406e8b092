"""Balls in a block of white matter, for what no head is needed for."""

from collections.abc import Sequence

import torch
from torch import Tensor

from twin import TissueMaps


def block(cells: int, spacing: float) -> TissueMaps:
    """A cube of white matter of ``cells`` voxels a side, ``spacing`` mm each."""
    white = torch.ones((cells,) * 3)
    return TissueMaps(white, torch.zeros_like(white), white > 0, (spacing,) * 3)


def ball(cells: int, spacing: float, radius: float, centre: Sequence[float] = (0.0, 0.0, 0.0)) -> Tensor:
    """Mask of a ball in :func:`block`; ``radius`` and ``centre`` in mm, from the middle of the block."""
    axis = (torch.arange(cells, dtype=torch.float64) - (cells - 1) / 2) * spacing
    x, y, z = torch.meshgrid(*(axis - place for place in centre), indexing="ij")
    return x**2 + y**2 + z**2 < radius**2
