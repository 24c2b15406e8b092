"""Dates of treatment become moments on the calendar of the visits."""

from __future__ import annotations

import math
from datetime import date, datetime

import numpy as np
import pytest

from operators.treatment_plan import ChemotherapyCourse, RadiotherapyCourse, sentences_of, therapies_of
from twin import Chemotherapy, Radiotherapy

FIRST = datetime(2026, 1, 10, 6, 0)
RADIATION = RadiotherapyCourse((date(2026, 1, 12), date(2026, 1, 13)), 2.0, 10.0)
BOOST = RadiotherapyCourse((date(2026, 2, 9),), 5.0, 10.0)
DRUG = ChemotherapyCourse((date(2026, 1, 8), date(2026, 1, 12)), 150.0, 75.0, 1.8)


def test_courses_of_one_kind_are_one_therapy() -> None:
    radiation, drug = therapies_of([RADIATION, DRUG, BOOST], FIRST)
    assert isinstance(radiation, Radiotherapy) and isinstance(drug, Chemotherapy)
    assert radiation.times == (2.25, 3.25, 30.25), "noon, counted from the first visit at six in the morning"
    assert [float(radiation.at(day, None)) for day in radiation.times] == pytest.approx([2.4, 2.4, 7.5])
    assert drug.times == (-1.75, 2.25), "what was given before the first visit may still act"
    # the whole exposure to twice the reference dose is twice the half-life over ln 2
    (effect,) = drug.between(np.array([2.25]), np.array([50.0]))
    assert effect == pytest.approx(2.0 * 1.8 / 24 / math.log(2.0))
    assert therapies_of([], FIRST) == ()


def test_courses_in_words() -> None:
    said = sentences_of([RADIATION, BOOST, DRUG], FIRST, (0.0, 60.0))
    assert said[0] == "Radiotherapy: 2 fraction(s) of 2 Gy from day 2 to day 3, alpha/beta 10 Gy."
    assert "1 fraction(s) of 5 Gy on day 30" in said[1]
    assert said[2] == (
        "Chemotherapy: 2 dose(s) of 150 from day -2 to day 2, relative to 75, half-life 1.8 h."
    )


def test_a_course_that_never_acts_says_so_in_its_sentence() -> None:
    """The last day that is modelled is day 20: the boost on day 30 is listed, and not as if it counted."""
    radiation, boost, drug = sentences_of([RADIATION, BOOST, DRUG], FIRST, (0.0, 20.0))
    assert (
        boost
        == "Radiotherapy: 1 fraction(s) of 5 Gy on day 30, alpha/beta 10 Gy; without effect on the model."
    )
    assert "without effect" not in radiation + drug
    early = sentences_of([DRUG], FIRST, (40.0, 60.0))
    assert early[0].endswith("half-life 1.8 h; without effect on the model.")
