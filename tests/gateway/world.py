"""What surrounds the gateway in its tests: a real Orthanc, modalities that send studies, a network that breaks."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pydicom
import requests
import yaml
from pynetdicom import AE

from tests.imaging.dicom_factory import write_visit

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = f"{sys.executable} {ROOT / 'tests' / 'gateway' / 'stand_in.py'}"
NAME = "Geheim^Gisela"
# Waits are for a quiet machine; a busy one gets this many times as long.
PATIENCE = 5
FIRST_DAY = datetime(2025, 1, 6, 9, 0)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def can_connect(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    return False


def descendants(pid: int) -> set[str]:
    """Process ids of the children of a process and theirs."""
    children = Path(f"/proc/{pid}/task").glob("*/children")
    found = set()
    for path in children:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found |= set(path.read_text().split())
    return found | {grandchild for child in found for grandchild in descendants(int(child))}


def make_study(
    folder: Path,
    number: int,
    *,
    patient: str = "",
    day: int = 0,
    comment: str = "",
    contrasts: Sequence[str] = ("t1ce", "flair"),
) -> list[Path]:
    """A small study; returns its files. The same number makes the same study, other contrasts more series of it."""
    attributes = {
        "PatientID": patient or f"PAT-{number}",
        "PatientName": NAME,
        "PatientComments": comment or None,
        "StudyDescription": "Neuro follow-up",
    }
    made = write_visit(
        folder,
        FIRST_DAY + timedelta(days=day),
        contrasts=contrasts,
        name=f"study{number}",
        attributes=attributes,
    )
    return [path for paths in made.values() for path in paths]


def study_uid(files: Iterable[Path]) -> str:
    (uid,) = {str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID) for path in files}
    return uid


def send(
    files: Iterable[Path], port: int, *, caller: str = "MODALITY", called: str = "ONCOTWIN", tls: Any = None
) -> list[int]:
    """Send files by C-STORE; the status of each, nothing when the association was refused."""
    datasets = [pydicom.dcmread(path) for path in files]
    entity = AE(ae_title=caller)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 30 * PATIENCE
    for context in {(d.SOPClassUID, d.file_meta.TransferSyntaxUID) for d in datasets}:
        entity.add_requested_context(*context)
    association = entity.associate("127.0.0.1", port, ae_title=called, tls_args=tls)
    if not association.is_established:
        return []
    statuses = [int(association.send_c_store(dataset).get("Status", -1)) for dataset in datasets]
    association.release()
    return statuses


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    end = time.monotonic() + seconds * PATIENCE
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError(f"not within {seconds * PATIENCE:g} s: {what}")


def make_certificates(folder: Path) -> dict[str, Path]:
    """An authority of our own and one certificate signed by it, for 127.0.0.1."""
    folder.mkdir()
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1")
    commands = (
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -subj /CN=authority -days 2",
        "req -newkey rsa:2048 -nodes -keyout node.key -out node.csr -subj /CN=node",
        "x509 -req -in node.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names -out node.pem -days 2",
    )
    for command in commands:
        subprocess.run(["openssl", *command.split()], cwd=folder, check=True, capture_output=True)
    return {"certificate": folder / "node.pem", "key": folder / "node.key", "authority": folder / "ca.pem"}


class Orthanc:
    """Debian's Orthanc with its DICOMweb plugin, on loopback, with a database of its own."""

    def __init__(self, folder: Path) -> None:
        self.port, self.dicom_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        configuration = {
            "StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "storage"),
            "Plugins": ["/usr/share/orthanc/plugins/libOrthancDicomWeb.so"],
            "HttpPort": self.port, "DicomPort": self.dicom_port, "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False, "StableAge": 1, "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            "DicomModalities": {}, "DicomAlwaysAllowStore": True, "StorageCompression": False,
        }  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(configuration))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (self._folder / "log").open("ab")
        self.process = subprocess.Popen(
            ["Orthanc", str(self._folder / "orthanc.json")], stdout=log, stderr=log
        )
        wait_until(self._answers, 60, "Orthanc answers")

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/system", timeout=2 * PATIENCE).ok
        except requests.RequestException:
            return False

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def introduce(self, ae_title: str, port: int) -> None:
        """Tell Orthanc where an application entity listens."""
        modality = {"AET": ae_title, "Host": "127.0.0.1", "Port": port}
        requests.put(f"{self.url}/modalities/{ae_title}", json=modality, timeout=30).raise_for_status()

    def upload(self, files: Iterable[Path]) -> None:
        with requests.Session() as session:
            for path in files:
                session.post(
                    f"{self.url}/instances", data=path.read_bytes(), timeout=30 * PATIENCE
                ).raise_for_status()

    def objects(self, uid: str, manufacturer: str = "OncoTwin") -> list[str]:
        """SOP Instance UIDs of the objects of a study made by somebody."""
        query = {"Level": "Instance", "Expand": True, "Query": {"StudyInstanceUID": uid, "Modality": "SEG"}}
        found = requests.post(f"{self.url}/tools/find", json=query, timeout=30 * PATIENCE).json()
        return [item["MainDicomTags"]["SOPInstanceUID"] for item in found]

    def series(self, uid: str) -> list[str]:
        """Series of results in a study."""
        query = {"Level": "Series", "Expand": True, "Query": {"StudyInstanceUID": uid, "Modality": "SEG"}}
        found = requests.post(f"{self.url}/tools/find", json=query, timeout=30 * PATIENCE).json()
        return [item["MainDicomTags"]["SeriesInstanceUID"] for item in found]


class GatewayProcess:
    """``python -m gateway`` with settings of its own.

    Two of them are ours: ``arguments`` of the command line, and the ``authority`` of its page's certificate.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        arguments = settings.pop("arguments", [])
        self.receiver_port, self.status_port = free_port(), free_port()
        receiver = {
            "port": self.receiver_port,
            "allowed_callers": ["MODALITY"],
            "study_complete_seconds": 1.0,
            "idle_timeout_seconds": 30.0 * PATIENCE,
        }
        self._authority = settings.pop("authority", None)
        scheme = "https" if self._authority else "http"
        self.status_url = f"{scheme}://127.0.0.1:{self.status_port}"
        document: dict[str, Any] = {
            "work_folder": str(folder / "work"),
            "receiver": receiver | settings.pop("receiver", {}),
            "jobs": {
                "command": STAND_IN, "min_free_gb": 0.1, "back_off_seconds": 0.2, "longest_back_off_seconds": 1.0,
                "time_limit_seconds": 60,
            } | settings.pop("jobs", {}),
            "status": {"port": self.status_port} | settings.pop("status", {}),
            **settings,
        }  # fmt: skip
        self._arguments = arguments
        self._settings = folder / "gateway.yaml"
        self._settings.write_text(yaml.safe_dump(document))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        log = (self.folder / "log").open("ab")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "--config", str(self._settings), *self._arguments],
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
        wait_until(self._answers, 60, f"the gateway answers; see {self.folder / 'log'}")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        try:
            return self.get("/healthz", timeout=2 * PATIENCE).ok
        except requests.RequestException:
            return False

    def get(self, path: str, timeout: float = 10 * PATIENCE) -> requests.Response:
        """A page of the gateway."""
        return requests.get(self.status_url + path, timeout=timeout, verify=self._authority or True)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20 * PATIENCE)

    def jobs(self) -> list[dict[str, Any]]:
        return list(self.get("/jobs.json").json())

    def job_of(self, uid: str, *states: str) -> dict[str, Any] | None:
        """The only job of a study, if it is in one of the states."""
        found = [job for job in self.jobs() if job["study"] == uid]
        assert len(found) <= 1, found
        return found[0] if found and found[0]["state"] in states else None

    def written(self) -> str:
        """Everything the gateway told anybody: log, audit trail, page, metrics."""
        pages = (self.get(path).text for path in ("/", "/metrics", "/jobs.json"))
        files = (self.folder / "log", self.folder / "work" / "audit.jsonl")
        return "".join([*pages, *(path.read_text() for path in files)])


class BreakableNetwork:
    """A TCP relay that can be cut: open connections are reset, new ones refused."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self._open: set[socket.socket] = set()
        self._cut = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._cut.set()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def mend(self) -> None:
        self._cut.clear()

    def close(self) -> None:
        self.cut()
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            if self._cut.is_set():
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._target_port), timeout=5)
            except OSError:
                near.close()
                continue
            self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            self._open.discard(end)
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
