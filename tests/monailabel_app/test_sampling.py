"""Which case is offered next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from imaging.geometry import Geometry, Volume
from monailabel_app import scoring
from monailabel_app.growth import Growth
from monailabel_app.opened import OpenedCases
from monailabel_app.refusal import Refusal
from monailabel_app.sampling import FinishedCase, MostTelling, RandomCase
from monailabel_app.scoring import Scores, scoring_methods, variance_under_changes
from monailabel_app.studies import FolderStudies
from monailabel_app.tasks import Server
from tests.imaging import dicom_factory as factory
from tests.imaging.drawing_factory import write_segmentation


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


def test_a_score_of_what_is_no_more_decides_nothing(tmp_path: Path) -> None:
    scores = {"a": 0.1, "b": 0.7, "c": 0.4}
    outdated, asked = {"b"}, list[str]()

    def is_current(key: str) -> bool:
        asked.append(key)
        return key not in outdated

    strategy = MostTelling(OpenedCases(tmp_path / "opened.json"), lambda: scores, "", is_current)
    assert pick(strategy) == "c"
    assert asked == ["b", "c"]
    outdated |= {"a", "c"}
    assert {pick(strategy) for _ in range(60)} == {"a", "b", "c"}


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
    scores.add("epistemic", "another", key, 0.5, "images")
    assert scores.of("epistemic", model) == {}


def test_a_twins_score_is_made_anew_after_an_earlier_visit_was_drawn_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not after a later one was: the twin of a visit rests on what came before it."""
    folder = tmp_path / "studies"
    names = ("first", "second", "third")
    for number, name in enumerate(names):
        factory.write_visit(folder / name, name=name, when=factory.DATE + number * timedelta(days=30))

    def draw(name: str) -> None:
        images = sorted((folder / name / f"{name}_t1ce").iterdir())
        write_segmentation(folder / f"{name}.dcm", images, {"WT": np.ones(factory.SHAPE, bool)})

    computed: list[str] = []
    found = Volume(np.ones((2, 2, 2), np.uint8), Geometry((2, 2, 2), np.eye(4)))

    def disagreement(server: Any, growth: Any, key: str) -> tuple[Volume, None, tuple[()]]:
        computed.append(key)
        if key == factory.uid("first"):
            raise Refusal("This is the patient's first visit.")
        return found, None, ()

    monkeypatch.setattr(scoring, "disagreement", disagreement)
    server: Any = SimpleNamespace(
        studies=FolderStudies(folder, 4.0, ()),
        configuration=SimpleNamespace(rules=(), seed=0, min_component_ml=0.2, growth=None),
        models=SimpleNamespace(identity=SimpleNamespace(sha256="weights")),
    )
    scores = Scores(tmp_path / "scores.json")
    first, second, third = (factory.uid(name) for name in names)

    def score(*keys: str) -> list[str]:
        computed.clear()
        scoring_methods(server, Growth(server), scores)["twin"]({}, Cases(list(keys), []))  # type: ignore[arg-type]
        return list(computed)

    def current(*keys: str) -> list[str]:
        method = scoring_methods(server, Growth(server), scores)["twin"]
        return [key for key in keys if method.is_current(key)]

    assert score(first, second, third) == [first, second, third]
    assert score(second, third) == []
    assert current(first, second, third) == [second, third]
    draw("first")
    assert current(second, third) == [], "until they are scored again"
    assert score(second, third) == [second, third]
    draw("third")
    assert score(second) == []
    assert current(second, third) == [second]
    server.models.identity.sha256 = "new weights"
    assert current(second) == []
    server.models.identity.sha256 = "weights"
    assert scores.of("twin", "weights") == {second: 0.008, third: 0.008}
    draw("second")
    monkeypatch.setattr(server.studies, "examination", lambda key: raise_refusal())
    score(second)
    assert scores.of("twin", "weights") == {third: 0.008}, "a score that cannot be made anew is not kept"


def test_scores_of_an_earlier_version_are_made_anew(tmp_path: Path) -> None:
    (tmp_path / "scores.json").write_text('{"twin": {"weights": {"1.2": 3.0}}}')
    assert Scores(tmp_path / "scores.json").of("twin", "weights") == {}


def test_scores_kept_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    def score(number: int) -> None:
        Scores(tmp_path / "scores.json").add("twin", "weights", str(number), float(number), "basis")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(score, range(40)))
    assert Scores(tmp_path / "scores.json").of("twin", "weights") == {str(n): float(n) for n in range(40)}


def raise_refusal() -> None:
    raise Refusal("The archive does not answer.", status=502)
