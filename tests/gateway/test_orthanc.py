"""An Orthanc whose transfers break off."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from gateway.folders import WorkFolder
from gateway.jobs import JobTable
from gateway.orthanc import OrthancWatch
from gateway.settings import OrthancSection

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
    for _ in range(2):
        with pytest.raises(requests.RequestException):
            watch.poll()
        assert list(folders.incoming.iterdir()) == []
