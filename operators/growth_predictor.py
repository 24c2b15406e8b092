"""Operator: calibrated growth model to the tumour expected at each horizon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monai.deploy.core import Fragment, Operator, OperatorSpec

from imaging.report_content import Status
from operators.messages import CalibratedTwin, ForecastTwin
from operators.progress import about, say
from twin import forecast


class GrowthPredictorOperator(Operator):
    """Predicts the tumour; withholds the prediction when the model does not explain the scans.

    Named input
    -----------
    calibrated : operators.messages.CalibratedTwin

    Named output
    ------------
    predicted : operators.messages.ForecastTwin
    """

    def __init__(self, fragment: Fragment, *args: Any, horizons_days: Sequence[float], **kwargs: Any) -> None:
        self.horizons_days = tuple(horizons_days)
        super().__init__(fragment, *args, **kwargs)

    def setup(self, spec: OperatorSpec) -> None:
        spec.input("calibrated")
        spec.output("predicted")

    def compute(self, op_input: Any, op_output: Any, context: Any) -> None:
        twin: CalibratedTwin = op_input.receive("calibrated")
        predictable = twin.status in (Status.OK, Status.SINGLE_VISIT)
        if not predictable or twin.calibration is None or twin.tissue is None:
            op_output.emit(ForecastTwin(twin, None), "predicted")
            return
        say("predicting growth")
        progress = about("predicting growth")
        prediction = forecast(
            twin.calibration,
            twin.tissue,
            twin.observations,
            self.horizons_days,
            progress=lambda step, fraction: progress(f"{step} ({fraction:.0%})"),
        )
        op_output.emit(ForecastTwin(twin, prediction), "predicted")
