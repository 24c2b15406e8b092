"""A drawing found with the images as the label map of a visit."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset

from imaging.annotation_index import Annotation
from imaging.catalog import Series, Visit
from imaging.drawn_grid import candidates_of, drawn_on, refers_to
from imaging.drawn_regions import regions_by_number
from imaging.errors import ImagingError, Reason
from imaging.files import read_again, tolerant_dicom
from imaging.geometry import Geometry, Volume
from imaging.multiresolution import transform_matrix
from imaging.roi_masks import read_structure_set
from imaging.segment_masks import read_segmentation

Source = Literal["dicom_seg", "rtstruct", "other_algorithm"]


@dataclass(frozen=True, eq=False)
class Correction:
    """A drawing as labels.

    Parameters
    ----------
    labels : Volume
        uint8 label map (``TumourLabel``).
    source : {"dicom_seg", "rtstruct", "other_algorithm"}
        What a clinician drew it as; ``"other_algorithm"`` for an object of either kind in which every segment or ROI
        is AUTOMATIC: nobody drew that.
    path : pathlib.Path
        The DICOM object.
    set_aside : pathlib.Path, optional
        A newer object that another algorithm made, or one without a date: a person's drawing goes first.
    """

    labels: Volume
    source: Source
    path: Path
    set_aside: Path | None = None


def read_annotation(
    visit: Visit,
    reference: Series,
    geometry: Geometry,
    motion_of: Callable[[str], sitk.Transform | None] = lambda series_uid: None,
) -> Correction | None:
    """The newest drawing of a visit as labels; another algorithm's only where no person drew.

    Parameters
    ----------
    visit : Visit
        The visit with its annotations.
    reference : Series
        The series whose frame of reference the result is in.
    geometry : Geometry
        The grid wanted, usually that of ``reference``.
    motion_of : callable, optional
        By the UID of the series that the drawing was made on, where that is known: maps points of ``reference`` to
        points of the series, which lies elsewhere than the scanner says if the patient has moved; None where nothing is
        known of it.

    Returns
    -------
    Correction or None
        Labels on ``geometry``; None when there is no drawing.

    Raises
    ------
    ImagingError
        ``BAD_ANNOTATION`` if the drawing cannot be used: two of the same time or SOP Instance UID, an unknown or
        contradictory segment, frames or numbers that do not fit each other, another frame of reference, contours off
        the slices, or tumour outside the grid.
    """
    if not visit.annotations:
        return None
    with tolerant_dicom():
        _check_versions(visit.annotations)
        annotation, dataset = _newest(by_persons_first(visit.annotations))
        _check_frame_of_reference(annotation, reference, geometry)
        candidates = candidates_of(visit, annotation, reference, geometry)
        read = read_segmentation if annotation.kind == "SEG" else read_structure_set
        drawn = read(dataset, annotation, candidates)
        series = drawn_on(visit, annotation, drawn.geometry)
        motion = None if series is None else motion_of(series.uid)
        labels = _on_grid(drawn, geometry, motion, annotation, reference)
    return Correction(labels, _source(annotation), annotation.path, _set_aside(visit.annotations, annotation))


def by_persons_first(annotations: Sequence[Annotation]) -> Sequence[Annotation]:
    """Those that a person drew, or all where nobody did."""
    return [annotation for annotation in annotations if not annotation.automatic] or annotations


def _source(annotation: Annotation) -> Source:
    if annotation.automatic:
        return "other_algorithm"
    return "dicom_seg" if annotation.kind == "SEG" else "rtstruct"


def _set_aside(annotations: Sequence[Annotation], chosen: Annotation) -> Path | None:
    """An algorithm's object that would have counted if it were a person's."""
    if chosen.automatic:
        return None
    others = [one for one in annotations if one.automatic]
    newer = (
        one.path
        for one in others
        if chosen.created is None or one.created is None or one.created > chosen.created
    )
    return next(newer, None)


def _newest(annotations: Sequence[Annotation]) -> tuple[Annotation, Dataset]:
    datasets = {annotation.sop_instance_uid: read_again(annotation.path) for annotation in annotations}
    dates = [annotation.created for annotation in annotations]
    known = [date for date in dates if date is not None]
    if len(annotations) > 1 and (len(known) < len(dates) or known.count(max(known)) > 1):
        raise ImagingError(
            Reason.BAD_ANNOTATION,
            f"Which of {_names(annotations)} is the newest cannot be told from their dates; keep one.",
        )
    newest = annotations[dates.index(max(known))] if known else annotations[0]
    _check_complete(newest, annotations, datasets)
    return newest, datasets[newest.sop_instance_uid]


def _check_versions(annotations: Sequence[Annotation]) -> None:
    """The catalog has left out copies: files of one UID are versions, and which one others mean by it is unknown."""
    for annotation in annotations:
        versions = [other for other in annotations if other.sop_instance_uid == annotation.sop_instance_uid]
        if len(versions) > 1:
            raise ImagingError(
                Reason.BAD_ANNOTATION,
                f"{_names(versions)} are different files of the same SOPInstanceUID; keep one version of it.",
            )


def _names(annotations: Sequence[Annotation]) -> str:
    """File names, below the folder that all are in: exports often name equal files apart by folder only."""
    paths = [annotation.path for annotation in annotations]
    folder = os.path.commonpath([path.parent for path in paths])
    return " and ".join(sorted(path.relative_to(folder).as_posix() for path in paths))


def _check_complete(
    newest: Annotation, annotations: Sequence[Annotation], datasets: Mapping[str, Dataset]
) -> None:
    """Some tools export one object a region: the newest alone would then be a part of the tumour only."""
    drawn = set(regions_by_number(datasets[newest.sop_instance_uid], newest).values())
    for other in annotations:
        try:
            lost = set(regions_by_number(datasets[other.sop_instance_uid], other).values()) - drawn
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
    if drawn == wanted != "" or (refers_to(annotation, reference) and not (drawn and wanted)):
        return
    raise ImagingError(
        Reason.BAD_ANNOTATION,
        f"{annotation.path.name} is in another FrameOfReferenceUID than {reference.label}; draw on that one or on "
        "a series of the same frame of reference.",
    )


def _on_grid(
    labels: Volume,
    geometry: Geometry,
    motion: sitk.Transform | None,
    annotation: Annotation,
    reference: Series,
) -> Volume:
    if labels.geometry is geometry:
        return labels
    points = labels.geometry.to_patient(np.argwhere(labels.array))
    if motion is not None:
        back = np.linalg.inv(transform_matrix(motion))
        points = points @ back[:3, :3].T + back[:3, 3]
    index = geometry.to_index(points)
    if index.size and ((index < -0.5).any() or (index > np.asarray(geometry.shape) - 0.5).any()):
        raise ImagingError(
            Reason.BAD_ANNOTATION,
            f"{annotation.path.name} draws tumour outside the images of {reference.label}; draw on that series.",
        )
    return labels.resampled(geometry, motion, interpolation="nearest")
