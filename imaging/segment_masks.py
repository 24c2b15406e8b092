"""DICOM Segmentation to a label map."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydicom.dataset import Dataset

from imaging.annotation_index import Annotation
from imaging.drawn_grid import Candidate, grid_of
from imaging.drawn_regions import regions_by_number, whole_number
from imaging.errors import ImagingError, Reason
from imaging.files import text
from imaging.geometry import AnyArray, FloatArray, Geometry, Volume
from imaging.headers import functional_group, number
from imaging.pixels import decode_pixels
from imaging.segment_names import label_map
from imaging.stack import Plane, plane_of, slice_tolerance

# Of a voxel: how far a drawn plane may lie off a slice of a grid to be that slice.
_SAME_PLANE = 0.05
_FRACTION = 0.5


def read_segmentation(dataset: Dataset, annotation: Annotation, candidates: Sequence[Candidate]) -> Volume:
    """Labels of a SEG on the grid it was drawn on.

    Parameters
    ----------
    dataset : pydicom.Dataset
        The SEG with its pixels.
    annotation : Annotation
        Its entry in the catalog.
    candidates : sequence of Candidate
        Grids it may have been drawn on; without any frame it is empty on the first of them.

    Returns
    -------
    Volume
        uint8 ``(I, J, K)`` label map (``TumourLabel``).

    Raises
    ------
    ImagingError
        ``BAD_ANNOTATION``, ``MISSING_ATTRIBUTE`` or ``UNDECODABLE``.
    """
    name = annotation.path.name
    regions = regions_by_number(dataset, annotation)
    if not regions:
        raise ImagingError(
            Reason.BAD_ANNOTATION, f"{name} describes no segment; add NCR, ED and ET, empty if need be."
        )
    count = _frame_count(dataset, name)
    if count == 0:
        geometry = candidates[0].geometry
        return Volume(np.zeros(geometry.shape, dtype=np.uint8), geometry)
    planes = [plane_of(dataset, frame, name) for frame in range(count)]
    geometry, slices = _grid_of(planes, dataset, candidates, name)
    pixels = decode_pixels(dataset, annotation.path)
    masks = {region: np.zeros(geometry.shape, dtype=bool) for region in regions.values()}
    for frame, k in enumerate(slices):
        for segment, drawn in _drawn(dataset, frame, pixels[frame], name).items():
            if segment not in regions:
                raise ImagingError(
                    Reason.BAD_ANNOTATION, f"{name} draws segment {segment}, which it does not describe."
                )
            masks[regions[segment]][:, :, k] |= drawn.T
    return Volume(label_map(masks, name), geometry)


def _frame_count(dataset: Dataset, name: str) -> int:
    """Number of frames, which all of the object must agree on: a part that got lost is not an empty drawing."""
    described = len(dataset.get("PerFrameFunctionalGroupsSequence") or [])
    stated = number(dataset.get("NumberOfFrames"))
    has_pixels = bool(dataset.get("PixelData"))
    if not (described or stated or has_pixels):
        return 0
    if not has_pixels or described != (1 if stated is None else stated):
        pixels = "has PixelData" if has_pixels else "has no PixelData"
        raise ImagingError(
            Reason.BAD_ANNOTATION,
            f"{name} {pixels}, NumberOfFrames {text(dataset, 'NumberOfFrames') or 'absent'} and {described} items in "
            "PerFrameFunctionalGroupsSequence, which do not fit each other: what is drawn is unknown; export it again.",
        )
    return described


def _drawn(dataset: Dataset, frame: int, pixels: AnyArray, name: str) -> dict[int, AnyArray]:
    """Pixels of each segment in one frame (PS3.3 C.8.20.2)."""
    kind = text(dataset, "SegmentationType").upper()
    if kind == "LABELMAP":
        background = int(number(dataset.get("PixelPaddingValue")) or 0)
        return {int(value): pixels == value for value in np.unique(pixels) if value not in (0, background)}
    macro = functional_group(dataset, frame, "SegmentIdentificationSequence") or Dataset()
    segment = whole_number(macro, "ReferencedSegmentNumber", name)
    if kind == "FRACTIONAL":
        return {segment: pixels >= _FRACTION * float(number(dataset.get("MaximumFractionalValue")) or 255)}
    return {segment: pixels > 0}


def _grid_of(
    planes: Sequence[Plane], dataset: Dataset, candidates: Sequence[Candidate], name: str
) -> tuple[Geometry, list[int]]:
    """The grid the frames were drawn on, and the slice of each. Frames without tumour are often left out."""
    step = _step(planes, dataset)
    found = grid_of(candidates, lambda geometry: _slices_in(planes, geometry), step)
    if found is not None:
        return found
    own = _own_grid(planes, step, candidates[0].geometry.frame_of_reference_uid)
    slices = None if own is None else _slices_in(planes, own)
    if own is None or slices is None:
        raise ImagingError(
            Reason.BAD_ANNOTATION,
            f"The frames of {name} do not make a regular grid; draw on one series of the visit.",
        )
    return own, slices


def _slices_in(planes: Sequence[Plane], geometry: Geometry) -> list[int] | None:
    """Slice index of each plane when all are slices of the grid, pixel on pixel."""
    far = np.array([_far_corner(plane) for plane in planes])
    near = geometry.to_index(np.array([plane.position for plane in planes]))
    slices = np.round(near[:, 2])
    expected = np.column_stack([np.zeros((len(planes), 2)), slices])
    last = np.array([[plane.columns - 1, plane.rows - 1, 0] for plane in planes])
    # In voxels, but for as many mm as the slices of the images may lie off their places themselves.
    allowed = np.maximum(_SAME_PLANE, slice_tolerance(geometry.spacing[2]) / np.array(geometry.spacing))
    fits = (
        bool((np.abs(near - expected) <= allowed).all())
        and bool((np.abs(geometry.to_index(far) - expected - last) <= allowed).all())
        and all((plane.columns, plane.rows) == geometry.shape[:2] for plane in planes)
        and slices.min() >= 0
        and slices.max() < geometry.shape[2]
    )
    return slices.astype(int).tolist() if fits else None


def _far_corner(plane: Plane) -> FloatArray:
    corner: FloatArray = (
        plane.position
        + plane.along_row * plane.column_spacing * (plane.columns - 1)
        + plane.along_column * plane.row_spacing * (plane.rows - 1)
    )
    return corner


def _step(planes: Sequence[Plane], dataset: Dataset) -> float | None:
    """Distance of the slices drawn on in mm: as stated, else the smallest distance of the planes."""
    heights = np.array([plane.position @ planes[0].normal for plane in planes])
    gaps = np.diff(np.unique(np.round(heights, 3)))
    measures = functional_group(dataset, 0, "PixelMeasuresSequence") or Dataset()
    step = (
        number(measures.get("SpacingBetweenSlices"))
        or (float(gaps.min()) if gaps.size else None)
        or number(measures.get("SliceThickness"))
    )
    return step if step and 0 < step < np.inf else None


def _own_grid(planes: Sequence[Plane], step: float | None, frame_of_reference_uid: str) -> Geometry | None:
    """A grid through the planes."""
    if step is None:
        return None
    first = planes[0]
    heights = np.array([plane.position @ first.normal for plane in planes])
    affine = np.eye(4)
    affine[:3, 0] = first.along_row * first.column_spacing
    affine[:3, 1] = first.along_column * first.row_spacing
    affine[:3, 2] = first.normal * step
    affine[:3, 3] = planes[int(np.argmin(heights))].position
    depth = int(np.round(np.ptp(heights) / step)) + 1
    return Geometry((first.columns, first.rows, depth), affine, frame_of_reference_uid)
