"""The whole path: DICOM in, DICOM out."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pydicom
import pytest

from imaging.catalog import read_catalog
from imaging.geometry import Volume
from imaging.labels import region_mask, volumes_ml
from imaging.reader import read_volume
from imaging.role_selection import select_roles
from tests.app.conftest import ROOT, Run, draw
from training.nifti_to_dicom import visits_in_folder, wrap_nifti
from training.phantom import PhantomTruth

RunApp = Callable[..., Run]


def result_of(run: Run) -> dict:
    assert run.exit_code == 0, run.stderr
    return json.loads((run.output / "result.json").read_text())


def digest_of(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.fixture
def two_visits(run_app: RunApp, drawn_patient: Path) -> tuple[Run, Path, str]:
    before = digest_of(drawn_patient)
    return run_app(drawn_patient, "--nifti"), drawn_patient, before


def test_two_visits_drawn_by_a_clinician(two_visits: tuple[Run, Path, str], phantom: PhantomTruth) -> None:
    run, patient, before = two_visits
    result = result_of(run)

    assert result["status"] in ("ok", "not_explained")
    assert result["status"] == "ok", result["warnings"]
    assert [v["segmentation_source"] for v in result["visits"]] == ["dicom_seg", "dicom_seg"]
    for visit, truth in zip(result["visits"], phantom.visits, strict=True):
        for region in ("TC", "WT"):
            assert visit["volumes_ml"][region] == pytest.approx(truth.volumes_ml[region], rel=0.1)
    assert (
        result["visits"][1]["registration"]["similarity"] > result["visits"][1]["registration"]["threshold"]
    )

    growth = phantom.settings
    for name, true in (("diffusivity", growth.diffusivity), ("proliferation", growth.proliferation)):
        low, high = result["parameters"][name]["interval95"]
        assert low <= true <= high, (name, true, result["parameters"][name])

    forecast = result["forecasts"][0]
    assert forecast["horizon_days"] == 60
    assert forecast["volume_ml"]["estimate"] > result["visits"][1]["volumes_ml"]["WT"]

    assert digest_of(patient) == before, "the input was changed"
    assert_conformant(run.output, result)
    assert_one_patient_and_resolved_references(run.output, patient, result)
    assert_nothing_personal_said(run, patient)


@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes(
    two_visits: tuple[Run, Path, str], run_app: RunApp, tmp_path: Path
) -> None:
    run, patient, _ = two_visits
    again = run_app(patient, "--nifti", output=tmp_path / "again")
    assert digest_of(again.output) == digest_of(run.output)


def assert_conformant(output: Path, result: dict) -> None:
    for entry in result["outputs"]:
        path = output / entry["file"]
        done = subprocess.run(["dciodvfy", "-new", path], capture_output=True, text=True)
        errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
        assert not errors, (entry["file"], errors)


def assert_one_patient_and_resolved_references(output: Path, patient: Path, result: dict) -> None:
    inputs = [pydicom.dcmread(p, stop_before_pixels=True) for p in patient.rglob("*.dcm")]
    known = {d.SOPInstanceUID for d in inputs} | {entry["sop_instance_uid"] for entry in result["outputs"]}
    studies = {d.StudyInstanceUID for d in inputs}
    for entry in result["outputs"]:
        dataset = pydicom.dcmread(output / entry["file"])
        assert dataset.PatientID == inputs[0].PatientID
        assert dataset.PatientName == inputs[0].PatientName
        assert dataset.StudyInstanceUID in studies
        assert dataset.SOPInstanceUID == entry["sop_instance_uid"]
        for element in dataset.iterall():
            if element.keyword == "ReferencedSOPInstanceUID":
                assert element.value in known, entry["file"]


def assert_nothing_personal_said(run: Run, patient: Path) -> None:
    dataset = pydicom.dcmread(next(patient.rglob("*.dcm")), stop_before_pixels=True)
    for word in (dataset.PatientID, dataset.PatientName.family_name, dataset.AccessionNumber):
        assert not word or word not in run.stdout + run.stderr


@pytest.mark.slow
def test_tumour_gone_at_the_last_visit(run_app: RunApp, phantom: PhantomTruth, patient: Path) -> None:
    draw(patient, phantom, tumour_at=(True, False))
    result = result_of(run_app(patient))
    assert result["status"] == "tumour_gone"
    assert result["visits"][0]["volumes_ml"]["WT"] > 0
    assert result["visits"][1]["volumes_ml"]["WT"] == 0
    assert result["forecasts"] == []
    assert any("no tumour" in warning for warning in result["warnings"])


def without(roles: tuple[str, ...], patient: Path) -> None:
    for visit in read_catalog(patient).visits:
        chosen = select_roles(visit, required=frozenset()).chosen
        for path in (path for role in roles for path in chosen[role].files):
            path.unlink()


def test_no_tumour_is_a_report_not_an_error(run_app: RunApp, phantom: PhantomTruth, patient: Path) -> None:
    without(("t1", "t2"), patient)
    draw(patient, phantom, tumour_at=(False, False))
    run = run_app(patient)
    result = result_of(run)
    assert result["status"] == "no_tumour"
    assert result["parameters"] == {} and result["forecasts"] == []
    assert_conformant(run.output, result)


def test_one_visit_found_by_the_network(run_app: RunApp, phantom: PhantomTruth, patient: Path) -> None:
    for later in (patient / "visit2").rglob("*"):
        if later.is_file():
            later.unlink()
    result = result_of(run := run_app(patient, "--nifti"))
    assert result["status"] == "single_visit"
    assert not any(p["identified"] for p in result["parameters"].values())
    assert any("could not be identified" in warning for warning in result["warnings"])
    assert len(result["forecasts"]) == 1
    assert_conformant(run.output, result)

    found = Volume.load_nifti(run.output / "nifti" / "visit1_labels.nii.gz")
    series = select_roles(read_catalog(patient).visits[0], required=frozenset()).chosen["t1ce"]
    assert found.geometry.matches(read_volume(series).geometry)
    true = phantom.visits[0].labels.resampled(found.geometry, interpolation="nearest")
    both = [region_mask(labels, "WT") for labels in (found.array, true.array)]
    dice = 2 * np.sum(both[0] & both[1]) / (np.sum(both[0]) + np.sum(both[1]))
    assert dice > 0.6
    volumes = volumes_ml(found.array, found.geometry.voxel_volume_mm3)
    assert volumes == pytest.approx(result["visits"][0]["volumes_ml"])
    assert not any("without" in w or "less sure" in w or "brain of" in w for w in result["warnings"])


@pytest.mark.slow
def test_what_the_network_lacked_or_does_not_know_is_in_the_report(
    run_app: RunApp, patient: Path, tmp_path: Path
) -> None:
    """Two contrasts, and a model whose family this head is outside of in both respects."""
    shutil.rmtree(patient / "visit2")
    without(("t1", "t2"), patient)
    models = tmp_path / "models"
    shutil.copytree(ROOT / "models", models)
    metadata = models / "oncotwin_brats" / "configs" / "metadata.json"
    document = json.loads(metadata.read_text())
    document["oncotwin"]["family"] = {"largest_uncertainty": 0.01, "brain_volume_ml": [1.0, 2.0]}
    metadata.write_text(json.dumps(document))
    run = run_app(patient, "-m", str(models))
    result = result_of(run)
    expected = [
        "Visit 1 was segmented without T1, T2.",
        "Visit 1: The network is less sure of the tumour",
        "Visit 1: The network finds a brain of",
    ]
    assert_conformant(run.output, result)
    (report,) = (entry for entry in result["outputs"] if entry["sop_class"].startswith("Comprehensive"))
    texts = pydicom.dcmread(run.output / report["file"]).ContentSequence[-1].ContentSequence
    written = [t.TextValue for t in texts if t.ConceptNameCodeSequence[0].CodeMeaning == "Warning"]
    for sentences in (result["warnings"], written):
        for sentence in expected:
            assert sum(said.startswith(sentence) for said in sentences) == 1, (sentence, sentences)


@pytest.mark.slow
def test_a_follow_up_of_another_head_stops_the_run(run_app: RunApp, shared: Path, tmp_path: Path) -> None:
    """Two real patients under one PatientID; phantoms would not do, since all grow on one atlas."""
    (baseline, _), (stranger,) = (
        visits_in_folder(shared / "cases" / name) for name in ("glioma_two_visits", "glioma_one_visit")
    )
    wrap_nifti([baseline, replace(stranger, when=baseline.when + timedelta(days=90))], tmp_path / "patient")
    run = run_app(tmp_path / "patient")
    assert run.exit_code == 4
    assert "[registration_failed]" in run.stderr
    assert not run.output.exists()
