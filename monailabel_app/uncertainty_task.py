"""Task: where the network is unsure, as two bands."""

from __future__ import annotations

import numpy as np

from imaging.geometry import Volume
from monailabel_app.tasks import CaseTask, Server, TaskAnswer, TaskRequest
from monailabel_app.upstream import InferType

_BANDS = {"UNSURE somewhat": 1, "UNSURE very": 2}
# Entropy over log 4: two classes equally likely give 0.5.
_SOMEWHAT, _VERY = 0.25, 0.5


class UncertaintyTask(CaseTask):
    """Voxels of high entropy: 0.25 to 0.5, and from 0.5, where two classes at odds begin."""

    def __init__(self, server: Server) -> None:
        super().__init__(
            server,
            InferType.SEGMENTATION,
            _BANDS,
            "Uncertainty of the network, as bands; remove before submitting",
        )

    def answer(self, request: TaskRequest) -> TaskAnswer:
        result, grid = self.server.network.result(request.examination)
        target = self.server.cases.prepared(request.examination).reference.geometry
        entropy = Volume(result.uncertainty_map.numpy(), grid).resampled(target).array
        bands = (entropy >= _SOMEWHAT).astype(np.uint8) + (entropy >= _VERY)
        said = {"uncertainty": round(result.uncertainty, 3), "entropy_of_bands": [_SOMEWHAT, _VERY]}
        return TaskAnswer(Volume(bands.astype(np.uint8), target), _BANDS, said)
