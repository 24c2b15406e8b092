"""The application itself behind the gateway: a first visit in the archive, a second from the scanner, results back."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pydicom
import pytest
import requests

from tests.gateway.conftest import StartGateway
from tests.gateway.world import Orthanc, send, study_uid, wait_until
from training.phantom import PhantomSettings, make_phantom


@pytest.mark.slow
def test_a_follow_up_comes_back_with_its_forecast(
    start_gateway: StartGateway, orthanc: Orthanc, tmp_path: Path
) -> None:
    phantom = make_phantom(tmp_path / "patient", PhantomSettings(preset="small", visit_days=(0, 60)))
    visits: dict[str, list[Path]] = {}
    for path in sorted(phantom.dicom_folder.rglob("*.dcm")):
        visits.setdefault(str(pydicom.dcmread(path, stop_before_pixels=True).StudyDate), []).append(path)
    (_, first), (_, second) = sorted(visits.items())
    orthanc.upload(first)
    web = f"{orthanc.url}/dicom-web"
    gateway = start_gateway(
        jobs={"command": "", "time_limit_seconds": 3600.0},
        priors={"url": web},
        destination={"kind": "stow", "url": web},
    )
    assert set(send(second, gateway.receiver_port)) == {0}
    job = wait_until(lambda: gateway.job_of(study_uid(second), "done", "parked"), 900, "the job has ended")
    assert job["state"] == "done", job

    folder = gateway.folder / "work" / "work" / job["id"] / "results"
    result = json.loads((folder / "result.json").read_text())
    assert result["status"] == "ok"
    assert len(result["visits"]) == 2
    objects = [pydicom.dcmread(path, stop_before_pixels=True) for path in folder.glob("*.dcm")]
    assert Counter(item.Modality for item in objects).keys() >= {"SEG", "SR", "DOC"}
    query = {"Level": "Instance", "Expand": True, "Query": {}}
    stored = requests.post(f"{orthanc.url}/tools/find", json=query, timeout=60).json()
    there = {item["MainDicomTags"]["SOPInstanceUID"] for item in stored}
    assert {str(item.SOPInstanceUID) for item in objects} <= there
    assert str(pydicom.dcmread(second[0], stop_before_pixels=True).PatientName) not in gateway.written()
