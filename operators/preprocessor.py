"""Operator: chosen series to aligned images."""

from __future__ import annotations

from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec

from imaging.preparation import PreparedVisit, prepare_visit
from operators.messages import PreparedStudies, SelectedStudies
from operators.progress import about


class PreprocessorOperator(Operator):
    """Reads and registers every visit.

    Named input
    -----------
    selected : operators.messages.SelectedStudies

    Named output
    ------------
    prepared : operators.messages.PreparedStudies
    """

    def __init__(self, fragment: Fragment, *args: Any, seed: int, **kwargs: Any) -> None:
        self.seed = seed
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("selected")
        spec.output("prepared")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        studies: SelectedStudies = op_input.receive("selected")
        prepared: list[PreparedVisit] = []
        for number, selected in enumerate(studies.visits, start=1):
            first = prepared[0] if prepared else None
            progress = about(f"visit {number} of {len(studies.visits)}")
            prepared.append(
                prepare_visit(
                    selected.visit, selected.selection.chosen, first, seed=self.seed, progress=progress
                )
            )
        op_output.emit(PreparedStudies(studies.catalog, tuple(prepared)), "prepared")
