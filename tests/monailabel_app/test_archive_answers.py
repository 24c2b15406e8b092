"""What the archive says of a drawing that it was sent, in every form that archives answer in."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from monailabel_app.archive import Archive
from monailabel_app.refusal import Refusal
from tests.imaging import dicom_factory as factory

TAKEN = {"00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.2"]}}]}}
FAILED = {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [272]}}]}}
LISTED = [{"00080018": {"vr": "UI", "Value": ["1.2"]}}]


@contextmanager
def archive(content_type: str, answer: Any, listed: Any) -> Iterator[Archive]:
    """One that answers a store request and a query so."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.reply(content_type, answer)

        def do_GET(self) -> None:
            self.reply("application/dicom+json", listed)

        def reply(self, content_type: str, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Archive.at(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


JSON = "application/dicom+json"


@pytest.mark.parametrize(
    ("content_type", "answer", "listed", "is_taken"),
    [
        (JSON, TAKEN, [], True),
        (f"{JSON}; charset=utf-8", TAKEN, LISTED, True),
        (f"{JSON}; charset=utf-8", FAILED, [], False),
        (JSON, FAILED, LISTED, False),
        (JSON, {}, LISTED, True),
        (JSON, {}, [], False),
    ],
)
def test_a_drawing_is_taken_where_the_archive_says_or_shows_so(
    content_type: str, answer: Any, listed: Any, is_taken: bool, tmp_path: Path
) -> None:
    file = factory.write_series(tmp_path)[0]
    with archive(content_type, answer, listed) as there:
        if is_taken:
            there.store(file)
        else:
            with pytest.raises(Refusal, match="did not take the drawing"):
                there.store(file)
