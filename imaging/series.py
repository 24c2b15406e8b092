"""One acquired series: a regular volume that can be read, or a refusal with its reason."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedMRImageStorage,
    MRImageStorage,
)

from imaging.errors import ImagingError, Reason
from imaging.files import BrokenFile, DicomFile, read_again, text, tolerant_dicom
from imaging.geometry import Geometry
from imaging.headers import (
    AcquisitionTime,
    SeriesHeaders,
    acquisition_time,
    number,
    read_headers,
    series_label,
    varying,
)
from imaging.pixels import check_pixels
from imaging.stack import frames_of, stack

MULTIFRAME_CLASSES = frozenset(
    {
        EnhancedMRImageStorage,
        EnhancedCTImageStorage,
        LegacyConvertedEnhancedMRImageStorage,
        LegacyConvertedEnhancedCTImageStorage,
    }
)
IMAGE_CLASSES = MULTIFRAME_CLASSES | {MRImageStorage, CTImageStorage}

# Attributes that all instances of one series share (PS3.3 C.7.3.1); a difference means mixed-up files.
_SERIES_ATTRIBUTES = ("StudyInstanceUID", "Modality", "SOPClassUID")


@dataclass(frozen=True, eq=False)
class Series:
    """A series that makes one regular volume.

    Parameters
    ----------
    uid, study_uid : str
        Series and Study Instance UID.
    modality : str
        "MR" or "CT".
    description : str
        Series Description; may hold patient data, so never log it.
    number : int or None
        Series Number.
    acquired : datetime.datetime
        Start of the acquisition: the earliest of its instances.
    files : tuple of pathlib.Path
        Its files in the order of the slice axis.
    geometry : Geometry or None
        Its grid.
    headers : SeriesHeaders
        How it was acquired.
    is_multiframe : bool
        Whether each file holds several slices (enhanced objects).
    instance_uids : tuple of str
        SOP Instance UID of each file.
    has_time : bool
        False when only the day of the acquisition is known.
    digests : tuple of str
        SHA-256 of each file.
    """

    uid: str
    study_uid: str
    modality: str
    description: str = field(repr=False)
    number: int | None
    acquired: datetime
    files: tuple[Path, ...] = field(repr=False)
    geometry: Geometry | None
    headers: SeriesHeaders = field(repr=False)
    is_multiframe: bool
    instance_uids: tuple[str, ...] = field(repr=False)
    has_time: bool = True
    digests: tuple[str, ...] = field(default=(), repr=False)

    @property
    def label(self) -> str:
        """How messages name this series."""
        return series_label(self.number, self.uid)

    def datasets(self) -> list[Dataset]:
        """The instances with their pixels, read now, in the order of ``files``.

        Raises
        ------
        ImagingError
            ``UNDECODABLE`` if a file has gone or changed.
        """
        return [_reread(path, uid) for path, uid in zip(self.files, self.instance_uids, strict=True)]


@dataclass(frozen=True, eq=False)
class RefusedSeries:
    """A series that is not one regular volume of measured values; ``sentence`` says why and what to do.

    ``acquired`` is None when no instance has a date.
    """

    uid: str
    description: str = field(repr=False)
    reason: Reason
    sentence: str
    modality: str
    file_count: int
    study_uid: str = ""
    number: int | None = None
    acquired: datetime | None = None
    has_time: bool = False
    headers: SeriesHeaders = field(default_factory=SeriesHeaders, repr=False)
    instance_uids: tuple[str, ...] = field(default=(), repr=False)

    @property
    def label(self) -> str:
        """How messages name this series."""
        return series_label(self.number, self.uid)


def build_series(
    files: Sequence[DicomFile], broken: Sequence[BrokenFile] = ()
) -> tuple[list[Series], list[RefusedSeries]]:
    """Make series of image objects.

    Parameters
    ----------
    files : sequence of DicomFile
        Image objects of ``IMAGE_CLASSES``, in any order.
    broken : sequence of BrokenFile
        Broken files of image series: such a series is refused.
    """
    by_uid: dict[str, list[DicomFile]] = defaultdict(list)
    for file in files:
        by_uid[file.series_uid].append(file)
    broken_by_uid: Mapping[str, list[BrokenFile]] = defaultdict(list)
    for damaged in broken:
        broken_by_uid[damaged.series_uid].append(damaged)
    usable: list[Series] = []
    refused: list[RefusedSeries] = []
    for uid in sorted(by_uid.keys() | broken_by_uid.keys()):
        built = _build_one(uid, by_uid.get(uid, []), broken_by_uid.get(uid, []))
        if isinstance(built, Series):
            usable.append(built)
        else:
            refused.append(built)
    return usable, refused


def _build_one(uid: str, files: list[DicomFile], broken: list[BrokenFile]) -> Series | RefusedSeries:
    # What is left of broken files speaks where nothing else does.
    datasets = [file.header for file in files] or [file.header for file in broken]
    with tolerant_dicom():
        first = datasets[0]
        series_number = number(first.get("SeriesNumber"))
        label = series_label(None if series_number is None else int(series_number), uid)
        headers = read_headers(first)
        try:
            if broken:
                raise ImagingError(Reason.TRUNCATED, f"{label} is incomplete: {broken[0].sentence}")
            _check_one_series(datasets, label)
            check_pixels(datasets, label)
            geometry, ordered = stack(frames_of(datasets, label), label)
            started = _started(datasets, label)
        except ImagingError as error:
            dated = _started_or_none(datasets, label)
            return RefusedSeries(
                uid=uid,
                description=headers.description,
                reason=error.reason,
                sentence=error.message,
                modality=text(first, "Modality"),
                file_count=len(files) + len(broken),
                study_uid=text(first, "StudyInstanceUID"),
                number=None if series_number is None else int(series_number),
                acquired=None if dated is None else dated.moment,
                has_time=dated is not None and dated.has_time,
                headers=headers,
                instance_uids=tuple(file.sop_instance_uid for file in files),
            )
    order = list(dict.fromkeys(frame.file_index for frame in ordered))
    return Series(
        uid=uid,
        study_uid=text(first, "StudyInstanceUID"),
        modality=text(first, "Modality"),
        description=headers.description,
        number=None if series_number is None else int(series_number),
        acquired=started.moment,
        files=tuple(files[index].path for index in order),
        geometry=geometry,
        headers=headers,
        is_multiframe=text(first, "SOPClassUID") in MULTIFRAME_CLASSES,
        instance_uids=tuple(files[index].sop_instance_uid for index in order),
        has_time=started.has_time,
        digests=tuple(files[index].sha256 for index in order),
    )


def _started(datasets: Sequence[Dataset], label: str) -> AcquisitionTime:
    """Earliest acquisition of the instances that have a date."""
    stamps = [stamp for stamp in map(acquisition_time, datasets) if stamp is not None]
    if not stamps:
        raise ImagingError(
            Reason.MISSING_DATE,
            f"{label} has no usable AcquisitionDate, SeriesDate or StudyDate; visits cannot be ordered without it.",
        )
    with_time = [stamp for stamp in stamps if stamp.has_time]
    return min(with_time or stamps, key=lambda stamp: stamp.moment)


def _started_or_none(datasets: Sequence[Dataset], label: str) -> AcquisitionTime | None:
    try:
        return _started(datasets, label)
    except ImagingError:
        return None


def _check_one_series(datasets: Sequence[Dataset], label: str) -> None:
    mixed = varying(datasets, _SERIES_ATTRIBUTES)
    if mixed:
        raise ImagingError(
            Reason.MIXED_GEOMETRY,
            f"{label} mixes files of different {mixed[0]}; it was put together wrongly.",
        )
    seen = {text(dataset, "SOPInstanceUID") for dataset in datasets}
    if len(seen) < len(datasets):
        raise ImagingError(
            Reason.DUPLICATE_POSITION,
            f"{label} holds different files of the same SOPInstanceUID; keep one version of each.",
        )


def _reread(path: Path, uid: str) -> Dataset:
    dataset = read_again(path)
    if text(dataset, "SOPInstanceUID") != uid:
        raise ImagingError(
            Reason.UNDECODABLE, f"{path.name} changed on disk while it was being read; run again."
        )
    return dataset
