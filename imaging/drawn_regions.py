"""What a drawing is made of: its segments or ROIs, the tumour region of each, and whether a person made them."""

from __future__ import annotations

from pydicom.dataset import Dataset

from imaging.annotation_index import Annotation
from imaging.errors import ImagingError, Reason
from imaging.files import text
from imaging.headers import number
from imaging.segment_names import region_of


def regions_by_number(dataset: Dataset, annotation: Annotation) -> dict[int, str]:
    """Tumour region of each segment or ROI by its number.

    Parameters
    ----------
    dataset : pydicom.Dataset
        The drawing.
    annotation : Annotation
        Its entry in the catalog.

    Raises
    ------
    ImagingError
        ``BAD_ANNOTATION`` if a number is absent or given twice, or a region is unknown.
    """
    name = annotation.path.name
    keyword, label = (
        ("SegmentNumber", "SegmentLabel") if annotation.kind == "SEG" else ("ROINumber", "ROIName")
    )
    regions: dict[int, str] = {}
    for part in _parts(dataset, annotation):
        key = whole_number(part, keyword, name)
        if key in regions:
            raise ImagingError(
                Reason.BAD_ANNOTATION,
                f"{name} gives the {keyword} {key} twice: which of the two is drawn is unknown; export it again.",
            )
        regions[key] = region_of(text(part, label), _property_code(part), name)
    return regions


def is_automatic(dataset: Dataset, annotation: Annotation) -> bool:
    """Whether every segment or ROI says that an algorithm made it without a person."""
    keyword = "SegmentAlgorithmType" if annotation.kind == "SEG" else "ROIGenerationAlgorithm"
    return {text(part, keyword).upper() for part in _parts(dataset, annotation)} == {"AUTOMATIC"}


def whole_number(item: Dataset, keyword: str, name: str) -> int:
    """The whole number of an attribute that must have one.

    Raises
    ------
    ImagingError
        ``BAD_ANNOTATION`` naming file and attribute.
    """
    value = number(item.get(keyword))
    if value is None or not value.is_integer():
        raise ImagingError(
            Reason.BAD_ANNOTATION,
            f"{name} lacks a usable {keyword}: what is drawn cannot be told from what it describes; export it again.",
        )
    return int(value)


def _parts(dataset: Dataset, annotation: Annotation) -> list[Dataset]:
    if annotation.kind == "RTSTRUCT":
        return list(dataset.get("StructureSetROISequence") or [])
    segments = dataset.get("SegmentSequence") or []
    # Number 0 is the background of a label map.
    return [segment for segment in segments if number(segment.get("SegmentNumber")) != 0]


def _property_code(segment: Dataset) -> str:
    items = segment.get("SegmentedPropertyTypeCodeSequence")
    return text(items[0], "CodeValue") if items else ""
