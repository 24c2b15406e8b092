"""A study runs when it is whole and of one patient: what was refused is missed, a corrected patient is new."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pydicom
import pytest

from gateway import folders as folders_module
from gateway.__main__ import USAGE, discard, retry
from gateway.folders import Filed, WorkFolder, instances_in
from gateway.jobs import Job, State
from gateway.refusals import Refusal
from gateway.service import Gateway
from gateway.settings import Settings
from tests.gateway.world import NAME, make_study, send, study_uid

OpenGateway = Callable[[], Gateway]


@pytest.fixture
def open_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenGateway]:
    """Gateways on one work folder, one after the other; nothing is run."""
    monkeypatch.setattr(Gateway, "_begin", lambda gateway: None)
    monkeypatch.setattr(Gateway, "_deliver", lambda gateway: None)
    opened: list[Gateway] = []

    def begin() -> Gateway:
        if opened:
            opened[-1].stop()
        receiver = {"port": 0, "allowed_callers": ["MODALITY"]}
        document = {"work_folder": tmp_path / "work", "receiver": receiver, "jobs": {"min_free_gb": 0.0}}
        opened.append(Gateway(Settings.model_validate(document)))
        opened[-1].start()
        return opened[-1]

    yield begin
    opened[-1].stop()


@pytest.fixture
def study(tmp_path: Path) -> list[Path]:
    return make_study(tmp_path / "study", 60, patient="TEMP-1")


def when_quiet(gateway: Gateway) -> list[Job]:
    """All jobs after the studies have been quiet for long."""
    for inbox in gateway.folders.arrived("received"):
        past = inbox.stat().st_mtime - 1000
        os.utime(inbox, (past, past))
    gateway.tick()
    return sorted(gateway.jobs.latest(10), key=lambda job: job.created)


def press(gateway: Gateway, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """The disk is short after some instances."""
    asked = iter(range(10**6))
    words = lambda: "" if next(asked) < after else "less than 5 GB are free"  # noqa: E731
    monkeypatch.setattr(gateway._receiver, "_pressure", words)


def test_what_was_refused_is_missed_until_it_comes(
    open_gateway: OpenGateway, study: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of a stack is a regular grid, so nothing downstream would notice."""
    gateway = open_gateway()
    press(gateway, monkeypatch, len(study) - 3)
    assert send(study, gateway.receiver_port)[-3:] == [Refusal.RATE.status] * 3
    (job,) = when_quiet(gateway)
    assert (job.state, job.reason) == (State.PARKED, "images_refused")
    assert job.sentence.startswith("3 images of this study were refused because disk or queue was full;")
    assert retry(gateway.settings, job.id[:6]) == USAGE

    gateway = open_gateway()
    assert [job.state for job in when_quiet(gateway)] == [State.PARKED], "it is missed after a restart too"
    assert set(send(study[-3:-1], gateway.receiver_port)) == {0}
    (job,) = when_quiet(gateway)
    assert job.state is State.PARKED
    assert job.sentence.startswith("1 image of this study was refused")
    assert set(send(study, gateway.receiver_port)) == {0}
    (whole,) = when_quiet(gateway)
    assert (whole.id, whole.state, whole.reason) == (job.id, State.QUEUED, "")
    assert len(whole.instances) == len(study)


def test_more_of_the_study_overtakes_what_waits(
    open_gateway: OpenGateway, study: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = open_gateway()
    press(gateway, monkeypatch, 5)
    send(study[:6], gateway.receiver_port)
    when_quiet(gateway)
    press(gateway, monkeypatch, 10**6)
    send(study[6:], gateway.receiver_port)
    first, second = when_quiet(gateway)
    assert (first.state, first.reason) == (State.IGNORED, "superseded")
    assert (second.state, second.reason) == (State.PARKED, "images_refused")


def test_who_gives_a_waiting_study_up_gets_it_when_it_comes_whole(
    open_gateway: OpenGateway, study: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = open_gateway()
    press(gateway, monkeypatch, 5)
    send(study, gateway.receiver_port)
    (job,) = when_quiet(gateway)
    assert discard(gateway.settings, job.id) == 0
    gateway = open_gateway()
    assert [job.state for job in when_quiet(gateway)] == [State.IGNORED], "it does not come back by itself"
    send(study, gateway.receiver_port)
    assert [job.state for job in when_quiet(gateway)] == [State.QUEUED]


def test_nothing_is_missed_of_a_study_that_is_there(
    open_gateway: OpenGateway, study: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = open_gateway()
    send(study, gateway.receiver_port)
    when_quiet(gateway)
    press(gateway, monkeypatch, 0)
    send(study, gateway.receiver_port)
    assert [job.state for job in when_quiet(gateway)] == [State.QUEUED]
    assert not list(gateway.folders.root.glob("inbox/*/*/*.refused"))


def test_a_mark_that_a_full_disk_does_not_take_is_kept_in_mind(
    tmp_path: Path, study: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = WorkFolder(tmp_path / "work")

    def full(path: Path, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    folders.refuse("1.2.3", "1.2.3.4", Refusal.DISK)
    monkeypatch.undo()
    inbox = folders.inbox("received", "1.2.3")
    assert list(folders.refused_in(inbox).values()) == ["disk"]
    assert file_in(folders, inbox, study[0], "1.2.3.4") is Filed.NEW
    assert folders.refused_in(inbox) == {}


def test_an_instance_that_was_coming_when_the_gateway_was_killed_is_missed(
    tmp_path: Path, study: list[Path]
) -> None:
    part = study[0].read_bytes()[:-100]
    (tmp_path / "work" / "incoming").mkdir(parents=True)
    (tmp_path / "work" / "incoming" / "tmpabc.dcm").write_bytes(part)
    folders = WorkFolder(tmp_path / "work")
    assert list(folders.incoming.iterdir()) == []
    assert list(folders.refused_in(folders.inbox("received", study_uid(study))).values()) == ["broken_off"]


def test_the_uid_of_a_study_is_on_the_disk_before_its_folder_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut, images that were acknowledged would belong to a study without a UID."""
    flushed: list[str] = []
    monkeypatch.setattr(folders_module, "flush", lambda path: flushed.append(path.read_text()))
    WorkFolder(tmp_path / "work").inbox("received", "1.2.3")
    assert flushed == ["1.2.3"]


def test_a_study_is_forgotten_as_a_whole(
    tmp_path: Path, study: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the middle, no part of it is left that could be taken for a study."""
    folders = WorkFolder(tmp_path / "work")
    inbox = folders.inbox("received", study_uid(study))
    for path in study:
        file_in(folders, inbox, path)
    old = time.time() - 8 * 86400
    os.utime(inbox, (old, old))
    unlink, deleted = os.unlink, iter(range(10**6))

    class Killed(BaseException):
        pass

    def killed(*arguments: object, **options: object) -> None:
        if next(deleted) == 4:
            raise Killed
        unlink(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "unlink", killed)
    with pytest.raises(Killed):
        folders.forget(7, [], [])
    monkeypatch.undo()
    assert not inbox.exists()
    assert list(WorkFolder(tmp_path / "work").incoming.iterdir()) == []


def test_what_nobody_sends_any_more_is_deleted(tmp_path: Path) -> None:
    folders = WorkFolder(tmp_path / "work")
    left, coming = folders.aside(), folders.aside()
    left.write_text("part of a patient")
    coming.write_text("part of another")
    old = time.time() - 700
    os.utime(left, (old, old))
    folders.forget_incoming(630)
    assert list(folders.incoming.iterdir()) == [coming]


def file_in(folders: WorkFolder, inbox: Path, path: Path, uid: str = "") -> Filed:
    aside = folders.aside()
    shutil.copy(path, aside)
    return folders.accept(
        aside, inbox, uid or str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)
    )


def corrected(files: list[Path], folder: Path, **attributes: str) -> list[Path]:
    """The same instances with another identity, as after patient reconciliation."""
    folder.mkdir()
    made = []
    for number, path in enumerate(files):
        dataset = pydicom.dcmread(path)
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        dataset.save_as(folder / f"{number}.dcm")
        made.append(folder / f"{number}.dcm")
    return made


@pytest.mark.parametrize(
    "attributes",
    [
        {"PatientID": "REAL-9"},
        {"IssuerOfPatientID": "HOSPITAL-B"},
        {"PatientBirthDate": "19501231"},
        {"PatientSex": "F"},
    ],
)
def test_a_corrected_patient_is_a_new_version(
    open_gateway: OpenGateway, study: list[Path], tmp_path: Path, attributes: dict[str, str]
) -> None:
    """Under the same SOP Instance UIDs; results of the version before no longer go out."""
    gateway = open_gateway()
    study = corrected(
        study, tmp_path / "first", IssuerOfPatientID="A", PatientBirthDate="19400101", PatientSex="M"
    )
    send(study, gateway.receiver_port)
    (wrong,) = when_quiet(gateway)
    again = corrected(study, tmp_path / "again", **attributes)
    half = len(again) // 2
    assert set(send(again[:half], gateway.receiver_port)) == {0}
    before, mixed = when_quiet(gateway)
    assert (before.id, before.state, before.reason) == (wrong.id, State.IGNORED, "superseded")
    assert (mixed.state, mixed.reason) == (State.PARKED, "patients_differ")
    assert retry(gateway.settings, mixed.id) == USAGE
    send(again[half:], gateway.receiver_port)
    _, mixed, right = when_quiet(gateway)
    assert (mixed.state, mixed.reason) == (State.IGNORED, "superseded")
    assert (right.state, right.instances) == (State.QUEUED, wrong.instances)
    (inbox,) = gateway.folders.arrived("received")
    ((keyword, value),) = attributes.items()
    assert {str(pydicom.dcmread(path)[keyword].value) for path in inbox.glob("*.dcm")} == {value}
    assert len(instances_in(inbox)) == len(study)

    told = (gateway.folders.root / "audit.jsonl").read_text()
    assert "study complete, under another patient than before" in told
    told += json.dumps([job.version + job.sentence for job in gateway.jobs.latest(10)])
    assert not [
        word
        for word in ("TEMP-1", NAME.split("^")[0], *attributes.values())
        if len(word) > 1 and word in told
    ]

    # Corrected back: the first version has not had its results yet.
    send(study, gateway.receiver_port)
    first, _, second = when_quiet(gateway)
    assert (first.id, first.state) == (wrong.id, State.QUEUED)
    assert (second.id, second.state) == (right.id, State.IGNORED)


def test_an_identity_that_says_less_contradicts_nothing(
    open_gateway: OpenGateway, study: list[Path], tmp_path: Path
) -> None:
    """Drawings often state no birth date; the ingest takes them, and so does the gateway."""
    gateway = open_gateway()
    send(corrected(study[:-1], tmp_path / "most", PatientSex="F"), gateway.receiver_port)
    (first,) = when_quiet(gateway)
    send(corrected(study[-1:], tmp_path / "last", PatientSex="", PatientBirthDate=""), gateway.receiver_port)
    first, second = when_quiet(gateway)
    assert [first.state, second.state] == [State.QUEUED, State.QUEUED]
