"""From the planes of a series to one regular grid, or a refusal that says why there is none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydicom.dataset import Dataset

from imaging.errors import ImagingError, Reason
from imaging.files import text
from imaging.geometry import FloatArray, Geometry
from imaging.headers import functional_group, number, varying

# Positions are stored as short decimal strings, so a regular stack is regular to rounding only. A missing slice is
# off by a whole step; anything between is a series whose spacing varies.
POSITION_TOLERANCE_MM = 0.01
POSITION_TOLERANCE_OF_STEP = 0.01
SAME_DIRECTION = 1e-3
_UNIT_LENGTH = 1e-2

# Attributes that tell apart several images of one position, best explanation first.
_DIMENSIONS = (
    "EchoTime",
    "EchoNumbers",
    "DiffusionBValue",
    "TemporalPositionIdentifier",
    "InversionTime",
    "FlipAngle",
    "TriggerTime",
    "ImageType",
    "AcquisitionNumber",
    "AcquisitionTime",
    "InstanceNumber",
)
_FRAME_DIMENSIONS = (
    ("MREchoSequence", "EffectiveEchoTime"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("FrameContentSequence", "StackID"),
    ("MRImageFrameTypeSequence", "FrameType"),
    ("MRImageFrameTypeSequence", "ComplexImageComponent"),
    ("FrameContentSequence", "FrameAcquisitionNumber"),
)


@dataclass(frozen=True, eq=False)
class Plane:
    """One image plane in the patient.

    Parameters
    ----------
    rows, columns : int
        Size in pixels.
    position : numpy.ndarray
        ``(3,)`` LPS of the centre of the first pixel in mm (Image Position Patient).
    along_row, along_column : numpy.ndarray
        ``(3,)`` unit vectors: the first from column to column, the second from row to row.
    column_spacing, row_spacing : float
        Distance between columns and between rows in mm. DICOM's Pixel Spacing names the rows first.
    """

    rows: int
    columns: int
    position: FloatArray
    along_row: FloatArray
    along_column: FloatArray
    column_spacing: float
    row_spacing: float

    @property
    def normal(self) -> FloatArray:
        """``(3,)`` unit normal, right-handed with the two axes of the plane."""
        cross = np.cross(self.along_row, self.along_column)
        normal: FloatArray = cross / np.linalg.norm(cross)
        return normal


@dataclass(frozen=True, eq=False)
class Frame:
    """One plane of pixels: where it is stored and where it lies."""

    dataset: Dataset
    file_index: int
    frame_index: int
    plane: Plane


def frames_of(datasets: Sequence[Dataset], label: str) -> list[Frame]:
    """All frames of the instances of a series, classic or enhanced.

    Raises
    ------
    ImagingError
        ``MISSING_ATTRIBUTE`` naming the attribute of the geometry that is absent or not usable, or NumberOfFrames
        where it is not the number of frames that have a place.
    """
    return [
        Frame(dataset, file_index, frame_index, plane_of(dataset, frame_index, label))
        for file_index, dataset in enumerate(datasets)
        for frame_index in range(_frame_count(dataset, label))
    ]


def _frame_count(dataset: Dataset, label: str) -> int:
    """Frames of an instance: an enhanced one places each by an item of its own, a classic one has a single frame."""
    groups = dataset.get("PerFrameFunctionalGroupsSequence")
    placed = 1 if groups is None else len(groups)
    stated = text(dataset, "NumberOfFrames")
    if placed < 1 or (number(dataset.get("NumberOfFrames")) if stated else 1) != placed:
        raise ImagingError(
            Reason.MISSING_ATTRIBUTE,
            f"{label} states NumberOfFrames {stated or '(empty)'}, but places for {placed} "
            "(PerFrameFunctionalGroupsSequence): which frame lies where is unknown; export it again.",
        )
    return placed


def position_tolerance(step_mm: float) -> float:
    """How far in mm a slice may lie off its place in a regular stack of this distance from slice to slice."""
    return max(POSITION_TOLERANCE_MM, POSITION_TOLERANCE_OF_STEP * step_mm)


def slice_tolerance(step_mm: float) -> float:
    """How far in mm a slice of a volume that was read may lie off its place in the volume's grid.

    The limit of reading, wider by what they differ by: reading goes by the median step along the normal, the grid
    knows the mean one along its axis, and places pass through matrix inversions.
    """
    return 1.05 * position_tolerance(step_mm) + 0.01


def stack(frames: Sequence[Frame], label: str) -> tuple[Geometry, list[Frame]]:
    """Order frames along their normal and check that they make one regular grid.

    The slice axis follows the right-handed normal of the planes, whatever the order of files or instance numbers.
    A constant in-plane drift from slice to slice (gantry tilt) is kept: the grid is then sheared.

    Parameters
    ----------
    frames : sequence of Frame
        Frames of one series in any order.
    label : str
        How messages name the series.

    Returns
    -------
    geometry : Geometry
        The grid.
    ordered : list of Frame
        The frames in the order of its slices.

    Raises
    ------
    ImagingError
        ``MIXED_GEOMETRY``, ``MIXED_ORIENTATION``, ``SINGLE_POSITION``, ``DUPLICATE_POSITION``, ``MISSING_SLICE`` or
        ``NOT_A_VOLUME``.
    """
    _check_one_grid_of_pixels(frames, label)
    first = frames[0].plane
    normal = first.normal
    heights = np.array([frame.plane.position @ normal for frame in frames])
    order = np.argsort(heights, kind="stable")
    ordered = [frames[index] for index in order]
    positions = np.array([frame.plane.position for frame in ordered])
    gaps = np.diff(heights[order])
    _check_positions(ordered, positions, gaps, label)

    step = (positions[-1] - positions[0]) / (len(ordered) - 1)
    affine = np.eye(4)
    affine[:3, 0] = first.along_row * first.column_spacing
    affine[:3, 1] = first.along_column * first.row_spacing
    affine[:3, 2] = step
    affine[:3, 3] = positions[0]
    shape = (first.columns, first.rows, len(ordered))
    return Geometry(shape, affine, _frame_of_reference(frames, label)), ordered


def _check_one_grid_of_pixels(frames: Sequence[Frame], label: str) -> None:
    first = frames[0].plane
    for frame in frames:
        plane = frame.plane
        if (plane.rows, plane.columns) != (first.rows, first.columns):
            raise ImagingError(
                Reason.MIXED_GEOMETRY,
                f"{label} mixes images of {first.rows} x {first.columns} and {plane.rows} x {plane.columns} "
                "(Rows x Columns); send them as separate series.",
            )
        # Opposite rows and columns give the same normal's line, but flipped pixels: those are mixed as well.
        turned = max(
            np.abs(plane.along_row - first.along_row).max(),
            np.abs(plane.along_column - first.along_column).max(),
        )
        if turned > SAME_DIRECTION:
            raise ImagingError(
                Reason.MIXED_ORIENTATION,
                f"{label} mixes planes of different ImageOrientationPatient; send each orientation as its own series.",
            )
        spacing = (plane.row_spacing, plane.column_spacing)
        if not np.allclose(spacing, (first.row_spacing, first.column_spacing), rtol=1e-4, atol=1e-6):
            raise ImagingError(
                Reason.MIXED_GEOMETRY,
                f"{label} mixes images of different PixelSpacing; send them as separate series.",
            )


def _check_positions(ordered: Sequence[Frame], positions: FloatArray, gaps: FloatArray, label: str) -> None:
    count = len(ordered)
    if count == 1 or np.ptp(positions, axis=0).max() < POSITION_TOLERANCE_MM:
        what = "a single image" if count == 1 else f"{count} images of a single ImagePositionPatient"
        raise ImagingError(Reason.SINGLE_POSITION, f"{label} is {what}; a volume needs several slices.")
    if gaps.min() < POSITION_TOLERANCE_MM:
        twin = int(np.argmin(gaps))
        raise ImagingError(
            Reason.DUPLICATE_POSITION,
            f"{label} holds several images of the same ImagePositionPatient "
            f"({_what_differs(ordered[twin], ordered[twin + 1])}); send each set as its own series.",
        )
    step = float(np.median(gaps))
    tolerance = position_tolerance(step)
    expected = positions[0] + np.arange(count)[:, None] * (positions[-1] - positions[0]) / (count - 1)
    if np.linalg.norm(positions - expected, axis=1).max() <= tolerance and np.ptp(gaps) <= 2 * tolerance:
        return
    multiples = gaps / gaps.min()
    if np.abs(multiples - np.round(multiples)).max() < 0.05 and multiples.max() > 1.5:
        missing = int(np.round(multiples - 1).sum())
        raise ImagingError(
            Reason.MISSING_SLICE,
            f"{label} lacks {missing} of {count + missing} slices (gap of {gaps.max():.2f} mm in ImagePositionPatient "
            f"where {gaps.min():.2f} mm is usual); send the whole series.",
        )
    if np.ptp(gaps) > 2 * tolerance:
        raise ImagingError(
            Reason.MISSING_SLICE,
            f"{label} has uneven slice distances of {gaps.min():.2f} to {gaps.max():.2f} mm in ImagePositionPatient: "
            "a slice is missing or the spacing varies; send a series of equal spacing.",
        )
    raise ImagingError(
        Reason.NOT_A_VOLUME,
        f"{label} does not lie along a straight line (ImagePositionPatient); it is not one regular volume.",
    )


def _what_differs(one: Frame, other: Frame) -> str:
    if one.dataset is not other.dataset:
        names = varying([one.dataset, other.dataset], _DIMENSIONS)
    else:
        names = [
            keyword
            for group, keyword in _FRAME_DIMENSIONS
            if _frame_text(one, group, keyword) != _frame_text(other, group, keyword)
        ]
    return f"they differ in {names[0]}" if names else "nothing in the header tells them apart"


def _frame_text(frame: Frame, group: str, keyword: str) -> str:
    macro = functional_group(frame.dataset, frame.frame_index, group)
    return "" if macro is None else text(macro, keyword)


def _frame_of_reference(frames: Sequence[Frame], label: str) -> str:
    uids = {text(frame.dataset, "FrameOfReferenceUID") for frame in frames}
    if len(uids) > 1:
        raise ImagingError(
            Reason.MIXED_GEOMETRY,
            f"{label} mixes several FrameOfReferenceUID: its slices were not acquired in one position of the patient.",
        )
    return uids.pop()


def plane_of(dataset: Dataset, frame: int, label: str) -> Plane:
    """Where one frame of a classic or enhanced object lies.

    Raises
    ------
    ImagingError
        ``MISSING_ATTRIBUTE`` naming the attribute that is absent or not usable.
    """
    position = _vector(dataset, frame, "PlanePositionSequence", "ImagePositionPatient", 3, label)
    cosines = _vector(dataset, frame, "PlaneOrientationSequence", "ImageOrientationPatient", 6, label)
    spacing = _vector(dataset, frame, "PixelMeasuresSequence", "PixelSpacing", 2, label)
    rows, columns = number(dataset.get("Rows")), number(dataset.get("Columns"))
    if not rows or not columns:
        raise ImagingError(Reason.MISSING_ATTRIBUTE, f"{label} has no Rows or Columns; export it again.")
    lengths = np.linalg.norm(cosines.reshape(2, 3), axis=1)
    skew = cosines[:3] @ cosines[3:]
    if np.abs(lengths - 1).max() > _UNIT_LENGTH or abs(skew) > _UNIT_LENGTH:
        raise ImagingError(
            Reason.MISSING_ATTRIBUTE,
            f"{label} has an ImageOrientationPatient that is not two unit vectors at a right angle; export it again.",
        )
    if spacing.min() <= 0:
        raise ImagingError(
            Reason.MISSING_ATTRIBUTE, f"{label} has a PixelSpacing that is not positive; export it again."
        )
    along_row = cosines[:3] / lengths[0]
    along_column = cosines[3:] / lengths[1]
    return Plane(
        int(rows), int(columns), position, along_row, along_column, float(spacing[1]), float(spacing[0])
    )


def _vector(dataset: Dataset, frame: int, group: str, keyword: str, length: int, label: str) -> FloatArray:
    macro = functional_group(dataset, frame, group)
    value = dataset.get(keyword) if macro is None else macro.get(keyword)
    try:
        vector = np.array([float(item) for item in value or ()])
    except (TypeError, ValueError):
        vector = np.empty(0)
    if vector.shape != (length,) or not np.isfinite(vector).all():
        raise ImagingError(
            Reason.MISSING_ATTRIBUTE,
            f"{label} lacks a usable {keyword}: where it lies is unknown; export it again.",
        )
    return vector
