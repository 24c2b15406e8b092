"""Login by OpenID Connect, as MONAI Label offers it: Slicer's own client, and a login service that keeps to the rules.

The login service is a stand-in that speaks the three calls of Keycloak which MONAI Label makes: the realm's public key,
the discovery document, and a token for name and password.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from urllib.parse import parse_qs

import jwt
import pytest
import requests
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.monailabel_app.served import RunningServer, start_server

PASSWORDS = {"anna": "tulip", "bert": "rose"}
ROLES = {"anna": ["monailabel-user", "monailabel-annotator"], "bert": ["something-else"]}


def token(key: RSAPrivateKey, name: str, seconds: float = 300.0) -> str:
    claims = {
        "preferred_username": name,
        "realm_access": {"roles": ROLES[name]},
        "exp": int(time.time() + seconds),
    }
    return jwt.encode(claims, key, algorithm="RS256")


class LoginService(ThreadingHTTPServer):
    """A realm with two people."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.key = generate_private_key(65537, 2048)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/realms/clinic"


class _Answers(BaseHTTPRequestHandler):
    server: LoginService

    def do_GET(self) -> None:
        if self.path.endswith("/.well-known/openid-configuration"):
            self._answer(200, {"token_endpoint": f"{self.server.url}/token"})
        else:
            public = self.server.key.public_key().public_bytes(
                Encoding.DER, PublicFormat.SubjectPublicKeyInfo
            )
            self._answer(200, {"public_key": base64.b64encode(public).decode()})

    def do_POST(self) -> None:
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        name, password = form["username"][0], form["password"][0]
        assert form["grant_type"] == ["password"] and form["client_id"] == ["monailabel-app"]
        if PASSWORDS.get(name) != password:
            self._answer(401, {"error": "invalid_grant"})
        else:
            self._answer(200, {"access_token": token(self.server.key, name), "token_type": "Bearer"})

    def _answer(self, status: int, content: dict[str, str]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def service() -> Iterator[LoginService]:
    with LoginService() as service:
        Thread(target=service.serve_forever, daemon=True).start()
        yield service
        service.shutdown()


@pytest.fixture(scope="module")
def guarded(
    service: LoginService, small_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningServer]:
    """A server without studies that lets in whom the login service knows."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "studies").mkdir()
    arguments = [
        "--studies",
        str(folder / "studies"),
        "--state",
        str(folder / "state"),
        "-m",
        str(small_bundle),
    ]
    environment = {"MONAI_LABEL_AUTH_ENABLE": "true", "MONAI_LABEL_AUTH_REALM_URI": service.url}
    running = start_server(folder / "log", arguments, environment)
    yield running
    running.stop()


def test_slicer_logs_in_with_name_and_password(slicer: ModuleType, guarded: RunningServer) -> None:
    client = slicer.MONAILabelClient(guarded.url)
    assert client.auth_enabled() and not client.auth_valid_token()
    with pytest.raises(slicer.MONAILabelClientException, match="401"):
        client.auth_token("anna", "guess")
    client.update_auth(client.auth_token("anna", PASSWORDS["anna"]))
    assert client.auth_valid_token()
    assert client.info()["name"] == "OncoTwin"
    with pytest.raises(slicer.MONAILabelClientException, match="403"):
        client.train_start("network", {"epochs": 1})


def test_whoever_is_not_known_or_has_no_role_is_kept_out(
    service: LoginService, guarded: RunningServer
) -> None:
    public = service.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    head, body = (
        {"alg": "HS256", "typ": "JWT"},
        {"realm_access": {"roles": ROLES["anna"]}, "exp": 9999999999},
    )
    signed = b".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (head, body)
    )
    mac = base64.urlsafe_b64encode(jwt.algorithms.HMACAlgorithm(hashlib.sha256).sign(signed, public)).rstrip(
        b"="
    )
    tried = {
        "nothing": None,
        "another key": token(generate_private_key(65537, 2048), "anna"),
        "the public key as a secret": (signed + b"." + mac).decode(),
        "expired": token(service.key, "anna", -10.0),
        "another role": token(service.key, "bert"),
    }
    for path in ("/info/", "/datastore/?output=all", "/proxy/dicom/qido/studies", "/ohif/"):
        for what, one in tried.items():
            headers = {} if one is None else {"Authorization": f"Bearer {one}"}
            answer = requests.get(f"{guarded.url}{path}", headers=headers, timeout=60)
            assert answer.status_code == (403 if what == "another role" else 401), (path, what)
