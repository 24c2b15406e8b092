"""Whether a segmentation that comes back is still as this application wrote it, or somebody has edited it since."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from imaging.errors import ImagingError
from imaging.files import DicomFile, text
from imaging.headers import functional_group, number
from imaging.pixels import decode_pixels

# Stands in the Contribution Description of the product; an archive keeps it, whatever else it corrects.
_MARK = "content {}"
_MARK_PATTERN = re.compile(_MARK.format("([0-9a-f]{64})"))
_PLACE = (
    ("PlanePositionSequence", "ImagePositionPatient"),
    ("PlaneOrientationSequence", "ImageOrientationPatient"),
    ("PixelMeasuresSequence", "PixelSpacing"),
)


def content_mark(dataset: Dataset, path: Path) -> str:
    """Words that name what a segmentation shows, for :func:`is_unedited` to compare with.

    Parameters
    ----------
    dataset : pydicom.Dataset
        The segmentation with its pixels.
    path : pathlib.Path
        Its file, for messages.

    Raises
    ------
    ImagingError
        ``UNDECODABLE`` if its pixels cannot be decoded.
    """
    return _MARK.format(_digest(dataset, path))


def is_unedited(file: DicomFile) -> bool | None:
    """Whether a segmentation shows what this application wrote into it.

    Its mark decides, whatever UIDs, dates, transfer syntax or patient's name an archive has given it since.

    Returns
    -------
    bool or None
        None when that cannot be told: it has no mark, as objects older than the mark and what a de-identifier leaves of
        one; or there are no pixels to compare, as with a header from an archive.
    """
    found = [
        _MARK_PATTERN.search(text(item, "ContributionDescription"))
        for item in file.header.get("ContributingEquipmentSequence") or []
    ]
    marks = {match.group(1) for match in found if match}
    shown = _shown(file.path) if marks else None
    return None if shown is None else marks == {shown}


def _shown(path: Path) -> str | None:
    try:
        # Old exports lack the preamble; that it is DICOM was seen when its header was read.
        return _digest(pydicom.dcmread(path, force=True), path)
    except (OSError, ImagingError):
        return None


def _digest(dataset: Dataset, path: Path) -> str:
    """SHA-256 of the segments and of what is drawn, whatever the order of the frames; empty ones may be left out."""
    digest = hashlib.sha256()
    for line in sorted([*_segments(dataset), *_drawn_frames(dataset, path)]):
        digest.update(len(line).to_bytes(8, "big") + line)
    return digest.hexdigest()


def _segments(dataset: Dataset) -> Iterator[bytes]:
    """Number, meaning and kind of maker: whoever says that a person made a segment has taken it on."""
    yield text(dataset, "SegmentationType").encode()
    for segment in dataset.get("SegmentSequence") or []:
        codes = segment.get("SegmentedPropertyTypeCodeSequence") or [Dataset()]
        words = (
            text(segment, "SegmentNumber"),
            text(segment, "SegmentLabel"),
            text(codes[0], "CodeValue"),
            text(segment, "SegmentAlgorithmType"),
        )
        yield "\n".join(words).encode()


def _drawn_frames(dataset: Dataset, path: Path) -> Iterator[bytes]:
    if not dataset.get("PixelData"):
        return
    for frame, pixels in enumerate(decode_pixels(dataset, path)):
        if pixels.any():
            segment = functional_group(dataset, frame, "SegmentIdentificationSequence") or Dataset()
            place = [
                _decimals(text(functional_group(dataset, frame, macro) or Dataset(), keyword))
                for macro, keyword in _PLACE
            ]
            words = (text(segment, "ReferencedSegmentNumber"), *place, str(pixels.shape))
            yield "\n".join(words).encode() + np.packbits(pixels > 0).tobytes()


def _decimals(words: str) -> str:
    """Each number in one way of writing it: other software may pad it, or write it with an exponent."""
    values = [(word, number(word)) for word in words.split("\\")]
    return "\\".join(
        word if value is None or not math.isfinite(value) else format_number_as_ds(value)
        for word, value in values
    )
