"""Identifiers depend on input, settings, software and content, and on nothing else."""

from __future__ import annotations

import re
import uuid
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imaging.writers.identity import RunIdentity, tracking_uid, uid_of
from tests.imaging.writers.patients import IDENTITY, MODEL, SOFTWARE


@given(st.lists(st.text() | st.binary(), max_size=4))
def test_a_uid_is_a_uuid_under_2_25_of_constant_length(parts: list[str | bytes]) -> None:
    made = uid_of(*parts)
    assert re.fullmatch(r"2\.25\.[1-9][0-9]{38}", made)
    value = uuid.UUID(int=int(made.removeprefix("2.25.")))
    assert value.version == 8
    assert value.variant == uuid.RFC_4122


@given(st.lists(st.text(), max_size=3), st.lists(st.text(), max_size=3))
def test_different_parts_give_different_uids(first: list[str], second: list[str]) -> None:
    assert (uid_of(*first) == uid_of(*second)) == (first == second)


def test_parts_cannot_run_into_each_other() -> None:
    assert uid_of("ab", "c") != uid_of("a", "bc")


def test_an_instance_uid_covers_its_content() -> None:
    assert IDENTITY.instance_uid("report", b"one") != IDENTITY.instance_uid("report", b"two")
    assert IDENTITY.instance_uid("report", b"one") == IDENTITY.instance_uid("report", b"one")


@pytest.mark.parametrize("field", ["version", "input_digest", "settings_digest"])
def test_another_run_is_another_series(field: str) -> None:
    other = RunIdentity.of(replace(SOFTWARE, **{field: "other"}), MODEL)
    assert other.series_uid("report") != IDENTITY.series_uid("report")


def test_another_model_is_another_series() -> None:
    other = RunIdentity.of(SOFTWARE, replace(MODEL, sha256="4" * 64))
    assert other.series_uid("report") != IDENTITY.series_uid("report")


def test_tracking_is_the_patients_not_the_runs() -> None:
    assert tracking_uid("P-001", "Tumor ET") == tracking_uid("P-001", "Tumor ET")
    assert tracking_uid("P-001", "Tumor ET") != tracking_uid("P-002", "Tumor ET")
    assert tracking_uid("P-001", "Tumor ET") != tracking_uid("P-001", "Tumor ED")
