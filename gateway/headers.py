"""What the gateway itself reads of an instance: which one, of which study, of whom; and no further than that."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_partial
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

from imaging.files import text

_STUDY_UID = 0x0020000D
# What the ingest tells people apart by; the identifier must be the same to the letter, the others where both state one.
_PATIENT = ("PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex")
_STATES_NOTHING = {"", "O"}
_META_BEGINS = 128 + 4  # after preamble and magic word
_LENGTH_OF_META = 12  # the element that states it
# No head is longer; a small file can inflate to more than there is memory.
_LONGEST_INFLATED = 1 << 24


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
    try:
        with path.open("rb") as file, pydicom.config.disable_value_validation():
            meta, dataset = _meta_and_head(file)
            return Header(
                text(meta, "MediaStorageSOPInstanceUID"),
                text(dataset, "StudyInstanceUID"),
                tuple(text(dataset, keyword) for keyword in _PATIENT),
            )
    except OSError:
        raise
    except Exception:  # whatever a hostile file makes pydicom raise, the answer is the same
        return Header()


def _meta_and_head(file: BinaryIO) -> tuple[Dataset, Dataset]:
    file.seek(_META_BEGINS)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != 2)
    if text(meta, "TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        file.seek(0)
        whole = read_partial(file, stop_when=_past_it)
        return whole.file_meta, whole
    file.seek(_META_BEGINS + _LENGTH_OF_META + int(meta.FileMetaInformationGroupLength))
    packed = file.read(_LONGEST_INFLATED)
    head = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, _LONGEST_INFLATED)
    return meta, read_dataset(BytesIO(head), False, True, stop_when=_past_it)


def _past_it(tag: BaseTag, vr: str | None, length: int) -> bool:
    return bool(tag > _STUDY_UID)


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
