"""What a folder of DICOM holds: one patient, visits in the order of time, the series and drawings of each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.uid import UID, RTDoseStorage

from imaging.annotation_index import ANNOTATION_CLASSES, Annotation, OwnCopy, index_annotation
from imaging.dose_index import DoseFile
from imaging.errors import ImagingError, Reason
from imaging.files import BrokenFile, DicomFile, IgnoredFile, Progress, read_folder, text, tolerant_dicom
from imaging.series import IMAGE_CLASSES, RefusedSeries, Series, build_series
from imaging.visit_grouping import group_visits, moment

__all__ = [
    "Annotation",
    "BrokenFile",
    "Catalog",
    "DoseFile",
    "IgnoredFile",
    "Inventory",
    "PatientIdentity",
    "RefusedAnnotation",
    "RefusedSeries",
    "Series",
    "Visit",
    "read_catalog",
    "read_inventory",
]

# Attributes that tell people apart, beside the identifier itself.
_IDENTITY = ("IssuerOfPatientID", "PatientBirthDate", "PatientSex")


@dataclass(frozen=True)
class PatientIdentity:
    """Who the patient is, for writing into output objects only; its repr reveals nothing.

    Parameters
    ----------
    patient_id, name, birth_date, sex, issuer : str
        As in the input, decoded from its character set; ``birth_date`` as YYYYMMDD; empty when absent.
    """

    patient_id: str = field(repr=False)
    name: str = field(repr=False)
    birth_date: str = field(repr=False)
    sex: str = field(repr=False)
    issuer: str = field(default="", repr=False)


@dataclass(frozen=True, eq=False)
class Visit:
    """Everything acquired in one sitting; ``date`` is the start of its first series.

    ``own_copies`` are names of ignored files: what this application wrote of drawings on these images.
    """

    date: datetime
    series: tuple[Series, ...]
    refused: tuple[RefusedSeries, ...]
    annotations: tuple[Annotation, ...]
    own_copies: tuple[str, ...] = ()

    @property
    def series_uids(self) -> frozenset[str]:
        """Series Instance UIDs of all its series, refused ones included."""
        return frozenset(item.uid for item in self.series) | {item.uid for item in self.refused}


@dataclass(frozen=True)
class RefusedAnnotation:
    """A drawing that belongs to no one visit; ``sentence`` says why and what to do."""

    name: str
    reason: Reason
    sentence: str


@dataclass(frozen=True, eq=False)
class Catalog:
    """The images of one patient.

    Parameters
    ----------
    patient : PatientIdentity
        Who it is.
    visits : tuple of Visit
        In the order of time.
    ignored : tuple of IgnoredFile
        Files that are not used.
    digest : str
        SHA-256 over instance UIDs and contents of all files used; the same whatever their names and places.
    doses : tuple of DoseFile
        RT Dose objects.
    unplaced : tuple of RefusedSeries
        Series without a usable date; empty in a catalog that ``read_catalog`` accepts.
    refused_annotations : tuple of RefusedAnnotation
        Drawings that refer to images of several visits; empty in a catalog that ``read_catalog`` accepts.
    """

    patient: PatientIdentity
    visits: tuple[Visit, ...]
    ignored: tuple[IgnoredFile, ...]
    digest: str
    unplaced: tuple[RefusedSeries, ...] = ()
    doses: tuple[DoseFile, ...] = ()
    refused_annotations: tuple[RefusedAnnotation, ...] = ()


@dataclass(frozen=True, eq=False)
class Inventory:
    """All patients of a folder, and the files that belong to none."""

    patients: tuple[Catalog, ...]
    broken: tuple[BrokenFile, ...]
    ignored: tuple[IgnoredFile, ...]


def read_catalog(folder: Path, *, visit_gap_hours: float = 4.0, progress: Progress | None = None) -> Catalog:
    """Read the images of one patient.

    Parameters
    ----------
    folder : pathlib.Path
        Tree of any mix of studies, series and other files.
    visit_gap_hours : float
        Series that start at most this long after another belong to the same visit.
    progress : callable, optional
        Called as ``progress(files_done, files_in_all)``.

    Raises
    ------
    ImagingError
        ``EMPTY_INPUT``, ``NO_PERMISSION``, ``NOT_DICOM``, ``SEVERAL_PATIENTS``, ``MISSING_ATTRIBUTE`` (PatientID),
        ``MISSING_DATE``, ``TRUNCATED`` (a broken file that is no image of a known study) or ``BAD_ANNOTATION``
        (a drawing that refers to images of several visits).
    """
    inventory = read_inventory(folder, visit_gap_hours=visit_gap_hours, progress=progress)
    refused = [item for catalog in inventory.patients for item in catalog.refused_annotations]
    if refused:
        raise ImagingError(refused[0].reason, refused[0].sentence)
    if inventory.broken:
        raise ImagingError(Reason.TRUNCATED, inventory.broken[0].sentence)
    if not inventory.patients:
        raise ImagingError(Reason.NOT_DICOM, "The folder holds no DICOM file; give a folder of DICOM files.")
    if len(inventory.patients) > 1:
        raise ImagingError(
            Reason.SEVERAL_PATIENTS,
            f"The folder holds {len(inventory.patients)} patients (they differ in PatientID, IssuerOfPatientID, "
            "PatientBirthDate or PatientSex); give one patient a run.",
        )
    catalog = inventory.patients[0]
    if not catalog.patient.patient_id:
        raise ImagingError(
            Reason.MISSING_ATTRIBUTE,
            "PatientID is empty: that all images are of one patient cannot be told; fill it in.",
        )
    if catalog.unplaced:
        raise ImagingError(catalog.unplaced[0].reason, catalog.unplaced[0].sentence)
    if not catalog.visits:
        raise ImagingError(
            Reason.EMPTY_INPUT, "The folder holds DICOM files, but no MR or CT images; add the images."
        )
    return replace(
        catalog, ignored=tuple(sorted((*catalog.ignored, *inventory.ignored), key=lambda file: file.path))
    )


def read_inventory(
    folder: Path, *, visit_gap_hours: float = 4.0, progress: Progress | None = None
) -> Inventory:
    """List every patient of a folder; what ``read_catalog`` refuses is listed here.

    Raises
    ------
    ImagingError
        ``EMPTY_INPUT`` or ``NO_PERMISSION``.
    """
    content = read_folder(folder, progress)
    with tolerant_dicom():
        groups = _by_patient(content.objects)
        others = [file for file in content.broken if _is_of_no_use(file)]
        homes = [(file, _homes(file, groups)) for file in content.broken if file not in others]
        patients = tuple(
            _catalog(group, [file for file, places in homes if number in places], visit_gap_hours)
            for number, group in enumerate(groups)
        )
    lost = tuple(file for file, places in homes if not places)
    ignored = [IgnoredFile(file.name, "broken, and not an MR or CT image") for file in others]
    return Inventory(patients, lost, (*content.ignored, *ignored))


def _is_of_no_use(broken: BrokenFile) -> bool:
    """Whether a broken file would be ignored if it were whole."""
    used = {*IMAGE_CLASSES, *ANNOTATION_CLASSES, RTDoseStorage}
    return text(broken.header, "SOPClassUID") not in {"", *used}


def _homes(broken: BrokenFile, groups: Sequence[Sequence[DicomFile]]) -> list[int]:
    """The patients whose images a broken file belongs to; none where it may be a drawing, or anybody's.

    By its series, else by its study: an image may be all that its series has.
    """
    keywords = ["SeriesInstanceUID"]
    if text(broken.header, "SOPClassUID") in IMAGE_CLASSES and broken.series_uid:
        keywords.append("StudyInstanceUID")
    for keyword in keywords:
        uid = text(broken.header, keyword)
        homes = [
            number
            for number, group in enumerate(groups)
            if uid and any(text(file.header, keyword) == uid for file in group if _is_image(file))
        ]
        if homes:
            return homes
    return []


def _is_image(file: DicomFile) -> bool:
    return text(file.header, "SOPClassUID") in IMAGE_CLASSES


def _by_patient(files: Sequence[DicomFile]) -> list[list[DicomFile]]:
    by_id: dict[str, list[DicomFile]] = {}
    for file in files:
        by_id.setdefault(text(file.header, "PatientID"), []).append(file)
    return [group for _, same_id in sorted(by_id.items()) for group in _split(same_id, _IDENTITY)]


def _split(files: list[DicomFile], keywords: Sequence[str]) -> list[list[DicomFile]]:
    """Split by attributes that contradict each other; an attribute left empty contradicts nothing."""
    if not keywords:
        return [files]
    values = sorted({text(file.header, keywords[0]) for file in files} - {"", "O"})
    if len(values) < 2:
        return _split(files, keywords[1:])
    groups = [[file for file in files if text(file.header, keywords[0]) == value] for value in values]
    rest = [file for file in files if text(file.header, keywords[0]) not in values]
    return [part for group in (*groups, rest) if group for part in _split(group, keywords[1:])]


def _catalog(files: Sequence[DicomFile], broken: Sequence[BrokenFile], visit_gap_hours: float) -> Catalog:
    files, ignored = _without_copies(files)
    images = [file for file in files if _is_image(file)]
    series, refused = build_series(images, broken)
    groups, unplaced = group_visits([*series, *refused], timedelta(hours=visit_gap_hours))
    visits = [_visit(group) for group in groups]
    used = {item.uid for item in series}
    digest_files = [file for file in images if file.series_uid in used]
    refused_annotations: list[RefusedAnnotation] = []
    for file in files:
        sop_class = text(file.header, "SOPClassUID")
        if sop_class in IMAGE_CLASSES or sop_class == RTDoseStorage:
            continue
        found = (
            index_annotation(file)
            if sop_class in ANNOTATION_CLASSES
            else IgnoredFile(
                file.name, f"{UID(sop_class).name.removesuffix(' Storage')}, not an MR or CT image"
            )
        )
        try:
            place = _visit_of(found, visits) if isinstance(found, Annotation) else None
        except ImagingError as error:
            # Told where this patient is read: the other patients of the folder have nothing to do with it.
            refused_annotations.append(RefusedAnnotation(file.name, error.reason, error.message))
            continue
        if isinstance(found, IgnoredFile):
            ignored.append(found)
            if isinstance(found, OwnCopy):
                visits = [_with_copy(visit, found) for visit in visits]
        elif place is None:
            ignored.append(IgnoredFile(file.name, "drawing that refers to no image in the folder"))
        else:
            visits[place] = replace(visits[place], annotations=(*visits[place].annotations, found))
            digest_files.append(file)
    dose_files = [file for file in files if text(file.header, "SOPClassUID") == RTDoseStorage]
    return Catalog(
        patient=_identity(files),
        visits=tuple(visits),
        ignored=tuple(ignored),
        digest=_digest([*digest_files, *dose_files]),
        unplaced=tuple(unplaced),
        doses=tuple(
            sorted((DoseFile.of(file) for file in dose_files), key=lambda dose: dose.sop_instance_uid)
        ),
        refused_annotations=tuple(refused_annotations),
    )


def _without_copies(files: Sequence[DicomFile]) -> tuple[list[DicomFile], list[IgnoredFile]]:
    """One of each content: archives are often exported twice into one folder."""
    kept: dict[str, DicomFile] = {}
    copies: list[IgnoredFile] = []
    for file in files:
        first = kept.setdefault(file.sha256, file)
        if first is not file:
            copies.append(IgnoredFile(file.name, f"copy of {first.name}"))
    return list(kept.values()), copies


def _visit(members: Sequence[Series | RefusedSeries]) -> Visit:
    ordered = sorted(members, key=lambda item: (moment(item), item.number or 0, item.uid))
    timed = [item for item in ordered if item.has_time] or ordered
    return Visit(
        date=moment(timed[0]),
        series=tuple(item for item in ordered if isinstance(item, Series)),
        refused=tuple(item for item in ordered if isinstance(item, RefusedSeries)),
        annotations=(),
    )


def _with_copy(visit: Visit, copy: OwnCopy) -> Visit:
    """The visit with the name of a copy that refers to its images."""
    if not copy.annotation.referenced_series_uids & visit.series_uids:
        return visit
    return replace(visit, own_copies=(*visit.own_copies, copy.path))


def _visit_of(annotation: Annotation, visits: Sequence[Visit]) -> int | None:
    """The visit whose images a drawing refers to: by series, else by instance, else by frame of reference."""
    by_series = [bool(annotation.referenced_series_uids & visit.series_uids) for visit in visits]
    by_instance = [
        any(annotation.referenced_instance_uids.intersection(item.instance_uids) for item in visit.series)
        for visit in visits
    ]
    by_frame = [
        any(
            item.geometry and item.geometry.frame_of_reference_uid == annotation.frame_of_reference_uid != ""
            for item in visit.series
        )
        for visit in visits
    ]
    for evidence in (by_series, by_instance, by_frame):
        if sum(evidence) > 1:
            raise ImagingError(
                Reason.BAD_ANNOTATION,
                f"{annotation.path.name} refers to {sum(evidence)} visits; draw each visit on its own images.",
            )
        if any(evidence):
            return evidence.index(True)
    return None


def _identity(files: Sequence[DicomFile]) -> PatientIdentity:
    """The fullest statement of each attribute, taken in an order that does not depend on file names."""
    headers: list[Dataset] = [file.header for file in sorted(files, key=lambda file: file.sop_instance_uid)]

    def first(keyword: str) -> str:
        return next((value for header in headers if (value := text(header, keyword))), "")

    return PatientIdentity(
        patient_id=first("PatientID"),
        name=first("PatientName"),
        birth_date=first("PatientBirthDate"),
        sex=first("PatientSex"),
        issuer=first("IssuerOfPatientID"),
    )


def _digest(files: Sequence[DicomFile]) -> str:
    lines = sorted(f"{file.sop_instance_uid} {file.sha256}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
