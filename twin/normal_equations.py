"""Sums over voxels that least squares needs of one target: products of residuals and derivatives.

Stacking, for every voxel, the derivatives of what is seen with respect to the fields' directions, those with respect
to the two boundary shifts and the residual itself gives a row; the Gram matrix of these rows holds the Gauss-Newton
Hessian, the gradient and the sum of squares. A fused kernel visits every voxel once where numba can be had, plain torch
does the same elsewhere.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twin.backends import numba_cpu
from twin.coordinates import Vector
from twin.displacement import Displacement
from twin.settings import CalibrationSettings
from twin.targets import Asked, Target

_NOTHING = 1e-4
"""Residuals and slopes of the soft masks below this are left out."""
_SPLIT = 20_000
"""Voxels that are worth a thread of their own."""


def gram(
    target: Asked, fields: Tensor, position: Vector, settings: CalibrationSettings, threads: int = 1
) -> Vector:
    """Gram matrix (F + 2, F + 2), float64, of a target.

    Parameters
    ----------
    target : Target or Displacement
        What was observed.
    fields : Tensor
        (F, X, Y, Z), the density and F - 1 tangents. Rows of the matrix: the tangents, the shifts of core and whole
        boundary, the residual.
    position : ndarray
        Coordinates, for the shifts.
    threads : int, optional
        Most threads on a CPU.
    """
    if isinstance(target, Displacement):
        return target.gram(fields, position)
    if numba_cpu.AVAILABLE and fields.device.type == "cpu":
        return _fused(target, fields, position, settings, threads)
    return reference(target, fields, position, settings)


def reference(target: Target, fields: Tensor, position: Vector, settings: CalibrationSettings) -> Vector:
    """:func:`gram` in plain torch."""
    density = fields[0]
    seen = target.seen(density, settings)
    slope, residual = target.slope(seen, settings), target.residual(seen, position)
    matters = (residual.abs() > _NOTHING) | ((slope > _NOTHING) & (density > _NOTHING))
    if target.at_most:
        matters = residual > 0.0
    elif target.region is not None:
        matters &= target.region
    rows = [slope[matters].double() * tangent[matters].double() for tangent in fields[1:]]
    rows += [-shift[matters].double() for shift in target.shifts]
    stacked = torch.stack([*rows, residual[matters].double()])
    return np.asarray((stacked @ stacked.T).cpu().numpy())


def _fused(
    target: Target, fields: Tensor, position: Vector, settings: CalibrationSettings, threads: int
) -> Vector:
    from twin.backends import gram as kernel  # numba takes half a second to import

    soft = target.threshold is not None
    region = torch.empty(0, 0, 0, dtype=torch.bool) if target.region is None else target.region
    arguments: tuple[Any, ...] = (
        fields.numpy(),
        target.values.numpy(),
        target.shifts.numpy(),
        region.numpy(),
        (float(position[target.first_shift]), float(position[target.first_shift + 1])),
        target.threshold if target.threshold is not None else 0.0,
        settings.threshold_width if soft else 0.0,
        target.at_most,
        _NOTHING,
    )
    planes = fields.shape[1]
    parts = max(1, min(threads, fields[0].numel() // _SPLIT))
    cuts = [planes * n // parts for n in range(parts + 1)]
    waiting = [_pool(threads).submit(kernel.gram, *(*arguments, a, b)) for a, b in pairwise(cuts[1:])]
    upper = kernel.gram(*arguments, cuts[0], cuts[1]) + sum(part.result() for part in waiting)
    return np.asarray(upper + np.triu(upper, 1).T)


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="twin-gram")
