"""Pixels of a series as one volume of rescaled values."""

from __future__ import annotations

import numpy as np

from imaging.errors import ImagingError, Reason
from imaging.files import tolerant_dicom
from imaging.geometry import Volume
from imaging.headers import series_label
from imaging.pixels import decode_pixels, padding_mask, rescale, without_padding
from imaging.series import Series
from imaging.stack import frames_of, stack


def read_volume(series: Series) -> Volume:
    """Read a series.

    Parameters
    ----------
    series : Series
        A series of a catalog.

    Returns
    -------
    Volume
        float32 values with each slice's own Rescale Slope and Intercept applied; ``array[i, j, k]`` is column i, row
        j of slice k.

    Raises
    ------
    ImagingError
        If the pixels cannot be decoded, values are not finite, or the files no longer are what the catalog saw.
    """
    label = series_label(series.number, series.uid)
    with tolerant_dicom():
        datasets = series.datasets()
        geometry, ordered = stack(frames_of(datasets, label), label)
        if series.geometry is None or not geometry.matches(series.geometry):
            raise ImagingError(
                Reason.MIXED_GEOMETRY, f"{label} changed on disk while it was being read; run again."
            )
        stored = [decode_pixels(dataset, path) for dataset, path in zip(datasets, series.files, strict=True)]
        array = np.empty(geometry.shape, dtype=np.float32)
        padded = np.zeros(geometry.shape, dtype=bool)
        for k, frame in enumerate(ordered):
            pixels = stored[frame.file_index][frame.frame_index]
            slope, intercept = rescale(frame.dataset, frame.frame_index, label)
            with np.errstate(over="ignore", invalid="ignore"):  # told below
                array[:, :, k] = (pixels.astype(np.float64) * slope + intercept).T
            padded[:, :, k] = padding_mask(frame.dataset, pixels).T
    if not np.isfinite(array).all():
        raise ImagingError(
            Reason.UNSUPPORTED,
            f"{label} has a RescaleSlope or RescaleIntercept that makes values too large for an image; export it again "
            "from its source.",
        )
    return Volume(without_padding(array, padded), geometry)
