"""What the gateway itself reads of an instance: which one, of which study, of whom; and no further than that."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from imaging.files import text

_STUDY_UID = 0x0020000D
# What the ingest tells people apart by; the identifier must be the same to the letter, the others where both state one.
_PATIENT = ("PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex")
_STATES_NOTHING = {"", "O"}


@dataclass(frozen=True, repr=False)
class Header:
    """Head of an instance; ``patient``: values of the attributes that tell people apart."""

    sop_uid: str = ""
    study_uid: str = ""
    patient: tuple[str, ...] = ("",) * len(_PATIENT)


def read_header(path: Path) -> Header:
    """Head of a file, whole or broken off; empty when it is none that can be understood.

    Raises
    ------
    OSError
        When the disk does not give the file: that says nothing of the object, and another try may.
    """

    def past_it(tag: BaseTag, vr: str | None, length: int) -> bool:
        return bool(tag > _STUDY_UID)

    try:
        with path.open("rb") as file, pydicom.config.disable_value_validation():
            dataset = read_partial(file, stop_when=past_it)
            return Header(
                text(dataset.file_meta, "MediaStorageSOPInstanceUID"),
                text(dataset, "StudyInstanceUID"),
                tuple(text(dataset, keyword) for keyword in _PATIENT),
            )
    except OSError:
        raise
    except Exception:  # whatever a hostile file makes pydicom raise, the answer is the same
        return Header()


def patient_of(paths: Iterable[Path]) -> tuple[str, bool]:
    """Whose instances are, as a text for a digest, and whether they contradict each other, as the ingest sees it.

    Raises
    ------
    OSError
        When the disk does not give one of them.
    """
    identifiers, *others = (
        set(values) for values in zip(*{read_header(p).patient for p in paths}, strict=True)
    )
    stated = [values - _STATES_NOTHING for values in others]
    agree = len(identifiers) == 1 and all(len(values) <= 1 for values in stated)
    return json.dumps([sorted(values) for values in (identifiers, *stated)]), agree
