"""Slices for the pages of the report: any volume cut along the patient's own planes, in true proportion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from scipy.ndimage import map_coordinates

from imaging.geometry import FloatArray, Volume

Plane = Literal["axial", "coronal", "sagittal"]
FloatImage = npt.NDArray[np.float64]

# In-plane axes (horizontal, vertical) and normal, as indices of L, P, S.
_AXES: dict[Plane, tuple[int, int, int]] = {"axial": (0, 1, 2), "coronal": (0, 2, 1), "sagittal": (1, 2, 0)}
# What is at the left, right, top and bottom edge. Radiological convention: patient's right on the left.
_EDGES: dict[Plane, str] = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
_COARSE_MM = 4.0
_FINE_MM = 0.8


@dataclass(frozen=True, eq=False)
class Scene:
    """What of a volume to show.

    Parameters
    ----------
    low, high : numpy.ndarray
        ``(3,)`` LPS in mm: box around the head.
    centre : numpy.ndarray
        ``(3,)`` LPS in mm: the point that all three planes pass through.
    window : tuple of float
        Grey values shown black and white.
    """

    low: FloatArray
    high: FloatArray
    centre: FloatArray
    window: tuple[float, float]


def scene_of(image: Volume, labels: Volume) -> Scene:
    """Head box, grey window and the planes with most tumour (the middle of the head when there is none)."""
    coarse = image.geometry.axis_aligned_cover(_COARSE_MM)
    values = _sample(image, coarse.to_patient(np.moveaxis(np.indices(coarse.shape), 0, -1)))
    bright = float(np.percentile(values, 99.5))
    inside = values > 0.12 * bright
    if not inside.any():
        inside = np.ones_like(inside)
    index = np.argwhere(_without_sparse_planes(inside))
    low = coarse.to_patient(index.min(axis=0)) - _COARSE_MM
    high = coarse.to_patient(index.max(axis=0)) + _COARSE_MM
    window = (float(np.percentile(values[inside], 0.5)) * 0.5, float(np.percentile(values[inside], 99.7)))
    if not window[0] < window[1]:
        window = (float(values.min()), float(values.min()) + 1.0)
    return Scene(low, high, _fullest_planes(labels, (low + high) / 2), window)


def cut(volume: Volume, scene: Scene, plane: Plane) -> FloatImage:
    """Values of the volume on a plane through the scene's centre, ``(rows, columns)``, linear interpolation.

    Row 0 is the low end of the vertical axis (anterior, inferior).
    """
    horizontal, vertical, normal = _AXES[plane]
    points = np.empty((*_shape(scene, plane), 3))
    for axis, position in ((horizontal, 1), (vertical, 0)):
        number = points.shape[position]
        steps = scene.low[axis] + (np.arange(number) + 0.5) * (scene.high[axis] - scene.low[axis]) / number
        points[..., axis] = steps[np.newaxis, :] if position == 1 else steps[:, np.newaxis]
    points[..., normal] = scene.centre[normal]
    return _sample(volume, points)


def show_slice(
    axes: Axes,
    image: Volume,
    scene: Scene,
    plane: Plane,
    contours: Mapping[str, tuple[Volume, str]],
    *,
    overlay: Volume | None = None,
    dashed: tuple[str, ...] = (),
) -> None:
    """Draw a slice with contours.

    Parameters
    ----------
    contours : mapping
        Name to mask (0 or 1) and colour; drawn where the linearly interpolated mask crosses one half.
    overlay : Volume, optional
        Fraction 0..1 laid over the image in colour.
    dashed : tuple of str
        Contours to draw dashed.
    """
    horizontal, vertical, _ = _AXES[plane]
    extent = (scene.low[horizontal], scene.high[horizontal], scene.low[vertical], scene.high[vertical])
    grey = cut(image, scene, plane)
    axes.set_facecolor("black")
    axes.imshow(
        grey,
        cmap="gray",
        vmin=scene.window[0],
        vmax=scene.window[1],
        extent=extent,
        origin="lower",
        aspect="equal",
    )
    if overlay is not None:
        values = cut(overlay, scene, plane)
        shown = np.ma.masked_less(values, 0.02)
        axes.imshow(shown, cmap="inferno", vmin=0, vmax=1, alpha=0.55, extent=extent, origin="lower")
    rows, columns = grey.shape
    x = extent[0] + (np.arange(columns) + 0.5) * (extent[1] - extent[0]) / columns
    y = extent[2] + (np.arange(rows) + 0.5) * (extent[3] - extent[2]) / rows
    for name, (mask, colour) in contours.items():
        values = cut(mask, scene, plane)
        if values.max() >= 0.5 > values.min():
            style = "dashed" if name in dashed else "solid"
            axes.contour(x, y, values, levels=[0.5], colors=[colour], linewidths=0.9, linestyles=style)
    # Posterior grows downwards on an axial slice, superior upwards on the others.
    axes.set_ylim((extent[3], extent[2]) if plane == "axial" else (extent[2], extent[3]))
    axes.set_xticks([])
    axes.set_yticks([])
    _letter_edges(axes, _EDGES[plane])


def framed(scene: Scene, size: FloatArray) -> Scene:
    """The scene with a box of ``size`` mm around the same middle, so that several scenes share one scale."""
    middle = (scene.low + scene.high) / 2
    return Scene(middle - size / 2, middle + size / 2, scene.centre, scene.window)


def _shape(scene: Scene, plane: Plane) -> tuple[int, int]:
    """Rows and columns of a picture of this plane."""
    horizontal, vertical, _ = _AXES[plane]
    size = np.maximum(1, np.round((scene.high - scene.low) / _FINE_MM)).astype(int)
    return int(size[vertical]), int(size[horizontal])


def _sample(volume: Volume, points: FloatArray) -> FloatImage:
    """Values at LPS points, linear interpolation, 0 outside. Only what is asked for is computed."""
    index = np.moveaxis(volume.geometry.to_index(points), -1, 0)
    array = volume.array.view(np.uint8) if volume.array.dtype == bool else volume.array
    values: FloatImage = map_coordinates(array, index, output=np.float64, order=1, mode="constant", cval=0.0)
    return values


def _fullest_planes(labels: Volume, otherwise: FloatArray) -> FloatArray:
    """On each axis the coordinate of the plane through which most tumour is seen."""
    index = np.argwhere(labels.array > 0)
    if index.size == 0:
        return otherwise
    points = labels.geometry.to_patient(index)
    centre = np.empty(3)
    for axis in range(3):
        # Bins as wide as the slices, or thick slices leave empty bins between them.
        width = float(np.abs(labels.geometry.affine[axis, :3]).max())
        bins = np.round((points[:, axis] - points[:, axis].min()) / width).astype(int)
        centre[axis] = points[bins == np.bincount(bins).argmax(), axis].mean()
    return centre


def _without_sparse_planes(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The mask less the planes with hardly anything in them: those are noise around the head."""
    kept = mask.copy()
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        filled = mask.sum(axis=others)
        sparse = filled < 0.02 * filled.max()
        kept[tuple(sparse if other == axis else slice(None) for other in range(3))] = False
    return kept if kept.any() else mask


def _letter_edges(axes: Axes, letters: str) -> None:
    places = (
        (0.02, 0.5, "left", "center"),
        (0.98, 0.5, "right", "center"),
        (0.5, 0.98, "center", "top"),
        (0.5, 0.02, "center", "bottom"),
    )
    for letter, (x, y, horizontal, vertical) in zip(letters, places, strict=True):
        axes.text(
            x,
            y,
            letter,
            transform=axes.transAxes,
            ha=horizontal,
            va=vertical,
            fontsize=6.5,
            color="white",
            path_effects=[withStroke(linewidth=1.2, foreground="black")],
        )
