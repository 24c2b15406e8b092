"""An Orthanc whose transfers break off, that cannot give one study, and in which patients are corrected."""

from __future__ import annotations

import errno
import hashlib
import json
import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
import requests

from gateway import versions
from gateway.folders import WorkFolder
from gateway.jobs import JobTable, State
from gateway.orthanc import OrthancWatch
from gateway.settings import OrthancSection
from tests.gateway.world import make_study, study_uid

_ANSWERS: dict[str, Any] = {
    "/studies/s": {"IsStable": True, "MainDicomTags": {"StudyInstanceUID": "1.2.3"}},
    "/studies/s/instances": [{"ID": "i", "MainDicomTags": {"SOPInstanceUID": "1.2.3.4"}}],
}


class _HalfAnswers(BaseHTTPRequestHandler):
    """Announces twice as much of every instance as it sends."""

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.endswith("/file"):
            self._send(b"x" * 3_000_000, 6_000_000)
            return
        changes = [{"ResourceType": "Study", "ID": "s"}] if "since=0" in self.path else []
        answer = _ANSWERS.get(self.path, {"Changes": changes, "Last": 1, "Done": True})
        body = json.dumps(answer).encode()
        self._send(body, len(body))

    def _send(self, body: bytes, announced: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(announced))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _HalfAnswers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_what_was_sent_in_part_does_not_stay(address: str, tmp_path: Path) -> None:
    folders = WorkFolder(tmp_path / "work")
    jobs = JobTable(f"sqlite:///{tmp_path}/jobs.sqlite")
    watch = OrthancWatch(OrthancSection(url=address), jobs, folders)
    assert watch.poll() == []
    assert list(folders.incoming.iterdir()) == []


class Archive(ThreadingHTTPServer):
    """Orthanc's REST interface over studies of one image each, by Orthanc's identifiers."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.changes: list[str] = []
        self.files: dict[str, bytes] = {}
        self.study_uids: dict[str, str] = {}
        self.broken: set[str] = set()
        self.is_away = False
        self.fetched: list[str] = []

    def put(self, study: str, path: Path) -> None:
        self.files[study] = path.read_bytes()
        self.study_uids[study] = study_uid([path])
        self.changes.append(study)

    def answer(self, path: str) -> Any:
        """JSON, bytes of a file, or None for what is not there."""
        if path.startswith("/changes"):
            since = int(path.split("since=")[1].split("&")[0])
            changes = [{"ResourceType": "Study", "ID": study} for study in self.changes[since:]]
            return {"Changes": changes, "Last": len(self.changes), "Done": True}
        study = path.split("/")[2].removeprefix("i-")
        if study not in self.files:
            return None
        if path.endswith("/file"):
            self.fetched.append(study)
            return self.files[study]
        if path.endswith("/instances"):
            digest = hashlib.sha256(self.files[study]).hexdigest()
            sop_uid = str(pydicom.dcmread(BytesIO(self.files[study])).SOPInstanceUID)
            return [{"ID": f"i-{study}", "FileUuid": digest, "MainDicomTags": {"SOPInstanceUID": sop_uid}}]
        return {"IsStable": True, "MainDicomTags": {"StudyInstanceUID": self.study_uids[study]}}


class _Answers(BaseHTTPRequestHandler):
    server: Archive

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_GET(self) -> None:
        found = self.server.answer(self.path)
        is_broken = self.path.endswith("/file") and self.path.split("/")[2][2:] in self.server.broken
        body = found if isinstance(found, bytes) else json.dumps(found).encode()
        self.send_response(500 if is_broken or self.server.is_away else 404 if found is None else 200)
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


@pytest.fixture
def watch(archive: Archive, tmp_path: Path) -> OrthancWatch:
    section = OrthancSection(url=f"http://127.0.0.1:{archive.server_address[1]}")
    jobs = JobTable(f"sqlite:///{tmp_path}/jobs.sqlite")
    return OrthancWatch(section, jobs, WorkFolder(tmp_path / "work"))


def image_of(folder: Path, patient: str, number: int = 0, **attributes: str) -> Path:
    path = make_study(folder / patient, number, patient=patient)[0]
    dataset = pydicom.dcmread(path)
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.save_as(path)
    return path


def patients_in(folder: Path) -> set[str]:
    return {str(pydicom.dcmread(path).PatientID) for path in (folder / "work").glob("inbox/orthanc/*/*.dcm")}


def test_a_study_that_cannot_be_had_keeps_nobody_waiting(
    archive: Archive, watch: OrthancWatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, study in enumerate("abc"):
        archive.put(study, image_of(tmp_path / study, f"PAT-{study}", number))
    archive.broken = {"a"}
    assert [job.study_uid for job in watch.poll()] == [archive.study_uids[study] for study in "bc"]
    assert "cannot be taken from Orthanc (HTTPError, 1 times)" in caplog.text
    assert "PAT-" not in caplog.text
    watch.poll()
    assert archive.fetched.count("a") == 1, "it is left alone for a while"
    watch._next_try.clear()
    archive.broken = set()
    assert [job.study_uid for job in watch.poll()] == [archive.study_uids["a"]]


def test_a_study_that_our_disk_does_not_give_keeps_nobody_waiting(
    archive: Archive, watch: OrthancWatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, study in enumerate("ab"):
        archive.put(study, image_of(tmp_path / study, f"PAT-{study}", number))
    read = versions.patient_of

    def patient_of(paths: Iterable[Path]) -> tuple[str, bool]:
        files = list(paths)
        if study_uid(files) == archive.study_uids["a"]:
            raise OSError(errno.EIO, "Input/output error")
        return read(files)

    monkeypatch.setattr(versions, "patient_of", patient_of)
    assert [job.study_uid for job in watch.poll()] == [archive.study_uids["b"]]
    monkeypatch.undo()
    watch._next_try.clear()
    assert [job.study_uid for job in watch.poll()] == [archive.study_uids["a"]]


def test_what_a_power_cut_emptied_is_fetched_again(
    archive: Archive, watch: OrthancWatch, tmp_path: Path
) -> None:
    """The note of what is here is not flushed; without it, the study must not be left alone for ever."""
    archive.put("a", image_of(tmp_path / "1", "PAT"))
    watch.poll()
    (note,) = (tmp_path / "work").glob("inbox/orthanc/*/fetched.json")
    note.write_bytes(b"")
    archive.put("a", image_of(tmp_path / "2", "PAT", PatientBirthDate="19501231"))
    assert [job.state for job in watch.poll()] == [State.QUEUED]


def test_an_orthanc_that_is_away_is_told(archive: Archive, watch: OrthancWatch) -> None:
    archive.is_away = True
    with pytest.raises(requests.RequestException):
        watch.poll()


def test_a_study_moved_to_another_patient_is_taken_again(
    archive: Archive, watch: OrthancWatch, tmp_path: Path
) -> None:
    """Orthanc gives it another identifier; as long as it has both, nobody knows who is right."""
    archive.put("old", image_of(tmp_path, "TEMP-1"))
    (wrong,) = watch.poll()
    archive.put("new", image_of(tmp_path, "REAL-9"))
    (held,) = watch.poll()
    assert (held.state, held.reason) == (State.PARKED, "patients_differ")
    overtaken = watch._jobs.get(wrong.id)
    assert overtaken is not None
    assert overtaken.state is State.IGNORED
    assert watch.poll() == []
    assert patients_in(tmp_path) == {"TEMP-1"}
    del archive.files["old"]
    (right,) = watch.poll()
    assert (right.state, right.instances) == (State.QUEUED, wrong.instances)
    assert right.id not in (wrong.id, held.id)
    assert patients_in(tmp_path) == {"REAL-9"}
    assert watch.poll() == []


def test_the_study_left_after_a_wrong_move_runs_as_it_was(
    archive: Archive, watch: OrthancWatch, tmp_path: Path
) -> None:
    archive.put("old", image_of(tmp_path, "REAL-9"))
    (first,) = watch.poll()
    archive.put("new", image_of(tmp_path, "TEMP-1"))
    watch.poll()
    del archive.files["new"]
    again = [job for _ in range(2) for job in watch.poll()]
    assert [(job.id, job.state) for job in again] == [(first.id, State.QUEUED)]
    assert patients_in(tmp_path) == {"REAL-9"}


def test_an_overwritten_identity_is_taken_again_and_nothing_else(
    archive: Archive, watch: OrthancWatch, tmp_path: Path
) -> None:
    archive.put("a", image_of(tmp_path / "1", "PAT", PatientBirthDate="19400101"))
    (first,) = watch.poll()
    archive.changes.append("a")
    assert watch.poll() == []
    assert archive.fetched == ["a"]
    archive.put("a", image_of(tmp_path / "2", "PAT", PatientBirthDate="19501231"))
    (second,) = watch.poll()
    assert (second.state, second.instances) == (State.QUEUED, first.instances)
    assert archive.fetched == ["a", "a"]
