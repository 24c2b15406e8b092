"""Which case is offered next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from monailabel_app.growth import Growth
from monailabel_app.opened import OpenedCases
from monailabel_app.sampling import FinishedCase, MostTelling, RandomCase
from monailabel_app.scoring import Scores, scoring_methods, variance_under_changes
from monailabel_app.tasks import Server


class Cases:
    """A datastore's two lists."""

    def __init__(self, unlabelled: list[str], labelled: list[str]) -> None:
        self._unlabelled, self._labelled = unlabelled, labelled

    def get_unlabeled_images(self) -> list[str]:
        return self._unlabelled

    def get_labeled_images(self) -> list[str]:
        return self._labelled


def pick(strategy: Any, client: str = "anna") -> str:
    found = strategy({"client_id": client}, Cases(["a", "b", "c"], ["x", "y"]))
    assert found is not None
    return str(found["id"])


def test_nobody_is_given_a_case_that_another_has_open_while_others_are_free(tmp_path: Path) -> None:
    opened = OpenedCases(tmp_path / "opened.json")
    opened.note("a", "bert", "")
    opened.note("b", "bert", "")
    assert {pick(RandomCase(opened)) for _ in range(20)} == {"c"}
    assert {pick(RandomCase(opened), "bert") for _ in range(50)} == {"a", "b", "c"}
    opened.note("x", "bert", "1.2.3")
    assert pick(FinishedCase(opened)) == "y"


def test_the_highest_score_goes_first_and_chance_decides_without_scores(tmp_path: Path) -> None:
    scores: dict[str, float] = {}

    def known() -> Mapping[str, float]:
        return scores

    strategy = MostTelling(OpenedCases(tmp_path / "opened.json"), known, "")
    assert {pick(strategy) for _ in range(60)} == {"a", "b", "c"}
    scores.update(a=0.1, b=0.7, y=3.0)
    assert pick(strategy) == "b"


def test_what_was_open_is_known_after_a_restart(tmp_path: Path) -> None:
    OpenedCases(tmp_path / "opened.json").note("a", "anna", "1.2.3")
    again = OpenedCases(tmp_path / "opened.json")
    assert not again.is_stale("a", "anna", "1.2.3") and again.is_stale("a", "anna", "1.2.4")
    assert again.is_stale("a", "bert", "1.2.3") and not again.is_stale("a", "bert", "")
    assert "anna" not in (tmp_path / "opened.json").read_text()


class Fixed:
    """A segmenter whose answer depends on the images alone (``blind`` 0) or on where they lie (``blind`` 1)."""

    def __init__(self, blind: float) -> None:
        self._blind = blind

    def __call__(self, images: Mapping[str, torch.Tensor], min_component_ml: float) -> Any:
        image = images["t1ce"]
        by_place = torch.linspace(0, 1, len(image))[:, None, None].expand_as(image)
        tumour = (1 - self._blind) * image + self._blind * by_place

        class Answer:
            probabilities = torch.stack([1 - tumour, tumour, 0 * tumour, 0 * tumour])

        return Answer()


def test_variance_is_that_under_changes_which_should_not_matter() -> None:
    image = torch.zeros(16, 16, 16)
    image[4:8, 4:8, 4:8] = 1
    assert variance_under_changes(Fixed(0.0), {"t1ce": image}) == 0  # type: ignore[arg-type]
    assert variance_under_changes(Fixed(1.0), {"t1ce": image}) > 0.1  # type: ignore[arg-type]


def test_scores_are_kept_for_the_model_they_belong_to(configure: Callable[..., Server]) -> None:
    server = configure()
    scores = Scores(server.configuration.state / "scores.json")
    methods = scoring_methods(server, Growth(server), scores)
    (key,) = set(server.studies.keys()) - server.studies.labelled()
    done = methods["epistemic"]({}, Cases([key], []))
    assert done == {"scored": 1, "without_score": 0}
    model = server.models.identity.sha256
    assert 0 <= scores.of("epistemic", model)[key] <= 1
    assert methods["epistemic"]({}, Cases([key], [])) == {"scored": 0, "without_score": 0}
    scores.add("epistemic", "another", key, 0.5)
    assert scores.of("epistemic", model) == {}
