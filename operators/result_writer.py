"""Operator: prediction to the folder of results, published whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec

from imaging.report_content import SoftwareIdentity
from imaging.writers.publish import require_free_folder
from imaging.writers.results import write_results
from operators.messages import ForecastTwin
from operators.progress import about, say
from operators.report_assembly import report_content

MANUFACTURER = "OncoTwin"
PRODUCT = "OncoTwin"


class ResultWriterOperator(Operator):
    """Writes DICOM SEG, parametric maps, structured report, PDF and ``result.json``.

    Named input
    -----------
    predicted : operators.messages.ForecastTwin

    File output
    -----------
    The output folder, created when everything has been written.
    """

    def __init__(
        self,
        fragment: Fragment,
        *args: Any,
        output_folder: Path,
        version: str,
        settings_digest: str,
        nifti: bool,
        **kwargs: Any,
    ) -> None:
        self.output_folder = output_folder
        self.version = version
        self.settings_digest = settings_digest
        self.nifti = nifti
        # A run takes a minute: an unusable output folder is told before it, not after.
        require_free_folder(output_folder)
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("predicted")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        predicted: ForecastTwin = op_input.receive("predicted")
        segmented = predicted.calibrated.mapped.segmented
        say("writing the results")
        software = SoftwareIdentity(
            name=PRODUCT,
            version=self.version,
            manufacturer=MANUFACTURER,
            input_digest=segmented.catalog.digest,
            settings_digest=self.settings_digest,
        )
        write_results(
            self.output_folder,
            report_content(predicted, software),
            visits=[visit.prepared for visit in segmented.visits],
            dose=predicted.calibrated.dose,
            nifti=self.nifti,
            progress=about("writing the results"),
        )
