"""The table of jobs on both databases: each step once, whoever races and whatever is started again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from gateway.jobs import Job, JobTable, State
from tests.gateway.databases import PostgreSQL

STUDY = "1.2.3"


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQL]:
    server = PostgreSQL()
    server.start()
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'jobs.sqlite'}"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    engine = JobTable(server.url).engine
    with engine.begin() as connection:
        connection.execute(text("TRUNCATE jobs, results, cursors"))
    engine.dispose()
    return server.url


def add(table: JobTable, *instances: str) -> Job:
    job = table.add(STUDY, instances, "test")
    assert job is not None
    return job


def test_one_job_for_each_version(url: str) -> None:
    table = JobTable(url)
    first = add(table, "a", "b")
    assert table.add(STUDY, ["b", "a"], "test") is None
    assert table.add("1.2.4", ["a", "b"], "test") is not None, "another study"
    second = add(table, "a", "b", "c")
    assert first.version != second.version
    assert table.add(STUDY, [], "test") is None


def test_our_own_results_are_no_new_version(url: str) -> None:
    table = JobTable(url)
    job = add(table, "a")
    results = [f"result{number}" for number in range(1200)]
    table.remember_results(job, results)
    table.remember_results(job, results)
    assert table.add(STUDY, ["a", *results], "test") is None
    assert table.add(STUDY, results, "test") is None


def test_a_move_names_where_it_starts(url: str) -> None:
    table = JobTable(url)
    queued = add(table, "a")
    running = table.move(queued, State.RUNNING, attempts=1)
    assert running is not None
    assert (running.state, running.attempts) == (State.RUNNING, 1)
    assert table.move(queued, State.RUNNING, attempts=1) is None
    with pytest.raises(ValueError, match="cannot go from running to done"):
        table.move(running, State.DONE)
    later = table.move(running, State.QUEUED, delay_s=60, reason="internal", sentence="It failed.")
    assert later is not None
    assert table.due(State.QUEUED, 10) == []
    assert table.in_state(State.QUEUED) == [later]
    assert table.counts()[State.QUEUED] == 1
    assert table.latest(1)[0].sentence == "It failed."


@pytest.mark.parametrize("contest", ["add", "move"])
def test_of_many_racers_one_wins(url: str, contest: str) -> None:
    """As two gateways on one database would, each with connections of its own."""
    tables = [JobTable(url) for _ in range(8)]
    job = add(tables[0], "a")
    start, won = threading.Barrier(len(tables)), []

    def race(table: JobTable) -> None:
        start.wait()
        winner = table.add(STUDY, ["a", "b"], "test") if contest == "add" else table.move(job, State.RUNNING)
        if winner is not None:
            won.append(winner)

    threads = [threading.Thread(target=race, args=(table,)) for table in tables]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_everything_is_there_after_a_restart(url: str) -> None:
    table = JobTable(url)
    job = table.move(add(table, "a"), State.RUNNING)
    table.set_cursor("orthanc", "12")
    table.set_cursor("orthanc", "13")
    table.engine.dispose()
    again = JobTable(url)
    assert again.in_state(State.RUNNING) == [job]
    assert again.cursor("orthanc") == "13"
    assert again.cursor("other") == ""


def test_a_server_that_crashed_is_found_again() -> None:
    server = PostgreSQL()
    server.start()
    try:
        table = JobTable(server.url)
        job = add(table, "a")
        server.kill()
        server.start()
        assert table.get(job.id) == job
        assert table.move(job, State.RUNNING) is not None
    finally:
        server.remove()
