"""Which frame of the source images lies at which slice of a volume."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pydicom import Dataset

from imaging.geometry import FloatArray, Geometry

# Positions are decimal strings and pass through matrix inversions: closer than this is the same plane.
_POSITION_TOLERANCE_MM = 0.02
_DIRECTION_TOLERANCE = 1e-3


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
    """All planes of the source images that have a position and an orientation (PS3.3 C.7.6.2, C.7.6.16.2)."""
    return tuple(frame for dataset in sources for frame in _frames_of(dataset))


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
    found: dict[int, SourceFrame] = {}
    for frame in source_frames(sources):
        k = round(float(geometry.to_index(frame.position)[2]))
        if k in found or not 0 <= k < geometry.shape[2]:
            continue
        distance = np.linalg.norm(geometry.to_patient((0, 0, k)) - frame.position)
        aligned = np.allclose(
            frame.row_direction, directions[:, 0], atol=_DIRECTION_TOLERANCE
        ) and np.allclose(frame.column_direction, directions[:, 1], atol=_DIRECTION_TOLERANCE)
        if distance <= _POSITION_TOLERANCE_MM and aligned:
            found[k] = frame
    missing = geometry.shape[2] - len(found)
    if missing:
        raise ValueError(f"{missing} of {geometry.shape[2]} slices of the labels lie on no source image")
    return tuple(found[k] for k in range(geometry.shape[2]))


def _frames_of(dataset: Dataset) -> Iterator[SourceFrame]:
    if "PerFrameFunctionalGroupsSequence" not in dataset:
        if "ImagePositionPatient" in dataset and "ImageOrientationPatient" in dataset:
            yield _frame(dataset, None, dataset.ImagePositionPatient, dataset.ImageOrientationPatient)
        return
    shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
    for number, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence, start=1):
        position = groups.get("PlanePositionSequence") or shared[0].get("PlanePositionSequence")
        orientation = groups.get("PlaneOrientationSequence") or shared[0].get("PlaneOrientationSequence")
        if position and orientation:
            yield _frame(
                dataset, number, position[0].ImagePositionPatient, orientation[0].ImageOrientationPatient
            )


def _frame(
    dataset: Dataset, number: int | None, position: Sequence[float], orientation: Sequence[float]
) -> SourceFrame:
    cosines = np.asarray(orientation, dtype=np.float64)
    return SourceFrame(
        str(dataset.SOPClassUID),
        str(dataset.SOPInstanceUID),
        str(dataset.SeriesInstanceUID),
        number,
        np.asarray(position, dtype=np.float64),
        cosines[:3] / np.linalg.norm(cosines[:3]),
        cosines[3:] / np.linalg.norm(cosines[3:]),
    )
