"""The gateway's own decisions, without processes around it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.__main__ import ROOT, USAGE, retry
from gateway.folders import key_of
from gateway.jobs import Job, State
from gateway.service import Gateway
from gateway.settings import Settings

STUDY = "1.2.3"


def gateway_in(folder: Path, **jobs: Any) -> Gateway:
    return Gateway(Settings.model_validate({"work_folder": folder, "jobs": {"min_free_gb": 0.0, **jobs}}))


def parked(gateway: Gateway) -> Job:
    job = gateway.jobs.add(STUDY, ["a"], "test")
    assert job is not None
    running = gateway.jobs.move(job, State.RUNNING, attempts=3)
    assert running is not None
    ended = gateway.jobs.move(running, State.PARKED, reason="internal")
    assert ended is not None
    return ended


def test_a_full_disk_and_a_full_queue_press_back(tmp_path: Path) -> None:
    assert gateway_in(tmp_path / "1").pressure() == ""
    assert "GB are free" in gateway_in(tmp_path / "1", min_free_gb=1e6).pressure()
    gateway = gateway_in(tmp_path / "2", queue_limit=1)
    assert gateway.pressure() == ""
    gateway.jobs.add(STUDY, ["a"], "test")
    assert "1 jobs are waiting" in gateway.pressure()


@pytest.mark.parametrize("has_results, state", [(False, State.QUEUED), (True, State.DELIVERING)])
def test_a_person_asks_for_a_parked_job_again(tmp_path: Path, has_results: bool, state: State) -> None:
    """From its result if there is one, else from the start."""
    gateway = gateway_in(tmp_path)
    job = parked(gateway)
    folder = gateway.folders.job(job.id)
    (folder / ("results" if has_results else "input")).mkdir(parents=True)
    assert retry(gateway.settings, "no such job") == USAGE
    assert retry(gateway.settings, job.id[:6]) == 0
    again = gateway.jobs.get(job.id)
    assert again is not None
    assert (again.state, again.attempts) == (state, 0)
    assert not (folder / "input").exists()


@pytest.mark.parametrize("has_results, state", [(False, State.QUEUED), (True, State.DELIVERING)])
def test_a_run_nobody_watches_is_taken_up(tmp_path: Path, has_results: bool, state: State) -> None:
    """It counts as no attempt: the gateway died, not the study."""
    gateway = gateway_in(tmp_path)
    job = gateway.jobs.add(STUDY, ["a"], "test")
    assert job is not None
    gateway.jobs.move(job, State.RUNNING, attempts=1)
    if has_results:
        (gateway.folders.job(job.id) / "results").mkdir(parents=True)
    restarted = gateway_in(tmp_path)
    restarted.start()
    restarted.stop()
    again = restarted.jobs.get(job.id)
    assert again is not None
    assert (again.state, again.attempts) == (state, 0)


def test_files_are_forgotten_after_their_days_but_never_of_open_jobs(tmp_path: Path) -> None:
    gateway = gateway_in(tmp_path)
    job = parked(gateway)
    folders = [gateway.folders.job(job.id), gateway.folders.job("done"), gateway.folders.job("new")]
    inboxes = [gateway.folders.inbox("received", uid) for uid in (STUDY, "1.2.4")]
    for folder in folders:
        folder.mkdir(parents=True)
    old = time.time() - 8 * 86400
    for folder in (*folders[:2], *inboxes):
        os.utime(folder, (old, old))
    gateway.tick()
    gateway.stop()
    left = {
        path.name for path in [*(tmp_path / "work").iterdir(), *(tmp_path / "inbox" / "received").iterdir()]
    }
    assert left == {job.id, "new", key_of(STUDY)}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"work_folder": "/proc/nowhere"}, "work_folder"),
        ({"database": "postgresql+psycopg://nobody@127.0.0.1:1/none"}, "database"),
    ],
)
def test_what_the_gateway_cannot_work_with_is_named(
    tmp_path: Path, wrong: dict[str, str], named: str
) -> None:
    settings = tmp_path / "gateway.yaml"
    settings.write_text(yaml.safe_dump({"work_folder": str(tmp_path / "work"), **wrong}))
    command = [sys.executable, "-m", "gateway", "--config", str(settings)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == USAGE
    assert f"`{named}`" in done.stderr
    assert "Traceback" not in done.stderr
