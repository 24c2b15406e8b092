"""Which frame of the source images lies at which slice of a volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from imaging.geometry import FloatArray, Geometry
from imaging.stack import SAME_DIRECTION, Frame, frames_of, slice_tolerance

_TURNED = 1.05 * SAME_DIRECTION  # directions pass through a matrix inversion


@dataclass(frozen=True, eq=False)
class SourceFrame:
    """One plane of the input: a classic instance, or one frame of a multi-frame instance.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid, series_uid : str
        The instance.
    frame_number : int or None
        One-based frame of a multi-frame instance, None for a classic one.
    position : numpy.ndarray
        ``(3,)`` LPS in mm of the centre of the first pixel.
    row_direction, column_direction : numpy.ndarray
        ``(3,)`` unit vectors along a row (columns increase) and along a column (rows increase).
    """

    sop_class_uid: str
    sop_instance_uid: str
    series_uid: str
    frame_number: int | None
    position: FloatArray
    row_direction: FloatArray
    column_direction: FloatArray


def source_frames(sources: Sequence[Dataset]) -> tuple[SourceFrame, ...]:
    """All planes of the source images, placed as when they were read.

    Raises
    ------
    ImagingError
        ``MISSING_ATTRIBUTE`` as :func:`imaging.stack.frames_of`.
    """
    return tuple(_source_frame(frame) for frame in frames_of(sources, "The source series"))


def _source_frame(frame: Frame) -> SourceFrame:
    dataset, plane = frame.dataset, frame.plane
    return SourceFrame(
        str(dataset.SOPClassUID),
        str(dataset.SOPInstanceUID),
        str(dataset.SeriesInstanceUID),
        frame.frame_index + 1 if "PerFrameFunctionalGroupsSequence" in dataset else None,
        plane.position,
        plane.along_row,
        plane.along_column,
    )


def frames_by_slice(sources: Sequence[Dataset], geometry: Geometry) -> tuple[SourceFrame, ...]:
    """The source frame at each slice ``k`` of ``geometry``.

    Raises
    ------
    ValueError
        If the geometry is not the grid of these images: results are written on the source grid or not at all.
    """
    columns, rows = int(sources[0].Columns), int(sources[0].Rows)
    if geometry.shape[:2] != (columns, rows):
        raise ValueError(
            f"labels of {geometry.shape[:2]} do not fit images of {columns} columns, {rows} rows"
        )
    directions = geometry.directions
    tolerance_mm = slice_tolerance(geometry.spacing[2])
    found: dict[int, SourceFrame] = {}
    for frame in source_frames(sources):
        k = round(float(geometry.to_index(frame.position)[2]))
        if k in found or not 0 <= k < geometry.shape[2]:
            continue
        distance = np.linalg.norm(geometry.to_patient((0, 0, k)) - frame.position)
        turned = np.abs(np.subtract((frame.row_direction, frame.column_direction), directions[:, :2].T)).max()
        if distance <= tolerance_mm and turned <= _TURNED:
            found[k] = frame
    missing = geometry.shape[2] - len(found)
    if missing:
        raise ValueError(f"{missing} of {geometry.shape[2]} slices of the labels lie on no source image")
    return tuple(found[k] for k in range(geometry.shape[2]))
