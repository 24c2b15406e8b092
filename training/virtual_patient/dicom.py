"""Writing image series as classic MR Image Storage, one file a slice (PS3.3 A.4)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.charset import convert_encodings
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage
from pydicom.valuerep import format_number_as_ds

from imaging.geometry import Geometry
from training.virtual_patient.contrast import Sequence

SCANNING = {
    "mprage": (["GR", "IR"], ["SP", "MP"], "*tfl3d1_16ns"),
    "flash": ("GR", "SP", "*fl2d1"),
    "tse": ("SE", ["SK", "SP"], "*tse2d1_15"),
    "tirm": (["SE", "IR"], ["SK", "SP", "MP"], "*tir2d1rs16"),
}

# Attributes that differ between the images of a series, in the order of their tags.
BY_IMAGE = (0x00080018, 0x00200013, 0x00200032, 0x00201041, 0x7FE00010)


def uid(*words: object) -> str:
    """UID under 2.25 (PS3.5 B.2) that depends on the words only."""
    digest = hashlib.sha256("\x1f".join(str(word) for word in words).encode()).digest()
    return f"2.25.{int.from_bytes(digest[:16], 'big')}"


@dataclass(frozen=True)
class Identity:
    """Whose images these pretend to be.

    Parameters
    ----------
    patient_id, name, sex : str
        As in the Patient Module.
    birth_date : date or None
        Date of birth, empty in the files when None.
    character_set : str
        Specific Character Set (0008,0005) that can encode the name and descriptions.
    """

    patient_id: str
    name: str
    sex: str = "O"
    birth_date: date | None = None
    character_set: str = "ISO_IR 100"


@dataclass(frozen=True)
class StudyHeader:
    """What all series of a visit share."""

    identity: Identity
    study_instance_uid: str
    frame_of_reference_uid: str
    start: datetime
    description: str
    manufacturer: str = "OncoTwin phantom"
    model: str = "Virtual 3T"


@dataclass(frozen=True)
class SeriesHeader:
    """What all images of a series share.

    ``sequence`` is None where nothing is known about the acquisition (a wrapped NIfTI file); ``contrast_agent``
    is None before an injection. ``reversed_order`` numbers the slices against the third axis.
    """

    number: int
    description: str
    start: datetime
    sequence: Sequence | None = None
    dimension: str = ""
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "OTHER")
    contrast_agent: str | None = None
    thickness_mm: float | None = None
    reversed_order: bool = False
    first_instance: int = 1


@dataclass(frozen=True)
class Encoding:
    """How integers mean values: ``value = slope * stored + intercept``."""

    bits_stored: int
    slope: float | None = None
    intercept: float = 0.0


def write_series(
    folder: Path,
    pixels: npt.NDArray[np.uint16],
    geometry: Geometry,
    study: StudyHeader,
    series: SeriesHeader,
    encoding: Encoding,
) -> str:
    """Write ``(columns, rows, slices)`` pixels as one file a slice; returns the Series Instance UID.

    Raises
    ------
    ValueError
        If the in-plane axes are not at right angles, which Image Orientation (Patient) cannot express.
    """
    row, column, _ = geometry.directions.T
    if abs(float(row @ column)) > 1e-4:
        raise ValueError("the in-plane axes are not at right angles; DICOM cannot hold this image")
    series_uid = uid(study.study_instance_uid, "series", series.number)
    common = _series_dataset(study, series, encoding, series_uid)
    _set_plane(common, geometry, series)
    template = _FileTemplate.of(common)
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(row, column)
    count = geometry.shape[2]
    for step in range(count):
        k = count - 1 - step if series.reversed_order else step
        number = series.first_instance + step
        position = geometry.to_patient((0, 0, k))
        image = Dataset()
        image.SOPInstanceUID = uid(series_uid, number)
        image.InstanceNumber = number
        image.ImagePositionPatient = [format_number_as_ds(float(x)) for x in position]
        image.SliceLocation = f"{float(normal @ position):.4f}"
        image.PixelData = np.ascontiguousarray(pixels[:, :, k].T).astype("<u2", copy=False).tobytes()
        image["PixelData"].VR = "OW"
        (folder / f"{number:04d}.dcm").write_bytes(template.filled(image))
    return series_uid


@dataclass(frozen=True)
class _FileTemplate:
    """Encoded attributes that all images of a series share: encoding them once makes writing several times faster.

    ``parts[tag]`` holds the shared attributes that come before ``tag``, for each tag that differs by image.
    """

    parts: Mapping[int, bytes]

    @classmethod
    def of(cls, common: Dataset) -> _FileTemplate:
        encodings = convert_encodings(common.SpecificCharacterSet)
        parts, start = {}, 0
        for tag in BY_IMAGE:
            parts[tag] = _encoded(common[start:tag], encodings)
            start = tag
        return cls(parts)

    def filled(self, image: Dataset) -> bytes:
        """A whole file: preamble, file meta information (PS3.10 7.1) and data set."""
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        head = DicomBytesIO()
        write_file_meta_info(head, meta, enforce_standard=True)
        body = (self.parts[tag] + _encoded(image[tag : tag + 1], None) for tag in BY_IMAGE)
        return b"".join((bytes(128), b"DICM", head.getvalue(), *body))


def _encoded(dataset: Dataset, encodings: list[str] | None) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset, encodings or "iso8859")
    return buffer.getvalue()


def _series_dataset(study: StudyHeader, series: SeriesHeader, encoding: Encoding, series_uid: str) -> Dataset:
    identity, ds = study.identity, Dataset()
    ds.SpecificCharacterSet = identity.character_set
    ds.ImageType = list(series.image_type)
    ds.SOPClassUID = MRImageStorage
    ds.StudyDate = study.start.strftime("%Y%m%d")
    ds.StudyTime = study.start.strftime("%H%M%S")
    for part in ("Series", "Acquisition", "Content"):
        setattr(ds, f"{part}Date", series.start.strftime("%Y%m%d"))
        setattr(ds, f"{part}Time", series.start.strftime("%H%M%S.%f"))
    ds.AccessionNumber = ""
    ds.Modality = "MR"
    ds.Manufacturer, ds.ManufacturerModelName = study.manufacturer, study.model
    ds.ReferringPhysicianName = ""
    ds.StudyDescription, ds.SeriesDescription = study.description, series.description
    ds.PatientName, ds.PatientID, ds.PatientSex = identity.name, identity.patient_id, identity.sex
    ds.PatientBirthDate = identity.birth_date.strftime("%Y%m%d") if identity.birth_date else ""
    ds.BodyPartExamined = "BRAIN"
    ds.PatientPosition = "HFS"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study.study_instance_uid, series_uid
    ds.StudyID = "1"
    ds.SeriesNumber, ds.AcquisitionNumber = series.number, 1
    ds.FrameOfReferenceUID = study.frame_of_reference_uid
    ds.PositionReferenceIndicator = ""
    _set_acquisition(ds, series)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, encoding.bits_stored, encoding.bits_stored - 1
    ds.PixelRepresentation = 0
    if encoding.slope is not None:
        ds.RescaleIntercept = format_number_as_ds(encoding.intercept)
        ds.RescaleSlope = format_number_as_ds(encoding.slope)
        ds.RescaleType = "US"
    return ds


def _set_acquisition(ds: Dataset, series: SeriesHeader) -> None:
    sequence = series.sequence
    if sequence is None:
        # Research Mode and an empty Type 2 value each: the file says that it does not know.
        ds.ScanningSequence, ds.SequenceVariant = "RM", "NONE"
        ds.RepetitionTime = ds.EchoTime = ds.EchoTrainLength = None
    else:
        ds.ScanningSequence, ds.SequenceVariant, ds.SequenceName = SCANNING[sequence.kind]
        ds.RepetitionTime, ds.EchoTime = f"{sequence.repetition_ms:g}", f"{sequence.echo_ms:g}"
        ds.EchoTrainLength, ds.FlipAngle = sequence.echo_train, f"{sequence.flip_degrees:g}"
        if sequence.inversion_ms is not None:
            ds.InversionTime = f"{sequence.inversion_ms:g}"
        ds.MagneticFieldStrength, ds.ImagedNucleus = "3", "1H"
    ds.ScanOptions = ""
    ds.MRAcquisitionType = series.dimension
    ds.ProtocolName = series.description
    if series.contrast_agent is not None:
        ds.ContrastBolusAgent, ds.ContrastBolusRoute = series.contrast_agent, "IV"


def _set_plane(ds: Dataset, geometry: Geometry, series: SeriesHeader) -> None:
    columns, rows, _ = geometry.shape
    row, column, _ = geometry.directions.T
    column_spacing, row_spacing, _ = geometry.spacing
    # Slices of a sheared grid are closer than their centres are apart.
    slice_spacing = abs(float(np.cross(row, column) @ geometry.affine[:3, 2]))
    ds.Columns, ds.Rows = columns, rows
    ds.PixelSpacing = [format_number_as_ds(row_spacing), format_number_as_ds(column_spacing)]
    ds.ImageOrientationPatient = [format_number_as_ds(float(x)) for x in (*row, *column)]
    ds.SliceThickness = format_number_as_ds(series.thickness_mm or slice_spacing)
    ds.SpacingBetweenSlices = format_number_as_ds(slice_spacing)
