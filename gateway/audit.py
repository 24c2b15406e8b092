"""Audit trail: one JSON object a line, after the events of IHE ATNA (DICOM PS3.15 A.5), without names or identifiers of
patients."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path


class Event(tuple[str, str], Enum):
    """Event identifiers: code and meaning of DICOM context group 400."""

    STARTED_OR_STOPPED = ("110100", "Application Activity")
    BEGIN_TRANSFER = ("110102", "Begin Transferring DICOM Instances")
    TRANSFERRED = ("110104", "DICOM Instances Transferred")
    QUERY = ("110112", "Query")
    PROCEDURE = ("110111", "Procedure Record")
    SECURITY_ALERT = ("110113", "Security Alert")


class Outcome(int, Enum):
    """Event outcome indicators."""

    SUCCESS = 0
    MINOR_FAILURE = 4
    SERIOUS_FAILURE = 8


class AuditLog:
    """Appends to a file, one flushed line per event; threads may share it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        path.touch(mode=0o600)

    def write(
        self,
        event: Event,
        what: str,
        *,
        outcome: Outcome = Outcome.SUCCESS,
        participant: str = "",
        study_uid: str = "",
        count: int | None = None,
    ) -> None:
        """Append an event.

        Parameters
        ----------
        event : Event
            Kind of event.
        what : str
            What happened, in words of ours: never text that came from outside.
        outcome : Outcome
            How it ended.
        participant : str
            The other side: AE title with address, or URL.
        study_uid : str
            The study concerned.
        count : int, optional
            Number of instances.
        """
        code, meaning = event.value
        line: dict[str, object] = {
            "EventDateTime": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "EventID": {"csd-code": code, "codeSystemName": "DCM", "originalText": meaning},
            "EventOutcomeIndicator": outcome.value,
            "EventOutcomeDescription": what,
        }
        if participant:
            line["ActiveParticipant"] = {"UserID": participant}
        if study_uid:
            line["ParticipantObjectIdentification"] = {
                "ParticipantObjectID": study_uid,
                "ParticipantObjectIDTypeCode": {"csd-code": "110180", "originalText": "Study Instance UID"},
                **({"NumberOfInstances": count} if count is not None else {}),
            }
        text = json.dumps(line, ensure_ascii=True) + "\n"
        with self._lock, self._path.open("a", encoding="ascii") as file:
            file.write(text)
