"""Boxes of a volume: where the solver works, and how results return to the full grid."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from twin.errors import TwinError


@dataclass(frozen=True)
class Box:
    """Axis-aligned part of a volume: ``start`` inclusive, ``stop`` exclusive, voxels."""

    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @classmethod
    def around_voxels(cls, mask: Tensor, margin: tuple[int, int, int], limit: "Box") -> "Box":
        """Bounding box of ``mask`` plus a margin in voxels, within ``limit``.

        Raises
        ------
        TwinError
            If the mask is empty.
        """
        filled = _filled(mask)
        if filled is None:
            raise TwinError("no_tumour", "There is no tumour to put a box around.")
        start, stop = [], []
        for axis, reach in enumerate(margin):
            indices = np.flatnonzero(filled[axis])
            start.append(max(int(indices[0]) - reach, limit.start[axis]))
            stop.append(min(int(indices[-1]) + 1 + reach, limit.stop[axis]))
        return cls((start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))

    @classmethod
    def of(cls, mask: Tensor) -> "Box | None":
        """Smallest box that holds ``mask``; None when it is empty."""
        filled = _filled(mask)
        if filled is None:
            return None
        ends = [(int(axis[0]), int(axis[-1]) + 1) for axis in map(np.flatnonzero, filled)]
        return cls((ends[0][0], ends[1][0], ends[2][0]), (ends[0][1], ends[1][1], ends[2][1]))

    @classmethod
    def around(
        cls, mask: Tensor, margin_mm: float, spacing_mm: tuple[float, float, float], limit: "Box"
    ) -> "Box":
        """Bounding box of ``mask`` plus a margin in mm, within ``limit``; see :meth:`around_voxels`."""
        x, y, z = (math.ceil(min(margin_mm / h, n)) for h, n in zip(spacing_mm, mask.shape, strict=True))
        return cls.around_voxels(mask, (x, y, z), limit)

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Index of the box."""
        x, y, z = (slice(a, b) for a, b in zip(self.start, self.stop, strict=True))
        return x, y, z

    def within(self, outer: "Box") -> tuple[slice, slice, slice]:
        """Index of this box inside an array that covers ``outer``."""
        x, y, z = (slice(a - o, b - o) for a, b, o in zip(self.start, self.stop, outer.start, strict=True))
        return x, y, z


def _filled(mask: Tensor) -> tuple[npt.NDArray[np.bool_], ...] | None:
    """Which planes along each axis hold any of the mask; None when none does."""
    # numpy reduces booleans many times faster than torch does
    inside: npt.NDArray[np.bool_] = mask.cpu().numpy()
    plane = np.asarray(inside.any(axis=2))
    if not plane.any():
        return None
    return np.asarray(plane.any(axis=1)), np.asarray(plane.any(axis=0)), np.asarray(inside.any(axis=(0, 1)))


def leak(density: Tensor, box: Box, limit: Box) -> float:
    """Largest density on those sides of ``box`` behind which the domain goes on.

    Parameters
    ----------
    density : Tensor
        (..., X, Y, Z) on ``box``.
    """
    worst = 0.0
    for axis in range(3):
        if box.start[axis] > limit.start[axis]:
            worst = max(worst, float(density.select(axis - 3, 0).max()))
        if box.stop[axis] < limit.stop[axis]:
            worst = max(worst, float(density.select(axis - 3, -1).max()))
    return worst


def voxels(mask: Tensor) -> int:
    """Number of voxels of a mask; numpy counts booleans much faster than torch sums them."""
    return int(np.count_nonzero(mask.cpu().numpy()))


def bounding_box(domain: Tensor) -> Box:
    """Smallest box that holds the domain."""
    full = Box((0, 0, 0), (domain.shape[0], domain.shape[1], domain.shape[2]))
    return Box.around_voxels(domain, (0, 0, 0), full)


def surface_mm2(mask: Tensor, spacing_mm: tuple[float, float, float]) -> float:
    """Surface of a mask, mm2: area of the exposed voxel faces times 2/3, the mean ratio over all orientations."""
    padded = torch.nn.functional.pad(mask.to(torch.uint8), (1,) * 6)
    voxel = math.prod(spacing_mm)
    faces = sum(
        float(torch.diff(padded.to(torch.int8), dim=axis).abs().sum()) * voxel / spacing
        for axis, spacing in enumerate(spacing_mm)
    )
    return faces * 2.0 / 3.0
