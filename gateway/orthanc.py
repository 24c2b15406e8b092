"""Watches an Orthanc by its REST interface: every change of a study, once it has settled.

Orthanc forgets which studies were still arriving when it is killed, and then never reports them as stable. Changes of
any kind are therefore followed to their study, and the study is asked whether it is stable.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import requests

from gateway.folders import WorkFolder, is_uid, key_of
from gateway.jobs import Job, JobTable
from gateway.settings import OrthancSection
from gateway.web import session_for

SOURCE = "orthanc"
_CHANGES_AT_ONCE = 500
logger = logging.getLogger("oncotwin.gateway")


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
        self._session = session_for(settings)
        self._jobs = jobs
        self._folders = folders
        self._series_of_instance: dict[str, str] = {}
        self._study_of_series: dict[str, str] = {}

    def poll(self) -> list[Job]:
        """Follow the changes and queue what has settled.

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
            settled, job = self._take(study)
            if settled:
                unsettled.discard(study)
                self._remember(since, unsettled)
            if job is not None:
                queued.append(job)
        return queued

    def _take(self, study: str) -> tuple[bool, Job | None]:
        """Fetch a study that is stable and queue it; tells whether the study needs no more attention."""
        found = self._get_or_none(f"/studies/{study}")
        if found is None:
            return True, None
        if not found["IsStable"]:
            return False, None
        study_uid = str(found["MainDicomTags"].get("StudyInstanceUID", ""))
        instances = {
            str(item["MainDicomTags"].get("SOPInstanceUID", "")): str(item["ID"])
            for item in self._get_or_none(f"/studies/{study}/instances") or []
        }
        if not is_uid(study_uid) or not all(map(is_uid, instances)):
            logger.warning("a study with an impossible UID was left alone")
            return True, None
        inbox = self._folders.inbox(SOURCE, study_uid)
        for sop_uid, orthanc_id in instances.items():
            if not (inbox / f"{key_of(sop_uid)}.dcm").exists() and not self._fetch(
                orthanc_id, sop_uid, inbox
            ):
                return False, None  # it changed meanwhile; look again at the next poll
        return True, self._jobs.add(study_uid, map(key_of, instances), SOURCE)

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
        position = json.loads(text) if text else {"since": 0, "unsettled": []}
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
