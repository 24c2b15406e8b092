"""Who is learned from and who checks, while a site grows: never the same, however the patients arrive."""

from __future__ import annotations

from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imaging.catalog import PatientIdentity
from imaging.errors import ImagingError, Reason
from imaging.geometry import Geometry, Volume
from monailabel_app.refusal import Refusal
from monailabel_app.studies import Examination
from monailabel_app.training_cases import Parts, Taught, split, usable_cases
from segmentation.errors import ModelError

ANY: Any = None


def visit(patient: int, number: int) -> Examination:
    """A visit with a drawing."""
    catalog: Any = SimpleNamespace(
        patient=PatientIdentity(f"P{patient}", "", "19600101", "F"),
        visits=[
            SimpleNamespace(date=datetime(2024, 1, 1) + timedelta(days=30 * n)) for n in range(number + 1)
        ],
    )
    return Examination(f"1.2.{patient}.{number}", catalog, number, ANY)


def who(cases: list[Examination]) -> set[str]:
    return {one.catalog.patient.patient_id for one in cases}


def which(cases: list[Examination]) -> set[str]:
    return {one.key for one in cases}


def test_a_patient_who_was_learned_from_does_not_check_when_a_second_one_comes() -> None:
    """Whatever the digests of the two say."""
    for second in range(1, 30):
        alone = [visit(0, 0), visit(0, 1)]
        parts = split(alone)
        assert (which(parts.learning), which(parts.checking)) == ({"1.2.0.0"}, {"1.2.0.1"})
        taught = Taught().after(parts.learning, parts.checking)
        later = split([*alone, visit(second, 0)], taught)
        assert (
            who(later.checking) == {f"P{second}"}
            and later.said == "1 of 2 patients, none of them learned from"
        )
        assert which(later.learning) == {"1.2.0.0"}, "the visit that checked is not learned from"


def test_nothing_is_trained_where_nobody_is_left_to_check_on() -> None:
    taught = Taught().after([visit(0, 0), visit(1, 0)], [visit(2, 0)])
    with pytest.raises(Refusal, match="none is left to check on"):
        split([visit(0, 0), visit(1, 0)], taught)
    with pytest.raises(Refusal, match="none is left to check on"):
        split([visit(0, 0), visit(0, 0)], taught)
    with pytest.raises(Refusal, match="none is left to learn from"):
        split([visit(2, 0), visit(2, 1)], taught)
    assert who(split([visit(0, 0), visit(3, 0)], taught).checking) == {"P3"}


def test_a_model_that_was_trained_before_this_was_kept_is_said_to_be_unknown() -> None:
    taught = Taught.of({"oncotwin": {"label_validation": {"dice": 0.5}}})
    cases = [visit(n, 0) for n in range(8)]
    parts = split(cases, taught)
    assert "earlier versions may have learned from them" in parts.said
    again = Taught.of(
        {"oncotwin": {"label_cases": taught.after(parts.learning, parts.checking).as_metadata()}}
    )
    assert not again.known
    assert "none of them learned from" in split(cases, Taught.of({})).said


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 6), st.sampled_from(["drawn", "drawn", "trained", "trained for nothing", "gone"])
        ),
        min_size=1,
        max_size=40,
    )
)
def test_over_a_growing_site_nobody_is_both_learned_from_and_checked_on(steps: list[tuple[int, str]]) -> None:
    """Drawings come and go in any order; some trainings are published, some are not."""
    drawn: list[Examination] = []
    numbers = dict.fromkeys(range(7), 0)
    taught, published = Taught(), list[Parts]()
    for patient, what in steps:
        if what == "drawn":
            drawn.append(visit(patient, numbers[patient]))
            numbers[patient] += 1
            continue
        if what == "gone":
            drawn = [one for one in drawn if one.catalog.patient.patient_id != f"P{patient}"]
            continue
        lessons = [one for parts in published for one in parts.learning]
        checks = [one for parts in published for one in parts.checking]
        patients, new = who(drawn), who(drawn) - who([*lessons, *checks])
        try:
            parts = split(drawn, taught)
        except Refusal:
            assert len(patients) < 2 or not new, "with somebody new and somebody else one can always train"
            continue
        assert parts.learning and parts.checking
        assert not which(parts.checking) & which([*lessons, *parts.learning])
        assert not which(parts.learning) & which(checks)
        if len(patients) > 1:
            assert not who(parts.checking) & who([*lessons, *parts.learning])
            assert "none of them learned from" in parts.said
        if what == "trained":
            made = taught.after(parts.learning, parts.checking).as_metadata()
            taught = Taught.of({"oncotwin": {"label_cases": made}})
            published.append(parts)


def test_a_case_that_cannot_be_used_is_left_out_with_its_reason() -> None:
    grid = Geometry((4, 4, 4), np.eye(4), "1.2.3")
    drawing = SimpleNamespace(labels=Volume(np.ones((4, 4, 4), np.uint8), grid))
    reasons: dict[str, Exception] = {
        "1.2.0.0": Refusal("A drawing refers to 2 visits."),
        "1.2.0.1": ImagingError(Reason.BAD_ANNOTATION, "Segment 'Blob' is no tumour region."),
        "1.2.0.2": ModelError("the model cannot do without FLAIR; add the series."),
    }

    def failing(key: str, answer: Any) -> Any:
        if key in reasons:
            raise reasons[key]
        return answer

    def examination(key: str) -> Examination:
        one = visit(0, int(key[-1]))
        return one if not isinstance(reasons.get(key), Refusal) else failing(key, one)

    cases = SimpleNamespace(
        network_inputs=lambda one, spacing: ({"t1ce": torch.ones(4, 4, 4), "key": one.key}, grid),
        drawing=lambda one: drawing if one.key != "1.2.0.1" else failing(one.key, drawing),
    )

    def prepared(images: dict[str, Any]) -> Any:
        return failing(images["key"], ({"t1ce": images["t1ce"]}, None))

    keys = [*reasons, "1.2.0.3", "1.2.0.4"]
    server: Any = SimpleNamespace(
        studies=SimpleNamespace(
            keys=lambda: [*keys, "undrawn"], labelled=lambda: frozenset(keys), examination=examination
        ),
        cases=cases,
        models=SimpleNamespace(segmenter=SimpleNamespace(prepared=prepared)),
    )
    usable, left_out = usable_cases(server, 1.0)
    assert [one.examination.key for one in usable] == ["1.2.0.3", "1.2.0.4"]
    assert left_out == {key: getattr(error, "detail", str(error)) for key, error in reasons.items()}
