"""Stored pixel values: decoding, masking, rescale, padding, and what is no measured image at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID

from imaging.errors import ImagingError, Reason
from imaging.files import text
from imaging.geometry import AnyArray, FloatArray
from imaging.headers import functional_group, number

# What pydicom and its decoder plugins raise for pixel data they cannot decode.
_DECODE_ERRORS = (
    RuntimeError, ValueError, NotImplementedError, AttributeError, LookupError, TypeError, OSError, StopIteration,
)  # fmt: skip


def decode_pixels(dataset: Dataset, path: Path) -> AnyArray:
    """Stored values of an instance, ``(frames, rows, columns)``, bits above Bits Stored removed.

    Parameters
    ----------
    dataset : pydicom.Dataset
        The instance with its pixel data.
    path : pathlib.Path
        Its file, for messages.

    Raises
    ------
    ImagingError
        ``UNDECODABLE`` naming the file and its transfer syntax, or where there are more or fewer frames of pixels than
        the header states.
    """
    try:
        pixels = np.asarray(pixel_array(dataset, raw=True))
    except _DECODE_ERRORS as error:
        syntax = UID(text(dataset.file_meta, "TransferSyntaxUID")).name
        raise ImagingError(
            Reason.UNDECODABLE,
            f"The pixels of {path.name} cannot be decoded (transfer syntax {syntax}); copy the file again or send it "
            "uncompressed.",
        ) from error
    pixels = pixels.reshape(-1, *pixels.shape[-2:])
    _check_count(pixels, dataset, path)
    stored, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    if stored == allocated or not np.issubdtype(pixels.dtype, np.integer):
        return pixels
    # Old scanners keep overlays in the bits above: they are no part of the value.
    unused = pixels.dtype.itemsize * 8 - stored
    masked: AnyArray = np.right_shift(np.left_shift(pixels, unused), unused)
    return masked


def _check_count(pixels: AnyArray, dataset: Dataset, path: Path) -> None:
    """What a frame shows and where it lies are told apart by counting: one frame more or fewer moves all after it."""
    stated = number(dataset.get("NumberOfFrames")) or 1
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    if not len(pixels) == stated == (stated if groups is None else len(groups)):
        raise ImagingError(
            Reason.UNDECODABLE,
            f"{path.name} holds {len(pixels)} frames of pixels, which is not what its NumberOfFrames and "
            "PerFrameFunctionalGroupsSequence say; copy the file again or export it again.",
        )


def rescale(dataset: Dataset, frame: int, label: str) -> tuple[float, float]:
    """Rescale Slope and Intercept of one frame; 1 and 0 when the object states none.

    Raises
    ------
    ImagingError
        ``UNSUPPORTED`` if the slope is zero or the values need a lookup table.
    """
    if dataset.get("ModalityLUTSequence"):
        raise ImagingError(
            Reason.UNSUPPORTED, f"{label} needs a ModalityLUTSequence, which is not supported."
        )
    macro = functional_group(dataset, frame, "PixelValueTransformationSequence") or dataset
    slope = _stated(macro, "RescaleSlope", 1.0, label)
    intercept = _stated(macro, "RescaleIntercept", 0.0, label)
    if slope == 0:
        raise ImagingError(Reason.UNSUPPORTED, f"{label} has a RescaleSlope of 0: its values carry no image.")
    return slope, intercept


def _stated(dataset: Dataset, keyword: str, absent: float, label: str) -> float:
    value = number(dataset.get(keyword))
    if value is None and not text(dataset, keyword):
        return absent
    if value is None or not np.isfinite(value):
        raise ImagingError(
            Reason.UNSUPPORTED, f"{label} has a {keyword} that is no number; export it again from its source."
        )
    return value


def padding_mask(dataset: Dataset, pixels: AnyArray) -> AnyArray:
    """Pixels that the scanner filled in around the image (PS3.3 C.7.5.1.1.2)."""
    value = _stored_value(dataset, "PixelPaddingValue")
    if value is None:
        return np.zeros(pixels.shape, dtype=bool)
    limit = _stored_value(dataset, "PixelPaddingRangeLimit")
    low, high = sorted((value, value if limit is None else limit))
    inside: AnyArray = (pixels >= low) & (pixels <= high)
    return inside


def _stored_value(dataset: Dataset, keyword: str) -> int | None:
    value = number(dataset.get(keyword))
    if value is None:
        return None
    bits = int(dataset.BitsAllocated)
    # Some writers state a negative padding value as unsigned.
    wraps = number(dataset.get("PixelRepresentation")) == 1 and value >= 2 ** (bits - 1)
    return int(value) - (2**bits if wraps else 0)


def without_padding(array: AnyArray, padded: AnyArray) -> FloatArray:
    """Padding set to the lowest measured value, unless the stated value occurs among measured ones."""
    if not padded.any() or padded.all():
        return array
    measured, padding = array[~padded], array[padded]
    if padding.max() < measured.min() or padding.min() > measured.max():
        array[padded] = measured.min()
    return array


def check_pixels(datasets: Sequence[Dataset], label: str) -> None:
    """Refuse pixels that are no measured grey values.

    Raises
    ------
    ImagingError
        ``UNSUPPORTED`` naming the attribute.
    """
    for dataset in datasets:
        photometric = text(dataset, "PhotometricInterpretation")
        inverted_mr = photometric == "MONOCHROME1" and text(dataset, "Modality") == "MR"
        if int(number(dataset.get("SamplesPerPixel")) or 1) != 1 or photometric not in (
            "MONOCHROME1",
            "MONOCHROME2",
        ):
            reason = f"is a colour picture (PhotometricInterpretation {photometric or 'absent'}), not measured values."
        elif inverted_mr:
            reason = (
                "is an MR stored to be shown inverted (PhotometricInterpretation MONOCHROME1), not supported."
            )
        elif number(dataset.get("BitsAllocated")) not in (8, 16, 32):
            reason = (
                f"has BitsAllocated {text(dataset, 'BitsAllocated') or 'absent'}, which is not supported."
            )
        elif not 0 < (number(dataset.get("BitsStored")) or 0) <= (number(dataset.get("BitsAllocated")) or 0):
            reason = "has no BitsStored that fits BitsAllocated; export it again."
        elif number(dataset.get("HighBit")) not in (None, (number(dataset.get("BitsStored")) or 0) - 1):
            reason = "has a HighBit that does not fit BitsStored, which is not supported."
        elif "MOSAIC" in text(dataset, "ImageType").upper():
            reason = "is a mosaic (ImageType MOSAIC): many slices in one picture, which is not supported."
        else:
            continue
        raise ImagingError(Reason.UNSUPPORTED, f"{label} {reason}")
