"""Runs on a Dask cluster that somebody else started: scheduler and worker are processes of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet
import pytest

from app import cohort
from tests.app.test_cohort import STAND_IN as COHORT_STAND_IN
from tests.gateway.conftest import StartGateway
from tests.gateway.databases import PostgreSQL
from tests.gateway.world import (
    ROOT,
    can_connect,
    descendants,
    free_port,
    make_study,
    send,
    study_uid,
    wait_until,
)


class Cluster:
    """``dask scheduler`` and one ``dask worker`` on loopback."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port()
        self.address = f"tcp://127.0.0.1:{self._port}"
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._begin("dask_scheduler", "--host=127.0.0.1", f"--port={self._port}")
        wait_until(lambda: can_connect(self._port), 30, "the scheduler listens")
        self._begin("dask_worker", self.address, "--host=127.0.0.1", "--nthreads=1", "--no-nanny")

    def _begin(self, program: str, *arguments: str) -> None:
        log = (self._folder / f"{program}.log").open("ab")
        command = [sys.executable, "-m", f"distributed.cli.{program}", *arguments, "--no-dashboard"]
        # The worker finds this installation where it is started, as docs/deployment.md says.
        self._processes.append(subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log))

    def kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self._processes.clear()

    @property
    def worker(self) -> int:
        """Process id of the worker."""
        return self._processes[-1].pid


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    cluster.start()
    yield cluster
    cluster.kill()


@pytest.fixture
def postgresql() -> Iterator[PostgreSQL]:
    server = PostgreSQL()
    server.start()
    yield server
    server.remove()


def test_gateway_on_a_cluster_and_postgresql(
    start_gateway: StartGateway, cluster: Cluster, postgresql: PostgreSQL, tmp_path: Path
) -> None:
    """The worker runs the application; a cluster that dies with it and comes back loses nothing."""
    gateway = start_gateway(database=postgresql.url, arguments=["--scheduler", cluster.address])
    first, second = make_study(tmp_path / "1", 80), make_study(tmp_path / "2", 81, comment="hang once")
    assert set(send(first, gateway.receiver_port)) == {0}
    wait_until(lambda: gateway.job_of(study_uid(first), "done"), 60, "the job is done")
    assert gateway.process is not None
    assert not descendants(gateway.process.pid), "workers of its own"

    assert set(send(second, gateway.receiver_port)) == {0}
    wait_until(lambda: list(gateway.folder.glob("work/work/*/hung")), 60, "the application runs")
    assert descendants(cluster.worker)
    postgresql.kill()
    postgresql.start()
    cluster.kill()
    cluster.start()
    wait_until(lambda: gateway.job_of(study_uid(second), "done"), 120, "the job of the lost worker is done")
    assert not (gateway.folder / "work" / "jobs.sqlite").exists()


def test_cohort_on_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    program = tmp_path / "stand_in.py"
    program.write_text(COHORT_STAND_IN)
    for name in ("one", "two"):
        (tmp_path / "patients" / name).mkdir(parents=True)
    arguments = ["--scheduler", cluster.address, "--command", f"{sys.executable} {program}"]
    assert cohort.main([str(tmp_path / "patients"), "-o", str(tmp_path / "out"), *arguments]) == 0
    assert pyarrow.parquet.read_table(tmp_path / "out" / "cohort.parquet")["status"].to_pylist() == ["ok"] * 2
