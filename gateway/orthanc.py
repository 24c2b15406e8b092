"""Watches an Orthanc by its REST interface: every change of a study, once it has settled.

Orthanc forgets which studies were still arriving when it is killed, and then never reports them as stable. Changes of
any kind are therefore followed to their study, and the study is asked whether it is stable.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import requests

from gateway.folders import WorkFolder, is_uid, key_of
from gateway.jobs import PATIENTS_DIFFER, Job, JobTable, Obstacle
from gateway.settings import OrthancSection
from gateway.versions import enqueue
from gateway.web import session_for

SOURCE = "orthanc"
_CHANGES_AT_ONCE = 500
_LONGEST_BACK_OFF_SECONDS = 600.0
_FETCHED_FILE = "fetched.json"
_TWO_PATIENTS = Obstacle(
    PATIENTS_DIFFER,
    "The archive holds this study under several patients: delete it there under those that are wrong, and it runs.",
)
logger = logging.getLogger("oncotwin.gateway")


@dataclass
class _Fetched:
    """What is here of a study, kept beside it.

    ``studies``: Orthanc's identifiers of it; Orthanc gives another one when it is moved to another patient. ``files``:
    Orthanc's file of each instance; another one when the instance was overwritten.
    """

    studies: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)


class OrthancWatch:
    """Finds new versions of studies in an Orthanc and queues them.

    Parameters
    ----------
    settings : OrthancSection
        Where it is.
    jobs : JobTable
        Gets the jobs, and keeps how far the changes were followed.
    folders : WorkFolder
        Gets the instances.
    """

    def __init__(self, settings: OrthancSection, jobs: JobTable, folders: WorkFolder) -> None:
        self._url = settings.url.rstrip("/")
        self._poll_seconds = settings.poll_seconds
        self._session = session_for(settings)
        self._jobs = jobs
        self._folders = folders
        self._series_of_instance: dict[str, str] = {}
        self._study_of_series: dict[str, str] = {}
        self._failures: dict[str, int] = {}
        self._next_try: dict[str, float] = {}

    def poll(self) -> list[Job]:
        """Follow the changes and queue what has settled. A study that cannot be had keeps nobody else's waiting.

        Raises
        ------
        requests.RequestException
            When Orthanc does not answer; nothing is lost, the next poll goes on from there.
        """
        since, unsettled = self._position()
        while True:
            page = self._get(f"/changes?since={since}&limit={_CHANGES_AT_ONCE}")
            for change in page["Changes"]:
                study = self._study_of(change)
                if study:
                    unsettled.add(study)
            since = page["Last"]
            self._remember(since, unsettled)
            if page["Done"]:
                break
        queued = []
        for study in sorted(unsettled):
            if time.monotonic() < self._next_try.get(study, 0.0):
                continue
            try:
                settled, job = self._take(study, unsettled)
            except (OSError, KeyError, TypeError, ValueError) as error:  # of Orthanc, or of our disk
                self._get(f"/changes?since={since}&limit=1")  # were Orthanc itself away, this would say so
                self._back_off(study, error)
                continue
            self._failures.pop(study, None)
            self._next_try.pop(study, None)
            if settled:
                unsettled.discard(study)
            self._remember(since, unsettled)
            if job is not None:
                queued.append(job)
        return queued

    def _back_off(self, study: str, error: Exception) -> None:
        failures = self._failures[study] = self._failures.get(study, 0) + 1
        delay_s = min(self._poll_seconds * 2.0 ** min(failures, 20), _LONGEST_BACK_OFF_SECONDS)
        self._next_try[study] = time.monotonic() + delay_s
        logger.warning(
            "study %s cannot be taken from Orthanc (%s, %d times); trying again in %.0f s",
            key_of(study)[:8], type(error).__name__, failures, delay_s,
        )  # fmt: skip

    def _take(self, study: str, unsettled: set[str]) -> tuple[bool, Job | None]:
        """Fetch a study that is stable and queue it; tells whether the study needs no more attention."""
        found = self._get_or_none(f"/studies/{study}")
        if found is None:
            return True, None
        if not found["IsStable"]:
            return False, None
        study_uid = str(found["MainDicomTags"].get("StudyInstanceUID", ""))
        instances = {
            str(item["MainDicomTags"].get("SOPInstanceUID", "")): item
            for item in self._get_or_none(f"/studies/{study}/instances") or []
        }
        if not is_uid(study_uid) or not all(map(is_uid, instances)):
            logger.warning("a study with an impossible UID was left alone")
            return True, None
        inbox = self._folders.inbox(SOURCE, study_uid)
        keys = set(map(key_of, instances))
        fetched = _read_fetched(inbox)
        others = {
            it for it in fetched.studies if it != study and self._get_or_none(f"/studies/{it}") is not None
        }
        fetched.studies = sorted(others | {study})
        self._write_fetched(inbox, fetched)
        if others:
            unsettled |= others  # whichever is deleted, the other is looked at again
            if study != fetched.studies[0]:
                return False, None
            both = json.dumps(fetched.studies)
            return False, self._jobs.add(study_uid, keys, SOURCE, patient=both, obstacle=_TWO_PATIENTS)
        try:
            if not self._fetch_all(instances, inbox, fetched):
                return False, None  # it changed meanwhile; look again at the next poll
        finally:
            self._write_fetched(inbox, fetched)
        return True, enqueue(self._jobs, self._folders, inbox, SOURCE, keys, {})

    def _fetch_all(self, instances: dict[str, dict[str, Any]], inbox: Path, fetched: _Fetched) -> bool:
        """Fetch what is not here, or has another file in Orthanc than the one that is here."""
        for sop_uid, item in instances.items():
            key, file = key_of(sop_uid), f"{item['ID']} {item.get('FileUuid', '')}"
            if fetched.files.get(key) == file and (inbox / f"{key}.dcm").exists():
                continue
            if not self._fetch(str(item["ID"]), sop_uid, inbox):
                return False
            fetched.files[key] = file
        return True

    def _write_fetched(self, inbox: Path, fetched: _Fetched) -> None:
        if fetched == _read_fetched(inbox):
            return
        aside = self._folders.aside()
        aside.write_text(json.dumps(asdict(fetched)))
        aside.rename(inbox / _FETCHED_FILE)

    def _fetch(self, orthanc_id: str, sop_uid: str, inbox: Path) -> bool:
        aside = self._folders.aside()
        with self._session.get(f"{self._url}/instances/{orthanc_id}/file", stream=True) as answer:
            if answer.status_code == requests.codes.not_found:
                return False
            answer.raise_for_status()
            try:
                with aside.open("wb") as file:
                    for chunk in answer.iter_content(1 << 20):
                        file.write(chunk)
            except BaseException:  # the next poll fetches it again, under another name
                aside.unlink(missing_ok=True)
                raise
        self._folders.accept(aside, inbox, sop_uid)
        return True

    def _study_of(self, change: dict[str, Any]) -> str:
        kind, resource = change["ResourceType"], str(change["ID"])
        if kind == "Study":
            return resource
        if kind == "Series":
            return self._parent(self._study_of_series, resource, "series", "ParentStudy")
        if kind == "Instance":
            series = self._parent(self._series_of_instance, resource, "instances", "ParentSeries")
            # An instance is asked for once; only series come again.
            self._series_of_instance.pop(resource, None)
            return self._parent(self._study_of_series, series, "series", "ParentStudy") if series else ""
        return ""

    def _parent(self, known: dict[str, str], resource: str, level: str, key: str) -> str:
        if resource not in known:
            found = self._get_or_none(f"/{level}/{resource}")
            if found is None:
                return ""
            known[resource] = str(found[key])
        return known[resource]

    def _position(self) -> tuple[int, set[str]]:
        text = self._jobs.cursor(self._cursor_name)
        position: dict[str, Any] = json.loads(text) if text else {"since": 0, "unsettled": []}
        return int(position["since"]), set(position["unsettled"])

    def _remember(self, since: int, unsettled: set[str]) -> None:
        self._jobs.set_cursor(self._cursor_name, json.dumps({"since": since, "unsettled": sorted(unsettled)}))

    @property
    def _cursor_name(self) -> str:
        return f"orthanc {key_of(self._url)}"

    def _get(self, path: str) -> Any:
        answer = self._session.get(self._url + path)
        answer.raise_for_status()
        return answer.json()

    def _get_or_none(self, path: str) -> Any:
        answer = self._session.get(self._url + path)
        if answer.status_code == requests.codes.not_found:
            return None
        answer.raise_for_status()
        return answer.json()


def _read_fetched(inbox: Path) -> _Fetched:
    """Nothing, when a power cut left an empty file: all is fetched again then."""
    path = inbox / _FETCHED_FILE
    try:
        return _Fetched(**json.loads(path.read_text())) if path.exists() else _Fetched()
    except (ValueError, TypeError):
        return _Fetched()
