"""Operator: catalogue to the series of each visit that the run uses, and the dose if it asks for one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec

from imaging.catalog import Catalog
from imaging.dose import require_usable_dose
from imaging.preparation import reference_role
from imaging.role_selection import RoleRule
from imaging.roles import Role
from imaging.visit_selection import select_visits
from operators.messages import SelectedStudies, SelectedVisit
from operators.progress import say


class SeriesSelectorOperator(Operator):
    """Chooses T1, T1CE, T2 and FLAIR of every visit, and refuses an unusable dose before they are registered.

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
        rtdose: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.required = required
        self.rules = tuple(RoleRule(**rule) for rule in rules)
        self.rtdose = rtdose
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("catalog")
        spec.output("selected")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        catalog: Catalog = op_input.receive("catalog")
        say("choosing the series of each visit")
        selected = select_visits(catalog.visits, required=self.required, rules=self.rules)
        visits = tuple(SelectedVisit(*chosen) for chosen in selected.visits)
        if self.rtdose is not None:
            chosen = [visit.selection.chosen for visit in visits]
            geometries = [series[reference_role(series)].geometry for series in chosen]
            frames = {geometry.frame_of_reference_uid for geometry in geometries if geometry is not None}
            require_usable_dose(catalog.doses, self.rtdose, frames)
        op_output.emit(SelectedStudies(catalog, visits, selected.warnings), "selected")
