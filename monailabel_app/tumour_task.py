"""Tasks: the tumour as it stands, and the tumour as the network sees it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from imaging.geometry import Volume
from imaging.labels import volumes_ml
from monailabel_app.answers import Answer
from monailabel_app.cases import labels_of
from monailabel_app.label_values import WIRE_VALUES, to_wire
from monailabel_app.studies import Examination
from monailabel_app.tasks import CaseTask, Server, TaskAnswer, TaskRequest
from monailabel_app.upstream import InferType


class TumourTask(CaseTask):
    """The newest drawing of a clinician, or the network's answer where nobody drew.

    Where Slicer is told to run models by itself, it runs the first one when it opens a case; so opening a finished case
    shows what was drawn and does not put the network's answer over it.
    """

    def __init__(self, server: Server) -> None:
        super().__init__(
            server,
            InferType.SEGMENTATION,
            WIRE_VALUES,
            "Tumour: the clinician's drawing where there is one, else the network",
        )

    def answer(self, request: TaskRequest) -> TaskAnswer:
        drawn = self.server.cases.drawing(request.examination)
        if drawn is None:
            return network_answer(self.server, request)
        # What is shown is the newest drawing, so saving over it is no accident.
        key, token = request.examination.key, request.examination.token
        self.server.opened.note(key, request.client, token)
        self.server.answers.put(key, request.client, Answer(drawn.labels, False, seen=token))
        return _as_answer(drawn.labels, {"source": drawn.source})


class NetworkTask(CaseTask):
    """The network's answer, whatever was drawn."""

    def __init__(self, server: Server) -> None:
        super().__init__(server, InferType.SEGMENTATION, WIRE_VALUES, "Tumour: the network's answer, afresh")

    def answer(self, request: TaskRequest) -> TaskAnswer:
        return network_answer(self.server, request)


def network_answer(server: Server, request: TaskRequest) -> TaskAnswer:
    """Segment the case and remember the answer as what the client has before it."""
    key, client = request.examination.key, request.client
    labels = network_labels(server, request.examination)
    server.answers.put(key, client, Answer(labels, True, seen=server.opened.seen(key, client)))
    result, _ = server.network.result(request.examination)
    described = server.models.segmenter.description
    notes = list(result.out_of_family)
    if result.missing_roles:
        notes.append(f"Segmented without {', '.join(result.missing_roles).upper()}.")
    said = {
        "source": "network",
        "model": f"{described.name} {described.version}",
        "uncertainty": round(result.uncertainty, 3),
        "notes": notes,
    }
    return _as_answer(labels, said)


def network_labels(server: Server, examination: Examination) -> Volume:
    """The network's answer on the grid of the visit's reference image."""
    result, grid = server.network.result(examination)
    return labels_of(server.models.segmenter, result, grid, server.cases.prepared(examination).reference)


def _as_answer(labels: Volume, said: Mapping[str, object]) -> TaskAnswer:
    volumes = volumes_ml(labels.array, labels.geometry.voxel_volume_mm3)
    rounded = {region: round(volume, 2) for region, volume in volumes.items()}
    wire = labels.with_array(np.asarray(to_wire(labels.array)))
    return TaskAnswer(wire, WIRE_VALUES, {**said, "volumes_ml": rounded})
