"""Failures of a run as exit codes: the one place where a room's error becomes what a shell sees."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from imaging.errors import ImagingError, Reason
from segmentation.errors import ModelError
from twin.errors import TwinError


class ExitCode(IntEnum):
    """Exit codes of the application; documented in docs/command-line.md."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    INPUT = 3
    REGISTRATION = 4
    MODEL = 5
    CALIBRATION = 6
    OUTPUT = 7


@dataclass(frozen=True)
class Failure:
    """Why a run gave no result.

    Parameters
    ----------
    exit_code : ExitCode
        For the shell.
    reason : str
        Machine-readable.
    sentence : str
        For the person who must act.
    """

    exit_code: ExitCode
    reason: str
    sentence: str


_BY_REASON = {
    Reason.REGISTRATION_FAILED: ExitCode.REGISTRATION,
    Reason.BAD_OUTPUT_FOLDER: ExitCode.OUTPUT,
}


def as_failure(error: BaseException) -> Failure | None:
    """The failure that an exception stands for; None when it is a fault of the program."""
    if isinstance(error, ImagingError):
        return Failure(_BY_REASON.get(error.reason, ExitCode.INPUT), error.reason.value, error.message)
    if isinstance(error, ModelError):
        return Failure(ExitCode.MODEL, "model_unusable", str(error))
    if isinstance(error, TwinError):
        return Failure(ExitCode.CALIBRATION, str(error.code), str(error))
    return None
