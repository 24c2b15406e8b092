"""Writes small synthetic DICOM: classic and enhanced series with any geometry, doses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    RTDoseStorage,
    generate_uid,
)

from imaging.geometry import AnyArray, FloatArray

DATE = datetime(2024, 3, 1, 9, 30)
SHAPE = (12, 10, 8)

# What the four contrasts usually look like in a header.
CONTRASTS: dict[str, dict[str, Any]] = {
    "t1": {
        "SeriesDescription": "t1_mprage_sag",
        "ScanningSequence": ["GR", "IR"],
        "MRAcquisitionType": "3D",
        "RepetitionTime": "1900",
        "EchoTime": "2.5",
        "InversionTime": "900",
    },
    "t1ce": {
        "SeriesDescription": "t1_mprage_sag post GD",
        "ScanningSequence": ["GR", "IR"],
        "MRAcquisitionType": "3D",
        "RepetitionTime": "1900",
        "EchoTime": "2.5",
        "InversionTime": "900",
        "ContrastBolusAgent": "Gadovist",
    },
    "t2": {
        "SeriesDescription": "t2_tse_tra",
        "ScanningSequence": "SE",
        "MRAcquisitionType": "2D",
        "RepetitionTime": "4500",
        "EchoTime": "90",
    },
    "flair": {
        "SeriesDescription": "t2_flair_tra",
        "ScanningSequence": ["SE", "IR"],
        "MRAcquisitionType": "2D",
        "RepetitionTime": "9000",
        "EchoTime": "120",
        "InversionTime": "2500",
    },
}


def uid(name: str) -> str:
    """The same UID for the same name."""
    return generate_uid(entropy_srcs=["oncotwin tests", name])


def affine(
    spacing: Sequence[float] = (1.0, 1.0, 2.0),
    origin: Sequence[float] = (-20.0, -30.0, 40.0),
    rotation: FloatArray | None = None,
    tilt: Sequence[float] = (0.0, 0.0),
) -> FloatArray:
    """A right-handed ``(4, 4)`` affine in LPS mm.

    Parameters
    ----------
    spacing : sequence of float
        Along columns, rows and slices in mm.
    origin : sequence of float
        Centre of the first voxel.
    rotation : numpy.ndarray, optional
        ``(3, 3)`` proper rotation.
    tilt : sequence of float
        In-plane drift from slice to slice in mm along columns and rows.
    """
    matrix = np.eye(4)
    matrix[:3, :3] = (np.eye(3) if rotation is None else rotation) @ np.diag(spacing)
    matrix[:3, 2] += matrix[:3, 0] / spacing[0] * tilt[0] + matrix[:3, 1] / spacing[1] * tilt[1]
    matrix[:3, 3] = origin
    return matrix


def pattern(shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> AnyArray:
    """uint16 voxels that are all different in every slice."""
    return np.random.default_rng(seed).permutation(int(np.prod(shape))).reshape(shape).astype(np.uint16)


def write_series(
    folder: Path,
    array: AnyArray | None = None,
    matrix: FloatArray | None = None,
    *,
    name: str = "series",
    enhanced: bool = False,
    modality: str = "MR",
    attributes: Mapping[str, Any] | None = None,
    per_slice: Callable[[int], Mapping[str, Any]] | None = None,
    file_order: Sequence[int] | None = None,
    transfer_syntax: str = ExplicitVRLittleEndian,
) -> list[Path]:
    """Write one series.

    Parameters
    ----------
    folder : pathlib.Path
        Made if absent.
    array : numpy.ndarray
        ``(I, J, K)`` stored values, 16 bit.
    matrix : numpy.ndarray
        ``(4, 4)`` affine in LPS mm.
    name : str
        Names the files and, through ``uid``, the series.
    enhanced : bool
        One multi-frame object instead of one file a slice.
    modality : {"MR", "CT"}
        Kind of image.
    attributes : mapping
        Attributes by keyword that replace the default ones; None takes one away.
    per_slice : callable
        Attributes of slice k, after ``attributes``; in an enhanced object, of its functional groups.
    file_order : sequence of int
        The n-th file (or frame) holds slice ``file_order[n]``.
    transfer_syntax : str
        RLE and JPEG-LS are compressed by pydicom.

    Returns
    -------
    list of pathlib.Path
        The files.
    """
    array = pattern() if array is None else array
    matrix = affine() if matrix is None else matrix
    folder.mkdir(parents=True, exist_ok=True)
    order = list(range(array.shape[2])) if file_order is None else list(file_order)
    if enhanced:
        dataset = _enhanced(array, matrix, name, modality, dict(attributes or {}), per_slice, order)
        return [save(dataset, folder / f"{name}.dcm", transfer_syntax)]
    paths = []
    for n, k in enumerate(order):
        dataset = _header(name, modality, array)
        dataset.SOPClassUID = MRImageStorage if modality == "MR" else CTImageStorage
        dataset.SOPInstanceUID = uid(f"{name} {k}")
        dataset.InstanceNumber = n + 1
        position, orientation, spacing = plane(matrix, k)
        dataset.ImagePositionPatient = position
        dataset.ImageOrientationPatient = orientation
        dataset.PixelSpacing = spacing
        dataset.SliceThickness = decimal(np.linalg.norm(matrix[:3, 2]))
        dataset.PixelData = np.ascontiguousarray(array[:, :, k].T).tobytes()
        set_attributes(dataset, attributes or {})
        set_attributes(dataset, per_slice(k) if per_slice else {})
        paths.append(save(dataset, folder / f"{name}_{n:03d}.dcm", transfer_syntax))
    return paths


def write_visit(
    folder: Path,
    when: datetime = DATE,
    *,
    contrasts: Sequence[str] = ("t1", "t1ce", "t2", "flair"),
    matrix: FloatArray | None = None,
    name: str = "visit",
    attributes: Mapping[str, Any] | None = None,
) -> dict[str, list[Path]]:
    """Write the four contrasts of a visit, five minutes apart, in one study; files by contrast."""
    files = {}
    for n, contrast in enumerate(contrasts):
        moment = when.replace(minute=(when.minute + 5 * n) % 60, hour=when.hour + (when.minute + 5 * n) // 60)
        stated = {
            "StudyInstanceUID": uid(name),
            "FrameOfReferenceUID": uid(f"{name} frame"),
            "SeriesNumber": n + 1,
            **dates(moment),
            **CONTRASTS[contrast],
            **(attributes or {}),
        }
        files[contrast] = write_series(
            folder / f"{name}_{contrast}",
            pattern(seed=n),
            matrix,
            name=f"{name}_{contrast}",
            attributes=stated,
        )
    return files


def dates(moment: datetime) -> dict[str, str]:
    """Attributes of an acquisition at a moment."""
    day, clock = f"{moment:%Y%m%d}", f"{moment:%H%M%S}"
    return {"StudyDate": day, "StudyTime": clock, "AcquisitionDate": day, "AcquisitionTime": clock}


def plane(matrix: FloatArray, k: int) -> tuple[list[str], list[str], list[str]]:
    """Image Position, Image Orientation and Pixel Spacing (rows first) of slice k."""
    column, row = matrix[:3, 0], matrix[:3, 1]
    widths = np.linalg.norm(column), np.linalg.norm(row)
    position = matrix[:3, 3] + k * matrix[:3, 2]
    cosines = [*(column / widths[0]), *(row / widths[1])]
    return (
        [decimal(x) for x in position],
        [decimal(x) for x in cosines],
        [decimal(widths[1]), decimal(widths[0])],
    )


def decimal(value: float) -> str:
    """A number within the 16 characters of a decimal string."""
    return pydicom.valuerep.format_number_as_ds(float(value))


def write_dose(
    path: Path,
    source: Path,
    dose_gy: AnyArray,
    affine: AnyArray,
    *,
    absolute_offsets: bool = False,
    descending: bool = False,
    bits: int = 16,
    **attributes: Any,
) -> Path:
    """Write an RT Dose of the patient and frame of reference of ``source``.

    ``dose_gy`` (I, J, K) lies on the grid ``affine`` (4, 4), index to LPS mm, of orthogonal axes. Offsets of the planes
    are distances, or the z coordinates of axial planes; ``descending`` stores the last plane first. ``attributes``
    replace what is written, None removes.
    """
    image = pydicom.dcmread(source)
    dataset = _header(path.name, "RTDOSE", dose_gy.astype(np.uint16))
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID"):
        setattr(dataset, keyword, image.get(keyword))
    dataset.SOPClassUID, dataset.SOPInstanceUID = RTDoseStorage, uid(path.name)
    dataset.SeriesInstanceUID = uid(f"{path.name} series")
    dataset.FrameOfReferenceUID = image.FrameOfReferenceUID
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    axes = affine[:3, :3] / spacing
    planes = dose_gy.transpose(2, 1, 0)
    offsets = spacing[2] * np.arange(len(planes))
    position = affine[:3, 3]
    if descending:
        planes, offsets, position = planes[::-1], -offsets, position + axes[:, 2] * offsets[-1]
    if absolute_offsets:
        offsets = position[2] + offsets * np.sign(axes[2, 2])
    scaling = max(float(dose_gy.max()), 1e-6) / (2**bits - 1)
    dataset.ImagePositionPatient = [decimal(value) for value in position]
    dataset.ImageOrientationPatient = [decimal(value) for value in (*axes[:, 0], *axes[:, 1])]
    dataset.PixelSpacing = [decimal(spacing[1]), decimal(spacing[0])]
    dataset.GridFrameOffsetVector = [decimal(value) for value in offsets]
    dataset.FrameIncrementPointer = 0x3004000C
    dataset.NumberOfFrames, dataset.Rows, dataset.Columns = planes.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = bits
    dataset.HighBit, dataset.PixelRepresentation = bits - 1, 0
    dataset.DoseUnits, dataset.DoseType, dataset.DoseSummationType = "GY", "PHYSICAL", "PLAN"
    dataset.DoseGridScaling = decimal(scaling)
    dataset.PixelData = np.round(planes / float(decimal(scaling))).astype(f"<u{bits // 8}").tobytes()
    set_attributes(dataset, attributes)
    path.parent.mkdir(parents=True, exist_ok=True)
    return save(dataset, path, ExplicitVRLittleEndian)


def _header(name: str, modality: str, array: AnyArray) -> Dataset:
    dataset = Dataset()
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.PatientID, dataset.PatientName = "P-001", "Doe^Jane"
    dataset.PatientBirthDate, dataset.PatientSex = "19700101", "F"
    dataset.Modality, dataset.Manufacturer = modality, "Test"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = uid("study"), uid(name)
    dataset.StudyID, dataset.AccessionNumber, dataset.ReferringPhysicianName = "1", "A1", ""
    dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = uid("frame"), ""
    dataset.SeriesNumber, dataset.PatientPosition, dataset.BodyPartExamined = 1, "HFS", "BRAIN"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "NORM"]
    for keyword, value in dates(DATE).items():
        setattr(dataset, keyword, value)
    dataset.Rows, dataset.Columns = array.shape[1], array.shape[0]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = array.dtype.itemsize * 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(np.issubdtype(array.dtype, np.signedinteger))
    return dataset


def _enhanced(
    array: AnyArray,
    matrix: FloatArray,
    name: str,
    modality: str,
    attributes: dict[str, Any],
    per_slice: Callable[[int], Mapping[str, Any]] | None,
    order: Sequence[int],
) -> Dataset:
    dataset = _header(name, modality, array)
    dataset.SOPClassUID = EnhancedMRImageStorage if modality == "MR" else EnhancedCTImageStorage
    dataset.SOPInstanceUID = uid(name)
    dataset.NumberOfFrames = len(order)
    timing = {key: attributes.pop(key) for key in ("RepetitionTime", "FlipAngle") if key in attributes}
    echo = {"EffectiveEchoTime": float(attributes.pop("EchoTime"))} if "EchoTime" in attributes else {}
    modifier = {}
    if "InversionTime" in attributes:
        modifier = {"InversionRecovery": "YES", "InversionTimes": [float(attributes.pop("InversionTime"))]}
    _, orientation, spacing = plane(matrix, 0)
    shared = {
        "PlaneOrientationSequence": {"ImageOrientationPatient": orientation},
        "PixelMeasuresSequence": {
            "PixelSpacing": spacing,
            "SliceThickness": decimal(np.linalg.norm(matrix[:3, 2])),
        },
        "MRTimingAndRelatedParametersSequence": timing,
        "MREchoSequence": echo,
        "MRModifierSequence": modifier,
    }
    dataset.SharedFunctionalGroupsSequence = [_groups(shared)]
    dataset.PerFrameFunctionalGroupsSequence = [
        _groups(
            {
                "PlanePositionSequence": {"ImagePositionPatient": plane(matrix, k)[0]},
                "FrameContentSequence": {"StackID": "1", "InStackPositionNumber": k + 1},
                **(per_slice(k) if per_slice else {}),
            }
        )
        for k in order
    ]
    dataset.PixelData = np.ascontiguousarray(array[:, :, order].transpose(2, 1, 0)).tobytes()
    set_attributes(dataset, attributes)
    return dataset


def _groups(macros: Mapping[str, Mapping[str, Any]]) -> Dataset:
    groups = Dataset()
    for keyword, values in macros.items():
        if values:
            item = Dataset()
            set_attributes(item, values)
            setattr(groups, keyword, [item])
    return groups


def set_attributes(dataset: Dataset, attributes: Mapping[str, Any]) -> None:
    for keyword, value in attributes.items():
        if value is None:
            if keyword in dataset:
                delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)


def save(dataset: Dataset, path: Path, transfer_syntax: str) -> Path:
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    syntax = pydicom.uid.UID(transfer_syntax)
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax.is_encapsulated else syntax
    if syntax.is_encapsulated:
        dataset.compress(syntax, generate_instance_uid=False)
    elif "PixelData" in dataset:
        dataset["PixelData"].VR = "OW"
        if not syntax.is_little_endian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, np.uint16).byteswap().tobytes()
    dataset.save_as(path, enforce_file_format=True)
    return path
