"""Where the head is in an image, and whether somebody has removed the skull already."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from imaging.errors import ImagingError, Reason
from imaging.geometry import AnyArray, Geometry, Volume

# A whole adult head cut at the neck is 3 to 5 L, brain with ventricles 1.0 to 2.0 L.
LARGEST_BRAIN_MM3 = 2.2e6
# Share of the voxels on the faces of the volume that must hold one and the same value before that value is
# taken as painted in by a program rather than measured by a scanner.
CONSTANT_BORDER = 0.5


@dataclass(frozen=True, eq=False)
class HeadMask:
    """Voxels that are patient, not air.

    Parameters
    ----------
    mask : Volume
        bool, the largest connected object with its holes filled.
    stripped : bool
        True when only the brain is left: everything around it holds one constant value.
    background : float
        Value of the voxels outside: the painted constant, or 0 for an image as measured.
    """

    mask: Volume
    stripped: bool
    background: float


def find_head(image: Volume) -> HeadMask:
    """Separate the head (or the brain, when the skull has been removed) from the background.

    Parameters
    ----------
    image : Volume
        Any contrast. Speed is proportional to the number of voxels; a 2-4 mm copy is enough.

    Raises
    ------
    ImagingError
        If the image holds one value only: there is no head in it.
    """
    array = np.asarray(image.array, dtype=np.float32)
    constant, share = _border_constant(array)
    if share >= CONSTANT_BORDER:
        painted = largest_object(array != constant)
        if 0 < painted.sum() * image.geometry.voxel_volume_mm3 <= LARGEST_BRAIN_MM3:
            return HeadMask(image.with_array(painted), True, constant)
    return HeadMask(image.with_array(_above_air(array, image.geometry)), False, 0.0)


def _border_constant(array: AnyArray) -> tuple[float, float]:
    """Most frequent value on the six faces of the volume and its share of them."""
    faces = [np.take(array, index, axis).ravel() for axis in range(3) for index in (0, -1)]
    values, counts = np.unique(np.concatenate(faces), return_counts=True)
    most = int(counts.argmax())
    return float(values[most]), float(counts[most] / counts.sum())


def _above_air(array: AnyArray, geometry: Geometry) -> npt.NDArray[np.bool_]:
    """Head in an image as measured: brighter than air, closed over sinuses and skull."""
    smooth = ndimage.gaussian_filter(array, [2.0 / s for s in geometry.spacing], mode="nearest")
    # Clipping keeps fat and vessels, much brighter than the rest, from pulling the threshold up.
    clipped = np.clip(smooth, *np.percentile(smooth, (1, 98)))
    if np.ptp(clipped) == 0:
        raise ImagingError(
            Reason.REGISTRATION_FAILED, "An image holds one value only, so there is no head in it to align."
        )
    head = largest_object(clipped > 0.6 * _otsu_threshold(clipped))
    reach = [max(1, round(8.0 / s)) for s in geometry.spacing]
    grown = np.pad(head, [(r, r) for r in reach])
    closed = ndimage.binary_closing(grown, _box_ball(reach))
    inner = closed[tuple(slice(r, -r) for r in reach)]
    return largest_object(inner)


def _otsu_threshold(array: AnyArray) -> float:
    """Threshold that maximises the variance between two classes (Otsu 1979)."""
    counts, edges = np.histogram(array, bins=256)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)
    above = below[-1] - below
    mass = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (mass / below - (mass[-1] - mass) / above) ** 2
    return float(centres[int(np.nanargmax(between[:-1]))])


def _box_ball(radius: list[int]) -> npt.NDArray[np.bool_]:
    """Ellipsoid with these half axes in voxels."""
    grids = np.ogrid[tuple(slice(-r, r + 1) for r in radius)]
    distance = sum(((g / r) ** 2 for g, r in zip(grids, radius, strict=True)), start=np.zeros(1))
    inside: npt.NDArray[np.bool_] = distance <= 1.0
    return inside


def largest_object(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Largest connected component with holes filled; empty when ``mask`` is."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    filled: npt.NDArray[np.bool_] = ndimage.binary_fill_holes(labels == sizes.argmax())
    return filled
