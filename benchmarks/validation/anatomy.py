"""A synthetic head given by formulas, so that every grid samples the same one."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
HALF_AXES_MM = (50.0, 58.0, 46.0)
_VENTRICLE_MM = (8.0, 20.0, 8.0)


@dataclass(frozen=True)
class Head:
    """The head sampled at voxel centres; all volumes (X, Y, Z).

    Parameters
    ----------
    spacing : float
        Edge of the cubic voxels, mm.
    axes : tuple of ndarray
        Coordinates of the voxel centres along each axis, mm; the origin is the centre of the head.
    white, gray : ndarray
        Parts of white and grey matter, 0..1, summing to one in the domain.
    domain : ndarray
        Brain without the ventricle.
    """

    spacing: float
    axes: tuple[Array, Array, Array]
    white: Array
    gray: Array
    domain: Mask

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along each axis."""
        x, y, z = (axis.size for axis in self.axes)
        return x, y, z

    def centres(self) -> tuple[Array, Array, Array]:
        """Coordinates of all voxel centres, sparse along the other axes, mm."""
        x, y, z = np.meshgrid(*self.axes, indexing="ij", sparse=True)
        return x, y, z


@lru_cache(maxsize=4)
def head(spacing: float) -> Head:
    """Ellipsoid of white matter with a folded grey rim and one ventricle.

    Parameters
    ----------
    spacing : float
        Edge of the voxels, mm.
    """
    counts = [2 * int(np.ceil(half / spacing)) + 2 for half in HALF_AXES_MM]
    first, second, third = ((np.arange(n) + 0.5 - n / 2) * spacing for n in counts)
    x, y, z = np.meshgrid(first, second, third, indexing="ij", sparse=True)
    a, b, c = HALF_AXES_MM
    radius = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
    d, e, f = _VENTRICLE_MM
    domain = (radius < 1) & ((x / d) ** 2 + (y / e) ** 2 + (z / f) ** 2 > 1)
    # the kernels of the truth look two voxels ahead
    for axis in range(3):
        np.moveaxis(domain, axis, 0)[[0, 1, -2, -1]] = False
    fold = np.sin(x / 6 + np.sin(y / 9)) * np.sin(z / 7 + np.cos(y / 8))
    gray = domain / (1 + np.exp(-(radius - 0.84 + 0.05 * fold) / 0.03))
    return Head(spacing, (first, second, third), domain - gray, gray, domain)


def fibres(head_: Head) -> tuple[Array, Array, Array]:
    """Unit vectors of a fibre direction that runs around the ventricle and dips, full volumes."""
    x, y, z = head_.centres()
    zero = 0 * (x + y + z)
    along = (-y / HALF_AXES_MM[1] + zero, x / HALF_AXES_MM[0] + zero, 0.5 * np.sin(x / 12 + y / 15) + zero)
    length = np.sqrt(along[0] ** 2 + along[1] ** 2 + along[2] ** 2) + 1e-9
    return along[0] / length, along[1] / length, along[2] / length
