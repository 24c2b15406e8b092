"""The tables of the gateway's database, as SQLAlchemy sees them."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """What the tables share."""


class JobRow(Base):
    """A version of a study."""

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


class ResultRow(Base):
    """An instance that we made."""

    __tablename__ = "results"
    key: Mapped[str] = mapped_column(String(32), primary_key=True)
    job_id: Mapped[str] = mapped_column(String(32))


class SetbackRow(Base):
    """How often in a row something around a job failed."""

    __tablename__ = "setbacks"
    job_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    number: Mapped[int] = mapped_column(Integer)


class CursorRow(Base):
    """Something remembered by name."""

    __tablename__ = "cursors"
    name: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


def make_durable(connection: object, record: object) -> None:
    """A committed move survives a power cut; readers and the writer do not block each other."""
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
