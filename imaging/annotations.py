"""A clinician's drawing as the label map of a visit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pydicom
from pydicom.dataset import Dataset

from imaging.annotation_index import Annotation
from imaging.catalog import Series, Visit
from imaging.contours import lies_in_slices, rasterise
from imaging.errors import ImagingError, Reason
from imaging.files import text, tolerant_dicom
from imaging.geometry import AnyArray, FloatArray, Geometry, Volume
from imaging.headers import functional_group, number
from imaging.pixels import decode_pixels
from imaging.segment_names import label_map, region_of
from imaging.stack import Plane, plane_of

# Of a voxel: how far a drawn plane may lie off a slice of a grid to be that slice.
_SAME_PLANE = 0.05
_FRACTION = 0.5


@dataclass(frozen=True, eq=False)
class Correction:
    """A clinician's drawing as labels.

    Parameters
    ----------
    labels : Volume
        uint8 label map (``TumourLabel``).
    source : {"dicom_seg", "rtstruct"}
        What it was drawn as.
    path : pathlib.Path
        The DICOM object.
    """

    labels: Volume
    source: Literal["dicom_seg", "rtstruct"]
    path: Path


def read_annotation(visit: Visit, reference: Series, geometry: Geometry) -> Correction | None:
    """The newest drawing of a visit as labels.

    Parameters
    ----------
    visit : Visit
        The visit with its annotations.
    reference : Series
        The series whose frame of reference the result is in.
    geometry : Geometry
        The grid wanted, usually that of ``reference``.

    Returns
    -------
    Correction or None
        Labels on ``geometry``; None when nobody drew.

    Raises
    ------
    ImagingError
        ``BAD_ANNOTATION`` if the drawing cannot be used: two of the same time, an unknown or contradictory segment,
        another frame of reference, contours off the slices, or tumour outside the grid.
    """
    if not visit.annotations:
        return None
    with tolerant_dicom():
        annotation, dataset = _newest(visit.annotations)
        _check_frame_of_reference(annotation, reference, geometry)
        grids = [geometry, *_grids_of(visit, annotation)]
        read = _read_segmentation if annotation.kind == "SEG" else _read_structure_set
        labels = _on_grid(read(dataset, annotation, grids), geometry, annotation, reference)
    return Correction(labels, "dicom_seg" if annotation.kind == "SEG" else "rtstruct", annotation.path)


def _newest(annotations: Sequence[Annotation]) -> tuple[Annotation, Dataset]:
    datasets = {annotation.sop_instance_uid: pydicom.dcmread(annotation.path) for annotation in annotations}
    dates = [annotation.created for annotation in annotations]
    known = [date for date in dates if date is not None]
    if len(annotations) > 1 and (len(known) < len(dates) or known.count(max(known)) > 1):
        names = " and ".join(sorted(annotation.path.name for annotation in annotations))
        raise ImagingError(
            Reason.BAD_ANNOTATION,
            f"Which of {names} is the newest cannot be told from their dates; keep one.",
        )
    newest = annotations[dates.index(max(known))] if known else annotations[0]
    _check_complete(newest, annotations, datasets)
    return newest, datasets[newest.sop_instance_uid]


def _check_complete(
    newest: Annotation, annotations: Sequence[Annotation], datasets: Mapping[str, Dataset]
) -> None:
    """Some tools export one object a region: the newest alone would then be a part of the tumour only."""
    drawn = set(_regions(datasets[newest.sop_instance_uid], newest).values())
    for other in annotations:
        try:
            lost = set(_regions(datasets[other.sop_instance_uid], other).values()) - drawn
        except ImagingError:
            continue
        if lost and not {"WT", "TC"} & (drawn | lost):
            raise ImagingError(
                Reason.BAD_ANNOTATION,
                f"{newest.path.name} lacks {', '.join(sorted(lost))}, which the older {other.path.name} draws; put all "
                "regions of a visit into one object, or take the older one away.",
            )


def _check_frame_of_reference(annotation: Annotation, reference: Series, geometry: Geometry) -> None:
    drawn, wanted = annotation.frame_of_reference_uid, geometry.frame_of_reference_uid
    refers = reference.uid in annotation.referenced_series_uids or bool(
        annotation.referenced_instance_uids.intersection(reference.instance_uids)
    )
    if drawn == wanted != "" or (refers and not (drawn and wanted)):
        return
    raise ImagingError(
        Reason.BAD_ANNOTATION,
        f"{annotation.path.name} is in another FrameOfReferenceUID than {reference.label}; draw on that one or on "
        "a series of the same frame of reference.",
    )


def _grids_of(visit: Visit, annotation: Annotation) -> list[Geometry]:
    """Grids the drawing may have been made on, the referenced series first."""
    ordered = sorted(visit.series, key=lambda series: series.uid not in annotation.referenced_series_uids)
    return [
        series.geometry
        for series in ordered
        if series.geometry is not None
        and (
            series.uid in annotation.referenced_series_uids
            or series.geometry.frame_of_reference_uid == annotation.frame_of_reference_uid
        )
    ]


def _on_grid(labels: Volume, geometry: Geometry, annotation: Annotation, reference: Series) -> Volume:
    if labels.geometry is geometry:
        return labels
    index = geometry.to_index(labels.geometry.to_patient(np.argwhere(labels.array)))
    if index.size and ((index < -0.5).any() or (index > np.asarray(geometry.shape) - 0.5).any()):
        raise ImagingError(
            Reason.BAD_ANNOTATION,
            f"{annotation.path.name} draws tumour outside the images of {reference.label}; draw on that series.",
        )
    return labels.resampled(geometry, interpolation="nearest")


def _regions(dataset: Dataset, annotation: Annotation) -> dict[int, str]:
    """Region of each segment or ROI by its number."""
    if annotation.kind == "SEG":
        return {
            int(segment.SegmentNumber): region_of(
                text(segment, "SegmentLabel"), _property_code(segment), annotation.path.name
            )
            for segment in dataset.get("SegmentSequence") or []
            if int(segment.SegmentNumber) != 0  # the background of a label map
        }
    return {
        int(roi.ROINumber): region_of(text(roi, "ROIName"), "", annotation.path.name)
        for roi in dataset.get("StructureSetROISequence") or []
    }


def _property_code(segment: Dataset) -> str:
    items = segment.get("SegmentedPropertyTypeCodeSequence")
    return text(items[0], "CodeValue") if items else ""


def _read_segmentation(dataset: Dataset, annotation: Annotation, grids: Sequence[Geometry]) -> Volume:
    name = annotation.path.name
    regions = _regions(dataset, annotation)
    if not regions:
        raise ImagingError(
            Reason.BAD_ANNOTATION, f"{name} describes no segment; add NCR, ED and ET, empty if need be."
        )
    count = len(dataset.get("PerFrameFunctionalGroupsSequence") or [])
    if count == 0:
        return Volume(np.zeros(grids[0].shape, dtype=np.uint8), grids[0])
    planes = [plane_of(dataset, frame, name) for frame in range(count)]
    geometry, slices = _grid_of(planes, dataset, grids, name)
    pixels = decode_pixels(dataset, annotation.path)
    masks = {region: np.zeros(geometry.shape, dtype=bool) for region in regions.values()}
    for frame, k in enumerate(slices):
        for segment, drawn in _drawn(dataset, frame, pixels[frame]).items():
            if segment not in regions:
                raise ImagingError(
                    Reason.BAD_ANNOTATION, f"{name} draws segment {segment}, which it does not describe."
                )
            masks[regions[segment]][:, :, k] |= drawn.T
    return Volume(label_map(masks, name), geometry)


def _drawn(dataset: Dataset, frame: int, pixels: AnyArray) -> dict[int, AnyArray]:
    """Pixels of each segment in one frame (PS3.3 C.8.20.2)."""
    kind = text(dataset, "SegmentationType").upper()
    if kind == "LABELMAP":
        background = int(number(dataset.get("PixelPaddingValue")) or 0)
        return {int(value): pixels == value for value in np.unique(pixels) if value not in (0, background)}
    macro = functional_group(dataset, frame, "SegmentIdentificationSequence")
    segment = int(number((macro or Dataset()).get("ReferencedSegmentNumber")) or 0)
    if kind == "FRACTIONAL":
        return {segment: pixels >= _FRACTION * float(number(dataset.get("MaximumFractionalValue")) or 255)}
    return {segment: pixels > 0}


def _grid_of(
    planes: Sequence[Plane], dataset: Dataset, grids: Sequence[Geometry], name: str
) -> tuple[Geometry, list[int]]:
    """The grid the frames were drawn on, and the slice of each. Frames without tumour are often left out."""
    for geometry in grids:
        slices = _slices_in(planes, geometry)
        if slices is not None:
            return geometry, slices
    own = _own_grid(planes, dataset, grids[0].frame_of_reference_uid)
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
    fits = (
        np.abs(near - expected).max() <= _SAME_PLANE
        and np.abs(geometry.to_index(far) - expected - last).max() <= _SAME_PLANE
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


def _own_grid(planes: Sequence[Plane], dataset: Dataset, frame_of_reference_uid: str) -> Geometry | None:
    """A grid through the planes, from their smallest distance or the stated slice spacing."""
    first = planes[0]
    heights = np.array([plane.position @ first.normal for plane in planes])
    lowest = planes[int(np.argmin(heights))]
    measures = functional_group(dataset, 0, "PixelMeasuresSequence") or Dataset()
    stated = number(measures.get("SpacingBetweenSlices")) or number(measures.get("SliceThickness"))
    gaps = np.diff(np.unique(np.round(heights, 3)))
    step = number(measures.get("SpacingBetweenSlices")) or (float(gaps.min()) if gaps.size else stated)
    if not step or step <= 0:
        return None
    affine = np.eye(4)
    affine[:3, 0] = first.along_row * first.column_spacing
    affine[:3, 1] = first.along_column * first.row_spacing
    affine[:3, 2] = first.normal * step
    affine[:3, 3] = lowest.position
    depth = int(np.round(np.ptp(heights) / step)) + 1
    return Geometry((first.columns, first.rows, depth), affine, frame_of_reference_uid)


def _read_structure_set(dataset: Dataset, annotation: Annotation, grids: Sequence[Geometry]) -> Volume:
    name = annotation.path.name
    regions = _regions(dataset, annotation)
    if not regions:
        raise ImagingError(
            Reason.BAD_ANNOTATION, f"{name} holds no ROI; add NCR, ED and ET, empty if need be."
        )
    contours: dict[str, list[FloatArray]] = {region: [] for region in regions.values()}
    for roi in dataset.get("ROIContourSequence") or []:
        region = regions.get(int(number(roi.get("ReferencedROINumber")) or 0))
        for contour in roi.get("ContourSequence") or []:
            if region is None:
                raise ImagingError(Reason.BAD_ANNOTATION, f"{name} draws an ROI that it does not describe.")
            contours[region].append(_contour_points(contour, name))
    drawn = [points for parts in contours.values() for points in parts]
    geometry = next((grid for grid in grids if all(lies_in_slices(points, grid) for points in drawn)), None)
    if geometry is None:
        raise ImagingError(
            Reason.BAD_ANNOTATION,
            f"Contours of {name} do not lie in the slices of any series of the visit; draw in the acquired planes.",
        )
    masks = {region: rasterise(parts, geometry) for region, parts in contours.items()}
    return Volume(label_map(masks, name), geometry)


def _contour_points(contour: Dataset, name: str) -> FloatArray:
    kind = text(contour, "ContourGeometricType").upper()
    values = np.array([float(value) for value in contour.get("ContourData") or ()])
    if kind not in ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR") or values.size < 9 or values.size % 3:
        raise ImagingError(
            Reason.BAD_ANNOTATION,
            f"{name} has a contour of ContourGeometricType {kind or 'absent'} with {values.size // 3} points; only "
            "closed planar contours enclose tissue.",
        )
    return values.reshape(-1, 3)
