"""``result.json``: the run for machines that do not speak DICOM."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema

from imaging.report_content import Estimate, RegistrationQuality, ReportContent, VolumeSkill
from imaging.writers.identity import WrittenObject

Document = dict[str, Any]


def result_schema() -> Document:
    """The JSON schema (2020-12) of ``result.json``; ``docs/result.schema.json`` points to the same file."""
    text = files("imaging.writers").joinpath("result.schema.json").read_text("utf-8")
    schema: Document = json.loads(text)
    return schema


def result_document(
    content: ReportContent, *, patient_id: str, outputs: Sequence[WrittenObject], folder: Path
) -> Document:
    """The content of ``result.json``.

    Parameters
    ----------
    content : ReportContent
        What to say.
    patient_id : str
        PatientID of the input.
    outputs : sequence of WrittenObject
        The DICOM objects of the run.
    folder : pathlib.Path
        Folder that ``outputs`` lie in; their paths are given relative to it.
    """
    return {
        "schema_version": 1,
        "intended_use": "research use only, not for clinical use",
        "status": content.status.value,
        "patient": {"id": patient_id},
        "visits": [
            {
                "date": visit.date.isoformat(),
                "day": float(visit.day),
                "volumes_ml": {region: float(volume) for region, volume in visit.volumes_ml.items()},
                "series": dict(visit.series),
                "segmentation_source": visit.segmentation_source,
                "uncertainty": None if visit.uncertainty is None else float(visit.uncertainty),
                "registration": None if visit.registration is None else _registration(visit.registration),
                "series_registration": {
                    role: _registration(quality) for role, quality in visit.series_registration.items()
                },
            }
            for visit in content.visits
        ],
        "parameters": {
            parameter.name: {
                "unit": parameter.unit,
                **_estimate(parameter.value),
                "prior": {
                    "median": float(parameter.prior_median),
                    "sigma_log": float(parameter.prior_sigma_log),
                },
                "contraction": float(parameter.contraction),
                "identified": bool(parameter.identified),
            }
            for parameter in content.parameters
        },
        "calibration": _calibration(content),
        "forecasts": [
            {
                "day": float(forecast.day),
                "horizon_days": float(forecast.horizon_days),
                "volume_ml": _estimate(forecast.whole_volume_ml),
                "core_volume_ml": _estimate(forecast.core_volume_ml),
            }
            for forecast in content.forecasts
        ],
        "skill": _skill(content),
        "conformal": _conformal(content),
        "treatments": list(content.treatments),
        "outputs": [
            {
                "file": output.path.relative_to(folder).as_posix(),
                "sop_class": output.sop_class_name,
                "sop_class_uid": output.sop_class_uid,
                "sop_instance_uid": output.sop_instance_uid,
                "series_instance_uid": output.series_instance_uid,
                "description": output.description,
            }
            for output in outputs
        ],
        "warnings": list(content.warnings),
        "software": {
            "name": content.software.name,
            "version": content.software.version,
            "manufacturer": content.software.manufacturer,
            "input_digest": content.software.input_digest,
            "settings_digest": content.software.settings_digest,
        },
        "model": {
            "name": content.model.name,
            "version": content.model.version,
            "sha256": content.model.sha256,
        },
    }


def write_result(path: Path, document: Document) -> None:
    """Validate the document against its schema and write it.

    Raises
    ------
    jsonschema.ValidationError
        If the document is not what the schema promises: a fault of this program, not of the input.
    ValueError
        If it holds a number that is not finite.
    OSError
        If the file cannot be written.
    """
    jsonschema.validate(document, result_schema(), cls=jsonschema.Draft202012Validator)
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")


def _estimate(value: Estimate) -> Document:
    low, high = value.interval95
    return {"estimate": float(value.estimate), "interval95": [float(low), float(high)]}


def _registration(quality: RegistrationQuality) -> Document:
    return {
        "similarity": float(quality.similarity),
        "metric": quality.metric,
        "threshold": float(quality.threshold),
        "rotation_degrees": float(quality.rotation_degrees),
        "translation_mm": float(quality.translation_mm),
    }


def _calibration(content: ReportContent) -> Document | None:
    calibration = content.calibration
    if calibration is None:
        return None
    return {
        "acceptable": bool(calibration.acceptable),
        "verdict": calibration.verdict,
        "effective_samples": float(calibration.effective_samples),
        "fit": [
            {
                "day": float(fit.day),
                "dice_core": None if fit.dice_core is None else float(fit.dice_core),
                "dice_whole": float(fit.dice_whole),
            }
            for fit in calibration.fit
        ],
    }


def _skill(content: ReportContent) -> Document | None:
    skill = content.skill
    if skill is None:
        return None
    return {
        "day": float(skill.day),
        "volume_ml": _volume_skill(skill.whole),
        "core_volume_ml": _volume_skill(skill.core),
    }


def _volume_skill(skill: VolumeSkill) -> Document:
    exponential = skill.exponential_error_ml
    return {
        "observed": float(skill.observed_ml),
        "forecast": _estimate(skill.forecast_ml),
        "inside95": skill.inside95,
        "error": float(skill.error_ml),
        "error_no_change": float(skill.unchanged_error_ml),
        "error_exponential": None if exponential is None else float(exponential),
    }


def _conformal(content: ReportContent) -> Document | None:
    conformal = content.conformal
    if conformal is None:
        return None
    return {
        "factor": float(conformal.whole),
        "core_factor": float(conformal.core),
        "provenance": conformal.provenance,
    }
