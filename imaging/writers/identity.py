"""Who an object is: identifiers that depend on nothing but input, settings, software and content.

The same input run twice gives the same identifiers and the same bytes; an identifier is never reused for other
bytes, because the instance UID covers the content.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from imaging.report_content import ModelIdentity, SoftwareIdentity


def uid_of(*parts: str | bytes) -> str:
    """UID of the form ``2.25.<integer>`` (PS3.5 B.2) from the SHA-256 of the parts.

    The first 128 bits are made into a UUID of version 8 (RFC 9562: custom), as the form demands. The top bit is set
    so that every UID has 44 characters: one can take another's place in an encoded file.
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        # The length goes first, so that ("ab", "c") and ("a", "bc") differ.
        digest.update(len(data).to_bytes(8, "big") + data)
    number = int.from_bytes(digest.digest()[:16], "big")
    number = number & ~(0xF << 76) | (0x8 << 76)
    number = number & ~(0x3 << 62) | (0x2 << 62) | (1 << 127)
    return f"2.25.{number}"


def is_own_uid(uid: str) -> bool:
    """Whether a UID has the form of ``uid_of``, which nobody else makes: what others make has another version."""
    digits = uid.removeprefix("2.25.")
    if digits == uid or not re.fullmatch("[1-9][0-9]{38}", digits):
        return False
    value = int(digits)
    return value >> 127 == 1 and value >> 76 & 0xF == 0x8 and value >> 62 & 0x3 == 0x2


def tracking_uid(patient_id: str, label: str) -> str:
    """UID of a tracked finding: the same at every visit and in every run of one patient.

    PatientID alone goes in, because nothing else is sure to stay: IssuerOfPatientID stands in images that came through
    some archives and not in those from the scanner, a date of birth is absent or a dummy in de-identified ones, and the
    first study is another one once an earlier one is added. Two hospitals with one PatientID share it.

    Parameters
    ----------
    patient_id : str
        PatientID (0010,0020) of the input.
    label : str
        Tracking identifier, for instance ``"Tumour ET"``.
    """
    return uid_of("oncotwin tracking", patient_id, label)


@dataclass(frozen=True)
class RunIdentity:
    """What distinguishes one run from another.

    Parameters
    ----------
    digest : str
        Digest of input, settings, software version and segmentation model.
    """

    digest: str

    @classmethod
    def of(cls, software: SoftwareIdentity, model: ModelIdentity) -> RunIdentity:
        """Identity of the run of this software with this model on its input."""
        parts = (
            software.name,
            software.version,
            software.input_digest,
            software.settings_digest,
            model.name,
            model.version,
            model.sha256,
        )
        return cls(uid_of("oncotwin run", *parts).removeprefix("2.25."))

    def series_uid(self, role: str) -> str:
        """SeriesInstanceUID of the output with this role, for instance ``"report"``."""
        return uid_of("oncotwin series", self.digest, role)

    def instance_uid(self, role: str, content: bytes) -> str:
        """SOPInstanceUID of an output; ``content`` is the object without its own UID."""
        return uid_of("oncotwin instance", self.digest, role, content)


@dataclass(frozen=True)
class WrittenObject:
    """A DICOM object that was written.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    sop_class_uid, sop_class_name : str
        What it is.
    sop_instance_uid, series_instance_uid, study_uid : str
        Where it belongs.
    description : str
        Its SeriesDescription.
    source_series_uid : str
        Series of the images it lies on.
    """

    path: Path
    sop_class_uid: str
    sop_class_name: str
    sop_instance_uid: str
    series_instance_uid: str
    study_uid: str
    description: str
    source_series_uid: str
