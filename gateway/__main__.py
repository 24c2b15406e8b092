"""Command line of the gateway: ``python -m gateway --config gateway.yaml``."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import yaml
from sqlalchemy.exc import SQLAlchemyError

from gateway.attempt import IGNORED, RESULTS
from gateway.folders import instances_in, key_of, remove
from gateway.jobs import Job, JobTable, State
from gateway.settings import Settings, SettingsError, load_settings

ROOT = Path(__file__).resolve().parent.parent
USAGE = 2
ALL = "all"
DISCARDED = "discarded"
_TICK_SECONDS = 0.5


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Command-line arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m gateway", description="PACS gateway of OncoTwin. Research use only."
    )
    parser.add_argument(
        "--config", type=Path, default=ROOT / "deploy" / "gateway.yaml", help="settings (gateway.yaml)"
    )
    parser.add_argument(
        "--scheduler", default="", help="Dask scheduler, tcp://host:port; wins over the settings"
    )
    parser.add_argument(
        "--retry",
        metavar="JOB",
        help="queue a parked or ignored job again and end; first characters of its id do",
    )
    parser.add_argument(
        "--discard",
        metavar="JOB",
        help="give up a parked job, or `all` parked ones, and end; the files go keep_days after they came",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the gateway until a stop signal; returns the exit code."""
    options = parse_arguments(arguments)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("oncotwin.gateway").setLevel(logging.INFO)
    os.umask(0o077)
    try:
        settings = load_settings(options.config)
    except SettingsError as error:
        print(f"gateway: {error}", file=sys.stderr)
        return USAGE
    if options.scheduler:
        jobs = settings.jobs.model_copy(update={"scheduler": options.scheduler})
        settings = settings.model_copy(update={"jobs": jobs})
    try:
        if options.retry:
            return retry(settings, options.retry)
        return discard(settings, options.discard) if options.discard else serve(settings)
    except SQLAlchemyError as error:
        print(
            f"gateway: the database cannot be used ({type(error).__name__}); see `database` in the settings.",
            file=sys.stderr,
        )
    except OSError as error:
        print(
            f"gateway: {settings.work_folder} cannot be used ({error.strerror}); see `work_folder` in the settings.",
            file=sys.stderr,
        )
    return USAGE


def serve(settings: Settings) -> int:
    """Run until a stop signal."""
    from gateway.service import Gateway
    from gateway.status import StatusPage

    for library in ("pydicom", "pynetdicom", "distributed"):
        # They log attributes of patients at lower levels; distributed sets its own level when it is imported.
        logging.getLogger(library).setLevel(logging.CRITICAL)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    version = yaml.safe_load((ROOT / "app.yaml").read_text(encoding="utf-8"))["application"]["version"]
    gateway = Gateway(settings)
    try:
        gateway.start()
        page = StatusPage(gateway, version)
    except OSError as error:
        print(f"gateway: cannot listen ({error.strerror}); is another gateway running?", file=sys.stderr)
        gateway.stop()
        return 1
    page.start()
    logger = logging.getLogger("oncotwin.gateway")
    logger.info("status page on %s:%d", settings.status.host, page.port)
    if settings.receiver is not None:
        logger.info(
            "C-STORE on %s:%d as %s",
            settings.receiver.host,
            gateway.receiver_port,
            settings.receiver.ae_title,
        )
    while not stopped.wait(_TICK_SECONDS):
        gateway.tick()
    page.stop()
    gateway.stop()
    return 0


def retry(settings: Settings, prefix: str) -> int:
    """Queue a parked or ignored job again: from its result if there is one, else from a fresh copy of its input."""
    table = JobTable(settings.database_url)
    # What was overtaken by what came later stays so.
    jobs = [
        job
        for job in table.in_state(State.PARKED, State.IGNORED)
        if job.state is State.PARKED or job.reason in (IGNORED, DISCARDED)
    ]
    job = _the_one(jobs, prefix, "parked or ignored")
    if job is None:
        return USAGE
    if job.is_waiting:  # a part of a study, or of two patients, is run by nobody's wish
        print(f"gateway: {job.sentence}", file=sys.stderr)
        return USAGE
    folder = settings.work_folder / "work" / job.id
    has_results = (folder / RESULTS).exists()
    inbox = settings.work_folder / "inbox" / job.source / key_of(job.study_uid)
    if not has_results and not set(job.instances) <= set(instances_in(inbox)):
        print(
            f"gateway: files of job {job.id[:8]} are not here (any more): send the study again.",
            file=sys.stderr,
        )
        return USAGE
    table.set_setbacks(job, 0)
    if not has_results:
        remove(folder)
    table.move(job, State.DELIVERING if has_results else State.QUEUED, attempts=0)
    return 0


def discard(settings: Settings, prefix: str) -> int:
    """Give up a parked job, or all: it is ignored from now on, and its files are cleaned away like any other's."""
    table = JobTable(settings.database_url)
    parked = table.in_state(State.PARKED)
    if prefix != ALL:
        job = _the_one(parked, prefix, "parked")
        if job is None:
            return USAGE
        parked = [job]
    for job in parked:
        # One that waits for its study to come whole goes on when that happens after all.
        reason = job.reason if job.is_waiting else DISCARDED
        table.move(job, State.IGNORED, reason=reason, sentence=f"Given up: {job.sentence or job.reason}")
    return 0


def _the_one(jobs: Sequence[Job], prefix: str, state: str) -> Job | None:
    matching = [job for job in jobs if job.id.startswith(prefix)]
    if len(matching) == 1:
        return matching[0]
    print(f"gateway: {len(matching)} {state} jobs begin with {prefix}; see the status page.", file=sys.stderr)
    return None


if __name__ == "__main__":
    sys.exit(main())
