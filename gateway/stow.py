"""Stores one object by STOW-RS (DICOM PS3.18 10.5) and reads what the archive says of it."""

from __future__ import annotations

import json
import re
import secrets
from pathlib import Path

import requests

from gateway.rejections import STORED, Rejection, may_pass, words_of

_FAILED_SOP_SEQUENCE = "00081198"
_FAILURE_REASON = "00081197"
_IN_XML = re.compile(rf'tag="{_FAILURE_REASON}"[^>]*>\s*<Value[^>]*>\s*(\d+)\s*</Value>')
# What is wrong with the request itself, here always one object; the same object would get the same answer.
_FINAL = (
    requests.codes.bad_request,
    requests.codes.conflict,
    requests.codes.request_entity_too_large,
    requests.codes.unsupported_media_type,
    requests.codes.unprocessable_entity,
)


def store(session: requests.Session, url: str, file: Path) -> Rejection | None:
    """Send one object, so that an answer is always about it alone.

    Parameters
    ----------
    session : requests.Session
        For the archive.
    url : str
        DICOMweb root.
    file : pathlib.Path
        The object.

    Returns
    -------
    Rejection or None
        Why the archive did not take this object; None when it did not say so.

    Raises
    ------
    requests.RequestException
        When the archive cannot be reached or takes nothing at all now.
    """
    boundary = secrets.token_hex(16)
    head = f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode()
    answer = session.post(
        f"{url.rstrip('/')}/studies",
        data=head + file.read_bytes() + f"\r\n--{boundary}--\r\n".encode(),
        headers={
            "Content-Type": f'multipart/related; type="application/dicom"; boundary={boundary}',
            "Accept": "application/dicom+json",
        },
    )
    status = answer.status_code
    is_failed, reason = _failure(answer.content.decode(errors="replace"))
    # An archive that chokes on one object may well take the next.
    if status not in (*_FINAL, requests.codes.internal_server_error):
        answer.raise_for_status()
        if not is_failed:
            return None
    if reason is None:
        return Rejection(f"HTTP status {status}, no failure reason", status in _FINAL)
    if reason in STORED:
        return None
    return Rejection(f"HTTP status {status}, failure reason {words_of(reason)}", not may_pass(reason))


def _failure(body: str) -> tuple[bool, int | None]:
    """Whether the one object sent is named as failed, and the Failure Reason; some archives answer in XML anyway."""
    in_xml = _IN_XML.search(body)
    if in_xml:
        return True, int(in_xml[1])
    try:
        answer = json.loads(body)
        (answer,) = answer if isinstance(answer, list) else [answer]
        failed = answer[_FAILED_SOP_SEQUENCE]["Value"][0]
    except (ValueError, LookupError, TypeError):
        return False, None  # or no answer that we can read: presence is asked for afterwards
    try:
        return True, int(failed[_FAILURE_REASON]["Value"][0])
    except (ValueError, LookupError, TypeError):
        return True, None
