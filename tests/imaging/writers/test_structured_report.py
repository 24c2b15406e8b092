"""Structured report: valid TID 1500, and the numbers of the content, for every outcome."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom as hd
import pydicom
import pytest

from imaging.report_content import ReportContent, Status
from imaging.writers.identity import tracking_uid
from imaging.writers.structured_report import VisitEvidence, write_structured_report
from tests.imaging.writers import patients, validators
from tests.imaging.writers.patients import IDENTITY, OutputSet, Sources


@pytest.fixture(scope="session")
def read_back(output_set: OutputSet, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Measurement groups as dcmqi reads them."""
    report = validators.dcmqi_report(output_set.report.path, tmp_path_factory.mktemp("tid1500"))
    groups: list[dict[str, Any]] = report["Measurements"]
    return groups


def values(group: dict[str, Any], quantity: str) -> dict[str, tuple[float, str]]:
    """Value and unit of a quantity by its derivation code (empty: none)."""
    found = {}
    for item in group["measurementItems"]:
        if item["quantity"]["CodeValue"] == quantity:
            derivation = item.get("derivationModifier", {}).get("CodeValue", "")
            found[derivation] = (float(item["value"]), item["units"]["CodeValue"])
    return found


@pytest.mark.slow
def test_two_visits_pass_the_template_validator(output_set: OutputSet) -> None:
    assert validators.pixelmed_errors(output_set.report.path) == []


def test_measured_volumes_are_those_of_the_voxels(
    output_set: OutputSet, read_back: list[dict[str, Any]]
) -> None:
    members = {"NCR": (1,), "ED": (2,), "ET": (3,), "TC": (1, 3), "WT": (1, 2, 3)}
    for number, written in enumerate(output_set.segmentations, start=1):
        labels = hd.seg.segread(written.path).get_volume(combine_segments=True)
        voxel_ml = abs(float(labels.voxel_volume)) / 1000
        groups = {g["TrackingIdentifier"]: g for g in read_back if g["activitySession"] == f"Visit {number}"}
        assert len(groups) == 5
        for region, numbers in members.items():
            group = groups[f"Tumor {region}"]
            value, unit = values(group, "118565006")[""]
            expected = sum(int((labels.array == n).sum()) for n in numbers) * voxel_ml
            assert value == pytest.approx(expected, rel=1e-6)
            assert unit == "cm3"
            assert group["segmentationSOPInstanceUID"] == written.sop_instance_uid
            assert group["TrackingUniqueIdentifier"] == tracking_uid("P-001", f"Tumor {region}")


def test_forecast_volumes_carry_their_interval_and_another_name(
    output_set: OutputSet, read_back: list[dict[str, Any]]
) -> None:
    for forecast, written in zip(output_set.content.forecasts, output_set.forecasts, strict=True):
        groups = [g for g in read_back if g["activitySession"] == f"FORECAST +{forecast.horizon_days:g} d"]
        assert [g["Finding"]["CodeValue"] for g in groups] == ["OT1001", "OT1003"]
        for group, volume in zip(groups, (forecast.core_volume_ml, forecast.whole_volume_ml), strict=True):
            assert values(group, "118565006") == {}, "a forecast must not be called a measured volume"
            low, high = volume.interval95
            assert values(group, "OT1102") == {
                "373099004": (volume.estimate, "cm3"),
                "OT1201": (low, "cm3"),
                "OT1202": (high, "cm3"),
            }
            assert values(group, "OT1702") == {"": (forecast.horizon_days, "d")}
            assert group["segmentationSOPInstanceUID"] == written.sop_instance_uid


def test_parameters_have_units_prior_contraction_and_verdict(read_back: list[dict[str, Any]]) -> None:
    codes = {
        "diffusivity": ("OT1301", "mm2/d", "OT1402"),
        "proliferation": ("OT1302", "/d", "OT1403"),
        "radiosensitivity": ("OT1304", "/Gy", "OT1402"),
    }
    for parameter in patients.PARAMETERS:
        code, unit, verdict = codes[parameter.name]
        (group,) = (g for g in read_back if values(g, code))
        low, high = parameter.value.interval95
        assert values(group, code) == {
            "373099004": (parameter.value.estimate, unit),
            "OT1201": (low, unit),
            "OT1202": (high, unit),
            "OT1203": (parameter.prior_median, unit),
            "OT1204": (parameter.prior_sigma_log, "1"),
            "OT1205": (parameter.contraction, "1"),
        }
        said = {
            q["conceptCode"]["CodeValue"]: q["conceptValue"]["CodeValue"]
            for q in group["qualitativeEvaluations"]
        }
        assert said["OT1401"] == verdict


def test_registration_and_calibration_quality_are_told(read_back: list[dict[str, Any]]) -> None:
    (second,) = (
        g for g in read_back if g["activitySession"] == "Visit 2" and g["TrackingIdentifier"] == "Tumor WT"
    )
    expected = {
        "OT1601": (0.81, "1"),
        "OT1602": (0.4, "1"),
        "OT1603": (2.1, "deg"),
        "OT1604": (3.4, "mm"),
        "OT1614": (0.81, "1"),
        "OT1621": (0.125, "1"),
        "OT1352": (0.9, "1"),
        "OT1353": (0.87, "1"),
    }
    for code, value in expected.items():
        assert values(second, code) == {"": value}


def test_skill_is_told_in_numbers(read_back: list[dict[str, Any]]) -> None:
    (group,) = (g for g in read_back if values(g, "OT1371"))
    assert values(group, "OT1701") == {"": (61.0, "d")}
    assert values(group, "OT1371") == {
        "373099004": (10.0, "cm3"),
        "OT1201": (8.0, "cm3"),
        "OT1202": (11.0, "cm3"),
    }
    expected = {"OT1372": 1.5, "OT1373": 3.0, "OT1374": 2.25, "OT1362": 0.25, "OT1363": 1.25}
    for code, error in expected.items():
        assert values(group, code) == {"": (error, "cm3")}
    assert values(group, "OT1364") == {}, "no exponential passes through a core that was not there"


def test_texts_of_the_run_are_in_the_report(output_set: OutputSet) -> None:
    dataset = pydicom.dcmread(output_set.report.path)
    container = dataset.ContentSequence[-1]
    assert container.ConceptNameCodeSequence[0].CodeMeaning == "Qualitative Evaluations"
    texts = {item.ConceptNameCodeSequence[0].CodeMeaning: item for item in container.ContentSequence}
    assert texts["Outcome of the analysis"].ConceptCodeSequence[0].CodeValue == "OT1421"
    assert texts["Warning"].TextValue == output_set.content.warnings[0]
    assert "Research use only" in texts["Intended use"].TextValue
    assert patients.MODEL.sha256 in texts["Segmentation model version"].TextValue
    assert patients.SOFTWARE.input_digest in texts["Software version"].TextValue
    assert texts["Verdict of the calibration"].TextValue == output_set.content.calibration.verdict
    assert texts["Origin of the forecast intervals"].TextValue == patients.CONFORMAL.sentence
    assert texts["Treatment given to the growth model"].TextValue == patients.TREATMENTS[0]
    skill = [
        i.TextValue for i in container.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "OT1507"
    ]
    assert skill == list(output_set.content.skill_sentences) and len(skill) == 2
    assert (dataset.PreliminaryFlag, dataset.VerificationFlag) == ("PRELIMINARY", "UNVERIFIED")
    assert (dataset.ContentTemplateSequence[0].TemplateIdentifier, dataset.ValueType) == ("1500", "CONTAINER")


def outcome(status: Status, sources: Sources) -> tuple[ReportContent, Sequence[Sources]]:
    """Content of a run that did not end in a forecast from two visits."""
    found, nothing = patients.tumour(sources.geometry), patients.empty(sources.geometry)
    visit = patients.visit
    if status is Status.NO_TUMOUR:
        return patients.report(status, [visit(sources, nothing, uncertainty=None)]), [sources]
    if status is Status.TUMOUR_GONE:
        return patients.report(status, [visit(sources, found), visit(sources, nothing, 50.0)]), [sources] * 2
    if status is Status.SINGLE_VISIT:
        forecasts = [patients.forecast(sources, 60.0, 0.0)]
        return patients.report(status, [visit(sources, found)], forecasts, ["One visit only."]), [sources]
    visits = [visit(sources, found), visit(sources, found, 50.0)]
    content = patients.report(status, visits, [patients.forecast(sources, 60.0, 50.0)])
    verdict = replace(content.calibration, acceptable=False, verdict="The model misses visit 2.")
    return replace(content, calibration=verdict), [sources] * 2


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_every_other_outcome_is_a_valid_report_that_says_so(
    status: Status, sources: Sources, tmp_path: Path
) -> None:
    content, series = outcome(status, sources)
    written = patients.write_all(tmp_path / "out", content, series)
    for item in written.written:
        assert validators.dciodvfy_errors(item.path) == []
    container = pydicom.dcmread(written.report.path).ContentSequence[-1]
    said = container.ContentSequence[0].ConceptCodeSequence[0]
    expected = {
        "single_visit": "OT1422",
        "no_tumour": "OT1423",
        "tumour_gone": "OT1424",
        "not_explained": "OT1425",
    }
    assert said.CodeValue == expected[status.value]
    # Registrations of series are there at one visit too, and numbers need the name of what they measure.
    measures = [
        item.TextValue
        for item in container.ContentSequence
        if item.ConceptNameCodeSequence[0].CodeValue == "OT1506"
    ]
    assert measures == [patients.QUALITY.metric]


# A minute each for PixelMed.
@pytest.mark.slow
@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_every_other_outcome_passes_the_template_validator(
    status: Status, sources: Sources, tmp_path: Path
) -> None:
    content, series = outcome(status, sources)
    written = patients.write_all(tmp_path / "out", content, series)
    assert validators.pixelmed_errors(written.report.path) == []


def test_a_parameter_without_a_code_is_refused(output_set: OutputSet, tmp_path: Path) -> None:
    unknown = replace(patients.PARAMETERS[0], name="grumpiness")
    content = replace(output_set.content, parameters=(unknown,), forecasts=())
    evidence = [
        VisitEvidence(source.datasets, segmentation)
        for source, segmentation in zip(output_set.sources, output_set.segmentations, strict=True)
    ]
    with pytest.raises(KeyError, match="grumpiness"):
        write_structured_report(
            tmp_path / "sr.dcm",
            content=content,
            reference=output_set.sources[-1].datasets[0],
            visits=evidence,
            forecasts=[],
            identity=IDENTITY,
        )


def test_the_dose_that_was_given_to_the_model_is_evidence(output_set: OutputSet, tmp_path: Path) -> None:
    image = output_set.sources[-1].datasets[0]
    dose = pydicom.Dataset()
    dose.SOPClassUID, dose.SOPInstanceUID = pydicom.uid.RTDoseStorage, "1.2.3.4"
    dose.SeriesInstanceUID, dose.StudyInstanceUID = "1.2.3", image.StudyInstanceUID
    evidence = [
        VisitEvidence(source.datasets, segmentation)
        for source, segmentation in zip(output_set.sources, output_set.segmentations, strict=True)
    ]
    written = write_structured_report(
        tmp_path / "sr.dcm",
        content=output_set.content,
        reference=image,
        visits=evidence,
        forecasts=output_set.forecasts,
        identity=IDENTITY,
        treatment=[dose],
    )
    studies = pydicom.dcmread(written.path).CurrentRequestedProcedureEvidenceSequence
    series = [item for study in studies for item in study.ReferencedSeriesSequence]
    (found,) = [item for item in series if item.SeriesInstanceUID == "1.2.3"]
    assert [item.ReferencedSOPInstanceUID for item in found.ReferencedSOPSequence] == ["1.2.3.4"]


def test_evidence_must_match_the_content(output_set: OutputSet, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every visit"):
        write_structured_report(
            tmp_path / "sr.dcm",
            content=output_set.content,
            reference=output_set.sources[-1].datasets[0],
            visits=[],
            forecasts=output_set.forecasts,
            identity=IDENTITY,
        )
