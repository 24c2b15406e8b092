"""Task: clicks that include or exclude tissue in one segment, and change nothing far from them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from imaging.geometry import Geometry, Volume
from imaging.labels import TumourLabel
from imaging.preparation import PreparedVisit
from monailabel_app.answers import Answer, Click
from monailabel_app.display import Display
from monailabel_app.label_values import WIRE_VALUES
from monailabel_app.local_edit import Evidence, edited
from monailabel_app.refusal import Refusal
from monailabel_app.tasks import CaseTask, Server, TaskAnswer, TaskRequest
from monailabel_app.tumour_task import network_labels
from monailabel_app.upstream import InferType

_MOST_CLICKS = 200


class ClickTask(CaseTask):
    """Refines the segment that is current in the viewer.

    The viewer sends all clicks of that segment each time; those that are in the present mask already are not done
    again, and one that was taken back is undone.
    """

    parameters = ("label", "foreground", "background")

    def __init__(self, server: Server) -> None:
        super().__init__(
            server,
            InferType.DEEPGROW,
            WIRE_VALUES,
            "Clicks: include or exclude tissue in the current segment",
        )

    def answer(self, request: TaskRequest) -> TaskAnswer:
        segment = request.parameters.get("label")
        if segment not in WIRE_VALUES:
            raise Refusal(f"Choose one of the segments {', '.join(WIRE_VALUES)} before clicking.")
        examination = request.examination
        visit = self.server.cases.prepared(examination)
        grid = visit.reference.geometry
        display = self.display(request)
        wanted = [
            *_clicks(str(segment), True, request.parameters.get("foreground"), display, grid),
            *_clicks(str(segment), False, request.parameters.get("background"), display, grid),
        ]
        evidence = evidence_of(self.server, request, visit)
        before = present(self.server, request, visit)
        if not before.complete:
            raise Refusal(
                "The server does not know what lay under your scribbles, and a click could leave a hole there; submit "
                "the label first, then click."
            )
        answer = with_clicks(before, str(segment), wanted, evidence)
        self.server.answers.put(examination.key, request.client, answer)
        own = (answer.labels.array == TumourLabel[str(segment)]).astype(np.uint8)
        return TaskAnswer(Volume(own, grid), {str(segment): 1}, {"clicks": len(wanted)})


def evidence_of(server: Server, request: TaskRequest, visit: PreparedVisit) -> Evidence:
    """Contrasts of the visit and what the network says of it."""
    result, grid = server.network.result(request.examination)
    return Evidence.of(visit, [Volume(channel.numpy(), grid) for channel in result.probabilities])


def present(server: Server, request: TaskRequest, visit: PreparedVisit) -> Answer:
    """The mask that the client has before it, else the network's answer.

    Raises
    ------
    Refusal
        409 if nobody knows what that is: somebody saved since the client opened the case, or it never opened it.
    """
    shown = last_shown(server, request, visit)
    if shown is not None:
        return shown
    seen = server.opened.seen(request.examination.key, request.client)
    if visit.correction is not None:
        raise Refusal(
            "There is a drawing of this case that you have not opened, so the server does not know what you have "
            "before you; submit what you have, if it is to be kept, or open the case again by Next Sample.",
            status=409,
        )
    return Answer(network_labels(server, request.examination), True, seen=seen)


def last_shown(server: Server, request: TaskRequest, visit: PreparedVisit) -> Answer | None:
    """What the server gave the client last: an answer, else the drawing that it opened; None where nobody knows."""
    key, client = request.examination.key, request.client
    seen = server.opened.seen(key, client)
    known = server.answers.get(key, client, seen)
    # A study may have grown by a better reference image since: an answer on another grid is not before the client.
    if known is not None and known.labels.geometry.matches(visit.reference.geometry):
        return known
    if visit.correction is not None and not server.opened.is_stale(key, client, request.examination.token):
        return Answer(visit.correction.labels, False, seen=seen)
    return None


def with_clicks(answer: Answer, segment: str, wanted: list[Click], evidence: Evidence) -> Answer:
    """An answer whose clicks on a segment are those wanted.

    Parameters
    ----------
    answer : Answer
        The present mask; clicks on other segments stay in it.
    segment : str
        Segment that ``wanted`` is about.
    wanted : list of Click
        All clicks on it.
    evidence : Evidence
        What refinement looks at.
    """
    base = answer.labels if answer.before_clicks is None else answer.before_clicks
    kept = [click for click in answer.clicks if click.segment != segment or click in wanted]
    labels, done = answer.labels, list(answer.clicks)
    if len(kept) < len(done):
        labels, done = base, []
    for click in [*kept, *wanted]:
        if click not in done:
            labels = _with_click(labels, click, evidence)
            done.append(click)
    return replace(answer, labels=labels, clicks=tuple(done), before_clicks=base if done else None)


def _with_click(labels: Volume, click: Click, evidence: Evidence) -> Volume:
    value = TumourLabel[click.segment]
    marks = np.array([click.voxel])
    after = edited(labels.array, labels.geometry, value, evidence, marks, click.include)
    return labels.with_array(replaced(labels.array, after, value))


def replaced(labels: np.ndarray, after: np.ndarray, value: TumourLabel) -> np.ndarray:
    """Labels in which one region is ``after``; what leaves it becomes background."""
    result = np.where(labels == value, 0, labels)
    return np.where(after, value, result).astype(np.uint8)


def _clicks(segment: str, include: bool, sent: Any, display: Display, grid: Geometry) -> Iterable[Click]:
    if sent is None:
        return []
    if not isinstance(sent, list) or len(sent) > _MOST_CLICKS:
        raise Refusal(f"Clicks must be a list of at most {_MOST_CLICKS} voxels.")
    return [Click(segment, include, _voxel(one, display, grid)) for one in sent]


def _voxel(sent: Any, display: Display, grid: Geometry) -> tuple[int, int, int]:
    numbers = isinstance(sent, list) and len(sent) == 3 and all(isinstance(n, (int, float)) for n in sent)
    if not numbers or not np.isfinite(sent).all():
        raise Refusal("A click must be three voxel indices.")
    i, j, k = (round(float(n)) for n in display.on_reference(np.array([sent], dtype=np.float64), grid)[0])
    if not all(0 <= n < size for n, size in zip((i, j, k), grid.shape, strict=True)):
        raise Refusal("A click lies outside the image; click on the image that the server gave.")
    return i, j, k
