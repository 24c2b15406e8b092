"""What archives say of an object that they do not take, in the codes that C-STORE and STOW-RS share."""

from __future__ import annotations

from dataclasses import dataclass

# Success, the three warnings (PS3.4 B.2.3), and a duplicate: our UIDs depend on content, so what is there is the same.
STORED = (0x0000, 0xB000, 0xB006, 0xB007, 0x0111)
_MEANINGS = {
    0x0110: "processing failure",
    0x0117: "invalid object",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0xC122: "transfer syntax not supported",
}
_FAMILIES = {
    0xA7: "out of resources",
    0xA9: "the object does not match its SOP class",
    **dict.fromkeys(range(0xC0, 0xD0), "the object is not understood"),
}
_PROCESSING_FAILURE = 0x0110
_OUT_OF_RESOURCES = 0xA7


@dataclass(frozen=True)
class Rejection:
    """How an object was rejected, for people, and whether it would be again."""

    answer: str
    is_final: bool


def words_of(code: int) -> str:
    """A status of C-STORE (PS3.7 annex C, PS3.4 B.2.3) or a Failure Reason of STOW-RS (PS3.18 10.5.3) for people."""
    meaning = _MEANINGS.get(code) or _FAMILIES.get(code >> 8)
    return f"{code:#06x}, {meaning}" if meaning else f"{code:#06x}"


def may_pass(code: int) -> bool:
    """Whether the same object may be taken later."""
    return code == _PROCESSING_FAILURE or code >> 8 == _OUT_OF_RESOURCES
