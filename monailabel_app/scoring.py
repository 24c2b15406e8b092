"""How much a drawing of a case would teach: computed on request, kept for the model, images and drawings behind it."""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monailabel_app.cases import images_digest
from monailabel_app.growth import Growth
from monailabel_app.refusal import DATA_ERRORS, Refusal
from monailabel_app.studies import Examination, siblings
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
        return {key: float(entry["score"]) for key, entry in self._entries(method, model).items()}

    def has(self, method: str, model: str, key: str, basis: str) -> bool:
        """Whether a case has a score, and one of what it rests on now."""
        entry = self._entries(method, model).get(key)
        return entry is not None and entry["basis"] == basis

    def add(self, method: str, model: str, key: str, score: float, basis: str) -> None:
        """Keep a score with a digest of what it rests on; those of other models are dropped."""
        with self._locked():
            entries = self._entries(method, model)
            self._write(method, model, {**entries, key: {"score": score, "basis": basis}})

    def drop(self, method: str, model: str, key: str) -> None:
        """Forget the score of a case."""
        with self._locked():
            entries = self._entries(method, model)
            if key in entries:
                self._write(method, model, {other: entry for other, entry in entries.items() if other != key})

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let no other process change the file between reading and writing."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_name(f".{self._path.name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _entries(self, method: str, model: str) -> dict[str, dict[str, Any]]:
        # Earlier versions kept a bare number, of which nobody knows what it rests on.
        found = self._read().get(method, {}).get(model, {})
        return {key: entry for key, entry in found.items() if isinstance(entry, dict)}

    def _write(self, method: str, model: str, entries: Mapping[str, Mapping[str, Any]]) -> None:
        content = {**self._read(), method: {model: entries}}
        part = self._path.with_name(f".{self._path.name}.part")
        part.write_text(json.dumps(content), encoding="utf-8")
        os.replace(part, self._path)

    def _read(self) -> dict[str, Any]:
        if not self._path.is_file():
            return {}
        content: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
        return content


@dataclass(frozen=True)
class Score:
    """A way to score.

    Parameters
    ----------
    of : callable
        Examination to score; raises one of the rooms' errors where there is none.
    rests_on : callable
        Examination to everything that decides its score beside the model.
    """

    of: Callable[[Examination], float]
    rests_on: Callable[[Examination], Sequence[object]]


class CaseScoring(ScoringMethod):
    """Scores every case without a drawing, in a process of its own (``POST /scoring/METHOD``).

    Parameters
    ----------
    name : str
        Of the method.
    description : str
        What a high score means.
    score : Score
        How it scores.
    """

    def __init__(self, server: Server, scores: Scores, name: str, description: str, score: Score) -> None:
        super().__init__(description)
        self._server = server
        self._scores = scores
        self._name = name
        self._score = score

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        model = self._server.models.identity.sha256
        done, without = 0, 0
        for key in datastore.get_unlabeled_images():
            try:
                examination = self._server.studies.examination(key)
                basis = self._basis(examination)
                if self._scores.has(self._name, model, key, basis):
                    continue
                score = self._score.of(examination)
            except (*DATA_ERRORS, Refusal):
                # A first visit has no twin, and a study that cannot be read no score; both are told when opened.
                self._scores.drop(self._name, model, key)
                without += 1
                continue
            self._scores.add(self._name, model, key, score, basis)
            done += 1
        log.info("scored %d cases, %d without a score", done, without)
        return {"scored": done, "without_score": without}

    def is_current(self, key: str) -> bool:
        """Whether a case has a score by the model in use, of the images and drawings that are there now."""
        try:
            basis = self._basis(self._server.studies.examination(key))
        except (*DATA_ERRORS, Refusal):
            return False
        return self._scores.has(self._name, self._server.models.identity.sha256, key, basis)

    def _basis(self, examination: Examination) -> str:
        return _digest(self._score.rests_on(examination))


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

    settings = server.configuration

    def images(examination: Examination) -> Sequence[object]:
        return [settings.seed, images_digest(examination)]

    def images_and_drawings_so_far(examination: Examination) -> Sequence[object]:
        so_far = [one for one in siblings(examination, settings.rules) if one.number <= examination.number]
        visits = [(images_digest(one), one.token) for one in so_far]
        return [settings.seed, settings.min_component_ml, settings.growth, visits]

    return {
        "epistemic": CaseScoring(
            server,
            scores,
            "epistemic",
            "Variance of the network under changes that should not matter",
            Score(epistemic, images),
        ),
        "twin": CaseScoring(
            server,
            scores,
            "twin",
            "Millilitres on which network and twin disagree",
            Score(twin, images_and_drawings_so_far),
        ),
    }


def _digest(words: Sequence[object]) -> str:
    return hashlib.sha256(repr(words).encode()).hexdigest()[:32]


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
