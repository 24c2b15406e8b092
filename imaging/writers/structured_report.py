"""Comprehensive 3D SR with template TID 1500 (PS3.16): the numbers, for machines that speak DICOM.

Every measurement hangs on a region of a segmentation (TID 1411), so that a reader can always ask "of what?". A
predicted quantity has another concept name than a measured one. Bounds of an interval are the same measurement
again with a Derivation modifier; TID 310 has no way to say them with a unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import highdicom as hd
from highdicom import sr
from pydicom import Dataset
from pydicom.sr.coding import Code

from imaging import codes
from imaging.report_content import ReportContent
from imaging.writers.common import (
    RESEARCH_NOTICE,
    content_dates,
    equipment,
    finish,
    plain_header,
)
from imaging.writers.identity import RunIdentity, WrittenObject, uid_of
from imaging.writers.measurement_groups import MeasurementGroups

_ROLE = "report"
_SERIES_NUMBER = 9900


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
    treatment: Sequence[Dataset] = (),
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
    treatment : sequence of pydicom.Dataset
        Input instances that say what treatment was given; only the headers are read.

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
    measured = MeasurementGroups(
        content, str(reference.PatientID), [visit.segmentation for visit in visits], forecasts
    )
    report = sr.MeasurementReport(
        observation_context=_observer(content),
        procedure_reported=codes.MRI_PROCEDURE,
        imaging_measurements=list(measured.groups()),
        title=codes.IMAGING_MEASUREMENT_REPORT,
    )
    report[0].ContentSequence.append(_qualitative_evaluations(content))
    written = [*(visit.segmentation for visit in visits), *forecasts, *density_maps]
    dataset = sr.Comprehensive3DSR(
        evidence=_evidence(
            reference, [*(source for visit in visits for source in visit.sources), *treatment], written
        ),
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
    texts += [(codes.REGISTRATION_METRIC_TEXT, metric) for metric in content.registration_metrics]
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


def _evidence(
    reference: Dataset, sources: Sequence[Dataset], written: Sequence[WrittenObject]
) -> list[Dataset]:
    first = plain_header(reference)
    first.SOPClassUID = reference.SOPClassUID
    evidence = {str(first.SOPInstanceUID): first}
    for source in sources:
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
