"""What a study is: ``python -m gateway.examination FOLDER`` prints it as JSON.

A process of its own, because this is where untrusted headers are read: what crashes it, hangs it or eats its memory
ends this process and parks the study. Its output holds the PatientID and goes to the worker that asked, nowhere else.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from app.engine import Outcome, RunLimits, confined
from app.settings import IngestSection, SettingsError, load_settings, settings_path

# What replaces the segmentation of images that may have come earlier.
DRAWINGS = frozenset({"SEG", "RTSTRUCT"})
_TIME_LIMIT_S = 600.0


@dataclass(frozen=True)
class Examination:
    """What rules and the search for priors need to know of a study.

    Parameters
    ----------
    patient_id, issuer : str
        Who the patient is.
    date : str
        Date of the last visit, YYYYMMDD.
    modalities : tuple of str
        Modalities of all series.
    descriptions : tuple of str
        Study and Series Descriptions.
    roles : tuple of str
        Contrasts the ingest found.
    refused : int
        Series the ingest refused: their roles are unknown.
    """

    patient_id: str
    issuer: str
    date: str
    modalities: tuple[str, ...]
    descriptions: tuple[str, ...]
    roles: tuple[str, ...]
    refused: int

    def __repr__(self) -> str:
        return "Examination(…)"

    @property
    def is_drawings_alone(self) -> bool:
        """Whether there are drawings and nothing that they could have been drawn on."""
        return bool(self.modalities) and set(self.modalities) <= DRAWINGS


def examine(folder: Path, memory_gb: float) -> Examination | Outcome:
    """Examine a study in a process of its own; an Outcome says why it cannot be used."""
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway.examination", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=confined(RunLimits(memory_gb=memory_gb)),
    )
    try:
        text, _ = process.communicate(timeout=_TIME_LIMIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Outcome(3, "unreadable", f"The study could not be read within {_TIME_LIMIT_S:g} s.")
    if process.returncode < 0:
        return Outcome(process.returncode, "killed", "Reading the study was killed.")
    if process.returncode != 0:
        return Outcome(3, "unreadable", "The study cannot be read: its headers break the reader.")
    answer = json.loads(text)
    if "reason" in answer:
        return Outcome(3, answer["reason"], answer["sentence"])
    return Examination(**{key: tuple(v) if isinstance(v, list) else v for key, v in answer.items()})


def describe(folder: Path, ingest: IngestSection) -> dict[str, object]:
    """What is in a folder by the application's settings of the ingest, or why it cannot be used."""
    from imaging.catalog import read_catalog
    from imaging.errors import ImagingError
    from imaging.files import read_folder, text
    from imaging.role_selection import RoleRule, select_roles

    headers = [item.header for item in read_folder(folder).objects]
    found = Examination(
        patient_id="",
        issuer="",
        date="",
        modalities=tuple(sorted({text(header, "Modality") for header in headers})),
        descriptions=tuple(
            sorted({text(h, key) for h in headers for key in ("StudyDescription", "SeriesDescription")})
        ),
        roles=(),
        refused=0,
    )
    try:
        catalog = read_catalog(folder, visit_gap_hours=ingest.visit_gap_hours)
        rules = [RoleRule(**rule.model_dump(exclude_none=True)) for rule in ingest.series_rules]
        roles = {
            role
            for visit in catalog.visits
            for role in select_roles(visit, required=frozenset(), rules=rules).chosen
        }
    except ImagingError as error:
        if "MR" in found.modalities:
            return {"reason": error.reason.value, "sentence": error.message}
        return asdict(found)  # rules decide by modality; what they leave is not ours
    return asdict(found) | {
        "patient_id": catalog.patient.patient_id,
        "issuer": catalog.patient.issuer,
        "date": f"{catalog.visits[-1].date:%Y%m%d}",
        "roles": sorted(roles),
        "refused": sum(len(visit.refused) for visit in catalog.visits),
    }


def main(arguments: Sequence[str]) -> int:
    """Print the description of a folder, read as a run that the gateway starts reads it."""
    for library in ("pydicom", "highdicom"):
        logging.getLogger(library).setLevel(logging.CRITICAL)
    try:
        found = describe(Path(arguments[0]), load_settings(settings_path(os.environ)).oncotwin.ingest)
    except SettingsError as error:
        found = {"reason": "settings", "sentence": str(error)}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
