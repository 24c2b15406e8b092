"""Operator: catalogue to the series of each visit that the run uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec

from imaging.catalog import Catalog
from imaging.preparation import require_intervals
from imaging.role_selection import RoleRule, select_roles
from imaging.roles import Role
from operators.messages import SelectedStudies, SelectedVisit
from operators.progress import say


class SeriesSelectorOperator(Operator):
    """Chooses T1, T1CE, T2 and FLAIR of every visit.

    Named input
    -----------
    catalog : imaging.catalog.Catalog

    Named output
    ------------
    selected : operators.messages.SelectedStudies
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        required: frozenset[Role],
        rules: Sequence[Mapping[str, Any]],
        **kwargs: Any,
    ) -> None:
        self.required = required
        self.rules = tuple(RoleRule(**rule) for rule in rules)
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("catalog")
        spec.output("selected")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        catalog: Catalog = op_input.receive("catalog")
        say("choosing the series of each visit")
        require_intervals(catalog.visits)
        visits = tuple(
            SelectedVisit(visit, select_roles(visit, required=self.required, rules=self.rules))
            for visit in catalog.visits
        )
        op_output.emit(SelectedStudies(catalog, visits), "selected")
