"""What a drawing is made of: its segments or ROIs and the tumour region of each."""

from __future__ import annotations

from pydicom.dataset import Dataset

from imaging.annotation_index import Annotation, drawn_parts
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
    for part in drawn_parts(dataset):
        key = whole_number(part, keyword, name)
        if key in regions:
            raise ImagingError(
                Reason.BAD_ANNOTATION,
                f"{name} gives the {keyword} {key} twice: which of the two is drawn is unknown; export it again.",
            )
        regions[key] = region_of(text(part, label), _property_code(part), name)
    return regions


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


def _property_code(segment: Dataset) -> str:
    items = segment.get("SegmentedPropertyTypeCodeSequence")
    return text(items[0], "CodeValue") if items else ""
