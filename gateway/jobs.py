"""The table of jobs: one row for each version of each study, moved from state to state by compare-and-swap.

A row is the only memory of what was done. Every move names the state it starts from, so that a gateway that was killed
and started again, or two that share a database, cannot do a step twice.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum

from sqlalchemy import Engine, create_engine, event, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from gateway.tables import Base, CursorRow, JobRow, ResultRow, SetbackRow, make_durable


class State(str, Enum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DELIVERING = "delivering"
    DONE = "done"
    IGNORED = "ignored"
    PARKED = "parked"


# Every move there is; anything else is a fault of the program.
MOVES = {
    (State.QUEUED, State.RUNNING): "an attempt begins",
    (State.QUEUED, State.IGNORED): "the study came again under another patient",
    (State.RUNNING, State.QUEUED): "the attempt failed or was lost; another follows",
    (State.RUNNING, State.IGNORED): "no rule takes the study, or it came again under another patient",
    (State.RUNNING, State.PARKED): "the study cannot be processed, or was tried often enough",
    (State.RUNNING, State.DELIVERING): "there is a result",
    (State.DELIVERING, State.DELIVERING): "delivery failed; another attempt follows",
    (State.DELIVERING, State.DONE): "the destination has every object",
    (State.DELIVERING, State.PARKED): "delivery was tried often enough",
    (State.DELIVERING, State.IGNORED): "the study came again under another patient",
    (State.PARKED, State.QUEUED): "a person asked for it again, or what it lacked has come",
    (State.PARKED, State.DELIVERING): "a person asked for it again, and the result is there",
    (State.PARKED, State.PARKED): "some of what it lacked has come",
    (State.PARKED, State.IGNORED): "a person gave it up, or the study came again, changed",
    (State.IGNORED, State.QUEUED): "a person asked for it again, or it came as it had been",
    (State.IGNORED, State.PARKED): "it came as it had been, which cannot be run",
    (State.IGNORED, State.DELIVERING): "a person asked for what was given up, and the result is there",
}
ACTIVE = (State.QUEUED, State.RUNNING, State.DELIVERING)
SUPERSEDED = "superseded"
IMAGES_REFUSED = "images_refused"
PATIENTS_DIFFER = "patients_differ"
_OBSTACLES = (IMAGES_REFUSED, PATIENTS_DIFFER)
_PATIENT_DIGITS = 16
_KEY = "key of digests"


@dataclass(frozen=True)
class Job:
    """One version of one study; ``instances`` are keys of its SOP Instance UIDs, times are UTC without zone."""

    id: str
    study_uid: str
    version: str
    instances: tuple[str, ...]
    source: str
    state: State
    attempts: int
    reason: str
    sentence: str
    due: datetime
    created: datetime
    updated: datetime

    @property
    def is_waiting(self) -> bool:
        """Whether it is parked only until the study comes as it should."""
        return self.state is State.PARKED and self.reason in _OBSTACLES

    @property
    def patient(self) -> str:
        """Keyed digest of whose it is."""
        return self.version[:_PATIENT_DIGITS]


@dataclass(frozen=True)
class Obstacle:
    """What keeps a version from being run until the study comes as it should; for people, without patient data."""

    reason: str
    sentence: str


def now() -> datetime:
    """UTC without zone, as the table holds it."""
    return datetime.now(UTC).replace(tzinfo=None)


class JobTable:
    """All jobs, in any database that SQLAlchemy knows.

    Parameters
    ----------
    url : str
        SQLAlchemy URL, e.g. ``sqlite:///jobs.sqlite`` or ``postgresql+psycopg://user@host/name``.
    """

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url, pool_pre_ping=True)
        if url.startswith("sqlite"):
            event.listen(self._engine, "connect", make_durable)
        Base.metadata.create_all(self._engine)

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine."""
        return self._engine

    def add(
        self,
        study_uid: str,
        instances: Iterable[str],
        source: str,
        *,
        patient: str = "",
        obstacle: Obstacle | None = None,
    ) -> Job | None:
        """Queue a version of a study: the set of its instances without what we made ourselves, and whose it is.

        Jobs of the same study that are open under another patient, or wait for what has come now, are ignored from
        then on.

        Parameters
        ----------
        study_uid : str
            Study Instance UID.
        instances : iterable of str
            Keys of the instances that belong to it (:func:`gateway.folders.key_of`).
        source : str
            Where it came from, for people.
        patient : str
            What tells whose it is; only a keyed digest of it is kept.
        obstacle : Obstacle, optional
            Parks the version instead of queueing it.

        Returns
        -------
        Job or None
            None when there is nothing of others in it, or when this version is known already and need not begin anew.
        """
        others = sorted(self.without_results(instances))
        if not others:
            return None
        version = version_of(others, self._digest(patient))
        # First: were we killed between the two, the next call adds the job.
        self._overtake(study_uid, version, source)
        known = self._find(study_uid, version)
        if known is not None:
            return self._reconsider(known, source, obstacle)
        moment = now()
        row = JobRow(
            id=uuid.uuid4().hex, study_uid=study_uid, version=version, instances=",".join(others), source=source,
            state=(State.PARKED if obstacle else State.QUEUED).value, attempts=0, due=moment, created=moment,
            reason=obstacle.reason if obstacle else "", sentence=obstacle.sentence if obstacle else "", updated=moment,
        )  # fmt: skip
        with Session(self._engine) as session:
            session.add(row)
            try:
                session.commit()
            except IntegrityError:  # another gateway on the same database was faster
                return None
            return _job(row)

    def _reconsider(self, known: Job, source: str, obstacle: Obstacle | None) -> Job | None:
        """A version that came before: it goes on when it had waited for this, even given up, or had been overtaken."""
        was_overtaken = known.reason == SUPERSEDED and known.source == source
        if obstacle is not None:
            if was_overtaken or (known.is_waiting and known.sentence != obstacle.sentence):
                self.move(known, State.PARKED, reason=obstacle.reason, sentence=obstacle.sentence)
            return None
        if not was_overtaken and known.reason not in _OBSTACLES:
            return None
        return self.move(known, State.QUEUED, attempts=0, source=source)

    def _overtake(self, study_uid: str, version: str, source: str) -> None:
        """Close what waits for this version, and what would give results to a patient whose study it no longer is.

        Each source is believed about what came from it: it cannot be told which of two was corrected.
        """
        query = select(JobRow).where(
            JobRow.study_uid == study_uid, JobRow.source == source, JobRow.version != version
        )
        with Session(self._engine) as session:
            others = [_job(row) for row in session.scalars(query)]
        for other in others:
            is_open = other.state in (*ACTIVE, State.PARKED)
            if is_open and (other.is_waiting or not version.startswith(other.patient)):
                sentence = "The study came again, with more images or under another patient."
                self.move(other, State.IGNORED, reason=SUPERSEDED, sentence=sentence)

    def remember_results(self, job: Job, instances: Iterable[str]) -> None:
        """Note what is about to be sent, so that it is not taken for a new version when it comes back."""
        with Session(self._engine) as session:
            for key in instances:
                session.merge(ResultRow(key=key, job_id=job.id))
            session.commit()

    def without_results(self, instances: Iterable[str]) -> set[str]:
        """Those of the instances that we did not make."""
        keys, own = list(instances), set[str]()
        with Session(self._engine) as session:
            for start in range(0, len(keys), 500):
                query = select(ResultRow.key).where(ResultRow.key.in_(keys[start : start + 500]))
                own.update(session.scalars(query))
        return set(keys) - own

    def _find(self, study_uid: str, version: str) -> Job | None:
        query = select(JobRow).where(JobRow.study_uid == study_uid, JobRow.version == version)
        with Session(self._engine) as session:
            row = session.scalar(query)
            return _job(row) if row else None

    def _digest(self, patient: str) -> str:
        """Digest that tells patients apart; without its key, which stays in the table, nobody finds one by trying."""
        if not self.cursor(_KEY):
            with Session(self._engine) as session:
                session.add(CursorRow(name=_KEY, value=secrets.token_hex(32)))
                try:
                    session.commit()
                except IntegrityError:  # another gateway on the same database was faster
                    session.rollback()
        key = self.cursor(_KEY).encode()
        return hmac.new(key, patient.encode(), hashlib.sha256).hexdigest()[:_PATIENT_DIGITS]

    def came_under_another_patient(self, job: Job) -> bool:
        """Whether the job's study was here as another patient's."""
        query = select(JobRow.version).where(JobRow.study_uid == job.study_uid)
        with Session(self._engine) as session:
            return any(not version.startswith(job.patient) for version in session.scalars(query))

    def has_other_versions(self, job: Job) -> bool:
        """Whether another version of the job's study is known."""
        query = select(JobRow.id).where(JobRow.study_uid == job.study_uid, JobRow.id != job.id)
        with Session(self._engine) as session:
            return session.scalar(query) is not None

    def move(
        self,
        job: Job,
        to: State,
        *,
        attempts: int | None = None,
        delay_s: float = 0.0,
        reason: str = "",
        sentence: str = "",
        source: str = "",
    ) -> Job | None:
        """Move a job on from the state it is known to be in.

        Returns
        -------
        Job or None
            The job as it is now; None when it was no longer in that state.
        """
        if (job.state, to) not in MOVES:
            raise ValueError(f"A job cannot go from {job.state.value} to {to.value}.")
        moment = now()
        values = {
            "state": to.value,
            "attempts": job.attempts if attempts is None else attempts,
            "due": moment + timedelta(seconds=delay_s),
            "updated": moment,
            "source": source or job.source,
            "reason": reason,
            "sentence": sentence,
        }
        same = (JobRow.id == job.id, JobRow.state == job.state.value, JobRow.attempts == job.attempts)
        with Session(self._engine) as session:
            moved = session.execute(update(JobRow).where(*same).values(**values))
            session.commit()
            return self.get(job.id) if moved.rowcount == 1 else None  # type: ignore[attr-defined]

    def setbacks(self, job: Job) -> int:
        """How often in a row something around the job failed, as noted by ``set_setbacks``."""
        with Session(self._engine) as session:
            row = session.get(SetbackRow, job.id)
            return row.number if row else 0

    def set_setbacks(self, job: Job, number: int) -> None:
        """Note how often in a row something around the job failed."""
        with Session(self._engine) as session:
            session.merge(SetbackRow(job_id=job.id, number=number))
            session.commit()

    def get(self, job_id: str) -> Job | None:
        """A job by its id."""
        with Session(self._engine) as session:
            row = session.get(JobRow, job_id)
            return _job(row) if row else None

    def due(self, state: State, limit: int) -> list[Job]:
        """Jobs of a state whose time has come, the longest waiting first."""
        query = select(JobRow).where(JobRow.state == state.value, JobRow.due <= now())
        with Session(self._engine) as session:
            return [_job(row) for row in session.scalars(query.order_by(JobRow.due).limit(limit))]

    def in_state(self, *states: State) -> list[Job]:
        """Jobs in any of the states, the oldest first."""
        query = select(JobRow).where(JobRow.state.in_([state.value for state in states]))
        with Session(self._engine) as session:
            return [_job(row) for row in session.scalars(query.order_by(JobRow.created))]

    def latest(self, limit: int) -> list[Job]:
        """The jobs that moved last."""
        query = select(JobRow).order_by(JobRow.updated.desc()).limit(limit)
        with Session(self._engine) as session:
            return [_job(row) for row in session.scalars(query)]

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state."""
        query = select(JobRow.state, func.count()).group_by(JobRow.state)
        with Session(self._engine) as session:
            found = {State(state): int(number) for state, number in session.execute(query)}
        return {state: found.get(state, 0) for state in State}

    def cursor(self, name: str) -> str:
        """A remembered position; empty when there is none."""
        with Session(self._engine) as session:
            row = session.get(CursorRow, name)
            return row.value if row else ""

    def set_cursor(self, name: str, value: str) -> None:
        """Remember a position."""
        with Session(self._engine) as session:
            session.merge(CursorRow(name=name, value=value))
            session.commit()


def active_count(counts: dict[State, int]) -> int:
    """Jobs that still need work."""
    return sum(counts[state] for state in ACTIVE)


def version_of(instances: Sequence[str], patient: str) -> str:
    """Digest of a set of instances and of whose they are: a corrected patient is the one change that DICOM allows under
    the same SOP Instance UIDs (PS3.4 B.4.1.3)."""
    digest = hashlib.sha256("\n".join(sorted(instances)).encode()).hexdigest()
    return patient + digest[: -len(patient)]


def _job(row: JobRow) -> Job:
    return Job(
        id=row.id,
        study_uid=row.study_uid,
        version=row.version,
        instances=tuple(row.instances.split(",")),
        source=row.source,
        state=State(row.state),
        attempts=row.attempts,
        reason=row.reason,
        sentence=row.sentence,
        due=row.due,
        created=row.created,
        updated=row.updated,
    )
