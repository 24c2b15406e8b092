"""Measurement groups of the structured report: template TID 1411, each on a region of a segmentation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from highdicom import sr
from highdicom.sr import VolumetricROIMeasurementsAndQualitativeEvaluations as Group
from pydicom.sr.coding import Code

from imaging import codes
from imaging.report_content import (
    CalibrationReport,
    Estimate,
    ForecastReport,
    ModelIdentity,
    ParameterReport,
    ReportContent,
    SkillReport,
    VisitFitReport,
    VisitReport,
)
from imaging.writers.identity import WrittenObject, tracking_uid
from imaging.writers.segmentation import (
    FORECAST_SEGMENT_NUMBERS,
    SEGMENT_NUMBERS,
    forecast_tracking_identifier,
    tracking_identifier,
)

_REGION_SEGMENTS: Mapping[str, tuple[str, ...]] = {
    "NCR": ("NCR",),
    "ED": ("ED",),
    "ET": ("ET",),
    "TC": ("NCR", "ET"),
    "WT": ("NCR", "ED", "ET"),
}


@dataclass(frozen=True, eq=False)
class MeasurementGroups:
    """Makes the measurement groups of one report.

    Parameters
    ----------
    content : ReportContent
        What to say.
    patient_id : str
        Whose tumour is tracked.
    visits, forecasts : sequence of WrittenObject
        Segmentations of ``content.visits`` and ``content.forecasts``, in the same order.
    """

    content: ReportContent
    patient_id: str
    visits: Sequence[WrittenObject]
    forecasts: Sequence[WrittenObject]

    def groups(self) -> Iterator[Group]:
        """Regions of all visits, calibration, parameters, skill, forecasts.

        Raises
        ------
        KeyError
            If a parameter or its unit has no registered code (``imaging/codes.py``).
        """
        fits = {fit.day: fit for fit in self.content.calibration.fit} if self.content.calibration else {}
        for number, (visit, written) in enumerate(
            zip(self.content.visits, self.visits, strict=True), start=1
        ):
            for region in _REGION_SEGMENTS:
                yield self._region(number, visit, written, region, fits.get(visit.day))
        if self.content.calibration is not None:
            yield self._calibration(self.content.calibration)
        for parameter in self.content.parameters:
            yield self._parameter(parameter)
        if self.content.skill is not None:
            yield self._skill(self.content.skill)
        for forecast, written in zip(self.content.forecasts, self.forecasts, strict=True):
            yield self._forecast(forecast, written, "core", codes.PREDICTED_CORE, forecast.core_volume_ml)
            yield self._forecast(forecast, written, "whole", codes.PREDICTED_WHOLE, forecast.whole_volume_ml)

    def _region(
        self,
        number: int,
        visit: VisitReport,
        segmentation: WrittenObject,
        region: str,
        fit: VisitFitReport | None,
    ) -> Group:
        measurements = [_number(codes.VOLUME, visit.volumes_ml[region], codes.CUBIC_CENTIMETER)]
        evaluations: list[sr.QualitativeEvaluation] = []
        if region == "WT":
            measurements += _visit_quality(visit, fit)
            source = codes.SEGMENTATION_SOURCES[visit.segmentation_source]
            evaluations.append(sr.QualitativeEvaluation(codes.SEGMENTATION_SOURCE, source))
        return self._group(
            segmentation,
            [SEGMENT_NUMBERS[name] for name in _REGION_SEGMENTS[region]],
            tracking=tracking_identifier(region),
            session=f"Visit {number}",
            date=visit.date,
            category=codes.MORPHOLOGICALLY_ABNORMAL,
            finding=codes.REGION_FINDINGS[region],
            algorithm=_network(self.content.model) if visit.segmentation_source == "network" else None,
            measurements=measurements,
            evaluations=evaluations,
        )

    def _calibration(self, calibration: CalibrationReport) -> Group:
        verdict = codes.ACCEPTABLE if calibration.acceptable else codes.NOT_ACCEPTABLE
        return self._model_group(
            [_number(codes.EFFECTIVE_SAMPLES, calibration.effective_samples, codes.NO_UNITS)],
            [sr.QualitativeEvaluation(codes.ACCEPTABILITY, verdict)],
        )

    def _parameter(self, parameter: ParameterReport) -> Group:
        name, unit = codes.PARAMETERS[parameter.name], codes.UNITS[parameter.unit]
        identified = codes.IDENTIFIED if parameter.identified else codes.NOT_IDENTIFIED
        return self._model_group(
            [
                *_estimate(name, parameter.value, unit),
                _number(name, parameter.prior_median, unit, codes.PRIOR_MEDIAN),
                _number(name, parameter.prior_sigma_log, codes.NO_UNITS, codes.PRIOR_SIGMA_LOG),
                _number(name, parameter.contraction, codes.NO_UNITS, codes.CONTRACTION),
            ],
            [sr.QualitativeEvaluation(codes.IDENTIFIABILITY, identified)],
        )

    def _skill(self, skill: SkillReport) -> Group:
        measurements = [_number(codes.DAYS_SINCE_FIRST, skill.day, codes.DAY)]
        for mask, volume in (("core", skill.core), ("whole", skill.whole)):
            measurements += _estimate(codes.SKILL_FORECAST[mask], volume.forecast_ml, codes.CUBIC_CENTIMETER)
            errors = (
                (codes.SKILL_ERROR, volume.error_ml),
                (codes.SKILL_UNCHANGED_ERROR, volume.unchanged_error_ml),
                (codes.SKILL_EXPONENTIAL_ERROR, volume.exponential_error_ml),
            )
            measurements += [
                _number(names[mask], error, codes.CUBIC_CENTIMETER)
                for names, error in errors
                if error is not None
            ]
        return self._model_group(measurements, [])

    def _model_group(
        self, measurements: Sequence[sr.Measurement], evaluations: Sequence[sr.QualitativeEvaluation]
    ) -> Group:
        """What the calibration says is said of the whole tumour at the last visit."""
        return self._group(
            self.visits[-1],
            [SEGMENT_NUMBERS[name] for name in _REGION_SEGMENTS["WT"]],
            tracking=tracking_identifier("WT"),
            session="Calibration",
            date=self.content.visits[-1].date,
            category=codes.MORPHOLOGICALLY_ABNORMAL,
            finding=codes.GROWTH_MODEL,
            algorithm=_growth_model(self.content),
            measurements=measurements,
            evaluations=evaluations,
        )

    def _forecast(
        self,
        forecast: ForecastReport,
        segmentation: WrittenObject,
        label: str,
        finding: Code,
        volume: Estimate,
    ) -> Group:
        last = self.content.visits[-1].date
        segments = ["core"] if label == "core" else ["core", "rest"]
        return self._group(
            segmentation,
            [FORECAST_SEGMENT_NUMBERS[name] for name in segments],
            tracking=forecast_tracking_identifier(last, forecast.horizon_days, label),
            session=f"FORECAST +{forecast.horizon_days:g} d",
            date=last + timedelta(days=forecast.horizon_days),
            category=codes.PREDICTION_CATEGORY,
            finding=finding,
            algorithm=_growth_model(self.content),
            measurements=[
                *_estimate(codes.PREDICTED_VOLUME, volume, codes.CUBIC_CENTIMETER),
                _number(codes.HORIZON, forecast.horizon_days, codes.DAY),
                _number(codes.DAYS_SINCE_FIRST, forecast.day, codes.DAY),
            ],
        )

    def _group(
        self,
        segmentation: WrittenObject,
        segments: Sequence[int],
        *,
        tracking: str,
        session: str,
        date: datetime,
        category: Code,
        finding: Code,
        algorithm: sr.AlgorithmIdentification | None,
        measurements: Sequence[sr.Measurement],
        evaluations: Sequence[sr.QualitativeEvaluation] = (),
    ) -> Group:
        return Group(
            tracking_identifier=sr.TrackingIdentifier(
                uid=tracking_uid(self.patient_id, tracking), identifier=tracking
            ),
            referenced_segment=sr.ReferencedSegment(
                segmentation.sop_class_uid,
                segmentation.sop_instance_uid,
                list(segments),
                source_series=sr.SourceSeriesForSegmentation(segmentation.source_series_uid),
            ),
            session=session,
            time_point_context=sr.TimePointContext(time_point=date.date().isoformat()),
            finding_category=category,
            finding_type=finding,
            finding_sites=[sr.FindingSite(anatomic_location=codes.BRAIN)],
            algorithm_id=algorithm,
            measurements=list(measurements),
            qualitative_evaluations=list(evaluations) or None,
        )


def _visit_quality(visit: VisitReport, fit: VisitFitReport | None) -> list[sr.Measurement]:
    numbers = [_number(codes.DAYS_SINCE_FIRST, visit.day, codes.DAY)]
    if visit.uncertainty is not None:
        numbers.append(_number(codes.SEGMENTATION_ENTROPY, visit.uncertainty, codes.NO_UNITS))
    if visit.registration is not None:
        quality = visit.registration
        numbers += [
            _number(codes.REGISTRATION_SIMILARITY, quality.similarity, codes.NO_UNITS),
            _number(codes.REGISTRATION_THRESHOLD, quality.threshold, codes.NO_UNITS),
            _number(codes.REGISTRATION_ROTATION, quality.rotation_degrees, codes.DEGREE),
            _number(codes.REGISTRATION_TRANSLATION, quality.translation_mm, codes.MILLIMETER),
        ]
    for role, quality in visit.series_registration.items():
        numbers.append(_number(codes.SERIES_SIMILARITY[role], quality.similarity, codes.NO_UNITS))
    if fit is not None and fit.dice_core is not None:
        numbers.append(_number(codes.FIT_DICE_CORE, fit.dice_core, codes.NO_UNITS))
    if fit is not None:
        numbers.append(_number(codes.FIT_DICE_WHOLE, fit.dice_whole, codes.NO_UNITS))
    return numbers


def _network(model: ModelIdentity) -> sr.AlgorithmIdentification:
    return sr.AlgorithmIdentification(name=model.name, version=model.version)


def _growth_model(content: ReportContent) -> sr.AlgorithmIdentification:
    return sr.AlgorithmIdentification(
        name=f"{content.software.name} growth model", version=content.software.version
    )


def _number(name: Code, value: float, unit: Code, derivation: Code | None = None) -> sr.Measurement:
    return sr.Measurement(name=name, value=float(value), unit=unit, derivation=derivation)


def _estimate(name: Code, estimate: Estimate, unit: Code) -> list[sr.Measurement]:
    low, high = estimate.interval95
    return [
        _number(name, estimate.estimate, unit, codes.MEDIAN),
        _number(name, low, unit, codes.PERCENTILE_2_5),
        _number(name, high, unit, codes.PERCENTILE_97_5),
    ]
