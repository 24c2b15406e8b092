"""RT Structure Set to a label map."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from pydicom.dataset import Dataset

from imaging.annotation_index import Annotation
from imaging.contours import rasterise, slice_of
from imaging.drawn_grid import Candidate, grid_of
from imaging.drawn_regions import regions_by_number, whole_number
from imaging.errors import ImagingError, Reason
from imaging.files import text
from imaging.geometry import FloatArray, Geometry, Volume
from imaging.segment_names import label_map

_SEVERAL = 3
"""Slices from which on a drawing that skips every other one is no two separate spots."""


def read_structure_set(dataset: Dataset, annotation: Annotation, candidates: Sequence[Candidate]) -> Volume:
    """Labels of an RTSTRUCT on the grid it was drawn on.

    Parameters
    ----------
    dataset : pydicom.Dataset
        The RTSTRUCT.
    annotation : Annotation
        Its entry in the catalog.
    candidates : sequence of Candidate
        Grids it may have been drawn on.

    Returns
    -------
    Volume
        uint8 ``(I, J, K)`` label map (``TumourLabel``).

    Raises
    ------
    ImagingError
        ``BAD_ANNOTATION``.
    """
    name = annotation.path.name
    regions = regions_by_number(dataset, annotation)
    if not regions:
        raise ImagingError(
            Reason.BAD_ANNOTATION, f"{name} holds no ROI; add NCR, ED and ET, empty if need be."
        )
    contours = _contours_by_roi(dataset, regions.keys(), name)
    drawn = [points for parts in contours.values() for points in parts]
    found = grid_of(candidates, lambda geometry: _slices_in(drawn, geometry))
    if found is None:
        raise ImagingError(
            Reason.BAD_ANNOTATION,
            f"Contours of {name} do not lie in the slices of any series of the visit; draw in the acquired planes.",
        )
    geometry, _ = found
    masks = {region: np.zeros(geometry.shape, dtype=bool) for region in regions.values()}
    for roi, parts in contours.items():
        _check_no_slices_left_out(parts, geometry, regions[roi], name)
        # A contour inside another is a hole of its own ROI only: other ROIs of the region overlap it or not.
        masks[regions[roi]] |= rasterise(parts, geometry)
    return Volume(label_map(masks, name), geometry)


def _contours_by_roi(dataset: Dataset, described: Collection[int], name: str) -> dict[int, list[FloatArray]]:
    contours: dict[int, list[FloatArray]] = {}
    for item in dataset.get("ROIContourSequence") or []:
        parts = item.get("ContourSequence") or []
        if not parts:
            continue
        roi = whole_number(item, "ReferencedROINumber", name)
        if roi not in described:
            raise ImagingError(Reason.BAD_ANNOTATION, f"{name} draws an ROI that it does not describe.")
        contours.setdefault(roi, []).extend(_points(contour, name) for contour in parts)
    return contours


def _slices_in(contours: Sequence[FloatArray], geometry: Geometry) -> list[int] | None:
    """Slice index of each contour when all lie in slices of the grid."""
    slices = [slice_of(points, geometry) for points in contours]
    inside = [k for k in slices if k is not None]
    return inside if len(inside) == len(slices) else None


def _check_no_slices_left_out(
    parts: Sequence[FloatArray], geometry: Geometry, region: str, name: str
) -> None:
    """Some tools draw on every nth slice and mean what lies between; filled as drawn, most of the tumour is lost."""
    slices = np.unique(_slices_in(parts, geometry) or [])
    if slices.size >= _SEVERAL and np.diff(slices).min() > 1:
        raise ImagingError(
            Reason.BAD_ANNOTATION,
            f"{name} draws {region} on {slices.size} slices, no two of them next to each other: whether it means the "
            "slices between too is unknown; have the tool that drew it interpolate them, and export again.",
        )


def _points(contour: Dataset, name: str) -> FloatArray:
    kind = text(contour, "ContourGeometricType").upper()
    values = np.atleast_1d(np.asarray(contour.get("ContourData") or (), dtype=np.float64))
    if kind not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR") or values.size < 9 or values.size % 3:
        raise ImagingError(
            Reason.BAD_ANNOTATION,
            f"{name} has a contour of ContourGeometricType {kind or 'absent'} with {values.size // 3} points; only "
            "closed planar contours enclose tissue.",
        )
    return values.reshape(-1, 3)
