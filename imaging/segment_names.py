"""Which tumour region a drawn segment means, by its code or its name."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from imaging.errors import ImagingError, Reason
from imaging.geometry import AnyArray
from imaging.labels import TumourLabel
from imaging.weighting import normalised

# SNOMED CT, its older SRT identifiers, and NCI Thesaurus (PS3.16 CID 7159).
_CODES = {
    "6574001": "NCR",
    "M-54000": "NCR",
    "79654002": "ED",
    "M-36300": "ED",
    "C113842": "ET",
}
# The whole name must match: "non-enhancing" must not be read as "enhancing".
_TUMOUR = r"(?: (?:tumou?r|tissue|lesion|core|tumeur|tumore))?"
_NAMES: dict[str, str] = {
    "NCR": rf"(?:1 )?(?:ncr|net|ncr net|netc|necrosis|necrotic{_TUMOUR}|non ?enhancing{_TUMOUR}|"
    rf"necrotic(?: and)? non ?enhancing{_TUMOUR}|nekrose|necrose|necrosi|necrotico)",
    "ED": r"(?:2 )?(?:ed|o?edema|peri(?:tumou?ral|focal)? o?edema|odem|snfh|flair hyperintensity|"
    r"surrounding non ?enhancing flair hyperintensity|infiltration)",
    "ET": rf"(?:[34] )?(?:et|enhancing{_TUMOUR}|enhancement|contrast enhancing{_TUMOUR}|ce{_TUMOUR}|aet)",
    "TC": r"(?:tc|tumou?r core|core|tumorkern)",
    "WT": r"(?:wt|whole tumou?r|complete tumou?r|gesamttumor)",
}


def region_of(label: str, code: str, file_name: str) -> str:
    """Tumour region of a segment: "NCR", "ED", "ET", or the nested "TC" and "WT".

    Parameters
    ----------
    label : str
        Segment Label or ROI Name.
    code : str
        Code Value of the segment's property type; empty when there is none.
    file_name : str
        For messages.

    Raises
    ------
    ImagingError
        ``BAD_ANNOTATION`` if neither is known or they contradict each other.
    """
    words = normalised(label)
    by_name = next((region for region, pattern in _NAMES.items() if re.fullmatch(pattern, words)), "")
    by_code = _CODES.get(code, "")
    if by_name and by_code and by_name != by_code:
        raise ImagingError(
            Reason.BAD_ANNOTATION,
            f"Segment {label!r} of {file_name} is named {by_name} but coded as {by_code}; correct one of them.",
        )
    region = by_name or by_code
    if not region:
        raise ImagingError(
            Reason.BAD_ANNOTATION,
            f"Segment {label!r} of {file_name} is no known tumour region; name it NCR, ED, ET, TC or WT, or remove it.",
        )
    return region


def label_map(masks: Mapping[str, AnyArray], file_name: str) -> AnyArray:
    """One uint8 label map of overlapping regions.

    Enhancing tumour goes over necrosis, necrosis over oedema. Of the nested regions, what lies in TC but not in ET is
    NCR, and what lies in WT but not in TC is ED; so a nested region needs the next inner one, which for WT may also be
    NCR and ET instead of TC.

    Parameters
    ----------
    masks : mapping of str to numpy.ndarray
        bool arrays of one shape by region; a region may be empty.
    file_name : str
        For messages.

    Raises
    ------
    ImagingError
        ``BAD_ANNOTATION`` if a nested region comes without the region inside it.
    """
    if "TC" in masks and "ET" not in masks and masks["TC"].any():
        raise ImagingError(
            Reason.BAD_ANNOTATION,
            f"{file_name} draws the tumour core (TC) but no enhancing tumour (ET), so necrosis cannot be told from it; "
            "add ET, empty if there is none.",
        )
    lacking = " and ".join(region for region in ("ET", "NCR") if region not in masks)
    if "WT" in masks and "TC" not in masks and lacking and masks["WT"].any():
        raise ImagingError(
            Reason.BAD_ANNOTATION,
            f"{file_name} draws the whole tumour (WT) but no {lacking} inside it, so oedema cannot be told from the "
            f"core; add {lacking}, empty if there is none.",
        )
    labels = np.zeros(next(iter(masks.values())).shape, dtype=np.uint8)
    paint = (
        ("WT", TumourLabel.ED),
        ("ED", TumourLabel.ED),
        ("TC", TumourLabel.NCR),
        ("NCR", TumourLabel.NCR),
        ("ET", TumourLabel.ET),
    )
    for region, value in paint:
        if region in masks:
            labels[masks[region]] = value
    return labels
