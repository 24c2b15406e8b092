"""Which drawings a folder holds: segmentations and structure sets that correct the application's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydicom.dataset import Dataset
from pydicom.uid import UID, RTStructureSetStorage, SegmentationStorage

from imaging.files import DicomFile, IgnoredFile, text
from imaging.headers import number, parse_moment

# Too new for pydicom's table (Supplement 243).
LabelMapSegmentationStorage = UID("1.2.840.10008.5.1.4.1.1.66.7")
ANNOTATION_CLASSES = frozenset({SegmentationStorage, LabelMapSegmentationStorage, RTStructureSetStorage})

# What this application writes into its own objects; see imaging/writers.
OWN_MANUFACTURER = "OncoTwin"
FORECAST_LABEL = "FORECAST"


@dataclass(frozen=True, eq=False)
class Annotation:
    """A clinician's drawing of the tumour.

    Parameters
    ----------
    kind : {"SEG", "RTSTRUCT"}
        DICOM Segmentation or RT Structure Set.
    path : pathlib.Path
        Its file.
    sop_instance_uid : str
        Its UID.
    created : datetime.datetime or None
        Content (SEG) or structure set (RTSTRUCT) date and time; None if it states none.
    referenced_series_uids : frozenset of str
        Series it was drawn on, as far as it says so.
    referenced_instance_uids : frozenset of str
        Instances it was drawn on.
    frame_of_reference_uid : str
        Frame of reference of its coordinates.
    automatic : bool
        Whether every segment or ROI says that an algorithm made it without a person.
    sha256 : str
        Digest of the file.
    """

    kind: Literal["SEG", "RTSTRUCT"]
    path: Path = field(repr=False)
    sop_instance_uid: str
    created: datetime | None
    referenced_series_uids: frozenset[str]
    referenced_instance_uids: frozenset[str] = field(repr=False)
    frame_of_reference_uid: str
    automatic: bool
    sha256: str = field(repr=False)


def index_annotation(file: DicomFile) -> Annotation | IgnoredFile:
    """Describe a SEG or RTSTRUCT, or say why it is no correction.

    The application's own objects come back from an archive together with the images. A forecast (Content Label or
    a Segment Label beginning with ``FORECAST``) is never a correction. A segmentation by this application whose
    segments are all of Segment Algorithm Type AUTOMATIC is its own earlier answer and would only repeat itself; once
    a person has edited it, a segment says MANUAL or SEMIAUTOMATIC, or another manufacturer wrote the object.
    """
    header = file.header
    if text(header, "SOPClassUID") == RTStructureSetStorage:
        return Annotation(
            kind="RTSTRUCT",
            path=file.path,
            sop_instance_uid=file.sop_instance_uid,
            created=parse_moment(header, "StructureSetDate", "StructureSetTime")
            or parse_moment(header, "InstanceCreationDate", "InstanceCreationTime"),
            referenced_series_uids=frozenset(_structure_set_series(header)),
            referenced_instance_uids=frozenset(_referenced_instances(header)),
            frame_of_reference_uid=_structure_set_frame(header),
            automatic=_algorithms(header, "ROIGenerationAlgorithm") == {"AUTOMATIC"},
            sha256=file.sha256,
        )
    if _is_forecast(header):
        return IgnoredFile(file.name, "segmentation of a forecast, not of an image")
    automatic = _algorithms(header, "SegmentAlgorithmType") == {"AUTOMATIC"}
    if text(header, "Manufacturer") == OWN_MANUFACTURER and automatic:
        return IgnoredFile(file.name, "this application's own automatic segmentation, not a correction")
    return Annotation(
        kind="SEG",
        path=file.path,
        sop_instance_uid=file.sop_instance_uid,
        created=parse_moment(header, "ContentDate", "ContentTime"),
        referenced_series_uids=frozenset(
            text(item, "SeriesInstanceUID") for item in header.get("ReferencedSeriesSequence") or []
        ),
        referenced_instance_uids=frozenset(_referenced_instances(header)),
        frame_of_reference_uid=text(header, "FrameOfReferenceUID"),
        automatic=automatic,
        sha256=file.sha256,
    )


def drawn_parts(dataset: Dataset) -> list[Dataset]:
    """Segments but the background of a SEG, or the ROIs of an RTSTRUCT."""
    if text(dataset, "SOPClassUID") == RTStructureSetStorage:
        return list(dataset.get("StructureSetROISequence") or [])
    segments = dataset.get("SegmentSequence") or []
    # Number 0 is the background of a label map.
    return [segment for segment in segments if number(segment.get("SegmentNumber")) != 0]


def _algorithms(header: Dataset, keyword: str) -> set[str]:
    return {text(part, keyword).upper() for part in drawn_parts(header)}


def _is_forecast(header: Dataset) -> bool:
    if text(header, "ContentLabel").upper().startswith(FORECAST_LABEL):
        return True
    labels = [text(segment, "SegmentLabel").upper() for segment in header.get("SegmentSequence") or []]
    return any(label.startswith(FORECAST_LABEL) for label in labels)


def _structure_set_series(header: Dataset) -> list[str]:
    return [
        text(series, "SeriesInstanceUID")
        for frame in header.get("ReferencedFrameOfReferenceSequence") or []
        for study in frame.get("RTReferencedStudySequence") or []
        for series in study.get("RTReferencedSeriesSequence") or []
    ]


def _structure_set_frame(header: Dataset) -> str:
    """The one frame of reference of all its ROIs; empty when they use several or none is stated."""
    uids = {text(roi, "ReferencedFrameOfReferenceUID") for roi in header.get("StructureSetROISequence") or []}
    uids |= {
        text(frame, "FrameOfReferenceUID") for frame in header.get("ReferencedFrameOfReferenceSequence") or []
    }
    uids = (uids - {""}) or {text(header, "FrameOfReferenceUID")}
    return uids.pop() if len(uids) == 1 else ""


def _referenced_instances(dataset: Dataset) -> set[str]:
    """Every Referenced SOP Instance UID at any depth: writers place them differently."""
    found: set[str] = set()
    for element in dataset:
        if element.keyword == "ReferencedSOPInstanceUID":
            found.add(str(element.value))
        elif element.VR == "SQ":
            for item in element.value:
                found |= _referenced_instances(item)
    return found
