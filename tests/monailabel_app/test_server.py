"""What stands before MONAI Label's web application: size limit, token, a proxy that only reads."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import requests
import uvicorn

from monailabel_app.__main__ import main
from monailabel_app.server import Application, ReadOnlyProxy, SharedToken, SizeLimit
from tests.monailabel_app.private_network import PrivateNetwork
from tests.monailabel_app.served import start_server


async def behind(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads its whole body and says how long it was."""
    if scope["type"] != "http":
        return
    length, more = 0, True
    while more:
        message = await receive()
        length += len(message.get("body", b""))
        more = message.get("more_body", False)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(length).encode()})


@contextmanager
def served(application: Application) -> Iterator[str]:
    server = uvicorn.Server(
        uvicorn.Config(application, host="127.0.0.1", port=0, log_level="error", lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        thread.join(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def test_large_requests_are_refused_whether_they_say_so_or_not() -> None:
    with served(SizeLimit(behind, 1000)) as url:
        assert requests.put(url, data=b"x" * 1000, timeout=10).text == "1000"
        stated = requests.put(url, data=b"x" * 1001, timeout=10)
        unstated = requests.put(url, data=(b"x" * 100 for _ in range(11)), timeout=10)
    for answer in (stated, unstated):
        assert answer.status_code == 413 and "larger than" in answer.json()["detail"]


def test_slicer_logs_in_with_the_token_as_password(slicer: ModuleType) -> None:
    with served(SharedToken(behind, "s3cret")) as url:
        client = slicer.MONAILabelClient(url)
        assert client.auth_enabled() and not client.auth_valid_token()
        with pytest.raises(slicer.MONAILabelClientException):
            client.auth_token("anna", "guess")
        client.update_auth(client.auth_token("anna", "s3cret"))
        assert client.auth_valid_token()
        assert requests.get(f"{url}/info/", headers=client._headers, timeout=10).status_code == 200
        for headers in ({}, {"Authorization": "Bearer guess"}, {"Authorization": "Basic s3cret"}):
            for path in ("/info/", "/datastore/", "/ohif/", "/proxy/dicom/qido/studies"):
                assert requests.get(f"{url}{path}", headers=headers, timeout=10).status_code == 401


def test_the_proxy_only_reads() -> None:
    with served(ReadOnlyProxy(behind)) as url:
        assert requests.get(f"{url}/proxy/dicom/qido/studies", timeout=10).status_code == 200
        assert requests.post(f"{url}/proxy/dicom/stow/studies", data=b"x", timeout=10).status_code == 405
        assert requests.put(f"{url}/datastore/label", data=b"x", timeout=10).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--studies", "/nowhere/at/all"], "is no folder"),
        (["--studies", ".", "--token-file", "/nowhere"], "cannot be read"),
        (["--studies", ".", "--models", "docs"], "no MONAI bundle"),
        (["--studies", ".", "--config", "README.md"], "README.md"),
    ],
)
def test_settings_that_cannot_be_used_are_told_before_anything_is_served(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*arguments, "--state", str(tmp_path / "state")]) == 2
    assert sentence in capsys.readouterr().err


def test_nothing_is_fetched_at_the_start(studies: Path, small_bundle: Path, tmp_path: Path) -> None:
    """With empty caches, on a machine whose only way out is a proxy that listens whether it is asked."""
    with PrivateNetwork(), socket.create_server(("127.0.0.1", 0)) as proxy:
        way_out = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        caches = {name: str(tmp_path / name) for name in ("HOME", "XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME")}
        proxies = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), way_out)
        arguments = ["--studies", str(studies), "--models", str(small_bundle)]
        server = start_server(
            tmp_path / "log", [*arguments, "--state", str(tmp_path / "state")], {**caches, **proxies}
        )
        try:
            assert "network" in requests.get(f"{server.url}/info/", timeout=60).json()["models"]
            assert requests.get(f"{server.url}/ohif/", timeout=60).status_code == 200
        finally:
            server.stop()
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):  # no one has called
            proxy.accept()
