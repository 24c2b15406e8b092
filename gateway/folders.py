"""Where files lie while they are with us. Names are digests: no UID, name or path of others becomes a file name.

``inbox/SOURCE/STUDY/`` holds what arrived of a study and marks of what was refused, ``work/JOB/input`` the snapshot a
job runs on and ``work/JOB/results`` what came out. All three are made aside and renamed, and deleted aside too: no part
of a study is ever left where a study is looked for.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterable
from enum import Enum
from pathlib import Path

from gateway.headers import read_header
from gateway.refusals import Refusal

RECEIVED = "received"
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_LONGEST_UID = 64
_STUDY_FILE = "study"
_REFUSED = ".refused"
logger = logging.getLogger("oncotwin.gateway")


def key_of(uid: str) -> str:
    """File name of a UID."""
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


def is_uid(text: str) -> bool:
    """Whether a text can be a DICOM UID."""
    return len(text) <= _LONGEST_UID and _UID.fullmatch(text) is not None


class Filed(Enum):
    """What became of an instance: new in its study, there already, or there already under another patient."""

    NEW = "new"
    KNOWN = "known"
    CORRECTED = "corrected"


class WorkFolder:
    """The gateway's folder; threads may share it.

    Parameters
    ----------
    root : pathlib.Path
        Made when missing; readable by this user only.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.incoming = self.root / "incoming"
        for folder in (self.root, self.incoming, self.root / "inbox", self.root / "work"):
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o700)
        self._lock = threading.Lock()
        self._unwritten: dict[Path, dict[str, str]] = {}
        # Left by a gateway that was killed: nobody was told that these have arrived.
        for leftover in self.incoming.iterdir():
            self._give_up(leftover)

    def inbox(self, source: str, study_uid: str) -> Path:
        """Folder of a study from a source, made when missing."""
        folder = self._inbox(source, study_uid)
        if not (folder / _STUDY_FILE).exists():
            folder.mkdir(parents=True, exist_ok=True)
            aside = self.aside()
            aside.write_text(study_uid)
            flush(aside)  # what is acknowledged in this folder belongs to no study without it
            aside.rename(folder / _STUDY_FILE)
        return folder

    def arrived(self, source: str) -> dict[Path, float]:
        """Folders of all studies of a source, with the time of their last change."""
        root = self.root / "inbox" / source
        if not root.is_dir():
            return {}
        return {
            folder: folder.stat().st_mtime for folder in root.iterdir() if (folder / _STUDY_FILE).exists()
        }

    def aside(self) -> Path:
        """A new name for a file that is not whole yet."""
        return self.incoming / secrets.token_hex(16)

    def _inbox(self, source: str, study_uid: str) -> Path:
        return self.root / "inbox" / source / key_of(study_uid)

    def accept(self, aside: Path, inbox: Path, sop_uid: str) -> Filed:
        """Make a whole file part of a study, durably.

        An instance that is there already stays as it is, unless it names another patient: identities are corrected
        under the same UIDs.
        """
        key = key_of(sop_uid)
        target = inbox / f"{key}.dcm"
        if target.exists() and read_header(target).patient == read_header(aside).patient:
            aside.unlink()
            return Filed.KNOWN
        flush(aside)
        with self._lock:
            filed = Filed.CORRECTED if target.exists() else Filed.NEW
            aside.rename(target)
            target.with_suffix(_REFUSED).unlink(missing_ok=True)
            self._unwritten.get(inbox, {}).pop(key, None)
        flush(inbox)
        return filed

    def refuse(self, study_uid: str, sop_uid: str, reason: Refusal) -> None:
        """Note durably that an instance of a received study was not taken: without it the study is not whole.

        Nothing is noted of an instance that is there, and of one whose study is unknown.
        """
        if not is_uid(study_uid):
            return
        key, inbox = key_of(sop_uid), self._inbox(RECEIVED, study_uid)
        with self._lock:
            if (inbox / f"{key}.dcm").exists():
                return
            try:
                self.inbox(RECEIVED, study_uid)
                (inbox / f"{key}{_REFUSED}").write_text(reason.value)
                flush(inbox)
            except OSError:  # a full disk; the name alone may have been written
                self._unwritten.setdefault(inbox, {})[key] = reason.value

    def refuse_part(self, part: Path, reason: Refusal) -> None:
        """Note that an instance was not taken of which a part has come.

        Raises
        ------
        OSError
            When the part cannot be read: it stays where it is, to be noted and deleted by ``forget_incoming``.
        """
        header = read_header(part)
        self.refuse(header.study_uid, header.sop_uid, reason)

    def refused_in(self, inbox: Path) -> dict[str, str]:
        """Keys of the instances of a study that were refused and have not come since, with the reason."""
        written = {path.stem: path.read_text() for path in inbox.glob(f"*{_REFUSED}")}
        return {
            key: reason
            for key, reason in (written | self._unwritten.get(inbox, {})).items()
            if not (inbox / f"{key}.dcm").exists()
        }

    def job(self, job_id: str) -> Path:
        """Folder of a job."""
        return self.root / "work" / job_id

    def free_gb(self) -> float:
        """Free space of the file system, GB."""
        return shutil.disk_usage(self.root).free / 1e9

    def forget(self, keep_days: float, active_jobs: Iterable[str], busy_studies: Iterable[str]) -> None:
        """Delete what nothing has changed for some days, except what belongs to active jobs."""
        oldest = time.time() - keep_days * 86400
        kept = set(active_jobs) | {key_of(uid) for uid in busy_studies}
        for folder in [*(self.root / "work").iterdir(), *(self.root / "inbox").glob("*/*")]:
            aside = self.aside()
            with self._lock:
                if folder.name in kept or folder.stat().st_mtime >= oldest:
                    continue
                folder.rename(aside)
                self._unwritten.pop(folder, None)
            remove(aside)

    def forget_incoming(self, age_seconds: float) -> None:
        """Delete what has been coming for so long that nobody is sending it any more."""
        oldest = time.time() - age_seconds
        for path in self.incoming.iterdir():
            try:
                is_old = path.stat().st_mtime < oldest
            except FileNotFoundError:  # it has come, meanwhile
                continue
            if is_old:
                self._give_up(path)

    def _give_up(self, path: Path) -> None:
        """Delete what nobody will finish; of a received instance, only once it is noted that it was not taken."""
        try:
            if path.suffix == ".dcm":
                self.refuse_part(path, Refusal.BROKEN_OFF)
        except FileNotFoundError:  # it has come, meanwhile
            return
        except OSError as error:
            logger.error("%s in the work folder cannot be read (%s); it is kept", path.name, error.strerror)
            return
        remove(path)


def study_uid_of(inbox: Path) -> str:
    """Study Instance UID of a study's folder."""
    return (inbox / _STUDY_FILE).read_text()


def instances_in(inbox: Path) -> list[str]:
    """Keys of the instances in a study's folder."""
    return [path.stem for path in inbox.glob("*.dcm")]


def snapshot(inbox: Path, instances: Iterable[str], target: Path) -> None:
    """Link the instances of one version into a folder of their own."""
    target.mkdir(parents=True)
    for key in instances:
        source, link = inbox / f"{key}.dcm", target / f"{key}.dcm"
        try:
            os.link(source, link)
        except FileNotFoundError:
            raise
        except OSError:  # another file system
            shutil.copyfile(source, link)


def flush(path: Path) -> None:
    """Write a file or folder through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Delete a file or a tree; what is gone already is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
