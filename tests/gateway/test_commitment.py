"""Storage commitment after delivery by C-STORE: asked for where offered, and its answer believed to the letter."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.dataset import Dataset
from pynetdicom import AE, evt
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    SegmentationStorage,
    StorageCommitmentPushModel,
)

from gateway.audit import AuditLog
from gateway.commitment import WELL_KNOWN_INSTANCE, Commitments
from gateway.delivery import DeliveryError, Receipt, ResultObject, deliver, objects_of
from gateway.folders import WorkFolder
from gateway.metrics import Metrics
from gateway.receiver import Receiver
from gateway.settings import ReceiverSection, Settings, SettingsError, StoreDestination, load_settings
from tests.gateway.stand_in import RESULTS, write_result
from tests.gateway.world import Orthanc, make_study

Deliver = Callable[..., Receipt]


class Archive:
    """A storage and storage commitment provider that answers as it is told.

    ``answer``: "same" association, "new" association, "never", "refuse" the request. ``keeps``: how many of the objects
    it commits to. ``offered``: whether it takes the presentation context at all.
    """

    def __init__(self, receiver_port: int, answer: str, keeps: int = RESULTS, offered: bool = True) -> None:
        self._receiver_port = receiver_port
        self._answer = answer
        self._keeps = keeps
        self.asked = 0
        self.told: list[int] = []
        entity = AE(ae_title="ARCHIVE")
        entity.add_supported_context(SegmentationStorage)
        if offered:
            entity.add_supported_context(StorageCommitmentPushModel)
        handlers = [(evt.EVT_C_STORE, lambda event: 0), (evt.EVT_N_ACTION, self._action)]
        self._server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        self.port = int(self._server.server_address[1])

    def stop(self) -> None:
        self._server.shutdown()

    def _action(self, event: Any) -> tuple[int, None]:
        assert event.action_type == 1
        self.asked += 1
        if self._answer == "refuse":
            return 0x0110, None
        if self._answer != "never":
            report = self._report(event.action_information)
            threading.Thread(target=self._tell, args=(event.assoc, report)).start()
        return 0, None

    def _report(self, request: Dataset) -> Dataset:
        report = Dataset()
        report.TransactionUID = request.TransactionUID
        report.ReferencedSOPSequence = request.ReferencedSOPSequence[: self._keeps]
        failed = request.ReferencedSOPSequence[self._keeps :]
        for item in failed:
            item.FailureReason = 0x0112
        if failed:
            report.FailedSOPSequence = failed
        return report

    def _tell(self, association: Any, report: Dataset) -> None:
        kind = 2 if "FailedSOPSequence" in report else 1
        if self._answer == "new":
            entity = AE(ae_title="ARCHIVE")
            entity.add_requested_context(StorageCommitmentPushModel)
            role = SCP_SCU_RoleSelectionNegotiation()
            role.sop_class_uid, role.scu_role, role.scp_role = StorageCommitmentPushModel, False, True
            association = entity.associate(
                "127.0.0.1", self._receiver_port, ae_title="ONCOTWIN", ext_neg=[role]
            )
            assert association.is_established
        status, _ = association.send_n_event_report(
            report, kind, StorageCommitmentPushModel, WELL_KNOWN_INSTANCE
        )
        self.told.append(int(status.get("Status", -1)))
        if self._answer == "new":
            association.release()


@pytest.fixture
def objects(tmp_path: Path) -> list[ResultObject]:
    source = pydicom.dcmread(make_study(tmp_path / "study", 60)[0])
    (tmp_path / "results").mkdir()
    for number in range(RESULTS):
        write_result(tmp_path / "results" / f"{number}.dcm", source, f"commitment {number}")
    return objects_of(tmp_path / "results")


@pytest.fixture
def commitments() -> Commitments:
    return Commitments(has_receiver=True)


@pytest.fixture
def receiver_port(tmp_path: Path, commitments: Commitments) -> Iterator[int]:
    folders = WorkFolder(tmp_path / "work")
    audit = AuditLog(folders.root / "audit.jsonl")
    section = ReceiverSection(port=0, allowed_callers=("ARCHIVE", "ORTHANC"))
    receiver = Receiver(section, folders, lambda: "", commitments, audit, Metrics())
    yield receiver.start()
    receiver.stop()


def destination(port: int, ae_title: str = "ARCHIVE", **settings: Any) -> StoreDestination:
    return StoreDestination(
        kind="cstore", host="127.0.0.1", port=port, ae_title=ae_title, commitment_timeout_seconds=2.0, **settings
    )  # fmt: skip


@pytest.mark.parametrize("answer", ["same", "new"])
def test_the_archives_word_is_waited_for(
    objects: list[ResultObject], commitments: Commitments, receiver_port: int, answer: str
) -> None:
    archive = Archive(receiver_port, answer)
    assert deliver(objects, destination(archive.port), commitments) == Receipt(RESULTS, RESULTS)
    archive.stop()
    assert archive.told == [0]


@pytest.mark.parametrize(
    "answer, keeps, words",
    [("same", 1, "commit to 1 of 2"), ("new", 0, "commit to 2 of 2"), ("never", 2, "did not answer")],
)
def test_no_word_is_no_delivery(
    objects: list[ResultObject], commitments: Commitments, receiver_port: int, answer: str, keeps: int, words: str
) -> None:  # fmt: skip
    archive = Archive(receiver_port, answer, keeps)
    with pytest.raises(DeliveryError, match=words):
        deliver(objects, destination(archive.port), commitments)
    archive.stop()


@pytest.mark.parametrize("archive_settings", [{"answer": "refuse"}, {"answer": "same", "offered": False}])
def test_where_it_is_not_offered_the_status_of_every_object_must_do(
    objects: list[ResultObject], commitments: Commitments, receiver_port: int, archive_settings: dict[str, Any]
) -> None:  # fmt: skip
    archive = Archive(receiver_port, **archive_settings)
    assert deliver(objects, destination(archive.port), commitments) == Receipt(RESULTS, 0)
    with pytest.raises(DeliveryError, match="required"):
        deliver(objects, destination(archive.port, storage_commitment="required"), commitments)
    archive.stop()


@pytest.mark.parametrize("why", ["never", "no receiver"])
def test_it_is_not_asked_for(objects: list[ResultObject], why: str) -> None:
    """Without a receiver the answer might have nowhere to come."""
    archive = Archive(0, "same")
    settings = {"storage_commitment": "never"} if why == "never" else {}
    receipt = deliver(objects, destination(archive.port, **settings), Commitments(why == "never"))
    assert receipt == Receipt(RESULTS, 0)
    assert archive.asked == 0
    archive.stop()


def test_an_answer_nobody_waits_for_is_turned_away(
    objects: list[ResultObject], commitments: Commitments, receiver_port: int
) -> None:
    archive = Archive(receiver_port, "new")
    request = Dataset()
    request.TransactionUID, request.ReferencedSOPSequence = "1.2.3", []
    archive._tell(None, request)
    assert archive.told == [0x0110]
    archive.stop()


def test_orthanc_commits(
    objects: list[ResultObject], commitments: Commitments, receiver_port: int, orthanc: Orthanc
) -> None:
    """Orthanc answers on an association of its own; one it does not know the way to refuses the request."""
    settings = destination(orthanc.dicom_port, "ORTHANC", storage_commitment="required")
    with pytest.raises(DeliveryError, match="required"):
        deliver(objects, settings, commitments)
    orthanc.introduce("ONCOTWIN", receiver_port)
    assert deliver(objects, settings, commitments) == Receipt(RESULTS, RESULTS)
    assert len(orthanc.objects(objects[0].study_uid)) == RESULTS


def test_required_commitment_needs_a_receiver(tmp_path: Path) -> None:
    lines = "destination: {kind: cstore, host: a, port: 104, ae_title: PACS, storage_commitment: required}"
    (tmp_path / "gateway.yaml").write_text(lines)
    with pytest.raises(SettingsError, match="needs a receiver"):
        load_settings(tmp_path / "gateway.yaml")
    (tmp_path / "gateway.yaml").write_text(f"{lines}\nreceiver: {{allowed_callers: [PACS]}}")
    assert isinstance(load_settings(tmp_path / "gateway.yaml"), Settings)
