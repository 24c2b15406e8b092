"""The mask that a client has before it, as far as the server knows: what the last task or save gave it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from imaging.geometry import Volume

_KEPT = 16


@dataclass(frozen=True)
class Click:
    """A click on the displayed image.

    Parameters
    ----------
    segment : str
        "NCR", "ED" or "ET".
    include : bool
        Whether the voxel belongs to the segment.
    voxel : tuple of int
        Its index.
    """

    segment: str
    include: bool
    voxel: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Answer:
    """A present mask.

    Parameters
    ----------
    labels : Volume
        uint8 tumour labels on the grid of the visit's reference image.
    from_network : bool
        Whether it began as the network's answer.
    clicks : tuple of Click
        Those that are in it, in the order they were done.
    before_clicks : Volume or None
        The mask without them; None when there are none.
    seen : str
        Token of the drawing that the client had seen when the mask was made, see
        :class:`monailabel_app.opened.OpenedCases`.
    complete : bool
        False if some of it lay under strokes and nobody knows what is there.
    """

    labels: Volume
    from_network: bool
    clicks: tuple[Click, ...] = ()
    before_clicks: Volume | None = None
    seen: str = ""
    complete: bool = True


class Answers:
    """The last answer of each client and case."""

    def __init__(self) -> None:
        self._answers: OrderedDict[tuple[str, str], Answer] = OrderedDict()

    def put(self, key: str, client: str, answer: Answer) -> None:
        """Remember what a client was given; a client that nobody knows (empty) is given nothing twice."""
        if not client:
            return
        self._answers[key, client] = answer
        self._answers.move_to_end((key, client))
        while len(self._answers) > _KEPT:
            self._answers.popitem(last=False)

    def get(self, key: str, client: str, seen: str) -> Answer | None:
        """What a client that has seen the drawing ``seen`` was given last.

        None if nothing since the server started, or if it has seen another drawing since: that is before it now.
        """
        answer = self._answers.get((key, client))
        return answer if answer is not None and answer.seen == seen else None

    def drop(self, key: str, client: str) -> None:
        """Forget what a client was given: it has opened the case again."""
        self._answers.pop((key, client), None)
