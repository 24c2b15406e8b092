"""How much a drawing of a case would teach: scores computed on request, kept for the model they belong to."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monailabel_app.growth import Growth
from monailabel_app.refusal import DATA_ERRORS, Refusal
from monailabel_app.studies import Examination
from monailabel_app.tasks import Server
from monailabel_app.twin_tasks import disagreement
from monailabel_app.upstream import Datastore, ScoringMethod
from segmentation.inference import TumourSegmenter

log = logging.getLogger("oncotwin.label")

# Below this mean probability every variant agrees that there is nothing.
_POSSIBLE_TUMOUR = 0.1
_SHIFTS = (0, 3)
# Largest variance of a probability.
_LARGEST_VARIANCE = 0.25


class Scores:
    """Scores of cases by method, in a file that server and scoring process share.

    Parameters
    ----------
    path : pathlib.Path
        JSON file of its own.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def of(self, method: str, model: str) -> dict[str, float]:
        """Score by case under one model; empty before anything was scored."""
        found: dict[str, float] = self._read().get(method, {}).get(model, {})
        return found

    def add(self, method: str, model: str, key: str, score: float) -> None:
        """Keep a score; those of other models are dropped."""
        content = self._read()
        known = content.get(method, {}).get(model, {})
        content[method] = {model: {**known, key: score}}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_name(f".{self._path.name}.part")
        part.write_text(json.dumps(content), encoding="utf-8")
        os.replace(part, self._path)

    def _read(self) -> dict[str, dict[str, dict[str, float]]]:
        if not self._path.is_file():
            return {}
        content: dict[str, dict[str, dict[str, float]]] = json.loads(self._path.read_text(encoding="utf-8"))
        return content


class CaseScoring(ScoringMethod):
    """Scores every case without a drawing, in a process of its own (``POST /scoring/METHOD``).

    Parameters
    ----------
    name : str
        Of the method.
    description : str
        What a high score means.
    score : callable
        Examination to score; raises one of the rooms' errors where there is none.
    """

    def __init__(
        self,
        server: Server,
        scores: Scores,
        name: str,
        description: str,
        score: Callable[[Examination], float],
    ) -> None:
        super().__init__(description)
        self._server = server
        self._scores = scores
        self._name = name
        self._score = score

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        model = self._server.models.identity.sha256
        done, without = 0, 0
        for key in datastore.get_unlabeled_images():
            if key in self._scores.of(self._name, model):
                continue
            try:
                score = self._score(self._server.studies.examination(key))
            except (*DATA_ERRORS, Refusal):
                # A first visit has no twin, and a study that cannot be read no score; both are told when opened.
                without += 1
                continue
            self._scores.add(self._name, model, key, score)
            done += 1
        log.info("scored %d cases, %d without a score", done, without)
        return {"scored": done, "without_score": without}


def scoring_methods(server: Server, growth: Growth, scores: Scores) -> dict[str, CaseScoring]:
    """Methods by name."""

    def epistemic(examination: Examination) -> float:
        segmenter = server.models.segmenter
        single = TumourSegmenter.load(server.models.bundle, device=str(segmenter.device), variants=1)
        images, _ = server.cases.network_inputs(examination, segmenter.description.spacing_mm)
        return variance_under_changes(single, {str(role): image for role, image in images.items()})

    def twin(examination: Examination) -> float:
        found, _, _ = disagreement(server, growth, examination.key)
        return float((found.array > 0).sum()) * found.geometry.voxel_volume_mm3 / 1000

    return {
        "epistemic": CaseScoring(
            server,
            scores,
            "epistemic",
            "Variance of the network under changes that should not matter",
            epistemic,
        ),
        "twin": CaseScoring(server, scores, "twin", "Millilitres on which network and twin disagree", twin),
    }


def variance_under_changes(segmenter: TumourSegmenter, images: Mapping[str, Tensor]) -> float:
    """Mean variance of the whole tumour's probability under mirroring and shifts of the network's raster.

    Parameters
    ----------
    segmenter : TumourSegmenter
        With one variant.
    images : mapping
        Role to float32 (I, J, K).

    Returns
    -------
    float
        0 (all agree, or nothing found) to 1, over voxels whose mean probability is at least 0.1.
    """
    answers = []
    for shift in _SHIFTS:
        for mirrored in (False, True):
            changed = {role: _changed(image, shift, mirrored) for role, image in images.items()}
            answer = segmenter(changed, min_component_ml=0.0).probabilities[1:].sum(0)
            answers.append(
                _changed(answer, -shift, False).flip(0) if mirrored else _changed(answer, -shift, False)
            )
    stacked = torch.stack(answers)
    possible = stacked.mean(0) >= _POSSIBLE_TUMOUR
    if not bool(possible.any()):
        return 0.0
    return float(stacked.var(0, correction=0)[possible].mean()) / _LARGEST_VARIANCE


def _changed(image: Tensor, shift: int, mirrored: bool) -> Tensor:
    moved = image.flip(0) if mirrored else image
    return moved.roll((shift, shift, shift), (0, 1, 2))
