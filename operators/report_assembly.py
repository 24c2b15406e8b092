"""Translates what the rooms computed into what the report says; pure, no Holoscan."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

import twin
from imaging.geometry import Geometry, Volume
from imaging.labels import volumes_ml
from imaging.preparation import PreparedVisit
from imaging.report_content import (
    CalibrationReport,
    ConformalReport,
    Estimate,
    ForecastReport,
    GrowthCurve,
    ParameterReport,
    ReportContent,
    SkillReport,
    SoftwareIdentity,
    VisitFitReport,
    VisitReport,
    VolumeSkill,
)
from operators.messages import ForecastTwin, SegmentedVisit

# Density below this fraction of the carrying capacity is left out of the density maps.
DENSITY_FLOOR = 1e-3
MM3_PER_ML = 1000.0

PREDICTED_CORE, PREDICTED_MARGIN = 1, 2


def report_content(predicted: ForecastTwin, software: SoftwareIdentity) -> ReportContent:
    """Everything the report says about a run.

    Parameters
    ----------
    predicted : ForecastTwin
        The end of the pipeline.
    software : SoftwareIdentity
        Who computed it.
    """
    calibrated = predicted.calibrated
    segmented = calibrated.mapped.segmented
    calibration = calibrated.calibration
    forecast_warnings = () if predicted.forecast is None else predicted.forecast.warnings
    warnings = (*segmented.warnings, *calibrated.warnings, *forecast_warnings)
    last = segmented.visits[-1].prepared
    return ReportContent(
        status=calibrated.status,
        visits=tuple(_visit_report(visit) for visit in segmented.visits),
        parameters=() if calibration is None else tuple(map(_parameter_report, calibration.parameters)),
        forecasts=()
        if predicted.forecast is None
        else tuple(_forecast_report(h, calibrated.mapped.grid, last) for h in predicted.forecast.horizons),
        curve=None if predicted.forecast is None else _growth_curve(predicted.forecast.curve),
        calibration=None if calibration is None else _calibration_report(calibration),
        warnings=tuple(dict.fromkeys(warnings)),
        software=software,
        model=segmented.model,
        skill=None if calibration is None or calibration.skill is None else _skill_report(calibration.skill),
        conformal=None if predicted.forecast is None else _conformal_report(predicted.forecast.conformal),
        treatments=calibrated.treatments,
    )


def _visit_report(visit: SegmentedVisit) -> VisitReport:
    prepared = visit.prepared
    return VisitReport(
        date=prepared.date,
        day=prepared.day,
        volumes_ml=volumes_ml(visit.labels.array, visit.labels.geometry.voxel_volume_mm3),
        series={role: series.uid for role, series in prepared.series.items()},
        segmentation_source=visit.source,
        registration=None if prepared.registration is None else prepared.registration.quality,
        series_registration={
            role: registration.quality for role, registration in prepared.series_registrations.items()
        },
        uncertainty=visit.uncertainty,
        image=prepared.reference,
        labels=visit.labels,
    )


def _parameter_report(parameter: twin.ParameterEstimate) -> ParameterReport:
    return ParameterReport(
        name=parameter.name,
        unit=parameter.unit,
        value=Estimate(parameter.estimate, parameter.interval95),
        prior_median=parameter.prior.median,
        prior_sigma_log=parameter.prior.sigma_log,
        contraction=parameter.contraction,
        identified=parameter.identified,
    )


def _calibration_report(calibration: twin.Calibration) -> CalibrationReport:
    return CalibrationReport(
        acceptable=calibration.acceptable,
        verdict=calibration.verdict,
        effective_samples=calibration.effective_samples,
        fit=tuple(
            VisitFitReport(fit.day, None if math.isnan(fit.dice_core) else fit.dice_core, fit.dice_whole)
            for fit in calibration.fit
        ),
    )


def _skill_report(skill: twin.SkillCheck) -> SkillReport:
    core, whole = (_volume_skill(mask, skill.acceptable) for mask in (skill.core, skill.whole))
    return SkillReport(skill.day, core, whole)


def _volume_skill(skill: twin.MaskSkill, acceptable: bool) -> VolumeSkill:
    exponential = skill.exponential_mm3
    return VolumeSkill(
        observed_ml=skill.observed_mm3 / MM3_PER_ML,
        forecast_ml=_volume_estimate(skill.forecast_mm3),
        unchanged_ml=skill.unchanged_mm3 / MM3_PER_ML,
        exponential_ml=None if exponential is None else exponential / MM3_PER_ML,
        acceptable=acceptable,
    )


def _conformal_report(conformal: twin.Conformal) -> ConformalReport:
    return ConformalReport(conformal.core, conformal.whole, conformal.provenance, conformal.sentence)


def _growth_curve(curve: twin.GrowthCurve) -> GrowthCurve:
    def ml(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return np.asarray(values, dtype=np.float64) / MM3_PER_ML

    return GrowthCurve(
        days=np.asarray(curve.days, dtype=np.float64),
        core_ml=ml(curve.core_median),
        core_low_ml=ml(curve.core_lower),
        core_high_ml=ml(curve.core_upper),
        whole_ml=ml(curve.whole_median),
        whole_low_ml=ml(curve.whole_lower),
        whole_high_ml=ml(curve.whole_upper),
    )


def _forecast_report(horizon: twin.HorizonForecast, grid: Geometry, last: PreparedVisit) -> ForecastReport:
    reference = last.reference.geometry
    core, whole = (
        Volume(_numpy(p), grid).resampled(reference, last.visit_to_first).array > 0.5
        for p in (horizon.probability_core, horizon.probability_whole)
    )
    labels = np.where(core, PREDICTED_CORE, np.where(whole, PREDICTED_MARGIN, 0)).astype(np.uint8)
    mean, deviation = _cropped_to_tumour(
        (Volume(_numpy(horizon.density_mean), grid), Volume(_numpy(horizon.density_sd), grid))
    )
    return ForecastReport(
        horizon_days=horizon.horizon_days,
        day=horizon.day,
        core_volume_ml=_volume_estimate(horizon.volume_core_mm3),
        whole_volume_ml=_volume_estimate(horizon.volume_whole_mm3),
        density_mean=_in_frame_of(mean, last),
        density_sd=_in_frame_of(deviation, last),
        labels=Volume(labels, reference),
    )


def _volume_estimate(volume: twin.VolumeEstimate) -> Estimate:
    low, high = volume.interval95
    return Estimate(volume.estimate / MM3_PER_ML, (low / MM3_PER_ML, high / MM3_PER_ML))


def _cropped_to_tumour(maps: Sequence[Volume]) -> tuple[Volume, ...]:
    """Maps on the box where the first exceeds the density floor."""
    present = np.argwhere(maps[0].array > DENSITY_FLOOR)
    if len(present) == 0:
        present = np.argwhere(maps[0].array == maps[0].array.max())[:1]
    start, stop = present.min(axis=0), present.max(axis=0) + 1
    box = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
    return tuple(Volume(m.array[box], m.geometry.crop(start, stop)) for m in maps)


def _in_frame_of(volume: Volume, visit: PreparedVisit) -> Volume:
    """A map of the first visit's frame carried rigidly into a visit's own: the grid moves, no voxel changes."""
    frame = visit.reference.geometry.frame_of_reference_uid
    matrix = np.eye(4) if visit.registration is None else visit.registration.matrix
    return Volume(volume.array, volume.geometry.moved(matrix, frame))


def _numpy(tensor: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = tensor.detach().to("cpu").float().numpy()
    return array
