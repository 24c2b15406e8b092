"""The gateway as a process, between real modalities and a real archive."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from gateway.settings import WebSection
from gateway.web import session_for
from tests.gateway.conftest import StartGateway
from tests.gateway.stand_in import RESULTS
from tests.gateway.world import (
    NAME,
    ROOT,
    Orthanc,
    descendants,
    make_certificates,
    make_study,
    send,
    study_uid,
    wait_until,
)


def test_from_a_modality_to_the_archive_once(
    start_gateway: StartGateway, orthanc: Orthanc, tmp_path: Path
) -> None:
    """C-STORE in, STOW-RS out; the same study again, and our own results coming back, change nothing."""
    gateway = start_gateway(destination={"kind": "stow", "url": f"{orthanc.url}/dicom-web"})
    files = make_study(tmp_path / "study", 1)
    uid = study_uid(files)
    assert set(send(files, gateway.receiver_port)) == {0}
    wait_until(lambda: gateway.job_of(uid, "done"), 60, "the job is done")
    assert len(orthanc.objects(uid)) == RESULTS

    results = sorted((gateway.folder / "work" / "work").glob("*/results/*.dcm"))
    assert len(results) == RESULTS
    assert set(send([*files, *results], gateway.receiver_port)) == {0}
    assert gateway.stop() == 0
    gateway.start()
    wait_until(lambda: len(gateway.jobs()) == 1, 30, "the gateway knows its job")
    # One more series is a new version of the study.
    assert set(send(make_study(tmp_path / "more", 1, contrasts=["t2"]), gateway.receiver_port)) == {0}
    wait_until(lambda: len(gateway.jobs()) == 2, 60, "the new version is queued")
    wait_until(
        lambda: [job["state"] for job in gateway.jobs()] == ["done", "done"], 60, "both versions are done"
    )
    assert len(orthanc.objects(uid)) == 2 * RESULTS
    written = gateway.written()
    assert NAME.split("^")[0] not in written
    assert "PAT-1" not in written


def test_from_orthanc_with_priors_and_back(
    start_gateway: StartGateway, orthanc: Orthanc, tmp_path: Path
) -> None:
    """Stable studies of Orthanc are taken, the patient's earlier ones fetched, nobody else's."""
    first = make_study(tmp_path / "first", 10, patient="SAME", day=0)
    other = make_study(tmp_path / "other", 11, patient="SAMEX", day=1)
    second = make_study(tmp_path / "second", 12, patient="SAME", day=60)
    orthanc.upload([*first, *other])
    web = f"{orthanc.url}/dicom-web"
    gateway = start_gateway(
        orthanc={"url": orthanc.url, "poll_seconds": 0.5},
        priors={"url": web},
        destination={"kind": "stow", "url": web},
    )
    for uid in (study_uid(first), study_uid(other)):
        wait_until(lambda uid=uid: gateway.job_of(uid, "done"), 90, "the first studies are done")
    orthanc.upload(second)
    job = wait_until(lambda: gateway.job_of(study_uid(second), "done"), 90, "the follow-up is done")
    result = json.loads(
        (gateway.folder / "work" / "work" / job["id"] / "results" / "result.json").read_text()
    )
    assert result["studies"] == sorted([study_uid(first), study_uid(second)])
    # The results made the studies stable again; no new job may come of it.
    before = orthanc.objects(study_uid(second))
    wait_until(lambda: _is_stable(orthanc, study_uid(second)), 30, "the study is stable again")
    assert len({job["id"] for job in gateway.jobs() if job["study"] == study_uid(second)}) == 1
    assert len(before) == RESULTS


def _is_stable(orthanc: Orthanc, uid: str) -> bool:
    query = {"Level": "Study", "Expand": True, "Query": {"StudyInstanceUID": uid}}
    (study,) = requests.post(f"{orthanc.url}/tools/find", json=query, timeout=10).json()
    return bool(study["IsStable"])


def test_results_by_c_store_with_storage_commitment(
    start_gateway: StartGateway, orthanc: Orthanc, tmp_path: Path
) -> None:
    destination = {"kind": "cstore", "host": "127.0.0.1", "port": orthanc.dicom_port, "ae_title": "ORTHANC"}
    gateway = start_gateway(destination=destination, receiver={"allowed_callers": ["MODALITY", "ORTHANC"]})
    orthanc.introduce("ONCOTWIN", gateway.receiver_port)
    files = make_study(tmp_path / "study", 20)
    send(files, gateway.receiver_port)
    wait_until(lambda: gateway.job_of(study_uid(files), "done"), 60, "the job is done")
    assert len(orthanc.objects(study_uid(files))) == RESULTS
    assert "results delivered, storage committed" in gateway.written()


def test_trouble_is_parked_with_its_reason_and_stops_nobody(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = start_gateway(jobs={"time_limit_seconds": 8, "max_attempts": 2, "workers": 3})
    expected = {
        "refuse": ("missing_slice", 1, "Series 3 lacks one slice"),
        "crash": ("killed", 2, "SIGSEGV"),
        "hang": ("time_limit", 2, "time limit of 8 s"),
        "trace": ("internal", 2, "fault of the program"),
    }
    uids = {}
    for number, comment in enumerate(expected, start=30):
        files = make_study(tmp_path / comment, number, comment=comment)
        uids[comment] = study_uid(files)
        send(files, gateway.receiver_port)
    healthy = make_study(tmp_path / "healthy", 40)
    send(healthy, gateway.receiver_port)
    only_flair = [path for path in make_study(tmp_path / "half", 41) if "flair" in str(path)]
    assert only_flair
    send(only_flair, gateway.receiver_port)
    wait_until(lambda: gateway.job_of(study_uid(healthy), "done"), 120, "the healthy study is done")
    for comment, (reason, attempts, words) in expected.items():
        job = wait_until(lambda uid=uids[comment]: gateway.job_of(uid, "parked"), 120, f"{comment} is parked")
        assert (job["reason"], job["attempts"]) == (reason, attempts)
        assert words in job["sentence"]
    ignored = wait_until(lambda: gateway.job_of(study_uid(only_flair), "ignored"), 60, "the half is ignored")
    assert "no t1ce" in ignored["sentence"]
    assert NAME.split("^")[0] not in gateway.written()

    page = _browser_text(gateway.status_url)
    assert "parked" in page
    assert "Series 3 lacks one slice" in page
    metrics = gateway.get("/metrics").text
    assert 'oncotwin_jobs{state="parked"} 4.0' in metrics


def _browser_text(url: str, *options: str) -> str:
    """The page as Chromium builds it."""
    done = subprocess.run(
        [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000", *options,
            "--dump-dom", url,
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return done.stdout


def test_page_over_https_links_to_the_viewer(start_gateway: StartGateway, tmp_path: Path) -> None:
    pems = make_certificates(tmp_path / "pki")
    viewer = "https://viewer.example.org/viewer?StudyInstanceUIDs={study}&mode=a"
    status = {"certificate": str(pems["certificate"]), "key": str(pems["key"]), "viewer": viewer}
    gateway = start_gateway(authority=str(pems["authority"]), status=status)
    files = make_study(tmp_path / "study", 90)
    send(files, gateway.receiver_port)
    wait_until(lambda: gateway.job_of(study_uid(files), "done"), 60, "the job is done")

    with pytest.raises(requests.exceptions.SSLError):
        requests.get(gateway.status_url, timeout=10)
    with pytest.raises(requests.exceptions.ConnectionError):
        requests.get(gateway.status_url.replace("https:", "http:"), timeout=10)
    # As the gateway asks other systems: their authority is in its settings, or they are not believed.
    ours = WebSection(url=gateway.status_url, authority=pems["authority"])
    assert session_for(ours).get(f"{ours.url}/healthz").ok
    with pytest.raises(requests.exceptions.SSLError):
        session_for(WebSection(url=gateway.status_url)).get(f"{ours.url}/healthz")
    answer = gateway.get("/")
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")

    # Chromium stops before a certificate that is not known to it, and goes on for the very key it is told of.
    assert study_uid(files) not in _browser_text(gateway.status_url)
    pinned = f"--ignore-certificate-errors-spki-list={_key_digest(pems['certificate'])}"
    page = _browser_text(gateway.status_url, pinned, f"--user-data-dir={tmp_path / 'browser'}")
    link = f"https://viewer.example.org/viewer?StudyInstanceUIDs={study_uid(files)}&amp;mode=a"
    assert f'<a href="{link}">{study_uid(files)}</a>' in page


def _key_digest(certificate: Path) -> str:
    """SHA-256 of a certificate's public key, base64."""
    command = f"openssl x509 -in {certificate} -noout -pubkey | openssl pkey -pubin -outform der"
    key = subprocess.run(["sh", "-c", command], check=True, capture_output=True).stdout
    return base64.b64encode(hashlib.sha256(key).digest()).decode()


def test_listens_on_loopback_only(start_gateway: StartGateway) -> None:
    gateway = start_gateway()
    assert gateway.process is not None
    pids = {str(gateway.process.pid)} | descendants(gateway.process.pid)
    listening = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    ours = [line for line in listening.splitlines() if any(f"pid={pid}," in line for pid in pids)]
    assert len(ours) >= 2
    assert all(line.split()[3].startswith(("127.0.0.1:", "[::1]:")) for line in ours), ours


def test_stop_signal_ends_everything_at_once(start_gateway: StartGateway, tmp_path: Path) -> None:
    gateway = start_gateway()
    files = make_study(tmp_path / "study", 70, comment="hang")
    send(files, gateway.receiver_port)
    wait_until(lambda: gateway.job_of(study_uid(files), "running"), 60, "the job runs")
    assert gateway.process is not None
    family = descendants(gateway.process.pid)
    assert gateway.stop() == 0
    alive = [pid for pid in family if Path(f"/proc/{pid}").exists() and _state(pid) not in "ZX"]
    wait_until(
        lambda: not [p for p in alive if Path(f"/proc/{p}").exists() and _state(p) not in "ZX"],
        5,
        "all ended",
    )


def _state(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def test_run_dies_with_its_worker() -> None:
    """A worker that is killed takes the application with it: nothing computes on unseen."""
    code = (
        "import subprocess, time; from app.engine import RunLimits, confined;"
        "child = subprocess.Popen(['sleep', '60'], preexec_fn=confined(RunLimits()));"
        "print(child.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = parent.stdout.readline().strip()
    parent.kill()
    parent.wait()
    wait_until(lambda: _state(child) in "ZX", 5, "the run has ended")
