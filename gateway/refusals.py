"""Why an instance was not taken, and what that makes of its study."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

OUT_OF_RESOURCES = 0xA700
CANNOT_UNDERSTAND = 0xC000


class Refusal(str, Enum):
    """Reasons; the metrics count them by these names."""

    BACK_PRESSURE = "back_pressure"
    RATE = "rate"
    TOO_LARGE = "too_large"
    TOO_MANY_INSTANCES = "too_many_instances"
    DISK = "disk"
    BROKEN_OFF = "broken_off"
    FAULT = "fault"
    NOT_UNDERSTOOD = "not_understood"

    @property
    def status(self) -> int:
        """Answer to C-STORE."""
        return CANNOT_UNDERSTAND if self is Refusal.NOT_UNDERSTOOD else OUT_OF_RESOURCES


_WORDS: dict[str, str] = {
    Refusal.BACK_PRESSURE: "disk or queue was full",
    Refusal.RATE: "they came faster than instances_per_second",
    Refusal.TOO_LARGE: "they are larger than max_instance_mb",
    Refusal.TOO_MANY_INSTANCES: "the study has more than max_instances_per_study",
    Refusal.DISK: "the work folder could not be written",
    Refusal.BROKEN_OFF: "the connection broke off",
    Refusal.FAULT: "of a fault of the program or its database",
    Refusal.NOT_UNDERSTOOD: "their SOP Instance UID is no UID",
}


def sentence_for(refused: Mapping[str, str]) -> str:
    """What a person is told of a study that lacks what was refused (key of the instance: reason)."""
    # A full disk may have kept a reason from being written.
    reasons = sorted({_WORDS.get(reason, _WORDS[Refusal.DISK]) for reason in refused.values()})
    images = "1 image of this study was" if len(refused) == 1 else f"{len(refused)} images of this study were"
    return f"{images} refused because {' and '.join(reasons)}; send the study again, and it runs when it is whole."
