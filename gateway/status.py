"""Read-only web page of the gateway: ``/`` jobs, ``/jobs.json`` the same for machines, ``/metrics``, ``/healthz``."""

from __future__ import annotations

import json
import ssl
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, select_autoescape
from prometheus_client import generate_latest
from sqlalchemy.exc import SQLAlchemyError

from gateway.service import Gateway

_JOBS_SHOWN = 200
_PLAIN = "text/plain; charset=utf-8"
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}


class StatusPage:
    """Serves the page from threads of its own.

    Parameters
    ----------
    gateway : Gateway
        What is shown.
    version : str
        Version of the product.
    """

    def __init__(self, gateway: Gateway, version: str) -> None:
        self._gateway = gateway
        self._version = version
        templates = Environment(
            loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape()
        )
        self._template = templates.get_template("status.html")
        settings = gateway.settings.status
        self._server = ThreadingHTTPServer((settings.host, settings.port), _handler(self))
        self._server.daemon_threads = True
        if settings.certificate is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(settings.certificate, settings.key)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._server.server_address[1])

    def start(self) -> None:
        """Begin to serve."""
        threading.Thread(target=self._server.serve_forever, name="status", daemon=True).start()

    def stop(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str) -> tuple[HTTPStatus, str, bytes]:
        """Status, content type and body of a path."""
        jobs = self._gateway.jobs
        try:
            if path == "/":
                page = self._template.render(
                    version=self._version,
                    pressure=self._gateway.pressure(),
                    counts={state.value: number for state, number in jobs.counts().items()},
                    jobs=jobs.latest(_JOBS_SHOWN),
                    viewer=self._gateway.settings.status.viewer,
                )
                return HTTPStatus.OK, "text/html; charset=utf-8", page.encode()
            if path == "/jobs.json":
                return HTTPStatus.OK, "application/json", json.dumps(self._jobs_as_json()).encode()
            if path == "/metrics":
                body = generate_latest(self._gateway.metrics.registry)
                return HTTPStatus.OK, "text/plain; version=0.0.4; charset=utf-8", body
            if path == "/healthz":
                jobs.counts()
                return HTTPStatus.OK, _PLAIN, b"ok\n"
        except SQLAlchemyError:
            return HTTPStatus.SERVICE_UNAVAILABLE, _PLAIN, b"the database of jobs does not answer\n"
        return HTTPStatus.NOT_FOUND, _PLAIN, b"not found\n"

    def _jobs_as_json(self) -> list[dict[str, object]]:
        return [
            {
                "id": job.id,
                "study": job.study_uid,
                "version": job.version,
                "instances": len(job.instances),
                "state": job.state.value,
                "attempts": job.attempts,
                "reason": job.reason,
                "sentence": job.sentence,
                "updated": job.updated.isoformat(timespec="seconds"),
            }
            for job in self._gateway.jobs.latest(_JOBS_SHOWN)
        ]


def _handler(page: StatusPage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        # A caller that says nothing is not waited for.
        timeout = 10
        server_version = "OncoTwin"
        sys_version = ""

        def do_GET(self) -> None:
            status, content_type, body = page.answer(self.path.split("?")[0])
            self.send_response(status)
            for name, content in {
                **_HEADERS,
                "Content-Type": content_type,
                "Content-Length": str(len(body)),
            }.items():
                self.send_header(name, content)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            """Requests are not logged: they may carry anything."""

    return Handler
