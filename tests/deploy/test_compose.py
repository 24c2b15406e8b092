"""The compose file, brought up by podman-compose.

Needs ``make image-services image-orthanc`` and Debian's netavark and aardvark-dns.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.gateway.world import make_study, send, study_uid, wait_until

pytestmark = [pytest.mark.image, pytest.mark.slow]
ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "deploy" / "compose" / "compose.yaml"
ORTHANC, PAGE, LABEL = "http://127.0.0.1:8042", "http://127.0.0.1:8080", "http://127.0.0.1:8000"
PASSWORD, TOKEN = "only-for-this-test", "token-of-this-test"
NETWORK = '\n[network]\nnetwork_backend = "netavark"\n'


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("compose")
    folder.parent.chmod(0o755)
    folder.chmod(0o755)
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o644)
    # Names of services are found by netavark's own name server.
    nested = (ROOT / "deploy" / "nested-containers.conf").read_text()
    (folder / "containers.conf").write_text(nested + NETWORK)
    environment = os.environ | {
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "ORTHANC_IMAGE": "localhost/orthanc:bookworm",
        "ORTHANC_PASSWORD": PASSWORD,
        "LABEL_TOKEN_FILE": str(folder / "token"),
    }

    def compose(*arguments: str) -> None:
        command = [sys.executable, "-m", "podman_compose", "-f", str(COMPOSE), *arguments]
        subprocess.run(command, env=environment, check=True)

    try:
        compose("up", "-d")
        yield
        compose("logs")
    finally:
        compose("down", "-v", "-t", "20")


def answers(url: str, **options: object) -> bool:
    try:
        return requests.get(url, timeout=10, **options).ok  # type: ignore[arg-type]
    except requests.RequestException:
        return False


def test_the_three_answer_whom_they_should(services: None) -> None:
    wait_until(lambda: answers(f"{ORTHANC}/system", auth=("oncotwin", PASSWORD)), 60, "Orthanc answers")
    assert requests.get(f"{ORTHANC}/system", timeout=10).status_code == 401
    wait_until(lambda: answers(f"{PAGE}/healthz"), 60, "the gateway answers")
    wait_until(
        lambda: answers(f"{LABEL}/info/", headers={"Authorization": f"Bearer {TOKEN}"}), 120, "the label server answers"
    )  # fmt: skip
    assert requests.get(f"{LABEL}/info/", timeout=10).status_code == 401


def test_a_study_reaches_the_application_and_its_reason_the_page(services: None, tmp_path: Path) -> None:
    """A study of twelve by ten voxels: the application in the image refuses it, which only it can."""
    wait_until(lambda: answers(f"{PAGE}/healthz"), 60, "the gateway answers")
    files = make_study(tmp_path / "study", 1)
    assert set(send(files, 11112)) == {0}

    def settled() -> dict[str, str] | None:
        jobs = requests.get(f"{PAGE}/jobs.json", timeout=30).json()
        return next(
            (job for job in jobs if job["study"] == study_uid(files) and job["state"] == "parked"), None
        )

    job = wait_until(settled, 300, "the job is parked")
    assert job["reason"] not in ("", "worker_lost", "internal", "killed"), job
    # The gateway watches the archive too: what comes there becomes a job.
    other = make_study(tmp_path / "other", 2)
    for path in other:
        answer = requests.post(
            f"{ORTHANC}/instances", data=path.read_bytes(), auth=("oncotwin", PASSWORD), timeout=30
        )  # fmt: skip
        assert answer.ok
    wait_until(
        lambda: study_uid(other) in requests.get(f"{PAGE}/jobs.json", timeout=30).text, 200, "Orthanc's study is a job"
    )  # fmt: skip
