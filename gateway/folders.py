"""Where files lie while they are with us. Names are digests: no UID, name or path of others becomes a file name.

``inbox/SOURCE/STUDY/`` holds what arrived of a study, ``work/JOB/input`` the snapshot a job runs on and
``work/JOB/results`` what came out. All three are made aside and renamed.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_LONGEST_UID = 64
_STUDY_FILE = "study"


def key_of(uid: str) -> str:
    """File name of a UID."""
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


def is_uid(text: str) -> bool:
    """Whether a text can be a DICOM UID."""
    return len(text) <= _LONGEST_UID and _UID.fullmatch(text) is not None


class WorkFolder:
    """The gateway's folder.

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
        # Left by a gateway that was killed: nobody was told that these have arrived.
        for leftover in self.incoming.iterdir():
            remove(leftover)

    def inbox(self, source: str, study_uid: str) -> Path:
        """Folder of a study from a source, made when missing."""
        folder = self.root / "inbox" / source / key_of(study_uid)
        if not (folder / _STUDY_FILE).exists():
            folder.mkdir(parents=True, exist_ok=True)
            aside = self.aside()
            aside.write_text(study_uid)
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

    def accept(self, aside: Path, inbox: Path, sop_uid: str) -> bool:
        """Make a whole file part of a study, durably; False when the study has that instance already."""
        target = inbox / f"{key_of(sop_uid)}.dcm"
        if target.exists():
            aside.unlink()
            return False
        flush(aside)
        aside.rename(target)
        flush(inbox)
        return True

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
            if folder.name not in kept and folder.stat().st_mtime < oldest:
                remove(folder)


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
