"""The web application: MONAI Label's, without what this server does not offer, behind a size limit and a token."""

from __future__ import annotations

import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from monailabel_app.repairs import repair
from monailabel_app.upstream import upstream_asgi

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

# Logs of the machine, weights, whole data sets, slides and a reload of the code are nobody's business.
_NOT_OFFERED = ("/logs", "/model", "/batch", "/infer/wsi", "/datastore/dataset", "/reload", "/docs")


def web_application(max_upload_bytes: int, token: str | None) -> Application:
    """MONAI Label's web application as this server offers it.

    Parameters
    ----------
    max_upload_bytes : int
        Larger requests are refused with 413.
    token : str or None
        When given, everything needs it as a bearer token, which viewers get by logging in with it as password.
    """
    repair()
    upstream_asgi.router.routes[:] = [
        route
        for route in upstream_asgi.router.routes
        if not str(getattr(route, "path", "")).startswith(_NOT_OFFERED)
    ]
    # Its only middleware lets every web page that is open in the user's browser drive the server; OHIF comes from the
    # server itself and needs none. (The setting for other origins cannot be used: subprocesses fail on it.)
    upstream_asgi.user_middleware.clear()
    application: Application = SizeLimit(ReadOnlyProxy(upstream_asgi), max_upload_bytes)
    return SharedToken(application, token) if token else application


class ReadOnlyProxy:
    """Lets viewers read from the archive through this server, and nothing else.

    The proxy would pass on any method, and a path with ".." would leave the archive's DICOMweb for its other services.
    """

    def __init__(self, application: Application) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope.get("path", ""))
        if path.startswith("/proxy/") and (scope["method"] != "GET" or ".." in path.split("/")):
            await _answer(send, 405, "Through this server the archive can only be read.")
            return
        await self._application(scope, receive, send)


class SizeLimit:
    """Refuses request bodies above a size, whether or not they state it."""

    def __init__(self, application: Application, limit: int) -> None:
        self._application = application
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        stated = _header(scope, b"content-length")
        if stated.isdigit() and int(stated) > self._limit:
            await _answer(send, 413, self._sentence)
            return
        taken, started = 0, False

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > self._limit:
                raise _TooLarge
            return message

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._application(scope, counted, noted)
        except _TooLarge:
            if not started:
                await _answer(send, 413, self._sentence)

    @property
    def _sentence(self) -> str:
        return f"The request is larger than {self._limit // 2**20} MB, which this server does not take."


class SharedToken:
    """One token for all users of the server.

    Slicer asks ``/auth/`` whether to log in, sends name and password to ``/auth/token``, and the token it gets with
    every request; here the password is the token.
    """

    def __init__(self, application: Application, token: str) -> None:
        self._application = application
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        path = scope["path"]
        if path == "/auth/" and scope["method"] == "GET":
            await _json(send, 200, {"enabled": True})
        elif path == "/auth/token" and scope["method"] == "POST":
            await self._log_in(receive, send)
        elif not self._is_token(_header(scope, b"authorization").removeprefix("Bearer ")):
            await _answer(send, 401, "Log in with the token that the server was started with as password.")
        elif path == "/auth/token/valid":
            await _json(send, 200, {})
        else:
            await self._application(scope, receive, send)

    async def _log_in(self, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more and len(body) < 10_000:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        password = parse_qs(body.decode("utf-8", "replace")).get("password", [""])[0]
        if self._is_token(password):
            await _json(send, 200, {"access_token": password, "token_type": "Bearer"})
        else:
            await _answer(send, 401, "The password is not the token that the server was started with.")

    def _is_token(self, word: str) -> bool:
        return hmac.compare_digest(word.encode(), self._token.encode())


class _TooLarge(Exception):
    """A body grew beyond the limit."""


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


async def _answer(send: Send, status: int, sentence: str) -> None:
    await _json(send, status, {"detail": sentence})


async def _json(send: Send, status: int, content: dict[str, Any]) -> None:
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
