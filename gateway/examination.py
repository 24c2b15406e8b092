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
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

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
    modalities : tuple of str
        Modalities of all series.
    descriptions : tuple of str
        Study and Series Descriptions.
    patient_id, issuer, birth_date, sex : str
        Who the patient is; empty where not stated.
    visits : tuple of str
        Begin of each visit in the order of time, ISO 8601.
    interval_hours : float
        Visits that begin closer to each other than this cannot be used together.
    roles, roles_of_every_visit : tuple of str
        Contrasts the ingest found in any and in every visit.
    doubtful : tuple of str
        Contrasts it did not find, but there are series that may be them and cannot be used.
    refusal : tuple of str
        Reason and sentence for which the application would refuse the study whatever it needs; empty when it would not.
    """

    modalities: tuple[str, ...]
    descriptions: tuple[str, ...]
    patient_id: str = ""
    issuer: str = ""
    birth_date: str = ""
    sex: str = ""
    visits: tuple[str, ...] = ()
    interval_hours: float = 24.0
    roles: tuple[str, ...] = ()
    roles_of_every_visit: tuple[str, ...] = ()
    doubtful: tuple[str, ...] = ()
    refusal: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "Examination(…)"

    @property
    def date(self) -> str:
        """Date of the last visit, YYYYMMDD; empty without visits."""
        return f"{datetime.fromisoformat(self.visits[-1]):%Y%m%d}" if self.visits else ""

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
    answer: dict[str, Any] = json.loads(text)
    if "reason" in answer:
        return Outcome(3, answer["reason"], answer["sentence"])
    fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in answer.items()}
    return Examination(**fields)


def describe(folder: Path, ingest: IngestSection) -> dict[str, object]:
    """What is in a folder by the application's settings of the ingest: the fields of an Examination."""
    from imaging.catalog import read_catalog
    from imaging.errors import ImagingError, Reason
    from imaging.files import read_folder, text
    from imaging.preparation import SHORTEST_INTERVAL_DAYS
    from imaging.role_selection import RoleRule, propose_roles
    from imaging.roles import ROLES
    from imaging.visit_selection import without_head

    headers = [item.header for item in read_folder(folder).objects]
    found = Examination(
        modalities=tuple(sorted({text(header, "Modality") for header in headers})),
        descriptions=tuple(
            sorted({text(h, key) for h in headers for key in ("StudyDescription", "SeriesDescription")})
        ),
    )
    try:
        catalog = read_catalog(folder, visit_gap_hours=ingest.visit_gap_hours)
        rules = [RoleRule(**rule.model_dump(exclude_none=True)) for rule in ingest.series_rules]
        # With nothing left all say what they lack, as in a run.
        visits = [visit for visit in catalog.visits if not without_head(visit, rules)] or catalog.visits
        proposals = [propose_roles(visit, rules=rules) for visit in visits]
    except ImagingError as error:
        # Nothing is known of the contrasts: the other rules decide whether anybody is told.
        return asdict(replace(found, doubtful=ROLES, refusal=(error.reason.value, error.message)))
    chosen: list[set[str]] = [set(selection.chosen) for selection, _ in proposals]
    # A contrast that is missing is a matter of rules; one that is there and cannot be used is refused, as by the run.
    unusable = [
        (role, problems[role])
        for _, problems in proposals
        for role in ROLES
        if role in problems and problems[role].reason is not Reason.MISSING_SEQUENCE
    ]
    roles = set.union(*chosen)
    patient = catalog.patient
    return asdict(
        replace(
            found,
            patient_id=patient.patient_id,
            issuer=patient.issuer,
            birth_date=patient.birth_date,
            sex=patient.sex,
            visits=tuple(visit.date.isoformat() for visit in visits),
            interval_hours=max(24.0 * SHORTEST_INTERVAL_DAYS, ingest.visit_gap_hours),
            roles=tuple(sorted(roles)),
            roles_of_every_visit=tuple(sorted(set.intersection(*chosen))),
            doubtful=tuple(sorted({role for role, _ in unusable} - roles)),
            refusal=(unusable[0][1].reason.value, unusable[0][1].message) if unusable else (),
        )
    )


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
