"""A disk that does not give a file says nothing of the object in it: the gateway tries again, and refuses no study."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gateway import folders as folders_module
from gateway import headers, receiver
from gateway.audit import AuditLog
from gateway.commitment import Commitments
from gateway.folders import WorkFolder, instances_in
from gateway.headers import Header, patient_of, read_header
from gateway.jobs import State
from gateway.metrics import Metrics
from gateway.receiver import Receiver
from gateway.refusals import Refusal
from gateway.service import Gateway
from gateway.settings import ReceiverSection, Settings
from tests.gateway.test_whole_studies import file_in
from tests.gateway.world import make_study, send, study_uid

Fail = Callable[..., None]


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Fail:
    """Make the disk fail for the files that a condition names."""
    read = headers.read_header

    def begin(is_bad: Callable[[Path], bool] = lambda path: True) -> None:
        def unreadable(path: Path) -> Header:
            if is_bad(path):
                raise OSError(errno.EIO, "Input/output error")
            return read(path)

        for module in (headers, folders_module, receiver):
            monkeypatch.setattr(module, "read_header", unreadable)

    return begin


@pytest.fixture
def study(tmp_path: Path) -> list[Path]:
    return make_study(tmp_path / "study", 70)


def test_an_error_of_the_disk_is_no_empty_header(study: list[Path], tmp_path: Path) -> None:
    junk = tmp_path / "junk.dcm"
    junk.write_bytes(b"no DICOM" * 100)
    assert read_header(junk) == Header()
    for gone in (tmp_path / "gone.dcm", tmp_path):
        with pytest.raises(OSError):
            read_header(gone)
        with pytest.raises(OSError):
            patient_of([*study, gone])


def test_a_study_that_cannot_be_read_waits_and_keeps_no_other_waiting(
    study: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Fail
) -> None:
    monkeypatch.setattr(Gateway, "_begin", lambda gateway: None)
    document = {
        "work_folder": tmp_path / "work",
        "receiver": {"allowed_callers": ["MODALITY"]},
        "jobs": {"min_free_gb": 0.0, "back_off_seconds": 0.1},
    }
    gateway = Gateway(Settings.model_validate(document))
    others = make_study(tmp_path / "other", 71)
    for files in (study, others):
        inbox = gateway.folders.inbox("received", study_uid(files))
        for path in files:
            file_in(gateway.folders, inbox, path)
        os.utime(inbox, (time.time() - 1000,) * 2)
    bad = gateway.folders.inbox("received", study_uid(study))
    fail(lambda path: path.parent == bad)
    for _ in range(2):
        gateway.tick()
        assert [job.study_uid for job in gateway.jobs.latest(9)] == [study_uid(others)]
    monkeypatch.undo()
    monkeypatch.setattr(Gateway, "_begin", lambda gateway: None)
    time.sleep(0.2)
    gateway.tick()
    assert {(job.study_uid, job.state) for job in gateway.jobs.latest(9)} == {
        (study_uid(files), State.QUEUED) for files in (study, others)
    }
    gateway.stop()


def receiver_in(folders: WorkFolder) -> Receiver:
    audit = AuditLog(folders.root / "audit.jsonl")
    section = ReceiverSection(port=0, allowed_callers=("MODALITY",))
    return Receiver(section, folders, lambda: "", Commitments(True), audit, Metrics())


def test_the_caller_is_told_to_send_again(
    study: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Fail
) -> None:
    folders = WorkFolder(tmp_path / "work")
    listening = receiver_in(folders)
    port = listening.start()
    try:
        assert send(study[:1], port) == [0]
        for is_bad in (lambda path: True, lambda path: path.parent.parent.name == "received"):
            fail(is_bad)
            assert send(study[:1], port) == [Refusal.DISK.status]
            monkeypatch.undo()
        assert send(study, port) == [0] * len(study)
    finally:
        listening.stop()
    inbox = folders.inbox("received", study_uid(study))
    assert len(instances_in(inbox)) == len(study)
    assert folders.refused_in(inbox) == {}


def test_what_broke_off_is_noted_when_the_disk_is_back(
    study: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail: Fail
) -> None:
    """While the gateway runs, when it starts, and by its hourly cleaning."""
    folders = WorkFolder(tmp_path / "work")
    part = folders.incoming / "tmpabc.dcm"
    part.write_bytes(study[0].read_bytes()[:-100])
    association = SimpleNamespace(
        dimse=SimpleNamespace(message=SimpleNamespace(_data_set_path=part)),
        requestor=SimpleNamespace(ae_title="MODALITY", address="127.0.0.1"),
    )
    fail()
    event: Any = Association(association)
    receiver_in(folders)._drop_part(event)
    assert "broken_off" in (folders.root / "audit.jsonl").read_text()
    os.utime(part, (1, 1))
    WorkFolder(tmp_path / "work")
    folders.forget_incoming(60)
    assert part.exists()
    monkeypatch.undo()
    folders.forget_incoming(60)
    assert not part.exists()
    assert list(folders.refused_in(folders.inbox("received", study_uid(study))).values()) == ["broken_off"]


class Association:
    """An event of pynetdicom's on an association, which sets are made of."""

    def __init__(self, association: Any) -> None:
        class Known:
            dimse, requestor = association.dimse, association.requestor

        self.assoc = Known()
