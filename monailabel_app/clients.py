"""Who asks: the person of a name, or, where Slicer sends the name that all begin with, one opening of a case.

Every Slicer calls itself alike until somebody sets its name, so that name tells nobody apart, and neither does an
address: several work on one terminal server or behind one proxy. Slicer sends the id that it got by Next Sample with
everything it does on the case; so an id made for one opening tells whose request it is.
"""

from __future__ import annotations

import secrets

_EVERYBODY = "user-xyz"
_MARK = "~"  # stands in no UID

SET_A_NAME = (
    "This Slicer still has the name that all Slicers begin with; set its own, so that you are told from others: Edit, "
    "Application Settings, MONAI Label, Client/User-ID."
)
"""What to do about a client that has no name of its own."""


def name_of(client_id: object) -> str:
    """The name that a person has set; empty for none and for the one that every Slicer begins with."""
    name = str(client_id or "")
    return "" if name == _EVERYBODY else name


def new_opening(key: str, client_id: object) -> str:
    """Id under which a client gets a case that it opens: the case's own for a name, else one of this opening alone."""
    return key if name_of(client_id) else f"{key}{_MARK}{secrets.token_hex(8)}"


def case_of(image: str) -> str:
    """What an id means, whether or not it is that of one opening."""
    return image.partition(_MARK)[0]


def client_of(client_id: object, image: str) -> str:
    """Who asks about an image; empty when nobody knows: another request without a name may be another person's."""
    return image if _MARK in image else name_of(client_id)


def has_name(client: str) -> bool:
    """Whether a client is the person of a name."""
    return bool(client) and _MARK not in client
