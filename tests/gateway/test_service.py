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
from sqlalchemy.exc import OperationalError

from app.engine import Outcome
from gateway.__main__ import ROOT, USAGE, discard, retry
from gateway.attempt import Report
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
    (gateway.folders.inbox("test", STUDY) / "a.dcm").touch()
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


class Ended:
    """What Dask keeps of an attempt that has ended."""

    status = "finished"

    def __init__(self, report: Report) -> None:
        self._report = report

    def result(self, timeout: float) -> Report:
        return self._report


def report(reason: str = "", exit_code: int = 1) -> Report:
    return Report(Outcome(exit_code if reason else 0, reason, "Why."), 1.0)


def running(gateway: Gateway, study_uid: str = STUDY) -> Job:
    job = gateway.jobs.add(study_uid, ["a"], "test")
    assert job is not None
    began = gateway.jobs.move(job, State.RUNNING, attempts=1)
    assert began is not None
    return began


def fails_once(call: Any) -> Any:
    """The database is away for one call."""
    calls = []

    def wrapped(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise OperationalError("UPDATE", {}, Exception("database or disk is full"))
        return call(*arguments, **options)

    return wrapped


@pytest.mark.parametrize("method", ["get", "move"])
def test_reports_wait_for_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    gateway = gateway_in(tmp_path)
    jobs = [running(gateway, f"1.2.{number}") for number in range(2)]
    gateway._pool._futures = {job.id: Ended(report()) for job in jobs}  # type: ignore[misc]
    monkeypatch.setattr(gateway, "_deliver", lambda: None)
    monkeypatch.setattr(gateway.jobs, method, fails_once(getattr(gateway.jobs, method)))
    gateway.tick()
    assert gateway.jobs.in_state(State.RUNNING)
    gateway.tick()
    assert len(gateway.jobs.in_state(State.DELIVERING)) == 2
    assert not any(gateway._pool.knows(job.id) for job in jobs)


def test_a_run_that_the_pool_does_not_know_is_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database failed between the move and the submission."""
    gateway = gateway_in(tmp_path, min_free_gb=1e6)  # so that it does not begin anew at once
    job = running(gateway)
    gateway.tick()
    again = gateway.jobs.get(job.id)
    assert again is not None
    assert (again.state, again.attempts) == (State.QUEUED, 0)

    gateway = gateway_in(tmp_path)
    monkeypatch.setattr(gateway._pool, "submit", lambda *_: None)
    monkeypatch.setattr(gateway.jobs, "has_other_versions", fails_once(gateway.jobs.has_other_versions))
    gateway.tick()
    assert gateway.jobs.in_state(State.QUEUED), "nothing begins before all that it needs is known"


def test_a_database_that_is_away_presses_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller is told to send later, not that its image is wrong."""
    gateway = gateway_in(tmp_path)
    monkeypatch.setattr(gateway.jobs, "counts", fails_once(gateway.jobs.counts))
    assert "database" in gateway.pressure()
    assert gateway.pressure() == ""


@pytest.mark.parametrize("reason", ["priors_unavailable", "disk", "cluster_lost"])
def test_an_outage_is_no_attempt_at_the_study(tmp_path: Path, reason: str) -> None:
    gateway = gateway_in(tmp_path, max_attempts=1, max_delivery_attempts=6, longest_back_off_seconds=60)
    job, waits = running(gateway), []
    while job.state is State.RUNNING:
        gateway._settle(job, report(reason))
        settled = gateway.jobs.get(job.id)
        assert settled is not None
        if settled.state is State.QUEUED:
            assert settled.attempts == 0
            waits.append(round((settled.due - settled.updated).total_seconds()))
            moved = gateway.jobs.move(settled, State.RUNNING, attempts=1)
            assert moved is not None
            job = moved
        else:
            job = settled
    assert job.state is State.PARKED
    assert waits == [10, 20, 40, 60, 60]
    (gateway.folders.inbox("test", STUDY) / "a.dcm").touch()
    assert retry(gateway.settings, job.id) == 0
    assert gateway.jobs.setbacks(job) == 0, "it may wait anew"


@pytest.mark.parametrize("reason", ["worker_lost", "killed", "internal"])
def test_a_study_that_breaks_its_run_is_parked(tmp_path: Path, reason: str) -> None:
    gateway = gateway_in(tmp_path, max_attempts=1)
    job = running(gateway)
    gateway._settle(job, report(reason))
    assert gateway.jobs.in_state(State.PARKED)


def test_nothing_begins_while_the_disk_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = gateway_in(tmp_path, min_free_gb=1e6)
    gateway.jobs.add(STUDY, ["a"], "test")
    begun: list[str] = []
    monkeypatch.setattr(gateway._pool, "submit", lambda job_id, *_: begun.append(job_id))
    gateway.tick()
    assert not begun
    assert gateway.jobs.in_state(State.QUEUED)


def test_parked_jobs_are_given_up(tmp_path: Path) -> None:
    """Their files go like any other's; until then they can be taken up again."""
    gateway = gateway_in(tmp_path)
    job = parked(gateway)
    inbox = gateway.folders.inbox("test", STUDY)
    (inbox / "a.dcm").touch()
    assert discard(gateway.settings, "no such job") == USAGE
    assert discard(gateway.settings, "all") == 0
    assert [found.reason for found in gateway.jobs.in_state(State.IGNORED)] == ["discarded"]
    assert retry(gateway.settings, job.id) == 0
    assert gateway.jobs.in_state(State.QUEUED)

    again = gateway.jobs.move(gateway.jobs.in_state(State.QUEUED)[0], State.RUNNING)
    assert again is not None
    gateway.jobs.move(again, State.PARKED)
    assert discard(gateway.settings, job.id[:8]) == 0
    old = time.time() - 8 * 86400
    os.utime(inbox, (old, old))
    gateway.tick()
    gateway.stop()
    assert not inbox.exists()
    assert retry(gateway.settings, job.id) == USAGE


def test_an_ignored_job_is_taken_up_after_its_rule_was_mended(tmp_path: Path) -> None:
    gateway = gateway_in(tmp_path)
    job = running(gateway)
    gateway._settle(job, report("ignored", 3))
    assert gateway.jobs.in_state(State.IGNORED)
    assert retry(gateway.settings, job.id) == USAGE, "its files are gone"
    (gateway.folders.inbox("test", STUDY) / "a.dcm").touch()
    assert retry(gateway.settings, job.id) == 0
    assert gateway.jobs.in_state(State.QUEUED)
