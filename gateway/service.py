"""The gateway: watches for studies, runs the application on each version once, sends the results back.

Everything that must survive is in the table of jobs and in the work folder; this object may be killed at any moment and
made again. Each step is one of three kinds: it changes nothing outside, it renames, or it moves a job by
compare-and-swap.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import requests
from sqlalchemy.exc import SQLAlchemyError

from app.engine import Outcome as RunOutcome
from app.engine import RunLimits, split_command
from gateway.attempt import RESULTS, Assignment, Report
from gateway.audit import AuditLog, Event, Outcome
from gateway.commitment import Commitments
from gateway.delivery import DeliveryError, Receipt, deliver, objects_of
from gateway.folders import WorkFolder, instances_in, key_of, study_uid_of
from gateway.jobs import ACTIVE, Job, JobTable, State, active_count
from gateway.metrics import Metrics
from gateway.orthanc import OrthancWatch
from gateway.pool import Pool
from gateway.receiver import SOURCE as RECEIVED
from gateway.receiver import Receiver
from gateway.settings import Settings

_DELIVERIES_AT_ONCE = 2
_HOUR = 3600.0
logger = logging.getLogger("oncotwin.gateway")


class Gateway:
    """All parts together.

    Parameters
    ----------
    settings : Settings
        What to watch, run and send to.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.folders = WorkFolder(settings.work_folder)
        self.jobs = JobTable(settings.database_url)
        self.metrics = Metrics()
        self.audit = AuditLog(self.folders.root / "audit.jsonl")
        self._commitments = Commitments(has_receiver=settings.receiver is not None)
        self.receiver_port = 0
        self._receiver = (
            Receiver(
                settings.receiver, self.folders, self.pressure, self._commitments, self.audit, self.metrics
            )
            if settings.receiver
            else None
        )
        self._orthanc = OrthancWatch(settings.orthanc, self.jobs, self.folders) if settings.orthanc else None
        self._pool = Pool(settings.jobs.scheduler, settings.jobs.workers)
        self._couriers = ThreadPoolExecutor(_DELIVERIES_AT_ONCE, thread_name_prefix="courier")
        self._deliveries: dict[str, Future[Receipt]] = {}
        self._seen: dict[Path, float] = {}
        self._next_poll = self._next_cleaning = 0.0

    def start(self) -> None:
        """Take up what an earlier gateway left, then begin to listen."""
        for job in self.jobs.in_state(State.RUNNING):
            self._recover(job)
        if self._receiver is not None:
            self.receiver_port = self._receiver.start()
        self.audit.write(Event.STARTED_OR_STOPPED, "gateway started")

    def stop(self) -> None:
        """Listen no more and end what runs; jobs go on at the next start."""
        if self._receiver is not None:
            self._receiver.stop()
        self._pool.close()
        self._couriers.shutdown(wait=False, cancel_futures=True)
        self.audit.write(Event.STARTED_OR_STOPPED, "gateway stopped")

    def tick(self) -> None:
        """One round: find studies, collect, start, deliver. Trouble with others' systems ends with this round."""
        for step in (
            self._find_received,
            self._watch_orthanc,
            self._collect,
            self._begin,
            self._deliver,
            self._clean,
        ):
            try:
                step()
            except (SQLAlchemyError, OSError) as error:
                logger.error("%s: %s; trying again", step.__name__.strip("_"), type(error).__name__)
        self._measure()

    def pressure(self) -> str:
        """Why nothing new can be taken now; empty when all is well."""
        if self.folders.free_gb() < self.settings.jobs.min_free_gb:
            return f"less than {self.settings.jobs.min_free_gb:g} GB are free in the work folder"
        if active_count(self.jobs.counts()) >= self.settings.jobs.queue_limit:
            return f"{self.settings.jobs.queue_limit} jobs are waiting"
        return ""

    def _find_received(self) -> None:
        """Queue the studies to which nothing was added for a while."""
        if self.settings.receiver is None:
            return
        for inbox, changed in self.folders.arrived(RECEIVED).items():
            quiet = time.time() - changed > self.settings.receiver.study_complete_seconds
            if quiet and self._seen.get(inbox) != changed:
                job = self.jobs.add(study_uid_of(inbox), instances_in(inbox), RECEIVED)
                self._seen[inbox] = changed
                if job is not None:
                    self._tell_queued(job)

    def _watch_orthanc(self) -> None:
        if self._orthanc is None or self.settings.orthanc is None or time.monotonic() < self._next_poll:
            return
        self._next_poll = time.monotonic() + self.settings.orthanc.poll_seconds
        if self.pressure():
            return
        try:
            for job in self._orthanc.poll():
                self._tell_queued(job)
            self.metrics.source_up.set(1)
        except requests.RequestException as error:
            self.metrics.source_up.set(0)
            logger.warning("Orthanc does not answer (%s); trying again", type(error).__name__)

    def _begin(self) -> None:
        for job in self.jobs.due(State.QUEUED, self._pool.free):
            running = self.jobs.move(job, State.RUNNING, attempts=job.attempts + 1)
            if running is None:
                continue
            try:
                self._pool.submit(job.id, running.attempts, self._assignment(job))
            except OSError:
                logger.warning("the Dask cluster does not answer; trying again")
                self._recover(running)
                return
            self.audit.write(Event.PROCEDURE, "run started", study_uid=job.study_uid)

    def _assignment(self, job: Job) -> Assignment:
        settings = self.settings.jobs
        return Assignment(
            study_uid=job.study_uid,
            inbox=self.folders.inbox(job.source, job.study_uid),
            instances=job.instances,
            folder=self.folders.job(job.id),
            came_before=self.jobs.has_other_versions(job),
            rules=self.settings.rules,
            priors=self.settings.priors,
            command=split_command(settings.command),
            limits=RunLimits(settings.time_limit_seconds, settings.memory_gb),
        )

    def _collect(self) -> None:
        for job_id, report in self._pool.ended().items():
            job = self.jobs.get(job_id)
            if job is not None and job.state is State.RUNNING:
                self._settle(job, report)

    def _settle(self, job: Job, report: Report) -> None:
        outcome = report.outcome
        self.metrics.run_seconds.observe(report.seconds)
        if report.is_ignored:
            self._tell_settled(job, State.IGNORED, outcome)
        elif outcome.succeeded:
            self._tell_settled(job, State.DELIVERING, outcome)
        elif outcome.is_final or job.attempts >= self.settings.jobs.max_attempts:
            self._tell_settled(job, State.PARKED, outcome)
        else:
            self._tell_settled(job, State.QUEUED, outcome, self._back_off(job.attempts))

    def _tell_settled(self, job: Job, to: State, outcome: RunOutcome, delay_s: float = 0.0) -> None:
        attempts = 0 if to is State.DELIVERING else None
        moved = self.jobs.move(
            job, to, attempts=attempts, delay_s=delay_s, reason=outcome.reason, sentence=outcome.sentence
        )
        if moved is None:
            return
        self.metrics.attempts.labels(outcome.reason or "result").inc()
        failed = to in (State.PARKED, State.QUEUED)
        self.audit.write(
            Event.PROCEDURE,
            f"run ended: {to.value}" + (f", {outcome.reason}" if outcome.reason else ""),
            outcome=Outcome.SERIOUS_FAILURE if failed else Outcome.SUCCESS,
            study_uid=job.study_uid,
        )
        logger.info("job %s: %s %s", job.id[:8], to.value, outcome.reason)

    def _deliver(self) -> None:
        for job_id, delivery in list(self._deliveries.items()):
            if delivery.done():
                del self._deliveries[job_id]
                self._settle_delivery(job_id, delivery)
        for job in self.jobs.due(State.DELIVERING, _DELIVERIES_AT_ONCE * 4):
            if len(self._deliveries) >= _DELIVERIES_AT_ONCE:
                return
            if job.id not in self._deliveries:
                self._deliveries[job.id] = self._couriers.submit(self._carry, job)

    def _carry(self, job: Job) -> Receipt:
        objects = objects_of(self.folders.job(job.id) / RESULTS)
        # Noted first: what comes back to us as part of the study must not count as a new version of it.
        self.jobs.remember_results(job, (key_of(item.sop_uid) for item in objects))
        destination = self.settings.destination
        return deliver(objects, destination, self._commitments) if destination else Receipt(0)

    def _settle_delivery(self, job_id: str, delivery: Future[Receipt]) -> None:
        job = self.jobs.get(job_id)
        if job is None or job.state is not State.DELIVERING:
            return
        error = delivery.exception()
        if error is None:
            self.jobs.move(job, State.DONE)
            self.metrics.deliveries.labels("done").inc()
            self.metrics.sent.inc(delivery.result().sent)
            self.audit.write(
                Event.TRANSFERRED,
                "results delivered" + (", storage committed" if delivery.result().committed else ""),
                participant=self._destination,
                study_uid=job.study_uid,
                count=delivery.result().sent,
            )
            logger.info("job %s: done", job.id[:8])
            return
        sentence = (
            str(error) if isinstance(error, DeliveryError) else f"Delivery failed ({type(error).__name__})."
        )
        attempts = job.attempts + 1
        last = attempts >= self.settings.jobs.max_delivery_attempts
        to = State.PARKED if last else State.DELIVERING
        self.jobs.move(
            job, to, attempts=attempts, delay_s=self._back_off(attempts), reason="delivery", sentence=sentence
        )
        self.metrics.deliveries.labels("failed").inc()
        self.audit.write(
            Event.TRANSFERRED,
            "delivery failed" + (", parked" if last else ", to be tried again"),
            outcome=Outcome.MINOR_FAILURE,
            participant=self._destination,
            study_uid=job.study_uid,
        )

    @property
    def _destination(self) -> str:
        destination = self.settings.destination
        if destination is None:
            return "work folder"
        return destination.url if destination.kind == "stow" else f"{destination.ae_title} {destination.host}"

    def _recover(self, job: Job) -> None:
        """A run that nobody watches any more: its result if there is one, else again, and not as another attempt."""
        if (self.folders.job(job.id) / RESULTS).exists():
            self.jobs.move(job, State.DELIVERING, attempts=0)
        else:
            self.jobs.move(job, State.QUEUED, attempts=max(0, job.attempts - 1), reason="interrupted")

    def _back_off(self, attempts: int) -> float:
        settings = self.settings.jobs
        return min(settings.back_off_seconds * 2.0 ** (attempts - 1), settings.longest_back_off_seconds)

    def _tell_queued(self, job: Job) -> None:
        logger.info("job %s: queued, %d instances by %s", job.id[:8], len(job.instances), job.source)
        self.audit.write(
            Event.TRANSFERRED,
            "study complete",
            participant=job.source,
            study_uid=job.study_uid,
            count=len(job.instances),
        )

    def _clean(self) -> None:
        if time.monotonic() < self._next_cleaning:
            return
        self._next_cleaning = time.monotonic() + _HOUR
        active = self.jobs.in_state(*ACTIVE, State.PARKED)
        self.folders.forget(
            self.settings.keep_days, [job.id for job in active], [job.study_uid for job in active]
        )

    def _measure(self) -> None:
        try:
            for state, number in self.jobs.counts().items():
                self.metrics.jobs.labels(state.value).set(number)
            self.metrics.free_gb.set(self.folders.free_gb())
        except (SQLAlchemyError, OSError):
            return  # the steps above have told it
