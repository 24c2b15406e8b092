"""Who may send what: associations, limits, back-pressure, encryption."""

from __future__ import annotations

import itertools
import json
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydantic import ValidationError
from pydicom.uid import generate_uid
from pynetdicom import AE

from gateway.audit import AuditLog
from gateway.commitment import Commitments
from gateway.folders import WorkFolder, instances_in, study_uid_of
from gateway.metrics import Metrics
from gateway.receiver import SOURCE, Receiver, client_context
from gateway.settings import ReceiverSection, TlsSection
from tests.gateway.world import NAME, PATIENCE, make_certificates, make_study, send, study_uid, wait_until

StartReceiver = Callable[..., int]


@pytest.fixture
def folders(tmp_path: Path) -> WorkFolder:
    return WorkFolder(tmp_path / "work")


@pytest.fixture
def start(folders: WorkFolder) -> Iterator[StartReceiver]:
    running = []

    def begin(pressure: str = "", **settings: Any) -> int:
        audit = AuditLog(folders.root / "audit.jsonl")
        section = ReceiverSection(port=0, allowed_callers=("MODALITY",), **settings)
        receiver = Receiver(section, folders, lambda: pressure, Commitments(True), audit, Metrics())
        running.append(receiver)
        return receiver.start()

    yield begin
    for receiver in running:
        receiver.stop()


@pytest.fixture
def study(tmp_path: Path) -> list[Path]:
    return make_study(tmp_path / "study", 50)


def test_stopped_receiver_gives_the_temporary_folder_back(folders: WorkFolder) -> None:
    before = tempfile.gettempdir()
    section = ReceiverSection(port=0, allowed_callers=("MODALITY",))
    receiver = Receiver(
        section, folders, lambda: "", Commitments(True), AuditLog(folders.root / "audit.jsonl"), Metrics()
    )
    receiver.start()
    assert tempfile.gettempdir() == str(folders.incoming)
    receiver.stop()
    assert tempfile.gettempdir() == before


def test_instances_are_filed_once(start: StartReceiver, folders: WorkFolder, study: list[Path]) -> None:
    port = start()
    assert send([*study, *study], port) == [0] * 2 * len(study)
    (inbox,) = folders.arrived(SOURCE)
    assert study_uid_of(inbox) == study_uid(study)
    assert len(instances_in(inbox)) == len(study)
    sent, filed = (
        sorted(bytes(pydicom.dcmread(path).PixelData) for path in paths)
        for paths in (study, inbox.glob("*.dcm"))
    )
    assert sent == filed
    assert list(folders.incoming.iterdir()) == []


@pytest.mark.parametrize("caller, called", [("STRANGER", "ONCOTWIN"), ("MODALITY", "ANYTHING")])
def test_strangers_are_turned_away(
    start: StartReceiver, folders: WorkFolder, study: list[Path], caller: str, called: str
) -> None:
    assert send(study, start(), caller=caller, called=called) == []
    assert folders.arrived(SOURCE) == {}
    events = [json.loads(line) for line in (folders.root / "audit.jsonl").read_text().splitlines()]
    assert [event["EventID"]["csd-code"] for event in events] == ["110113"]


@pytest.mark.parametrize(
    "limits, taken",
    [
        ({"max_instances_per_study": 3}, 3),
        ({"max_instance_mb": 0.001}, 0),
        ({"instances_per_second": 0.4}, 4),
    ],
)
def test_limits(start: StartReceiver, study: list[Path], limits: dict[str, float], taken: int) -> None:
    assert send(study, start(**limits)) == [0] * taken + [0xA700] * (len(study) - taken)


def test_back_pressure(start: StartReceiver, folders: WorkFolder, study: list[Path]) -> None:
    assert set(send(study, start(pressure="the disk is full"))) == {0xA700}
    (inbox,) = folders.arrived(SOURCE)
    assert instances_in(inbox) == []
    assert set(folders.refused_in(inbox).values()) == {"back_pressure"}
    assert len(folders.refused_in(inbox)) == len(study)


@pytest.mark.parametrize("uid", ["../../etc/passwd", "1.2.3/../../x", "", "=1+1", "1.2.\u0000"])
def test_a_study_uid_is_no_path(
    start: StartReceiver, folders: WorkFolder, study: list[Path], uid: str
) -> None:
    with pydicom.config.disable_value_validation():
        dataset = pydicom.dcmread(study[0])
        dataset.StudyInstanceUID = uid
        dataset.save_as(study[0])
        assert send([study[0]], start()) == [0xC000]
    assert folders.arrived(SOURCE) == {}


def _send_big(port: int, study: list[Path], megabytes: int, cut_after: int = 0) -> int | None:
    """Send an object of some size; the status, None when there was none. Cuts the line after some packets."""
    big = pydicom.dcmread(study[0])
    big.SOPInstanceUID = big.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    big.PixelData = bytes(megabytes * 1_000_000)
    entity = AE(ae_title="MODALITY")
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 5 * PATIENCE
    entity.add_requested_context(big.SOPClassUID, big.file_meta.TransferSyntaxUID)
    association = entity.associate("127.0.0.1", port, ae_title="ONCOTWIN")
    assert association.dul.socket is not None
    line, write, packets = association.dul.socket.socket, association.dul.socket.send, itertools.count()

    def send_until_cut(data: bytes) -> None:
        if next(packets) == cut_after:
            line.shutdown(socket.SHUT_RDWR)
        write(data)

    if cut_after:
        association.dul.socket.send = send_until_cut
    status = association.send_c_store(big).get("Status")
    association.abort()
    return status


@pytest.mark.parametrize(
    ("cut_after", "largest_mb", "reason"), [(100, 1024.0, "broken_off"), (0, 2.0, "too_large")]
)
def test_what_came_in_part_goes_at_once_and_is_missed(
    start: StartReceiver,
    folders: WorkFolder,
    study: list[Path],
    cut_after: int,
    largest_mb: float,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A line that breaks, and an object above the limit, which is not waited for: the disk would be full first."""
    sizes = []
    drop = Receiver._drop_part

    def measured(receiver: Receiver, event: Any) -> None:
        sizes.extend(path.stat().st_size for path in folders.incoming.iterdir())
        drop(receiver, event)

    monkeypatch.setattr(Receiver, "_drop_part", measured)
    port = start(max_instance_mb=largest_mb)
    assert send(study[1:], port) == [0] * (len(study) - 1)
    assert _send_big(port, study, 60, cut_after) is None
    wait_until(lambda: sizes and not list(folders.incoming.iterdir()), 10, "the part is deleted")
    assert max(sizes) < 10e6
    (inbox,) = folders.arrived(SOURCE)
    assert list(folders.refused_in(inbox).values()) == [reason]
    assert f"instance refused: {reason}" in (folders.root / "audit.jsonl").read_text()


def test_silent_callers_are_not_waited_for(start: StartReceiver, study: list[Path]) -> None:
    """Ten callers that open a connection and say nothing do not keep the eleventh out."""
    port = start(max_associations=3, idle_timeout_seconds=1)
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
    try:
        for connection in silent:
            connection.settimeout(10)
            assert connection.recv(1024) == b""
        assert set(send(study, port)) == {0}
    finally:
        for connection in silent:
            connection.close()


def test_nothing_of_the_patient_is_told(
    start: StartReceiver, folders: WorkFolder, study: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    dataset = pydicom.dcmread(study[0])
    dataset.StudyInstanceUID = generate_uid()
    dataset.save_as(study[0])
    send(study, start(max_instances_per_study=3))
    captured = capfd.readouterr()
    told = (folders.root / "audit.jsonl").read_text() + captured.out + captured.err
    assert NAME.split("^")[0] not in told
    assert "PAT-50" not in told


def test_tls(start: StartReceiver, study: list[Path], tmp_path: Path) -> None:
    """With TLS, a caller without a certificate of the authority gets nowhere."""
    pems = make_certificates(tmp_path / "pki")
    port = start(tls=TlsSection(**pems))
    assert send(study, port) == []
    stranger = TlsSection(**make_certificates(tmp_path / "others"))
    assert send(study, port, tls=(client_context(stranger), None)) == []
    assert set(send(study, port, tls=(client_context(TlsSection(**pems)), None))) == {0}


def test_somebody_must_be_allowed_to_call() -> None:
    """Without any name pynetdicom lets everybody in."""
    with pytest.raises(ValidationError, match="allowed_callers"):
        ReceiverSection.model_validate({"allowed_callers": []})
