"""Where the head is in an image, and whether somebody has removed the skull already."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from imaging.errors import ImagingError, Reason
from imaging.geometry import AnyArray, Geometry, Volume
from imaging.multiresolution import pooled

# A whole adult head cut at the neck is 3 to 5 L, brain with ventricles 1.0 to 2.0 L.
LARGEST_BRAIN_MM3 = 2.2e6
# Grey and white matter alone, of which a threshold may lose part.
SMALLEST_BRAIN_MM3, LARGEST_TISSUE_MM3 = 0.6e6, 1.7e6
_EROSIONS_MM = (3.0, 4.0, 5.0, 6.0, 8.0, 10.0)
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


@dataclass(frozen=True, eq=False)
class BareBrain:
    """A brain without its skull, at about 2 mm.

    Parameters
    ----------
    image : Volume
        float32, 0 outside.
    mask : Volume
        bool.
    stripped : bool
        True when the input came without skull, so that the mask is exact.
    """

    image: Volume
    mask: Volume
    stripped: bool


def bare_brain(image: Volume) -> BareBrain:
    """Brain of a T1 or T1CE image, with or without skull.

    Raises
    ------
    ImagingError
        If there is no brain to be seen.
    """
    small = pooled(image, 2.0)
    head = find_head(pooled(small, 4.0))
    if head.stripped:
        # A painted background is exact only in the original voxels.
        share = pooled(image.with_array(image.array != head.background), 2.0)
        brain = largest_object(share.array > 0.5)
    else:
        found = head.mask.resampled(small.geometry, interpolation="nearest").array
        brain = rough_brain(small, found)
    values = np.where(brain, small.array - head.background, 0.0).astype(np.float32)
    return BareBrain(small.with_array(values), small.with_array(brain), head.stripped)


def rough_brain(image: Volume, head: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Brain of a T1 or T1CE image by threshold and erosion: what stays in one piece below the dark skull.

    Only good enough to start a registration from.

    Parameters
    ----------
    image : Volume
        Head with its skull, at about 2 mm.
    head : numpy.ndarray
        bool, voxels that are not air.

    Raises
    ------
    ImagingError
        If no object of the size of a brain comes loose.
    """
    spacing = image.geometry.spacing
    smooth = ndimage.gaussian_filter(image.array, [1.0 / s for s in spacing])
    depth = ndimage.distance_transform_edt(np.pad(head, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    typical = float(np.median(smooth[depth > 0.6 * depth.max()]))
    tissue = head & (smooth > 0.6 * typical) & (smooth < 1.6 * typical)
    thickness = ndimage.distance_transform_edt(np.pad(tissue, 1), sampling=spacing)[1:-1, 1:-1, 1:-1]
    for erosion in _EROSIONS_MM:
        core = largest_object(thickness > erosion)
        reach = ndimage.distance_transform_edt(~core, sampling=spacing)
        brain = tissue & (reach <= erosion + 1.0)
        volume = brain.sum() * image.geometry.voxel_volume_mm3
        if SMALLEST_BRAIN_MM3 <= volume <= LARGEST_TISSUE_MM3:
            closed = ndimage.binary_closing(brain, _box_ball([max(1, round(6.0 / s)) for s in spacing]))
            return largest_object(closed | brain)
    raise ImagingError(
        Reason.REGISTRATION_FAILED,
        "No brain comes loose from the skull in the T1 image; give a T1 of the head or one without skull.",
    )


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
