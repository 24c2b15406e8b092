"""Command line of the gateway: ``python -m gateway --config gateway.yaml``."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from pathlib import Path

import yaml
from sqlalchemy.exc import SQLAlchemyError

from gateway.folders import remove
from gateway.jobs import JobTable, State
from gateway.settings import Settings, SettingsError, load_settings

ROOT = Path(__file__).resolve().parent.parent
USAGE = 2
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
        "--retry", metavar="JOB", help="queue a parked job again and end; first characters of its id do"
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
        return retry(settings, options.retry) if options.retry else serve(settings)
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
    """Queue a parked job again: from its result if there is one, else from a fresh copy of its input."""
    table = JobTable(settings.database_url)
    matching = [job for job in table.in_state(State.PARKED) if job.id.startswith(prefix)]
    if len(matching) != 1:
        print(
            f"gateway: {len(matching)} parked jobs begin with {prefix}; see the status page.", file=sys.stderr
        )
        return USAGE
    folder = settings.work_folder / "work" / matching[0].id
    if (folder / "results").exists():
        table.move(matching[0], State.DELIVERING, attempts=0)
    else:
        remove(folder)
        table.move(matching[0], State.QUEUED, attempts=0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
