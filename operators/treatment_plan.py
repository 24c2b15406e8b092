"""Courses of treatment as dates, and what the growth model makes of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time

from twin import Chemotherapy, Radiotherapy, Therapy

_HOURS_A_DAY = 24.0


@dataclass(frozen=True)
class RadiotherapyCourse:
    """Fractions of one dose.

    Parameters
    ----------
    dates : tuple of datetime.date
        One for each fraction, in order.
    dose_gy, alpha_beta : float
        Dose of a fraction and ratio of the linear-quadratic model, Gy.
    """

    dates: tuple[date, ...]
    dose_gy: float
    alpha_beta: float


@dataclass(frozen=True)
class ChemotherapyCourse:
    """Doses of one drug.

    Parameters
    ----------
    dates : tuple of datetime.date
        One for each dose, in order.
    dose, reference_dose : float
        In one unit.
    half_life_hours : float
        Of the drug.
    """

    dates: tuple[date, ...]
    dose: float
    reference_dose: float
    half_life_hours: float


Course = RadiotherapyCourse | ChemotherapyCourse


def therapies_of(courses: Sequence[Course], first_visit: datetime) -> tuple[Therapy, ...]:
    """The courses on the calendar of the visits: at most one therapy of each kind, since each has one sensitivity.

    Parameters
    ----------
    courses : sequence of Course
        Those of one kind must agree in alpha_beta, or in reference dose and half-life.
    first_visit : datetime.datetime
        Day zero.
    """
    radiation = [course for course in courses if isinstance(course, RadiotherapyCourse)]
    drugs = [course for course in courses if isinstance(course, ChemotherapyCourse)]
    made = list[Therapy]()
    if radiation:
        days = [_day(when, first_visit) for course in radiation for when in course.dates]
        doses = [course.dose_gy for course in radiation for _ in course.dates]
        made.append(Radiotherapy(days, doses, radiation[0].alpha_beta))
    if drugs:
        days = [_day(when, first_visit) for course in drugs for when in course.dates]
        doses = [course.dose for course in drugs for _ in course.dates]
        decay = math.log(2.0) * _HOURS_A_DAY / drugs[0].half_life_hours
        made.append(Chemotherapy(days, doses, decay, drugs[0].reference_dose))
    return tuple(made)


def sentences_of(courses: Sequence[Course], first_visit: datetime) -> tuple[str, ...]:
    """One sentence a course for the report."""
    made = []
    for course in courses:
        first, last = (f"{_day(when, first_visit):.0f}" for when in (course.dates[0], course.dates[-1]))
        count = len(course.dates)
        when = f"on day {first}" if count == 1 else f"from day {first} to day {last}"
        if isinstance(course, RadiotherapyCourse):
            made.append(
                f"Radiotherapy: {count} fraction(s) of {course.dose_gy:g} Gy {when}, "
                f"alpha/beta {course.alpha_beta:g} Gy."
            )
        else:
            made.append(
                f"Chemotherapy: {count} dose(s) of {course.dose:g} {when}, relative to {course.reference_dose:g}, "
                f"half-life {course.half_life_hours:g} h."
            )
    return tuple(made)


def _day(when: date, first_visit: datetime) -> float:
    """Days from the first visit to noon of a date."""
    return (datetime.combine(when, time(12), first_visit.tzinfo) - first_visit).total_seconds() / 86400.0
