"""HTTP to other systems: sessions with credentials, certificate authority and a timeout for every request."""

from __future__ import annotations

from collections.abc import Callable
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


def every_page(search: Callable[[int], list[dict[str, Any]]], tag: str) -> list[dict[str, Any]]:
    """All answers to a query of an archive that may give them in pages.

    Parameters
    ----------
    search : callable
        Answers from an offset on.
    tag : str
        Identifies an answer. A page without new ones is the last: some archives know no offset and repeat themselves.
    """
    found: dict[str, dict[str, Any]] = {}
    offset = 0
    while True:
        page = search(offset)
        new = {value(item, tag): item for item in page if value(item, tag) not in found}
        if not new:
            return list(found.values())
        found |= new
        offset += len(page)


def what_failed(error: Exception) -> str:
    """How the other side failed, for people: the text of the error may quote its answer."""
    response = getattr(error, "response", None)
    return f"HTTP status {response.status_code}" if response is not None else type(error).__name__
