"""Operator: folder of DICOM files to the patient's catalogue of visits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec

from imaging.catalog import read_catalog
from operators.progress import say


class StudyLoaderOperator(Operator):
    """Reads the input folder.

    Named output
    ------------
    catalog : imaging.catalog.Catalog
    """

    def __init__(
        self, fragment: Fragment, *args: Any, input_folder: Path, visit_gap_hours: float, **kwargs: Any
    ) -> None:
        self.input_folder = input_folder
        self.visit_gap_hours = visit_gap_hours
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.output("catalog")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        say("reading the input folder")
        catalog = read_catalog(self.input_folder, visit_gap_hours=self.visit_gap_hours)
        say(f"found {len(catalog.visits)} visit(s)")
        op_output.emit(catalog, "catalog")
