"""The one error of this room: a request that is not done, with the sentence that the viewer shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastapi import HTTPException

from imaging.errors import ImagingError
from segmentation.errors import ModelError
from twin.errors import TwinError

DATA_ERRORS = (ImagingError, ModelError, TwinError)
"""What the rooms raise when images, model or visits cannot be used."""


class Refusal(HTTPException):
    """A request that cannot be done; ``detail`` is one sentence for the person at the viewer.

    Parameters
    ----------
    sentence : str
        What is wrong and what to do. Never patient data.
    status : int
        HTTP status code.
    """

    def __init__(self, sentence: str, status: int = 400) -> None:
        super().__init__(status_code=status, detail=sentence)


def as_refusal(error: Exception) -> Refusal:
    """What a room said about the data, as an answer to the viewer."""
    return Refusal(str(error))


@contextmanager
def refusing() -> Iterator[None]:
    """Turns what the rooms say about the data into an answer for the viewer."""
    try:
        yield
    except DATA_ERRORS as error:
        raise as_refusal(error) from error
