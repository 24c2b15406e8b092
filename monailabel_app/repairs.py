"""Where MONAI Label 0.8.5 fails or trusts too much: mended once, before its web application is used."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import jwt
import requests
from starlette.requests import Request
from starlette.responses import JSONResponse

from monailabel_app.uploads import cleaning_up
from monailabel_app.upstream import (
    AsyncTask,
    upstream_asgi,
    upstream_auth,
    upstream_datastore,
    upstream_infer,
)

# With the keys that login services publish; never a shared secret, which a public key could be taken for.
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
_OF_BACKGROUND_TASKS = frozenset({"model", "method", "part", "epochs", "learning_rate"})
_NOT_ALLOWED = (400, 401, 403)


def repair() -> None:
    """Mend the loaded MONAI Label; a second call changes nothing."""
    if not isinstance(upstream_auth.jwt, SimpleNamespace):
        # It names no algorithm, without which PyJWT refuses every token.
        upstream_auth.jwt = SimpleNamespace(
            decode=functools.partial(jwt.decode, algorithms=list(_ALGORITHMS))
        )
        AsyncTask.run = staticmethod(_with_known_keys(AsyncTask.run))
        for module, name in (
            (upstream_datastore, "save_label"),
            (upstream_datastore, "add_image"),
            (upstream_infer, "run_inference"),
        ):
            setattr(module, name, cleaning_up(getattr(module, name)))
        upstream_asgi.add_exception_handler(requests.RequestException, _service_failed)


def _with_known_keys(run: Callable[..., Any]) -> Callable[..., Any]:
    """Starting training or scoring, without what else a request says.

    MONAI Label would put a request's ``bundle_path`` into the search path of the process it starts, and ``gpus`` into
    that process's environment.
    """

    def known(said: Mapping[str, Any] | None) -> dict[str, Any]:
        return {key: value for key, value in (said or {}).items() if key in _OF_BACKGROUND_TASKS}

    def run_known(
        method: str,
        request: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
        force_sync: bool = False,
        enqueue: bool = False,
    ) -> Any:
        return run(
            method, request={**known(params), **known(request)}, force_sync=force_sync, enqueue=enqueue
        )

    return run_known


async def _service_failed(_: Request, error: Exception) -> JSONResponse:
    """A login service or archive that MONAI Label itself asked did not do what it was asked."""
    answer = getattr(error, "response", None)
    if answer is not None and answer.status_code in _NOT_ALLOWED:
        return JSONResponse({"detail": "The login service does not accept this name and password."}, 401)
    sentence = f"A service behind this server does not answer as it should ({type(error).__name__}); try again later."
    return JSONResponse({"detail": sentence}, 502)
