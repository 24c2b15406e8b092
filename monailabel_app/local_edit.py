"""Marks on the displayed image carried into a small isotropic grid, refined there, and carried back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
from scipy import ndimage

from imaging.geometry import FloatArray, Geometry, Volume
from imaging.labels import TumourLabel
from imaging.preparation import PreparedVisit
from imaging.roles import Role
from monailabel_app.refinement import Mask, Reach, spread

_SPACING_MM = 1.0
# Contrasts are compared in units of the head's spread; noise of a voxel must not decide.
_SMOOTHING_MM = 0.7
# The network's log odds beside the contrasts, and where they stop saying more.
_NETWORK_WEIGHT = 0.35
_LARGEST_LOG_ODDS = 6.0
# Where the segment's border is near, a mark reaches this many times as far as the border lies.
_REACH_PER_DEPTH, _LEAST_REACH_MM = 5.0, 6.0


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a refinement looks at, each image on its own grid.

    Parameters
    ----------
    contrasts : mapping
        Role to image and the transform from points of the displayed image to its points (None: the same).
    probabilities : sequence of Volume
        The network's background, NCR, ED and ET.
    """

    contrasts: Mapping[Role, tuple[Volume, sitk.Transform | None]]
    probabilities: Sequence[Volume]

    @classmethod
    def of(cls, visit: PreparedVisit, probabilities: Sequence[Volume]) -> Evidence:
        """Of a prepared visit."""
        registrations = visit.series_registrations
        contrasts = {
            role: (image, registrations[role].transform if role in registrations else None)
            for role, image in visit.images.items()
        }
        return cls(contrasts, probabilities)


def edited(
    labels: npt.NDArray[np.uint8],
    grid: Geometry,
    label: TumourLabel,
    evidence: Evidence,
    marks: FloatArray,
    include: bool,
    reach_mm: float = Reach.limit_mm,
    strokes: bool = False,
) -> Mask:
    """One region's mask after marks.

    Parameters
    ----------
    labels : numpy.ndarray
        uint8, the present mask: all regions on ``grid``.
    grid : Geometry
        Of the displayed image; any orientation.
    label : TumourLabel
        The region.
    evidence : Evidence
        What to look at.
    marks : numpy.ndarray
        (n, 3) voxel indices on ``grid``.
    include : bool
        Whether the marks belong to the region.
    reach_mm : float
        Nothing farther from every mark changes.
    strokes : bool
        Marks are strokes over tissue of any label, and reach as far wherever they lie.

    Returns
    -------
    numpy.ndarray
        bool on ``grid``; marked voxels are inside if ``include``, else outside.
    """
    points = grid.to_patient(marks)
    local = _around(points, reach_mm + 2.0, grid.frame_of_reference_uid)
    kinds = Volume(labels, grid).resampled(local, interpolation="nearest").array
    before = kinds == label
    same_kind = np.isin(kinds, labels[tuple(marks.T)]) | strokes
    seeds = np.zeros(local.shape, dtype=bool)
    seeds[tuple(np.round(local.to_index(points)).astype(int).T)] = True
    reach = Reach(_SPACING_MM, reach_mm if strokes else min(reach_mm, _reach_of(before, seeds, include)))
    after = spread(before, same_kind, _features(evidence, label, local), seeds, include, reach)
    changed = Volume(after != before, local).resampled(grid, interpolation="nearest").array
    # Nearest voxels of two grids may lie just beyond the reach.
    box = _box(grid, local)
    near = np.zeros(grid.shape, dtype=bool)
    indices = np.stack(np.meshgrid(*(np.arange(s.start, s.stop) for s in box), indexing="ij"), axis=-1)
    apart = _smallest_distance(grid.to_patient(indices), points, reach_mm)
    near[box] = apart
    # Two grids do not meet exactly: what has another label is left alone on this one too.
    near &= np.isin(labels, labels[tuple(marks.T)]) | strokes
    result = np.where(changed & near, include, labels == label)
    result[tuple(marks.T)] = include
    return np.asarray(result, dtype=bool)


def _reach_of(before: Mask, seeds: Mask, include: bool) -> float:
    """A mark close to the segment's border speaks of the border, one far from it of a whole part."""
    depth = ndimage.distance_transform_edt(~before if include else before)[seeds].max()
    return max(_LEAST_REACH_MM, _REACH_PER_DEPTH * float(depth) * _SPACING_MM)


def _around(points: FloatArray, margin_mm: float, frame: str) -> Geometry:
    low, high = points.min(axis=0) - margin_mm, points.max(axis=0) + margin_mm
    shape = np.ceil((high - low) / _SPACING_MM).astype(int) + 1
    affine = np.diag([_SPACING_MM, _SPACING_MM, _SPACING_MM, 1.0])
    affine[:3, 3] = low
    return Geometry((int(shape[0]), int(shape[1]), int(shape[2])), affine, frame)


def _features(evidence: Evidence, label: TumourLabel, local: Geometry) -> npt.NDArray[np.float32]:
    features = []
    for image, transform in evidence.contrasts.values():
        centre, width = _spread_of(image)
        values = image.with_array(image.array.astype(np.float32)).resampled(
            local, transform, outside=float(image.array.min())
        )
        smooth = ndimage.gaussian_filter(values.array, _SMOOTHING_MM / _SPACING_MM)
        features.append((smooth - centre) / width)
    own = evidence.probabilities[label].resampled(local).array
    clipped = np.clip(own, 1e-6, 1 - 1e-6)
    odds = np.clip(np.log(clipped / (1 - clipped)), -_LARGEST_LOG_ODDS, _LARGEST_LOG_ODDS)
    features.append(_NETWORK_WEIGHT * odds)
    return np.stack(features).astype(np.float32)


def _spread_of(image: Volume) -> tuple[float, float]:
    """Middle and spread of the head's intensities: quartiles of what is brighter than the image's mean."""
    sample = image.array[::3, ::3, ::3]
    head = sample[sample > sample.mean()]
    if head.size < 2:
        return 0.0, 1.0
    low, middle, high = np.percentile(head, (25, 50, 75))
    return float(middle), float(max(high - low, 1e-6)) / 2


def _box(grid: Geometry, local: Geometry) -> tuple[slice, slice, slice]:
    index = grid.to_index(local.corners())
    low = np.clip(np.floor(index.min(axis=0)).astype(int), 0, np.asarray(grid.shape) - 1)
    high = np.clip(np.ceil(index.max(axis=0)).astype(int) + 1, low + 1, grid.shape)
    i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return i, j, k


def _smallest_distance(places: FloatArray, points: FloatArray, limit_mm: float) -> Mask:
    """Which places lie within a distance of any point."""
    near = np.zeros(places.shape[:-1], dtype=bool)
    for point in points:
        near |= np.linalg.norm(places - point, axis=-1) <= limit_mm
    return near
