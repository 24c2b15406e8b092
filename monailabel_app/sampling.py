"""Which case a clinician is offered next."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from monailabel_app.clients import name_of
from monailabel_app.opened import OpenedCases
from monailabel_app.upstream import Datastore, Strategy


class RandomCase(Strategy):
    """A case that nobody has drawn on, by chance; one that nobody else has open where there is one."""

    def __init__(self, opened: OpenedCases) -> None:
        super().__init__("A case without a drawing, by chance")
        self._opened = opened

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        open_cases = datastore.get_unlabeled_images()
        free = undisturbed(open_cases, request, self._opened)
        return {"id": random.choice(free)} if free else None


class MostTelling(Strategy):
    """The case without a drawing that scored highest; by chance while no score is of what is there now.

    Parameters
    ----------
    opened : OpenedCases
        Who works on what.
    scores : callable
        Gives the scores by case.
    description : str
        For viewers.
    is_current : callable, optional
        Whether the score of a case rests on its images and drawings as they are now. Asked from the highest score down
        and no further than needed: an archive is asked for the whole patient.
    """

    def __init__(
        self,
        opened: OpenedCases,
        scores: Callable[[], Mapping[str, float]],
        description: str,
        is_current: Callable[[str], bool] = lambda key: True,
    ) -> None:
        super().__init__(description)
        self._opened = opened
        self._scores = scores
        self._is_current = is_current

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        free = undisturbed(datastore.get_unlabeled_images(), request, self._opened)
        if not free:
            return None
        scores = self._scores()
        scored = sorted((key for key in free if key in scores), key=lambda key: scores[key], reverse=True)
        best = next((key for key in scored if self._is_current(key)), None)
        if best is None:
            return {"id": random.choice(free), "note": "Chosen by chance: no score is of what is there now."}
        return {"id": best, "score": scores[best]}


class FinishedCase(Strategy):
    """A case with a drawing, to look at or edit again: the one that nobody has looked at for longest."""

    def __init__(self, opened: OpenedCases) -> None:
        super().__init__("A finished case, to look at or edit again")
        self._opened = opened

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        finished = undisturbed(datastore.get_labeled_images(), request, self._opened)
        return {"id": min(finished, key=self._opened.last_opened)} if finished else None


def undisturbed(keys: Sequence[str], request: dict[str, Any], opened: OpenedCases) -> list[str]:
    """Those that no other client has open; all of them when each is open somewhere."""
    client = name_of(request.get("client_id"))
    return [key for key in keys if not opened.by_others(key, client)] or list(keys)
