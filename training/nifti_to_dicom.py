"""Wrapping NIfTI images of a case as DICOM studies, voxel for voxel, so that the product can be run on them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.valuerep import format_number_as_ds

from imaging.errors import ImagingError, Reason
from imaging.geometry import Volume
from imaging.roles import ROLES, Role
from training.virtual_patient.dicom import Encoding, Identity, SeriesHeader, StudyHeader, uid, write_series
from training.virtual_patient.scanner import CLINICAL_PLANS

FIRST_DAY = datetime(2000, 1, 1, 9, 0)
SUFFIX = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
# BraTSReg_002_01_0262_t1ce: case, visit number, day; BraTS-GLI-00001-000-t1c: case, visit number.
REG_NAME = re.compile(r"^(?P<case>.+)_(?P<visit>\d{2})_(?P<day>\d{4})_(?P<contrast>[^_]+)$")
BRATS_NAME = re.compile(r"^(?P<case>.+)[-_](?P<contrast>[^-_]+)$")
CONTRAST_NAMES: dict[str, Role] = {
    "t1": "t1",
    "t1n": "t1",
    "t1ce": "t1ce",
    "t1c": "t1ce",
    "t1gd": "t1ce",
    "t2": "t2",
    "t2w": "t2",
    "flair": "flair",
    "t2f": "flair",
}
DESCRIPTIONS: dict[Role, str] = {"t1": "T1", "t1ce": "T1 post contrast", "t2": "T2", "flair": "FLAIR"}


@dataclass(frozen=True)
class NiftiVisit:
    """One visit: when it was, and the NIfTI file of each contrast.

    Raises
    ------
    ValueError
        If there is no image.
    """

    when: datetime
    files: Mapping[Role, Path]

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("a visit needs at least one image")


def visit_of(items: Sequence[str]) -> NiftiVisit:
    """Visit from ``DATE ROLE=FILE ...`` as typed on the command line, DATE being YYYY-MM-DD.

    Raises
    ------
    ValueError
        If the date or an item cannot be understood.
    """
    date_text, *pairs = items
    try:
        when = datetime.fromisoformat(date_text)
    except ValueError:
        raise ValueError(
            f"{date_text!r} is not a date; write YYYY-MM-DD before the images of a visit"
        ) from None
    if when.hour == when.minute == 0:
        when = when.replace(hour=9)
    files: dict[Role, Path] = {}
    for pair in pairs:
        name, separator, path = pair.partition("=")
        role = CONTRAST_NAMES.get(name.lower())
        if not separator or role is None:
            raise ValueError(f"{pair!r} is not ROLE=FILE with a role among {', '.join(ROLES)}")
        if role in files:
            raise ValueError(f"the visit of {date_text} has two {role} images; give one")
        files[role] = Path(path)
    return NiftiVisit(when, files)


def visits_in_folder(folder: Path) -> list[NiftiVisit]:
    """Visits of the one case in a folder of BraTS or BraTS-Reg file names, in order of time.

    Days are read from names such as ``BraTSReg_002_01_0262_t1.nii.gz`` and counted from 1 January 2000; other
    names are one visit. Files that name no contrast (segmentations) are left aside.

    Raises
    ------
    ImagingError
        If no image is found, or two files claim the same contrast of a visit.
    """
    visits: dict[tuple[str, int], dict[Role, Path]] = {}
    for path in sorted(folder.glob("*")):
        if not SUFFIX.search(path.name):
            continue
        stem = SUFFIX.sub("", path.name)
        match = REG_NAME.match(stem) or BRATS_NAME.match(stem)
        role = CONTRAST_NAMES.get((match["contrast"] if match else stem).lower())
        if role is None:
            continue
        found = match.groupdict() if match else {}
        key = (found.get("case", ""), int(found.get("day") or 0))
        if role in visits.setdefault(key, {}):
            raise ImagingError(
                Reason.AMBIGUOUS_SEQUENCE, f"{path.name} is a second {role} image of its visit."
            )
        visits[key][role] = path
    if not visits:
        raise ImagingError(
            Reason.EMPTY_INPUT,
            f"{folder} holds no NIfTI image whose name ends in a contrast such as _t1ce.nii.gz.",
        )
    if len({case for case, _ in visits}) > 1:
        raise ImagingError(Reason.SEVERAL_PATIENTS, f"{folder} holds several cases; give a folder with one.")
    return [
        NiftiVisit(FIRST_DAY + timedelta(days=day), files)
        for (_, day), files in sorted(visits.items(), key=_by_day)
    ]


def _by_day(entry: tuple[tuple[str, int], dict[Role, Path]]) -> int:
    return entry[0][1]


def wrap_nifti(visits: Sequence[NiftiVisit], folder: Path, patient_id: str = "WRAPPED") -> None:
    """Write every image as a DICOM series, slices along its third axis.

    World positions are kept, values up to 16-bit quantisation (whole numbers within 16 bits exactly). Series of
    a visit share a study and a frame of reference, other visits have their own.

    Parameters
    ----------
    visits : sequence of NiftiVisit
        The case.
    folder : Path
        Receives ``visit1/t1`` and so on.
    patient_id : str
        PatientID, also used as the name; UIDs depend on it, on the date and on the pixels' place in the case.

    Raises
    ------
    ImagingError
        If an image cannot be read, holds values that are not finite, or has skewed in-plane axes.
    """
    identity = Identity(patient_id, f"{patient_id}^NIfTI")
    for index, visit in enumerate(sorted(visits, key=lambda visit: visit.when), start=1):
        words = ("oncotwin wrapped nifti", patient_id, visit.when.isoformat(), index)
        study = StudyHeader(
            identity,
            uid(*words, "study"),
            uid(*words, "frame"),
            visit.when,
            "Wrapped NIfTI",
            manufacturer="OncoTwin NIfTI wrapper",
            model="none",
        )
        for number, role in enumerate((role for role in ROLES if role in visit.files), start=1):
            _wrap_series(folder / f"visit{index}" / role, visit.files[role], role, number, study)


def _wrap_series(folder: Path, path: Path, role: Role, number: int, study: StudyHeader) -> None:
    volume = Volume.load_nifti(path)
    pixels, encoding = _quantised(volume.array, path.name)
    plan = CLINICAL_PLANS[role]
    header = SeriesHeader(
        number,
        DESCRIPTIONS[role],
        study.start + timedelta(minutes=6 * number),
        plan.sequence,
        plan.dimension,
        image_type=("DERIVED", "SECONDARY", "OTHER"),
        contrast_agent="not recorded" if role == "t1ce" else None,
    )
    try:
        write_series(folder, pixels, volume.geometry, study, header, encoding)
    except ValueError as error:
        raise ImagingError(Reason.MIXED_GEOMETRY, f"{path.name}: {error}.") from error


def _quantised(values: npt.NDArray[np.generic], name: str) -> tuple[npt.NDArray[np.uint16], Encoding]:
    """16-bit integers and their meaning; whole numbers that fit are kept as they are."""
    array = values.astype(np.float64)
    if not np.isfinite(array).all():
        raise ImagingError(Reason.UNDECODABLE, f"{name} holds values that are not finite; repair it first.")
    low, high = float(array.min()), float(array.max())
    whole = bool((array == np.rint(array)).all())
    if whole and high - low <= 65535:
        slope, intercept = 1.0, min(low, 0.0) if high - min(low, 0.0) <= 65535 else low
    else:
        slope, intercept = (high - low) / 65535, low
    # The header holds 16 characters: quantise by what a reader will see, rounded so that the maximum still fits.
    slope, intercept = float(format_number_as_ds(slope)), float(format_number_as_ds(intercept))
    stored = np.clip(np.rint((array - intercept) / slope), 0, 65535).astype(np.uint16)
    return stored, Encoding(16, slope, intercept)
