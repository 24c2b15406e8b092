"""HTTP to other systems: sessions with credentials, certificate authority and a timeout for every request."""

from __future__ import annotations

from typing import Any

import requests
from dicomweb_client.api import DICOMwebClient

from gateway.settings import WebSection


class _TimedSession(requests.Session):
    """A session none of whose requests can wait for ever."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        self._timeout_s = timeout_s

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        if options.get("timeout") is None:
            options["timeout"] = self._timeout_s
        return super().request(*arguments, **options)


def session_for(settings: WebSection) -> requests.Session:
    """A session for a web service; nothing of the environment (proxies, netrc) changes where data go."""
    session = _TimedSession(settings.timeout_seconds)
    session.trust_env = False
    if settings.user:
        session.auth = (settings.user, settings.password)
    if settings.authority is not None:
        session.verify = str(settings.authority)
    return session


def dicomweb(settings: WebSection) -> DICOMwebClient:
    """A DICOMweb client."""
    return DICOMwebClient(settings.url, session=session_for(settings), timeout=settings.timeout_seconds)


def value(item: dict[str, Any], tag: str) -> str:
    """First value of an attribute of a DICOM JSON object as text; empty when absent."""
    values = item.get(tag, {}).get("Value") or [""]
    return str(values[0]).strip()
