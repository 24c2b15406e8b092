"""Tasks of the twin: the tumour it predicts, and where a segmentation is not what it expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from imaging.geometry import Volume
from monailabel_app.growth import Growth, Twin, on_visit
from monailabel_app.refusal import Refusal
from monailabel_app.studies import siblings
from monailabel_app.tasks import CaseTask, Server, TaskAnswer, TaskRequest
from monailabel_app.upstream import InferType
from twin import HorizonForecast, VolumeEstimate

_FORECAST = {"FORECAST core": 1, "FORECAST rest": 2}
_CHECK = {"TWIN unexpected tumour": 1, "TWIN expected tumour missing": 2}
# Beyond these probabilities of the whole tumour the twin is as good as certain.
_SURELY_NOT, _SURELY = 0.05, 0.95
_PRIOR_SENTENCE = "One visit cannot show growth: this rests on the priors alone, not on the patient."


class ForecastTask(CaseTask):
    """The calibrated twin's predicted tumour at a horizon, over today's scan."""

    parameters = ("horizon_days",)

    def __init__(self, server: Server, growth: Growth) -> None:
        self._growth = growth
        self._horizons = [f"{day:g}" for day in server.configuration.growth.horizons_days]
        super().__init__(
            server,
            InferType.SEGMENTATION,
            _FORECAST,
            "Forecast of the twin, not an observation; remove before submitting",
            {"horizon_days": self._horizons},
        )

    def answer(self, request: TaskRequest) -> TaskAnswer:
        wanted = str(request.parameters.get("horizon_days", self._horizons[0]))
        if wanted not in self._horizons:
            raise Refusal(f"horizon_days must be one of {', '.join(self._horizons)} (app.yaml, forecast).")
        examination = request.examination
        twin = self._growth.twin(
            examination, examination.number_among_siblings(self.server.configuration.rules) + 1
        )
        expected, warnings = twin.at(float(wanted))
        return TaskAnswer(
            forecast_labels(expected, twin),
            _FORECAST,
            {
                "horizon_days": float(wanted),
                "core_volume_ml": _interval(expected.volume_core_mm3),
                "whole_volume_ml": _interval(expected.volume_whole_mm3),
                **_said(twin, warnings),
            },
        )


class TwinCheckTask(CaseTask):
    """Where the segmentation of a visit and the twin's expectation from the earlier visits disagree."""

    def __init__(self, server: Server, growth: Growth) -> None:
        self._growth = growth
        super().__init__(
            server,
            InferType.SEGMENTATION,
            _CHECK,
            "Twin check: tumour that earlier visits do not lead to expect, or do; remove before submitting",
        )

    def answer(self, request: TaskRequest) -> TaskAnswer:
        found, twin, warnings = disagreement(self.server, self._growth, request.examination.key)
        voxel_ml = found.geometry.voxel_volume_mm3 / 1000
        volumes = {
            name: round(float((found.array == value).sum()) * voxel_ml, 2) for name, value in _CHECK.items()
        }
        return TaskAnswer(found, _CHECK, {"volumes_ml": volumes, **_said(twin, warnings)})


def disagreement(server: Server, growth: Growth, key: str) -> tuple[Volume, Twin, tuple[str, ...]]:
    """Label map of ``TWIN`` segments on the visit's reference image, the twin, and its warnings.

    Raises
    ------
    Refusal
        If there is no earlier visit.
    """
    examination = server.studies.examination(key)
    number = examination.number_among_siblings(server.configuration.rules)
    if number == 0:
        raise Refusal("This is the patient's first visit: there is no earlier one to expect anything from.")
    twin = growth.twin(examination, number)
    visits = growth.prepared(siblings(examination, server.configuration.rules)[: number + 1])
    expected, warnings = twin.at(visits[-1].day - twin.visits[-1].day)
    probability = on_visit(expected.probability_whole, twin.grid, visits[-1]).array
    seen = growth.labels(examination, visits[-1]).array > 0
    return Volume(surprises(seen, probability), visits[-1].reference.geometry), twin, warnings


def surprises(seen: npt.NDArray[np.bool_], probability: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """1 where tumour is seen that surely was not expected, 2 where none is seen that surely was; else 0."""
    unexpected, missing = seen & (probability < _SURELY_NOT), ~seen & (probability > _SURELY)
    return np.where(unexpected, 1, np.where(missing, 2, 0)).astype(np.uint8)


def forecast_labels(expected: HorizonForecast, twin: Twin) -> Volume:
    """Predicted core (1) and rest of the whole tumour (2) on the last visit's reference image."""
    core, whole = (
        on_visit(probability, twin.grid, twin.visits[-1]).array > 0.5
        for probability in (expected.probability_core, expected.probability_whole)
    )
    labels = np.where(core, 1, np.where(whole, 2, 0)).astype(np.uint8)
    return Volume(labels, twin.visits[-1].reference.geometry)


def _interval(volume: VolumeEstimate) -> dict[str, float]:
    low, high = volume.interval95
    named = {"median": volume.estimate, "low95": low, "high95": high}
    return {name: round(mm3 / 1000, 1) for name, mm3 in named.items()}


def _said(twin: Twin, warnings: tuple[str, ...]) -> Mapping[str, Any]:
    notes = [_PRIOR_SENTENCE] if twin.rests_on_prior else []
    return {"visits": len(twin.observations), "notes": [*notes, *warnings]}
