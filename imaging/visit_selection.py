"""Which visits a run uses, with the series of each, and what their report has to tell about the input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from imaging.catalog import Visit
from imaging.errors import Reason
from imaging.preparation import require_intervals
from imaging.role_selection import RoleRule, RoleSelection, select_roles
from imaging.roles import Role


@dataclass(frozen=True, eq=False)
class VisitSelection:
    """Visits in the order of time with the series chosen, and sentences on what was left out."""

    visits: tuple[tuple[Visit, RoleSelection], ...]
    warnings: tuple[str, ...]


def select_visits(
    visits: Sequence[Visit], *, required: frozenset[Role], rules: Sequence[RoleRule] = ()
) -> VisitSelection:
    """Choose the series of every visit.

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
    require_intervals(visits)
    selected = tuple((visit, select_roles(visit, required=required, rules=rules)) for visit in visits)
    warnings = [
        sentence
        for number, (visit, _) in enumerate(selected, start=1)
        for sentence in _incomplete(number, visit)
    ]
    return VisitSelection(selected, tuple(warnings))


def _incomplete(number: int, visit: Visit) -> list[str]:
    """A sentence for each series of which a file is broken."""
    return [
        f"Visit {number}: {series.sentence} The series was left out."
        for series in visit.refused
        if series.reason is Reason.TRUNCATED
    ]
