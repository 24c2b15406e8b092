"""Operator: chosen series to aligned images."""

from __future__ import annotations

from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec

from imaging.preparation import prepare_visits
from operators.messages import PreparedStudies, SelectedStudies
from operators.progress import say


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
        prepared = prepare_visits(
            [(selected.visit, selected.selection.chosen) for selected in studies.visits],
            seed=self.seed,
            progress=say,
        )
        op_output.emit(PreparedStudies(studies.catalog, prepared, studies.warnings), "prepared")
