"""The gateway: watches for studies, runs the application on each version once, sends the results back.

Everything that must survive is in the table of jobs and in the work folder; this object may be killed at any moment and
made again. Each step is one of three kinds: it changes nothing outside, it renames, or it moves a job by
compare-and-swap.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import requests
from sqlalchemy.exc import SQLAlchemyError

from app.engine import RunLimits, split_command
from gateway.attempt import RESULTS, Assignment, Report
from gateway.audit import AuditLog, Event, Outcome
from gateway.commitment import Commitments
from gateway.delivery import DeliveryError, Receipt, Undeliverable, deliver, objects_of
from gateway.folders import RECEIVED, WorkFolder, instances_in, key_of
from gateway.jobs import ACTIVE, SUPERSEDED, Job, JobTable, State, active_count
from gateway.metrics import Metrics
from gateway.orthanc import OrthancWatch
from gateway.pool import Pool
from gateway.receiver import Receiver
from gateway.settings import Settings
from gateway.versions import enqueue

_DELIVERIES_AT_ONCE = 2
_HOUR = 3600.0
_MARGIN_SECONDS = 600.0
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
        self._unreadable_until: dict[Path, float] = {}
        self._next_poll = self._next_cleaning = 0.0

    def start(self) -> None:
        """Take up what an earlier gateway left, then begin to listen."""
        self._take_up()
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
            self._take_up,
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
        if self._is_disk_short():
            return f"less than {self.settings.jobs.min_free_gb:g} GB are free in the work folder"
        try:
            waiting = active_count(self.jobs.counts())
        except SQLAlchemyError:
            return "the database of jobs does not answer"
        if waiting >= self.settings.jobs.queue_limit:
            return f"{self.settings.jobs.queue_limit} jobs are waiting"
        return ""

    def _is_disk_short(self) -> bool:
        return self.folders.free_gb() < self.settings.jobs.min_free_gb

    def _find_received(self) -> None:
        """Queue the studies to which nothing was added for a while."""
        if self.settings.receiver is None:
            return
        for inbox, changed in self.folders.arrived(RECEIVED).items():
            quiet = time.time() - changed > self.settings.receiver.study_complete_seconds
            waits = time.monotonic() < self._unreadable_until.get(inbox, 0.0)
            if quiet and not waits and self._seen.get(inbox) != changed:
                self._find_version(inbox, changed)

    def _find_version(self, inbox: Path, changed: float) -> None:
        """Queue a study as it is now; one that the disk does not give is tried again, and keeps no other waiting."""
        try:
            refused = self.folders.refused_in(inbox)
            job = enqueue(self.jobs, self.folders, inbox, RECEIVED, instances_in(inbox), refused)
        except OSError as error:
            delay_s = self.settings.jobs.back_off_seconds
            self._unreadable_until[inbox] = time.monotonic() + delay_s
            logger.error(
                "study %s in the work folder cannot be read (%s); trying again in %g s",
                inbox.name[:8], error.strerror, delay_s,
            )  # fmt: skip
            return
        self._unreadable_until.pop(inbox, None)
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
        if self._is_disk_short():
            return
        for job in self.jobs.due(State.QUEUED, self._pool.free):
            if self._pool.knows(job.id):  # of an earlier attempt, which was overtaken
                continue
            assignment = self._assignment(job)
            running = self.jobs.move(job, State.RUNNING, attempts=job.attempts + 1)
            if running is None:
                continue
            try:
                self._pool.submit(job.id, running.attempts, assignment)
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
            self._pool.forget(job_id)

    def _settle(self, job: Job, report: Report) -> None:
        """Move a job on by what its attempt reported. What is told comes after the move, so that it is told once."""
        outcome = report.outcome
        earlier = self.jobs.setbacks(job)
        setbacks = earlier + 1 if report.is_setback else 0
        if setbacks != earlier:
            self.jobs.set_setbacks(job, setbacks)
        if report.is_ignored:
            self._tell_settled(job, State.IGNORED, report)
        elif outcome.succeeded:
            self._tell_settled(job, State.DELIVERING, report, attempts=0)
        elif setbacks and setbacks < self.settings.jobs.max_delivery_attempts:
            delay_s = self._back_off(setbacks)
            self._tell_settled(job, State.QUEUED, report, attempts=max(0, job.attempts - 1), delay_s=delay_s)
        elif setbacks or outcome.is_final or job.attempts >= self.settings.jobs.max_attempts:
            self._tell_settled(job, State.PARKED, report)
        else:
            self._tell_settled(job, State.QUEUED, report, delay_s=self._back_off(job.attempts))

    def _tell_settled(
        self, job: Job, to: State, report: Report, *, attempts: int | None = None, delay_s: float = 0.0
    ) -> None:
        outcome = report.outcome
        moved = self.jobs.move(
            job, to, attempts=attempts, delay_s=delay_s, reason=outcome.reason, sentence=outcome.sentence
        )
        if moved is None:
            return
        self.metrics.run_seconds.observe(report.seconds)
        self.metrics.attempts.labels(outcome.reason or "result").inc()
        failed = to in (State.PARKED, State.QUEUED)
        self.audit.write(
            Event.PROCEDURE,
            f"run ended: {to.value}" + (f", {outcome.reason}" if outcome.reason else ""),
            outcome=Outcome.SERIOUS_FAILURE if failed else Outcome.SUCCESS,
            study_uid=job.study_uid,
        )
        logger.info("job %s: %s %s", job.id[:8], to.value, outcome.reason)
        if report.priors_left_out:
            told = ", ".join(f"{number} {why}" for why, number in Counter(report.priors_left_out).items())
            logger.info("job %s: earlier studies left out: %s", job.id[:8], told)

    def _deliver(self) -> None:
        for job_id, delivery in list(self._deliveries.items()):
            if delivery.done():
                self._settle_delivery(job_id, delivery)
                del self._deliveries[job_id]
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
        if job is None:
            return
        error = delivery.exception()
        if job.reason == SUPERSEDED and error is None:
            self._tell_delivered(job, delivery.result(), " although the study came again, changed")
        if job.state is not State.DELIVERING:
            return
        if error is None:
            self.jobs.move(job, State.DONE)
            self._tell_delivered(job, delivery.result())
            return
        sentence = (
            str(error) if isinstance(error, DeliveryError) else f"Delivery failed ({type(error).__name__})."
        )
        attempts = job.attempts + 1
        last = isinstance(error, Undeliverable) or attempts >= self.settings.jobs.max_delivery_attempts
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

    def _tell_delivered(self, job: Job, receipt: Receipt, although: str = "") -> None:
        self.metrics.deliveries.labels("done").inc()
        self.metrics.sent.inc(receipt.sent)
        self.audit.write(
            Event.TRANSFERRED,
            "results delivered" + although + (", storage committed" if receipt.committed else ""),
            participant=self._destination,
            study_uid=job.study_uid,
            count=receipt.sent,
        )
        logger.info("job %s: done%s", job.id[:8], although)

    @property
    def _destination(self) -> str:
        destination = self.settings.destination
        if destination is None:
            return "work folder"
        return destination.url if destination.kind == "stow" else f"{destination.ae_title} {destination.host}"

    def _take_up(self) -> None:
        """Runs that nobody watches: an earlier gateway's, or one that the database could not be told of."""
        for job in self.jobs.in_state(State.RUNNING):
            if not self._pool.knows(job.id):
                self._recover(job)

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
        number = len(job.instances)
        logger.info(
            "job %s: %s %s, %d instances by %s", job.id[:8], job.state.value, job.reason, number, job.source
        )
        corrected = ", under another patient than before" if self.jobs.came_under_another_patient(job) else ""
        self.audit.write(
            Event.TRANSFERRED,
            (f"study parked, {job.reason}" if job.is_waiting else "study complete") + corrected,
            outcome=Outcome.SERIOUS_FAILURE if job.is_waiting else Outcome.SUCCESS,
            participant=job.source,
            study_uid=job.study_uid,
            count=number,
        )

    def _clean(self) -> None:
        if time.monotonic() < self._next_cleaning:
            return
        self._next_cleaning = time.monotonic() + _HOUR
        active = self.jobs.in_state(*ACTIVE, State.PARKED)
        self.folders.forget(
            self.settings.keep_days, [job.id for job in active], [job.study_uid for job in active]
        )
        sources = [self.settings.orthanc.timeout_seconds if self.settings.orthanc else 0.0]
        sources += [self.settings.receiver.idle_timeout_seconds if self.settings.receiver else 0.0]
        self.folders.forget_incoming(max(sources) + _MARGIN_SECONDS)

    def _measure(self) -> None:
        try:
            for state, number in self.jobs.counts().items():
                self.metrics.jobs.labels(state.value).set(number)
            self.metrics.free_gb.set(self.folders.free_gb())
        except (SQLAlchemyError, OSError):
            return  # the steps above have told it
