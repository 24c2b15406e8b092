"""The table of jobs: one row for each version of each study, moved from state to state by compare-and-swap.

A row is the only memory of what was done. Every move names the state it starts from, so that a gateway that was killed
and started again, or two that share a database, cannot do a step twice.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum

from sqlalchemy import (
    Engine,
    Integer,
    String,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    func,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column


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
    (State.RUNNING, State.QUEUED): "the attempt failed or was lost; another follows",
    (State.RUNNING, State.IGNORED): "no rule takes the study",
    (State.RUNNING, State.PARKED): "the study cannot be processed, or was tried often enough",
    (State.RUNNING, State.DELIVERING): "there is a result",
    (State.DELIVERING, State.DELIVERING): "delivery failed; another attempt follows",
    (State.DELIVERING, State.DONE): "the destination has every object",
    (State.DELIVERING, State.PARKED): "delivery was tried often enough",
    (State.PARKED, State.QUEUED): "a person asked for it again",
    (State.PARKED, State.DELIVERING): "a person asked for it again, and the result is there",
}
ACTIVE = (State.QUEUED, State.RUNNING, State.DELIVERING)


class _Base(DeclarativeBase):
    pass


class _JobRow(_Base):
    __tablename__ = "jobs"
    __table_args__ = (UniqueConstraint("study_uid", "version"),)
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    study_uid: Mapped[str] = mapped_column(String(64), index=True)
    version: Mapped[str] = mapped_column(String(64))
    instances: Mapped[str] = mapped_column(Text)
    source: Mapped[str] = mapped_column(String(80))
    state: Mapped[str] = mapped_column(String(16), index=True)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    reason: Mapped[str] = mapped_column(String(64), default="")
    sentence: Mapped[str] = mapped_column(Text, default="")
    due: Mapped[datetime] = mapped_column(index=True)
    created: Mapped[datetime]
    updated: Mapped[datetime]


class _ResultRow(_Base):
    __tablename__ = "results"
    key: Mapped[str] = mapped_column(String(32), primary_key=True)
    job_id: Mapped[str] = mapped_column(String(32))


class _CursorRow(_Base):
    __tablename__ = "cursors"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


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
            event.listen(self._engine, "connect", _make_durable)
        _Base.metadata.create_all(self._engine)

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine."""
        return self._engine

    def add(self, study_uid: str, instances: Iterable[str], source: str) -> Job | None:
        """Queue a version of a study, which is the set of its instances without what we made ourselves.

        Parameters
        ----------
        study_uid : str
            Study Instance UID.
        instances : iterable of str
            Keys of the instances that are there now (:func:`gateway.folders.key_of`).
        source : str
            Where it came from, for people.

        Returns
        -------
        Job or None
            None when there is nothing of others in it, or when this version is known already.
        """
        keys = set(instances)
        others = sorted(keys - self._own(keys))
        version = version_of(others)
        if not others or self._knows(study_uid, version):
            return None
        moment = now()
        row = _JobRow(
            id=uuid.uuid4().hex, study_uid=study_uid, version=version, instances=",".join(others), source=source,
            state=State.QUEUED.value, attempts=0, reason="", sentence="", due=moment, created=moment, updated=moment,
        )  # fmt: skip
        with Session(self._engine) as session:
            session.add(row)
            try:
                session.commit()
            except IntegrityError:  # another gateway on the same database was faster
                return None
            return _job(row)

    def remember_results(self, job: Job, instances: Iterable[str]) -> None:
        """Note what is about to be sent, so that it is not taken for a new version when it comes back."""
        with Session(self._engine) as session:
            for key in instances:
                session.merge(_ResultRow(key=key, job_id=job.id))
            session.commit()

    def _own(self, instances: Iterable[str]) -> set[str]:
        """Those of the instances that we made."""
        keys, own = list(instances), set[str]()
        with Session(self._engine) as session:
            for start in range(0, len(keys), 500):
                query = select(_ResultRow.key).where(_ResultRow.key.in_(keys[start : start + 500]))
                own.update(session.scalars(query))
        return own

    def _knows(self, study_uid: str, version: str) -> bool:
        query = select(_JobRow.id).where(_JobRow.study_uid == study_uid, _JobRow.version == version)
        with Session(self._engine) as session:
            return session.scalar(query) is not None

    def has_other_versions(self, job: Job) -> bool:
        """Whether another version of the job's study is known."""
        query = select(_JobRow.id).where(_JobRow.study_uid == job.study_uid, _JobRow.id != job.id)
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
            "reason": reason,
            "sentence": sentence,
        }
        same = (_JobRow.id == job.id, _JobRow.state == job.state.value, _JobRow.attempts == job.attempts)
        with Session(self._engine) as session:
            moved = session.execute(update(_JobRow).where(*same).values(**values))
            session.commit()
            return self.get(job.id) if moved.rowcount == 1 else None  # type: ignore[attr-defined]

    def get(self, job_id: str) -> Job | None:
        """A job by its id."""
        with Session(self._engine) as session:
            row = session.get(_JobRow, job_id)
            return _job(row) if row else None

    def due(self, state: State, limit: int) -> list[Job]:
        """Jobs of a state whose time has come, the longest waiting first."""
        query = select(_JobRow).where(_JobRow.state == state.value, _JobRow.due <= now())
        with Session(self._engine) as session:
            return [_job(row) for row in session.scalars(query.order_by(_JobRow.due).limit(limit))]

    def in_state(self, *states: State) -> list[Job]:
        """Jobs in any of the states, the oldest first."""
        query = select(_JobRow).where(_JobRow.state.in_([state.value for state in states]))
        with Session(self._engine) as session:
            return [_job(row) for row in session.scalars(query.order_by(_JobRow.created))]

    def latest(self, limit: int) -> list[Job]:
        """The jobs that moved last."""
        query = select(_JobRow).order_by(_JobRow.updated.desc()).limit(limit)
        with Session(self._engine) as session:
            return [_job(row) for row in session.scalars(query)]

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state."""
        query = select(_JobRow.state, func.count()).group_by(_JobRow.state)
        with Session(self._engine) as session:
            found = {State(state): int(number) for state, number in session.execute(query)}
        return {state: found.get(state, 0) for state in State}

    def cursor(self, name: str) -> str:
        """A remembered position; empty when there is none."""
        with Session(self._engine) as session:
            row = session.get(_CursorRow, name)
            return row.value if row else ""

    def set_cursor(self, name: str, value: str) -> None:
        """Remember a position."""
        with Session(self._engine) as session:
            session.merge(_CursorRow(name=name, value=value))
            session.commit()


def active_count(counts: dict[State, int]) -> int:
    """Jobs that still need work."""
    return sum(counts[state] for state in ACTIVE)


def version_of(instances: Sequence[str]) -> str:
    """Digest of a set of instances. DICOM forbids two contents under one UID, so the UIDs say it all."""
    return hashlib.sha256("\n".join(sorted(instances)).encode()).hexdigest()


def _make_durable(connection: object, record: object) -> None:
    """A committed move survives a power cut; readers and the writer do not block each other."""
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _job(row: _JobRow) -> Job:
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
