"""The attempts that are under way on the Dask cluster."""

from __future__ import annotations

import logging
import time
from concurrent.futures import CancelledError

from distributed import Client, Future

from app.engine import Outcome, open_cluster
from gateway.attempt import CLUSTER_LOST, Assignment, Report, perform

_HEAL_AFTER_SECONDS = 30.0
# While it connects again by itself, Dask keeps what is submitted.
_USABLE = ("running", "connecting")
logger = logging.getLogger("oncotwin.gateway")


class Pool:
    """Attempts by job id, on local workers or on a cluster elsewhere.

    Parameters
    ----------
    scheduler : str
        Address of a Dask scheduler; empty for workers of our own.
    workers : int
        Attempts under way at once, and number of local workers.
    """

    def __init__(self, scheduler: str, workers: int) -> None:
        self._scheduler = scheduler
        self._workers = workers
        self._client: Client | None = None
        self._futures: dict[str, Future[Report]] = {}
        self._reports: dict[str, Report] = {}
        self._idle_since: float | None = None

    @property
    def free(self) -> int:
        """How many more attempts may begin."""
        return max(0, self._workers - len(self._futures))

    def knows(self, job_id: str) -> bool:
        """Whether an attempt at the job is under way, or has ended and was not forgotten yet."""
        return job_id in self._futures or job_id in self._reports

    def submit(self, job_id: str, attempt: int, assignment: Assignment) -> None:
        """Begin an attempt.

        Raises
        ------
        OSError
            When the cluster cannot be reached.
        """
        if self._client is not None and self._client.status not in _USABLE:
            self._client = None  # Dask gave up on a scheduler that was away for long
        key = f"attempt-{job_id}-{attempt}-{time.monotonic_ns()}"
        try:
            if self._client is None:
                self._client = open_cluster(self._scheduler, self._workers)
            self._futures[job_id] = self._client.submit(perform, assignment, key=key, pure=False)
        except Exception as error:  # Dask has no error of its own for a cluster that is not there
            raise ConnectionError("no Dask cluster") from error

    def ended(self) -> dict[str, Report]:
        """Reports of the attempts that have ended, again and again until each is forgotten."""
        for job_id, future in list(self._futures.items()):
            if future.status == "pending":
                continue
            self._reports[job_id] = _report_of(future)
            del self._futures[job_id]
        self._heal()
        return dict(self._reports)

    def forget(self, job_id: str) -> None:
        """What an attempt reported has been acted on."""
        self._reports.pop(job_id, None)

    def close(self) -> None:
        """End local workers with what they run; leave a cluster elsewhere as it is."""
        client, self._client = self._client, None
        self._futures.clear()
        self._reports.clear()
        if client is not None:
            cluster = client.cluster
            client.close(timeout=2)
            if cluster is not None:
                cluster.close(timeout=5)

    def _heal(self) -> None:
        """Start anew when attempts wait and there is nobody to perform them."""
        if self._client is None or not self._futures or self._has_workers():
            self._idle_since = None
            return
        self._idle_since = self._idle_since or time.monotonic()
        if time.monotonic() - self._idle_since > _HEAL_AFTER_SECONDS and not self._scheduler:
            logger.warning("no worker has been left for %g s; starting new ones", _HEAL_AFTER_SECONDS)
            waiting = list(self._futures.values())
            for future in waiting:
                future.cancel()
            client, self._client = self._client, None
            client.close(timeout=2)
            self._idle_since = None

    def _has_workers(self) -> bool:
        assert self._client is not None
        try:
            return bool(self._client.scheduler_info(n_workers=1)["workers"])
        except Exception as error:  # Dask raises many kinds when the scheduler is gone
            logger.warning("the scheduler does not say who works for it (%s)", type(error).__name__)
            return False


def _report_of(future: Future[Report]) -> Report:
    try:
        report = future.result(timeout=10)
        assert isinstance(report, Report)
        return report
    except (CancelledError, OSError) as error:  # no scheduler, or our own healing
        logger.warning("an attempt was lost with its cluster (%s)", type(error).__name__)
        return Report(Outcome(1, CLUSTER_LOST, "The Dask cluster was lost during the run."), 0.0)
    except Exception as error:  # KilledWorker, a fault in our own code on the worker
        logger.warning("an attempt was lost (%s)", type(error).__name__)
        return Report(Outcome(1, "worker_lost", "The worker ended during the run."), 0.0)
