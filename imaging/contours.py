"""Planar contours to voxels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from imaging.geometry import AnyArray, FloatArray, Geometry

# Treatment planning systems store contours to 0.01 or 0.1 mm.
_PLANE_TOLERANCE = 0.1


def slice_of(points: FloatArray, geometry: Geometry) -> int | None:
    """Index of the slice that contour points ``(n, 3)`` in LPS mm lie in; None off the slices or the field."""
    index = geometry.to_index(points)
    slice_index = np.round(index[:, 2].mean())
    in_plane = np.abs(index[:, 2] - slice_index).max() <= _PLANE_TOLERANCE
    upper = np.asarray(geometry.shape) - 0.5
    inside = (index > -0.5 - _PLANE_TOLERANCE).all() and (index < upper + _PLANE_TOLERANCE).all()
    return int(slice_index) if in_plane and inside else None


def rasterise(contours: Iterable[FloatArray], geometry: Geometry) -> AnyArray:
    """Voxels whose centre is inside closed contours, by the even-odd rule.

    Contours of one slice are combined: one inside another is a hole.

    Parameters
    ----------
    contours : iterable of numpy.ndarray
        Points ``(n, 3)`` in LPS mm, each contour in one slice (see ``slice_of``).
    geometry : Geometry
        The grid.

    Returns
    -------
    numpy.ndarray
        bool of ``geometry.shape``.
    """
    mask = np.zeros(geometry.shape, dtype=bool)
    for points in contours:
        index = geometry.to_index(points)
        k = int(np.round(index[:, 2].mean()))
        mask[:, :, k] ^= _inside(index[:, 0], index[:, 1], geometry.shape[0], geometry.shape[1])
    return mask


def _inside(x: FloatArray, y: FloatArray, columns: int, rows: int) -> AnyArray:
    """Even-odd test of all pixel centres ``(columns, rows)`` against one polygon, by crossings along each row."""
    inside = np.zeros((columns, rows), dtype=bool)
    x_next, y_next = np.roll(x, -1), np.roll(y, -1)
    for row in range(max(0, int(np.floor(y.min()))), min(rows, int(np.ceil(y.max())) + 1)):
        # Half-open edges: a vertex on the row counts once.
        crosses = (y <= row) != (y_next <= row)
        at = x[crosses] + (row - y[crosses]) / (y_next[crosses] - y[crosses]) * (x_next[crosses] - x[crosses])
        inside[:, row] = (np.arange(columns)[:, None] > at[None, :]).sum(axis=1) % 2 == 1
    return inside
