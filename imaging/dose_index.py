"""Which dose maps of radiotherapy a folder holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from imaging.files import DicomFile, text


@dataclass(frozen=True)
class DoseFile:
    """An RT Dose object of the folder.

    Parameters
    ----------
    path : pathlib.Path
        Its file.
    sop_instance_uid : str
        Its UID.
    frame_of_reference_uid : str
        Frame of reference of its coordinates.
    summation : str
        Dose Summation Type.
    sha256 : str
        Digest of the file.
    """

    path: Path = field(repr=False)
    sop_instance_uid: str
    frame_of_reference_uid: str
    summation: str
    sha256: str = field(repr=False)

    @classmethod
    def of(cls, file: DicomFile) -> DoseFile:
        """Describe a file of the class RT Dose."""
        header = file.header
        return cls(
            path=file.path,
            sop_instance_uid=file.sop_instance_uid,
            frame_of_reference_uid=text(header, "FrameOfReferenceUID"),
            summation=text(header, "DoseSummationType").upper(),
            sha256=file.sha256,
        )
