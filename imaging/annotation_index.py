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
from imaging.own_copies import is_unedited
from imaging.writers.identity import is_own_uid

# Too new for pydicom's table (Supplement 243).
LabelMapSegmentationStorage = UID("1.2.840.10008.5.1.4.1.1.66.7")
ANNOTATION_CLASSES = frozenset({SegmentationStorage, LabelMapSegmentationStorage, RTStructureSetStorage})

# What this application writes into its own objects; see imaging/writers. The label server has the same manufacturer
# and another model name ("OncoTwin Label"), since what it stores are drawings.
OWN_MANUFACTURER = "OncoTwin"
OWN_MODEL_NAME = "OncoTwin"
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


@dataclass(frozen=True)
class OwnCopy(IgnoredFile):
    """This application's copy of a drawing, described by ``annotation``; the drawing itself counts, if it is there."""

    annotation: Annotation = field(repr=False)


def index_annotation(file: DicomFile) -> Annotation | IgnoredFile:
    """Describe a SEG or RTSTRUCT, or say why it is no correction.

    The application's own objects come back from an archive together with the images, and would only repeat themselves:
    the network's earlier answer, or a drawing that has been revised or withdrawn since. A forecast (Content Label or a
    Segment Label beginning with ``FORECAST``) is never a correction. A segmentation of what was seen, be it an
    algorithm's (every segment AUTOMATIC) or the copy of a drawing, is none while it is as this application wrote it
    (:func:`imaging.own_copies.is_unedited`). Once somebody has edited it, or another manufacturer wrote it, it counts.
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
    algorithms = _algorithms(header, "SegmentAlgorithmType")
    automatic = algorithms == {"AUTOMATIC"}
    own = _own_result(file, algorithms)
    if own and automatic:
        return IgnoredFile(file.name, own)
    annotation = Annotation(
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
    return OwnCopy(file.name, own, annotation) if own else annotation


def drawn_parts(dataset: Dataset) -> list[Dataset]:
    """Segments but the background of a SEG, or the ROIs of an RTSTRUCT."""
    if text(dataset, "SOPClassUID") == RTStructureSetStorage:
        return list(dataset.get("StructureSetROISequence") or [])
    segments = dataset.get("SegmentSequence") or []
    # Number 0 is the background of a label map.
    return [segment for segment in segments if number(segment.get("SegmentNumber")) != 0]


def _algorithms(header: Dataset, keyword: str) -> set[str]:
    return {text(part, keyword).upper() for part in drawn_parts(header)}


def _own_result(file: DicomFile, algorithms: set[str]) -> str:
    """Why a SEG is this application's own result and no correction; empty where a person may have a part in it."""
    automatic = algorithms == {"AUTOMATIC"}
    if text(file.header, "Manufacturer") != OWN_MANUFACTURER:
        return ""
    if not automatic and text(file.header, "ManufacturerModelName") != OWN_MODEL_NAME:
        return ""
    unedited = is_unedited(file)
    if unedited is None:
        # Whoever edits an object has to give it a UID of their own, and should say that a person made it. Copies of
        # drawings are all MANUAL.
        unedited = automatic or (algorithms == {"MANUAL"} and is_own_uid(file.sop_instance_uid))
    if not unedited:
        return ""
    what = "automatic segmentation" if automatic else "copy of a drawing, which nobody has edited"
    return f"this application's own {what}, not a correction"


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
