"""Which visits a run uses, with the series of each, and what their report has to tell about the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from imaging.catalog import RefusedSeries, Series, Visit
from imaging.errors import Reason
from imaging.preparation import require_intervals
from imaging.role_selection import RoleRule, RoleSelection, select_roles
from imaging.roles import Role
from imaging.weighting import is_of_another_part


@dataclass(frozen=True, eq=False)
class VisitSelection:
    """Visits in the order of time with the series chosen, and sentences on what was left out."""

    visits: tuple[tuple[Visit, RoleSelection], ...]
    warnings: tuple[str, ...]


def select_visits(
    visits: Sequence[Visit], *, required: frozenset[Role], rules: Sequence[RoleRule] = ()
) -> VisitSelection:
    """Choose the series of every visit; one that certainly shows no MR of the head is left out with a warning.

    Parameters
    ----------
    visits : sequence of Visit
        In the order of time.
    required : frozenset of Role
        Roles the run cannot do without at any visit.
    rules : sequence of RoleRule
        Overrides, see :func:`imaging.role_selection.select_roles`.

    Raises
    ------
    ImagingError
        As ``select_roles``, or ``ZERO_INTERVAL`` if two visits are too close in time.
    """
    why = {visit: without_head(visit, rules) for visit in visits}
    # With nothing left the first visit says what it lacks.
    kept = [visit for visit in visits if not why[visit]] or list(visits)
    require_intervals(kept)
    selected = tuple((visit, select_roles(visit, required=required, rules=rules)) for visit in kept)
    warnings = [_left_out(visit, why[visit]) for visit in visits if visit not in kept]
    warnings += [
        sentence
        for number, (visit, _) in enumerate(selected, start=1)
        for sentence in (*_incomplete(number, visit), *_without_original(number, visit))
    ]
    return VisitSelection(selected, tuple(warnings))


def without_head(visit: Visit, rules: Sequence[RoleRule] = ()) -> str:
    """Why a visit certainly shows no MR of the head, or is not wanted; empty where it may be one.

    Nothing is certain of a series that a rule gives a role, of one whose modality is unknown, or of an MR whose headers
    contradict its BodyPartExamined or have none.
    """
    everything: list[Series | RefusedSeries] = [*visit.series, *visit.refused]
    matching = {series: [rule.role for rule in rules if rule.matches(series, visit)] for series in everything}
    if any(set(roles) - {"none"} for roles in matching.values()):
        return ""
    judged = [series for series in everything if not matching[series]]
    ct = [series for series in judged if series.modality == "CT"]
    other = [series for series in judged if series.modality == "MR" and is_of_another_part(series.headers)]
    if len(ct) + len(other) < len(judged):
        return ""
    counts = {
        "CT": len(ct),
        "of another part of the body by BodyPartExamined": len(other),
        "kept out by rules": len(everything) - len(judged),
    }
    kinds = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"none of its {len(everything)} series counts as an MR of the head ({kinds})"


def _left_out(visit: Visit, why: str) -> str:
    sentence = f"The examination of {visit.date:%Y-%m-%d} was left out: {why}."
    names = ", ".join(sorted(annotation.path.name for annotation in visit.annotations))
    return f"{sentence} So were the drawings on it: {names}." if names else sentence


def _incomplete(number: int, visit: Visit) -> list[str]:
    """A sentence for each series of which a file is broken."""
    return [
        f"Visit {number}: {series.sentence} The series was left out."
        for series in visit.refused
        if series.reason is Reason.TRUNCATED
    ]


def _without_original(number: int, visit: Visit) -> list[str]:
    """A sentence where a clinician's drawing is known from a copy only."""
    if all(annotation.automatic for annotation in visit.annotations) and visit.own_copies:
        names = ", ".join(visit.own_copies)
        return [
            f"Visit {number}: no drawing was used, though {names} shows that there was one: this is the application's "
            "own copy, which stands for nothing. Put the drawing itself beside the images if it still holds."
        ]
    return []
