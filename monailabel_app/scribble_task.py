"""Task: scribbles over the segments as they stand in the viewer, manual edits included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from imaging.geometry import Geometry, Volume
from imaging.labels import TumourLabel
from monailabel_app.answers import Answer
from monailabel_app.click_task import evidence_of, last_shown, replaced
from monailabel_app.label_files import read_labels
from monailabel_app.label_values import WIRE_VALUES, from_wire
from monailabel_app.local_edit import edited
from monailabel_app.refinement import Mask
from monailabel_app.refusal import Refusal
from monailabel_app.tasks import CaseTask, Server, TaskAnswer, TaskRequest
from monailabel_app.upstream import InferType

_INCLUDE, _EXCLUDE = "foreground_scribbles", "background_scribbles"
_REACH_MM = 10.0
# Voxels along a stroke lie close together; every third or so marks it as well.
_MOST_MARKS = 60


class ScribbleTask(CaseTask):
    """Adds and takes away what scribbles mark, in the segment chosen, starting from what the viewer shows now.

    Of all panels in Slicer only this one sends the present segments, so it alone can build on manual edits.
    """

    parameters = ("label_info", "selected_label_name", "roi")

    def __init__(self, server: Server) -> None:
        super().__init__(
            server,
            InferType.SCRIBBLES,
            WIRE_VALUES,
            "Scribbles: include or exclude tissue, keeping manual edits",
        )

    def answer(self, request: TaskRequest) -> TaskAnswer:
        name = request.parameters.get("selected_label_name")
        if name not in WIRE_VALUES:
            raise Refusal(f"Choose one of the segments {', '.join(WIRE_VALUES)} before scribbling.")
        label_info = request.parameters.get("label_info")
        if request.mask is None or not isinstance(label_info, list):
            raise Refusal("Scribbles come with the present segments, and none were sent.")
        visit = self.server.cases.prepared(request.examination)
        grid = visit.reference.geometry
        sent = read_labels(request.mask, grid).array
        strokes = {stroke: _named(sent, label_info, stroke) for stroke in (_INCLUDE, _EXCLUDE)}
        if not any(stroke.any() for stroke in strokes.values()):
            raise Refusal("There are no scribbles; draw some with the foreground or background brush.")
        labels = from_wire(sent, label_info)
        # What a stroke covers is not in the label map, whatever its segment: there stands what the server gave last.
        earlier = last_shown(self.server, request, visit)
        covered = strokes[_INCLUDE] | strokes[_EXCLUDE]
        if earlier is not None:
            labels = np.where(covered, earlier.labels.array, labels)
        value = TumourLabel[str(name)]
        present = labels == value
        after = present | strokes[_INCLUDE]
        evidence = evidence_of(self.server, request, visit)
        for stroke, include in ((_INCLUDE, True), (_EXCLUDE, False)):
            if strokes[stroke].any():
                marks = _marks(strokes[stroke])
                shown = replaced(labels, after, value)
                after = edited(shown, grid, value, evidence, marks, include, _REACH_MM, strokes=True)
        after = (after | strokes[_INCLUDE]) & ~strokes[_EXCLUDE]
        inside = _inside(request.parameters.get("roi"), grid)
        after = np.where(inside, after, present)
        key, client = request.examination.key, request.client
        answer = Answer(
            Volume(replaced(labels, after, value), grid),
            from_network=earlier is not None and earlier.from_network,
            seen=self.server.opened.seen(key, client),
            # An included voxel is of the segment; of any other the label under the stroke must be known.
            complete=(earlier is not None and earlier.complete)
            or not (covered & ~(strokes[_INCLUDE] & inside)).any(),
        )
        self.server.answers.put(key, client, answer)
        return TaskAnswer(Volume(after.astype(np.uint8), grid), {str(name): 1}, {})


def _named(sent: np.ndarray, label_info: Sequence[Any], name: str) -> Mask:
    values = [number for number, item in enumerate(label_info, start=1) if item.get("name") == name]
    return np.isin(sent, values)


def _marks(stroke: Mask) -> np.ndarray:
    voxels = np.argwhere(stroke)
    return voxels[:: max(1, len(voxels) // _MOST_MARKS)]


def _inside(roi: Any, grid: Geometry) -> Mask:
    """Voxels within the box [i0, i1, j0, j1, k0, k1] that Slicer sends when a region of interest was placed."""
    inside = np.zeros(grid.shape, dtype=bool)
    if not isinstance(roi, list) or len(roi) != 6 or not all(isinstance(n, (int, float)) for n in roi):
        return ~inside
    box = [sorted((round(roi[axis]), round(roi[axis + 1]))) for axis in (0, 2, 4)]
    inside[tuple(slice(max(low, 0), high + 1) for low, high in box)] = True
    return inside
