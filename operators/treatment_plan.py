"""Courses of treatment as dates, and what the growth model makes of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time

from torch import Tensor

from twin import Chemotherapy, Radiotherapy, Therapy
from twin.scene import treated

_HOURS_A_DAY = 24.0


@dataclass(frozen=True)
class RadiotherapyCourse:
    """Fractions of one dose.

    Parameters
    ----------
    dates : tuple of datetime.date
        One for each fraction, in order.
    dose_gy : float or None
        Dose of a fraction, Gy; None where it differs from place to place.
    alpha_beta : float
        Ratio of the linear-quadratic model, Gy.
    rtdose : str or None
        The RT Dose of all fractions together, see :func:`imaging.dose.chosen_dose`.
    """

    dates: tuple[date, ...]
    dose_gy: float | None
    alpha_beta: float
    rtdose: str | None = None


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


def asked_dose(courses: Sequence[Course]) -> str | None:
    """The RT Dose that a course of radiotherapy asks for; settings allow one at most."""
    wanted = (course.rtdose for course in courses if isinstance(course, RadiotherapyCourse))
    return next((dose for dose in wanted if dose is not None), None)


def therapies_of(
    courses: Sequence[Course], first_visit: datetime, plan_gy: Tensor | None = None
) -> tuple[Therapy, ...]:
    """The courses on the calendar of the visits: at most one therapy of each kind, since each has one sensitivity.

    Parameters
    ----------
    courses : sequence of Course
        Those of one kind must agree in alpha_beta, or in reference dose and half-life. One that has an RT Dose must be
        the only one of radiotherapy.
    first_visit : datetime.datetime
        Day zero.
    plan_gy : Tensor, optional
        Dose of all fractions of the course that has an RT Dose, Gy, (X, Y, Z).
    """
    radiation = [course for course in courses if isinstance(course, RadiotherapyCourse)]
    drugs = [course for course in courses if isinstance(course, ChemotherapyCourse)]
    made = list[Therapy]()
    if radiation:
        days = [_day(when, first_visit) for course in radiation for when in course.dates]
        # with a map, doses are those where it is one: the map then holds the Gy of a fraction
        doses = [
            1.0 if course.dose_gy is None else course.dose_gy for course in radiation for _ in course.dates
        ]
        fraction_gy = None if plan_gy is None else plan_gy / len(days)
        made.append(Radiotherapy(days, doses, radiation[0].alpha_beta, fraction_gy))
    if drugs:
        days = [_day(when, first_visit) for course in drugs for when in course.dates]
        doses = [course.dose for course in drugs for _ in course.dates]
        decay = math.log(2.0) * _HOURS_A_DAY / drugs[0].half_life_hours
        made.append(Chemotherapy(days, doses, decay, drugs[0].reference_dose))
    return tuple(made)


def sentences_of(
    courses: Sequence[Course],
    first_visit: datetime,
    modelled: tuple[float, float],
    plan_gy: Tensor | None = None,
    dose_uid: str = "",
) -> tuple[str, ...]:
    """One sentence a course for the report, which says so where the course never acts on the model.

    Parameters
    ----------
    courses : sequence of Course
        All that the settings list.
    first_visit : datetime.datetime
        Day zero.
    modelled : tuple of float
        First and last day on which the model runs.
    plan_gy : Tensor, optional
        Dose map of the course that has an RT Dose, Gy.
    dose_uid : str
        Its SOP Instance UID.
    """
    made = []
    for course in courses:
        count, when = len(course.dates), _when(course, first_visit)
        idle = "" if acts_between([course], first_visit, *modelled) else "; without effect on the model"
        if isinstance(course, RadiotherapyCourse):
            source = ""
            if plan_gy is None:
                dose = f"{course.dose_gy:g} Gy"
            else:
                most = float(plan_gy.max())
                dose = f"a dose map, at most {most / count:.2f} Gy a fraction and {most:.1f} Gy in all,"
                source = f"; the dose map is RT Dose {dose_uid}"
            made.append(
                f"Radiotherapy: {count} fraction(s) of {dose} {when}, alpha/beta {course.alpha_beta:g} Gy{source}"
                f"{idle}."
            )
        else:
            made.append(
                f"Chemotherapy: {count} dose(s) of {course.dose:g} {when}, relative to {course.reference_dose:g}, "
                f"half-life {course.half_life_hours:g} h{idle}."
            )
    return tuple(made)


def acts_between(courses: Sequence[Course], first_visit: datetime, start: float, stop: float) -> bool:
    """Whether any course acts on the model between two days on the calendar of the visits."""
    return treated(therapies_of(courses, first_visit), start, stop)


def without_effect(
    courses: Sequence[Course], first_visit: datetime, start: float, stop: float
) -> tuple[str, ...]:
    """A sentence for each course that never acts on a model which runs from one day to another."""
    made = []
    for course in courses:
        if acts_between([course], first_visit, start, stop):
            continue
        kind = "Radiotherapy" if isinstance(course, RadiotherapyCourse) else "Chemotherapy"
        if _day(course.dates[-1], first_visit) < start:
            why = f"it ends before day {start:.0f}, the first that is modelled"
        else:
            why = f"it begins after day {stop:.0f}, the last that is predicted"
        made.append(
            f"{kind} {_when(course, first_visit)} has no effect on the model, since {why}: check the year of its dates."
        )
    return tuple(made)


def _when(course: Course, first_visit: datetime) -> str:
    first, last = (f"{_day(when, first_visit):.0f}" for when in (course.dates[0], course.dates[-1]))
    return f"on day {first}" if len(course.dates) == 1 else f"from day {first} to day {last}"


def _day(when: date, first_visit: datetime) -> float:
    """Days from the first visit to noon of a date."""
    return (datetime.combine(when, time(12), first_visit.tzinfo) - first_visit).total_seconds() / 86400.0
