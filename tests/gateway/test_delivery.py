"""Archives that are no Orthanc: one lacks a storage class, one answers in pages and rejects objects."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pydicom
import pytest
from pydicom.uid import ParametricMapStorage
from pynetdicom import AE, evt
from pynetdicom.sop_class import SegmentationStorage  # type: ignore[attr-defined]

from gateway.__main__ import retry
from gateway.attempt import RESULTS
from gateway.commitment import Commitments
from gateway.delivery import DeliveryError, Receipt, ResultObject, Undeliverable, deliver, objects_of
from gateway.jobs import Job, State
from gateway.service import Gateway
from gateway.settings import Settings, StoreDestination, StowDestination
from gateway.status import StatusPage
from tests.gateway.stand_in import write_result
from tests.gateway.world import make_study, wait_until


@pytest.fixture
def objects(tmp_path: Path) -> list[ResultObject]:
    """A parametric map, which comes first, and a segmentation."""
    source = pydicom.dcmread(make_study(tmp_path / "study", 61)[0])
    folder = tmp_path / "results"
    folder.mkdir()
    for name in ("density", "segmentation"):
        write_result(folder / f"{name}.dcm", source, f"delivery {name}")
    density = pydicom.dcmread(folder / "density.dcm")
    density.SOPClassUID = density.file_meta.MediaStorageSOPClassUID = ParametricMapStorage
    density.save_as(folder / "density.dcm", enforce_file_format=True)
    return objects_of(folder)


@pytest.mark.parametrize("supported", [[SegmentationStorage], []])
def test_what_a_destination_takes_arrives_and_the_rest_is_named(
    objects: list[ResultObject], supported: list[str]
) -> None:
    arrived = []

    def store(event: Any) -> int:
        arrived.append(event.dataset.SOPClassUID)
        return 0

    entity = AE(ae_title="ARCHIVE")
    entity.add_supported_context("1.2.840.10008.1.1")
    for sop_class in supported:
        entity.add_supported_context(sop_class)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    port = int(server.server_address[1])
    destination = StoreDestination(kind="cstore", host="127.0.0.1", port=port, ae_title="ARCHIVE")
    with pytest.raises(Undeliverable, match="does not accept Parametric Map Storage"):
        deliver(objects, destination, Commitments(False))
    server.shutdown()
    assert arrived == supported


class Archive(ThreadingHTTPServer):
    """STOW-RS and QIDO-RS for instances, in pages; objects of some classes are rejected."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.held: list[tuple[str, str]] = []
        self.tried: list[str] = []
        self.rejections: dict[str, tuple[int, Any]] = {}

    @property
    def destination(self) -> StowDestination:
        return StowDestination(kind="stow", url=f"http://127.0.0.1:{self.server_address[1]}/dicom-web")

    def instances(self, series: str, offset: int) -> list[dict[str, Any]]:
        found = [uid for its_series, uid in self.held if its_series == series]
        return [{"00080018": {"Value": [uid]}} for uid in found[offset:][:100]]

    def store(self, body: bytes) -> tuple[int, Any]:
        dataset = pydicom.dcmread(BytesIO(body.split(b"\r\n\r\n", 1)[1]))
        self.tried.append(str(dataset.SOPInstanceUID))
        if dataset.SOPClassUID in self.rejections:
            return self.rejections[dataset.SOPClassUID]
        self.held.append((dataset.SeriesInstanceUID, dataset.SOPInstanceUID))
        return 200, {"00081199": {"vr": "SQ", "Value": [{}]}}


class _Answers(BaseHTTPRequestHandler):
    server: Archive

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        series = address.path.split("/series/")[1].split("/")[0]
        self._send(200, self.server.instances(series, int(parse_qs(address.query).get("offset", ["0"])[0])))

    def do_POST(self) -> None:
        self._send(*self.server.store(self.rfile.read(int(self.headers["Content-Length"]))))

    def _send(self, status: int, answer: Any) -> None:
        body = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/dicom+json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def archive() -> Iterator[Archive]:
    server = Archive()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_presence_is_asked_for_our_series(objects: list[ResultObject], archive: Archive) -> None:
    """The study has more instances than the archive gives at once."""
    archive.held = [(objects[0].series_uid, f"1.9.{number}") for number in range(176)]
    assert deliver(objects, archive.destination, Commitments(False)) == Receipt(2)
    assert deliver(objects, archive.destination, Commitments(False)) == Receipt(0)
    assert len(archive.tried) == 2


def failed(*reason: int) -> dict[str, Any]:
    item = {"00081197": {"vr": "US", "Value": list(reason)}} if reason else {}
    return {"00081198": {"vr": "SQ", "Value": [item]}}


_XML = (
    '<NativeDicomModel><DicomAttribute tag="00081198" vr="SQ" keyword="FailedSOPSequence"><Item number="1">'
    '<DicomAttribute tag="00081197" vr="US" keyword="FailureReason"><Value number="1">43264</Value></DicomAttribute>'
    "</Item></DicomAttribute></NativeDicomModel>"
)


@pytest.mark.parametrize(
    "status, answer, told, kind",
    [
        (409, failed(0xA900), "status 409, failure reason 0xa900, the object does not match", Undeliverable),
        (409, [failed(0xC000)], "status 409, failure reason 0xc000, the object is not unders", Undeliverable),
        (202, failed(0x0122), "status 202, failure reason 0x0122, SOP class not supported", Undeliverable),
        (409, _XML, "status 409, failure reason 0xa900", Undeliverable),
        (409, "", "status 409, no failure reason", Undeliverable),
        (413, "too large", "status 413, no failure reason", Undeliverable),
        (409, failed(0xA700), "status 409, failure reason 0xa700, out of resources", DeliveryError),
        (202, failed(), "status 202, no failure reason", DeliveryError),
        (500, "trouble", "status 500, no failure reason", DeliveryError),
        (200, {}, "accepted, but not there", DeliveryError),
    ],
)
def test_an_object_that_an_archive_rejects_keeps_no_other_back(
    objects: list[ResultObject], archive: Archive, status: int, answer: Any, told: str, kind: type[Exception]
) -> None:
    """It comes first. What will be rejected again is not tried again; what is there is not sent again."""
    rejected, other = objects
    archive.rejections = {ParametricMapStorage: (status, answer)}
    with pytest.raises(DeliveryError) as error:
        deliver(objects, archive.destination, Commitments(False))
    assert type(error.value) is kind
    assert "lacks 1 of 2 objects: density.dcm (Parametric Map Storage): " in str(error.value)
    assert told in str(error.value)
    assert archive.held == [(other.series_uid, other.sop_uid)]
    with pytest.raises(kind):
        deliver(objects, archive.destination, Commitments(False))
    assert archive.tried == [rejected.sop_uid, other.sop_uid, rejected.sop_uid]
    archive.rejections = {}
    assert deliver(objects, archive.destination, Commitments(False)) == Receipt(1)


def test_a_duplicate_is_there(objects: list[ResultObject], archive: Archive) -> None:
    archive.held = [(objects[0].series_uid, objects[0].sop_uid)]
    archive.rejections = {ParametricMapStorage: (409, failed(0x0111))}
    assert deliver(objects, archive.destination, Commitments(False)) == Receipt(1)


def test_an_archive_that_takes_nothing_now_is_not_tried_with_every_object(
    objects: list[ResultObject], archive: Archive
) -> None:
    archive.rejections = {ParametricMapStorage: (503, "")}
    with pytest.raises(DeliveryError, match="HTTP status 503"):
        deliver(objects, archive.destination, Commitments(False))
    assert len(archive.tried) == 1


def test_a_rejected_object_parks_its_job_and_the_page_says_which(
    objects: list[ResultObject], archive: Archive, tmp_path: Path
) -> None:
    archive.rejections = {ParametricMapStorage: (409, failed(0xA900))}
    document = {"work_folder": tmp_path / "work", "destination": archive.destination.model_dump()}
    gateway = Gateway(Settings.model_validate({**document, "jobs": {"min_free_gb": 0.0}}))
    job = gateway.jobs.add("1.2.3", ["a"], "received")
    assert job is not None
    running = gateway.jobs.move(job, State.RUNNING, attempts=1)
    assert running is not None
    gateway.jobs.move(running, State.DELIVERING, attempts=0)
    shutil.copytree(objects[0].path.parent, gateway.folders.job(job.id) / RESULTS)

    def ended() -> Job | None:
        gateway._deliver()
        found = gateway.jobs.get(job.id)
        return found if found is not None and found.state is not State.DELIVERING else None

    parked = wait_until(ended, 20, "the delivery has ended")
    assert (parked.state, parked.attempts, parked.reason) == (State.PARKED, 1, "delivery")
    page = StatusPage(gateway, "0")
    _, _, body = page.answer("/")
    page._server.server_close()
    assert b"density.dcm (Parametric Map Storage): HTTP status 409, failure reason 0xa900" in body
    archive.rejections = {}
    assert retry(gateway.settings, job.id) == 0
    assert wait_until(ended, 20, "the delivery has ended").state is State.DONE
    assert len(archive.tried) == 3
    gateway.stop()


@pytest.mark.parametrize(
    "status, kind",
    [(0xA900, Undeliverable), (0xC001, Undeliverable), (0xA700, DeliveryError), (0x0111, None)],
)
def test_an_object_that_is_rejected_by_c_store_keeps_no_other_back(
    objects: list[ResultObject], status: int, kind: type[Exception] | None
) -> None:
    arrived = []

    def take(event: Any) -> int:
        arrived.append(event.dataset.SOPClassUID)
        return status if event.dataset.SOPClassUID == ParametricMapStorage else 0

    entity = AE(ae_title="ARCHIVE")
    for sop_class in (SegmentationStorage, ParametricMapStorage):
        entity.add_supported_context(sop_class)
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, take)])
    port = int(server.server_address[1])
    destination = StoreDestination(kind="cstore", host="127.0.0.1", port=port, ae_title="ARCHIVE")
    try:
        if kind is None:
            assert deliver(objects, destination, Commitments(False)) == Receipt(2)
        else:
            with pytest.raises(DeliveryError, match=f"density.dcm .*: status {status:#06x}") as error:
                deliver(objects, destination, Commitments(False))
            assert type(error.value) is kind
    finally:
        server.shutdown()
    assert arrived == [ParametricMapStorage, SegmentationStorage]
