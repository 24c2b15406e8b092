"""Values and names between server and viewer."""

from __future__ import annotations

import numpy as np
import pytest
from fastapi import HTTPException
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from imaging.labels import TumourLabel
from monailabel_app.label_values import WIRE_VALUES, from_wire, to_wire

LABELS = arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 3))


@given(LABELS)
def test_canonical_values_come_back_as_they_went(labels: np.ndarray) -> None:
    assert np.array_equal(from_wire(to_wire(labels), []), labels)


@settings(deadline=None)
@given(LABELS, st.permutations(["ED", "NCR", "ET", "background"]), st.integers(0, 3))
def test_names_decide_whatever_the_order_of_the_segments(
    labels: np.ndarray, order: list[str], shift: int
) -> None:
    """``idx`` counts segments that were not sent, so it may be off; the position is right."""
    sent = [name for name in order if name != "background"]
    values = np.zeros_like(labels)
    for position, name in enumerate(sent, start=1):
        values[labels == TumourLabel[name]] = position
    info = [{"name": name, "idx": position + shift} for position, name in enumerate(sent, start=1)]
    assert np.array_equal(from_wire(values, info), labels)


def test_values_on_the_wire_have_no_gap() -> None:
    assert sorted(WIRE_VALUES.values()) == [1, 2, 3]


def test_nested_regions_drawn_by_hand_are_understood() -> None:
    values = np.array([[[0, 1, 2, 3]]], dtype=np.uint8)
    info = [{"name": "whole tumour"}, {"name": "TC"}, {"name": "enhancing tumor"}]
    assert from_wire(values, info).tolist() == [[[0, 2, 1, 3]]]


def test_a_core_without_enhancing_part_is_refused() -> None:
    with pytest.raises(HTTPException, match="necrosis cannot be told"):
        from_wire(np.ones((2, 2, 2), np.uint8), [{"name": "TC"}])


@pytest.mark.parametrize(("inner", "lacking"), [("enhancing tumor", "NCR"), ("necrosis", "ET")])
def test_a_whole_tumour_without_all_of_its_core_is_refused(inner: str, lacking: str) -> None:
    """The necrosis inside a ring that alone is drawn would become oedema."""
    values = np.array([[[0, 1, 2]]], dtype=np.uint8)
    with pytest.raises(HTTPException, match=f"add {lacking}, empty if there is none"):
        from_wire(values, [{"name": "whole tumor"}, {"name": inner}])


def test_a_whole_tumour_beside_the_servers_own_segments_is_oedema_outside_them() -> None:
    """They are in every case from the start, and stay empty where there is nothing."""
    info = [{"name": "whole tumor"}, *({"name": name} for name in WIRE_VALUES)]
    assert from_wire(np.array([[[0, 1, 4]]], dtype=np.uint8), info).tolist() == [[[0, 2, 3]]]


@pytest.mark.parametrize(
    ("order", "hidden"),
    [
        (["ED", "NCR", "ET", "whole tumour"], "'NCR' and 'ET'"),
        (["core", "ET", "NCR", "WT"], "'core' and 'ET' and 'NCR'"),
        (["WT", "ET", "TC"], "'ET'"),
    ],
)
def test_a_nested_segment_after_what_lies_inside_it_is_refused(order: list[str], hidden: str) -> None:
    """Slicer lets the later segment win: of the core below it nothing is sent, and all would become oedema."""
    values = np.full((2, 2, 2), len(order), np.uint8)
    with pytest.raises(HTTPException) as refused:
        from_wire(values, [{"name": name} for name in order])
    assert f"Segment '{order[-1]}' comes after {hidden} and may hide them" in refused.value.detail
    empty = np.where(values == len(order), 1, values)
    assert from_wire(empty, [{"name": name} for name in order]).all(), "an empty one hides nothing"


def test_empty_segments_of_other_kinds_do_no_harm() -> None:
    info = [{"name": "ED"}, {"name": "FORECAST +90 d core"}, {"name": "notes"}]
    assert not from_wire(np.zeros((2, 2, 2), np.uint8), info).any()
