"""Treatment through the whole application: a dose map and a drug between the visits and after them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import yaml

from imaging import codes
from imaging.catalog import read_catalog
from imaging.role_selection import select_roles
from operators.failures import ExitCode
from tests.app.conftest import Run
from tests.app.test_application import (
    assert_conformant,
    assert_one_patient_and_resolved_references,
    result_of,
)
from tests.app.test_bad_input import assert_refused, change
from tests.imaging.dicom_factory import write_dose

FIRST = date(2024, 3, 11)
"""First visit of the phantom."""


def written(settings: Path, target: Path, treatments: list[dict[str, Any]]) -> Path:
    """The settings with a schedule of treatment, on a grid that needs little time even when it is refined."""
    document = yaml.safe_load(settings.read_text())
    document["oncotwin"]["twin"]["grid_mm"] = 3.0
    document["oncotwin"]["treatments"] = treatments
    target.write_text(yaml.safe_dump(document))
    return target


def irradiate(patient: Path, total_gy: float, visit: int = 0) -> Path:
    """Add the RT Dose of a plan to the patient: highest in the middle of the head, in the frame of a visit."""
    found = read_catalog(patient).visits[visit]
    series = select_roles(found, required=frozenset()).chosen["t1ce"]
    assert series.geometry is not None
    centre = series.geometry.centre
    spacing, count = 8.0, 36
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = centre - spacing * (count - 1) / 2
    away = np.linalg.norm((np.stack(np.indices((count,) * 3), axis=-1) - (count - 1) / 2) * spacing, axis=-1)
    return write_dose(
        patient / "dose.dcm", series.files[0], total_gy * np.exp(-((away / 150.0) ** 2)), affine
    )


def texts_of(item: pydicom.Dataset, concept: Any) -> list[str]:
    """Texts under a concept anywhere in a structured report."""
    found = []
    names = item.get("ConceptNameCodeSequence")
    if names and names[0].CodeValue == concept.value and "TextValue" in item:
        found.append(str(item.TextValue))
    for child in item.get("ContentSequence") or []:
        found += texts_of(child, concept)
    return found


def evidence_of(report: pydicom.Dataset) -> list[str]:
    """SOP Instance UIDs of everything that a structured report lists as evidence."""
    studies = [
        study
        for sequence in ("CurrentRequestedProcedureEvidenceSequence", "PertinentOtherEvidenceSequence")
        for study in report.get(sequence) or []
    ]
    series = [item for study in studies for item in study.ReferencedSeriesSequence]
    return [str(sop.ReferencedSOPInstanceUID) for item in series for sop in item.ReferencedSOPSequence]


def written_of(run: Run, result: dict[str, Any], sop_class: str) -> pydicom.Dataset:
    (entry,) = [entry for entry in result["outputs"] if sop_class in entry["sop_class"]]
    return pydicom.dcmread(run.output / entry["file"])


def pages_of(pdf: pydicom.Dataset, folder: Path) -> str:
    """Text of the report for people."""
    path = folder / "report.pdf"
    path.write_bytes(pdf.EncapsulatedDocument)
    done = subprocess.run(["pdftotext", path, "-"], capture_output=True, text=True, check=True)
    return " ".join(done.stdout.split())


def test_an_unusable_dose_ends_the_run_before_anything_is_registered(
    run_app: Callable[..., Run], quick_settings: Path, patient: Path, tmp_path: Path
) -> None:
    change(irradiate(patient, 4.0), DoseType="EFFECTIVE")
    treatments = [{"kind": "radiotherapy", "dates": [FIRST + timedelta(30)], "rtdose": "auto"}]
    run = run_app(patient, "--config", str(written(quick_settings, tmp_path / "app.yaml", treatments)))
    assert_refused(run, ExitCode.INPUT, "bad_dose")
    assert "choosing the series" in run.stderr and "registering" not in run.stderr


@pytest.mark.slow
def test_a_dose_map_and_a_drug_reach_every_result(
    run_app: Callable[..., Run], quick_settings: Path, drawn_patient: Path, tmp_path: Path
) -> None:
    """Two weak fractions and a few doses between the visits, more of the drug planned."""
    dose = pydicom.dcmread(irradiate(drawn_patient, 4.0), stop_before_pixels=True)
    treatments = [
        {"kind": "radiotherapy", "dates": [FIRST + timedelta(30), FIRST + timedelta(31)], "rtdose": "auto"},
        {"kind": "chemotherapy", "first_date": FIRST + timedelta(30), "daily_doses": 3},
        {"kind": "chemotherapy", "first_date": FIRST + timedelta(70), "daily_doses": 5, "dose": 150.0},
    ]
    settings = written(quick_settings, tmp_path / "app.yaml", treatments)
    run = run_app(drawn_patient, "--config", str(settings))
    result = result_of(run)
    assert result["status"] == "ok", result["warnings"]

    said = result["treatments"]
    assert said[0].startswith("Radiotherapy: 2 fraction(s) of a dose map, at most 2.0")
    assert "4.0 Gy in all, from day 30 to day 31" in said[0]
    assert said[0].endswith(f"the dose map is RT Dose {dose.SOPInstanceUID}.")
    assert said[1].startswith("Chemotherapy: 3 dose(s) of 75 from day 30 to day 32")
    assert said[2].startswith("Chemotherapy: 5 dose(s) of 150 from day 70 to day 74")
    assert not any("No treatment schedule" in warning for warning in result["warnings"])
    for name, unit in (("radiosensitivity", "/Gy"), ("chemosensitivity", "/d")):
        parameter = result["parameters"][name]
        assert parameter["unit"] == unit and 0.8 < parameter["contraction"] <= 1.0
        assert not parameter["identified"], "so little treatment shows nothing"
    assert result["parameters"]["front_velocity"]["contraction"] < 0.8

    assert_conformant(run.output, result)
    assert_one_patient_and_resolved_references(run.output, drawn_patient, result)
    report = written_of(run, result, "SR")
    assert texts_of(report, codes.TREATMENT_TEXT) == said
    assert str(dose.SOPInstanceUID) in evidence_of(report)
    page = pages_of(written_of(run, result, "PDF"), tmp_path)
    for word in ("radiosensitivity", "chemosensitivity", "not identified by these scans", said[0], said[2]):
        # a line may end inside the UID of the dose
        assert word.replace(" ", "") in page.replace(" ", ""), word
