"""Comprehensive 3D SR with template TID 1500 (PS3.16): the numbers, for machines that speak DICOM.

Every measurement hangs on a region of a segmentation (TID 1411), so that a reader can always ask "of what?". A
predicted quantity has another concept name than a measured one. Bounds of an interval are the same measurement
again with a Derivation modifier; TID 310 has no way to say them with a unit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import highdicom as hd
from highdicom import sr
from pydicom import Dataset
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
from imaging.writers.common import (
    RESEARCH_NOTICE,
    content_dates,
    equipment,
    finish,
    plain_header,
)
from imaging.writers.identity import RunIdentity, WrittenObject, tracking_uid, uid_of
from imaging.writers.segmentation import (
    FORECAST_SEGMENT_NUMBERS,
    SEGMENT_NUMBERS,
    forecast_tracking_identifier,
    tracking_identifier,
)

_ROLE = "report"
_SERIES_NUMBER = 9900
_REGION_SEGMENTS: Mapping[str, tuple[str, ...]] = {
    "NCR": ("NCR",),
    "ED": ("ED",),
    "ET": ("ET",),
    "TC": ("NCR", "ET"),
    "WT": ("NCR", "ED", "ET"),
}


@dataclass(frozen=True, eq=False)
class VisitEvidence:
    """What the numbers of one visit rest on.

    Parameters
    ----------
    sources : sequence of pydicom.Dataset
        Every input instance that was used at this visit (all roles, and a clinician's annotation if there was
        one); only the headers are read.
    segmentation : WrittenObject
        The segmentation written for this visit.
    """

    sources: Sequence[Dataset]
    segmentation: WrittenObject


def write_structured_report(
    path: Path,
    *,
    content: ReportContent,
    reference: Dataset,
    visits: Sequence[VisitEvidence],
    forecasts: Sequence[WrittenObject],
    identity: RunIdentity,
    density_maps: Sequence[WrittenObject] = (),
) -> WrittenObject:
    """Write the report of a run into the study of the last visit.

    Parameters
    ----------
    path : pathlib.Path
        File to write.
    content : ReportContent
        What to say.
    reference : pydicom.Dataset
        An image of the last visit.
    visits : sequence of VisitEvidence
        One per ``content.visits``, in the same order.
    forecasts : sequence of WrittenObject
        Segmentation per ``content.forecasts``, in the same order.
    identity : RunIdentity
        Identity of the run.
    density_maps : sequence of WrittenObject
        Parametric maps to list as evidence.

    Raises
    ------
    ValueError
        If the evidence does not match the content.
    KeyError
        If a parameter or its unit has no registered code (``imaging/codes.py``).
    OSError
        If the file cannot be written.
    """
    if len(visits) != len(content.visits) or len(forecasts) != len(content.forecasts):
        raise ValueError("every visit needs its evidence and every forecast its segmentation")
    builder = _Builder(content, str(reference.PatientID), visits, forecasts)
    report = sr.MeasurementReport(
        observation_context=_observer(content),
        procedure_reported=codes.MRI_PROCEDURE,
        imaging_measurements=list(builder.groups()),
        title=codes.IMAGING_MEASUREMENT_REPORT,
    )
    report[0].ContentSequence.append(_qualitative_evaluations(content))
    written = [*(visit.segmentation for visit in visits), *forecasts, *density_maps]
    dataset = sr.Comprehensive3DSR(
        evidence=_evidence(reference, visits, written),
        content=report[0],
        series_instance_uid=identity.series_uid(_ROLE),
        series_number=_SERIES_NUMBER,
        sop_instance_uid="2.25.0",
        instance_number=1,
        is_complete=True,
        is_final=False,
        is_verified=False,
        series_description=f"OncoTwin report - {RESEARCH_NOTICE}",
        coding_schemes=[codes.private_scheme()],
        **equipment(content.software, content.model),
        **content_dates(content.visits[-1].date),
    )
    return finish(
        path,
        dataset,
        reference=reference,
        identity=identity,
        role=_ROLE,
        software=content.software,
        model=content.model,
    )


@dataclass(frozen=True, eq=False)
class _Builder:
    """Makes the measurement groups of one report."""

    content: ReportContent
    patient_id: str
    visits: Sequence[VisitEvidence]
    forecasts: Sequence[WrittenObject]

    def groups(self) -> Iterator[sr.VolumetricROIMeasurementsAndQualitativeEvaluations]:
        fits = {fit.day: fit for fit in self.content.calibration.fit} if self.content.calibration else {}
        for number, (visit, evidence) in enumerate(
            zip(self.content.visits, self.visits, strict=True), start=1
        ):
            for region in _REGION_SEGMENTS:
                yield self._region(number, visit, evidence.segmentation, region, fits.get(visit.day))
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
    ) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
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

    def _calibration(
        self, calibration: CalibrationReport
    ) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
        verdict = codes.ACCEPTABLE if calibration.acceptable else codes.NOT_ACCEPTABLE
        return self._model_group(
            [_number(codes.EFFECTIVE_SAMPLES, calibration.effective_samples, codes.NO_UNITS)],
            [sr.QualitativeEvaluation(codes.ACCEPTABILITY, verdict)],
        )

    def _parameter(self, parameter: ParameterReport) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
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

    def _skill(self, skill: SkillReport) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
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
    ) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
        """What the calibration says is said of the whole tumour at the last visit."""
        return self._group(
            self.visits[-1].segmentation,
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
    ) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
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
    ) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
        return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
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


def _qualitative_evaluations(content: ReportContent) -> sr.ContainerContentItem:
    """Rows 12 to 14 of TID 1500; highdicom 0.28 does not offer them."""
    contains = sr.RelationshipTypeValues.CONTAINS
    container = sr.ContainerContentItem(name=codes.QUALITATIVE_EVALUATIONS, relationship_type=contains)
    status = sr.CodeContentItem(codes.RUN_STATUS, codes.STATUS[content.status], relationship_type=contains)
    texts = [
        (codes.INTENDED_USE_TEXT, "Research use only, not for clinical use. Not reviewed by a physician."),
        (codes.SOFTWARE_TEXT, _software_text(content)),
        (codes.MODEL_TEXT, f"{content.model.name} {content.model.version}, SHA-256 {content.model.sha256}"),
    ]
    if content.calibration is not None:
        texts.append((codes.VERDICT_TEXT, content.calibration.verdict))
    metrics = {visit.registration.metric for visit in content.visits if visit.registration is not None}
    texts += [(codes.REGISTRATION_METRIC_TEXT, metric) for metric in sorted(metrics)]
    texts += [(codes.TREATMENT_TEXT, treatment) for treatment in content.treatments]
    texts += [(codes.SKILL_TEXT, sentence) for sentence in content.skill_sentences]
    if content.conformal is not None:
        texts.append((codes.CONFORMAL_TEXT, content.conformal.sentence))
    texts += [(codes.WARNING_TEXT, warning) for warning in content.warnings]
    container.ContentSequence = sr.ContentSequence(
        [status, *(sr.TextContentItem(name, text, relationship_type=contains) for name, text in texts)]
    )
    return container


def _software_text(content: ReportContent) -> str:
    software = content.software
    return (
        f"{software.name} {software.version} by {software.manufacturer}, "
        f"input {software.input_digest}, settings {software.settings_digest}"
    )


def _observer(content: ReportContent) -> sr.ObservationContext:
    software = content.software
    return sr.ObservationContext(
        observer_device_context=sr.ObserverContext(
            observer_type=Code("121007", "DCM", "Device"),
            observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                uid=uid_of("oncotwin device", software.name, software.version),
                name=software.name,
                manufacturer_name=software.manufacturer,
                model_name=software.name,
                serial_number=software.version,
            ),
        )
    )


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


def _evidence(
    reference: Dataset, visits: Sequence[VisitEvidence], written: Sequence[WrittenObject]
) -> list[Dataset]:
    first = plain_header(reference)
    first.SOPClassUID = reference.SOPClassUID
    evidence = {str(first.SOPInstanceUID): first}
    for visit in visits:
        for source in visit.sources:
            evidence.setdefault(
                str(source.SOPInstanceUID),
                _instance(
                    source.SOPClassUID,
                    source.SOPInstanceUID,
                    source.SeriesInstanceUID,
                    source.StudyInstanceUID,
                ),
            )
    for item in written:
        evidence[item.sop_instance_uid] = _instance(
            item.sop_class_uid, item.sop_instance_uid, item.series_instance_uid, item.study_uid
        )
    return list(evidence.values())


def _instance(sop_class_uid: str, sop_instance_uid: str, series_uid: str, study_uid: str) -> Dataset:
    instance = Dataset()
    instance.SOPClassUID = hd.UID(sop_class_uid)
    instance.SOPInstanceUID = hd.UID(sop_instance_uid)
    instance.SeriesInstanceUID = hd.UID(series_uid)
    instance.StudyInstanceUID = hd.UID(study_uid)
    return instance
