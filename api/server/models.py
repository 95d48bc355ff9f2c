"""Tables of the run database."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, ForeignKey, Index, String, Text, false
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, query_expression, relationship
from sqlalchemy.types import TypeDecorator

from api.states import SearchState
from cluster.follow_up import JOBS
from slicemamba.text import well_formed

SEARCH = "search"


def utc_now() -> datetime:
    return datetime.now(timezone.utc)


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC. SQLite forgets the zone, so it is taken off and put on again here."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(timezone.utc).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=timezone.utc)


class ToldText(TypeDecorator[str]):
    """What a driver, its log or Ray has said, fit for every database: without NUL and without halves of characters."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else well_formed(value).replace("\0", "\N{REPLACEMENT CHARACTER}")


class Base(DeclarativeBase):
    pass


class Search(Base):
    """One search, or a job that follows one: both are run by Ray and have the same life.

    Attributes:
        id: sortable by time, but for adopted searches; the name of the run folder too.
        kind: ``search``, or of a follow-up job (see ``cluster.follow_up``).
        parent_id: of a follow-up job its search, in whose run folder it has its own.
        trial, study: the trial it is about, where it is about one.
        first_job_id: what an adopted search's Ray job is called; null where it is called as the search.
        spec: the job, with the data set's folder resolved; written to the run folder as ``config.json``.
        attempt: 1, and one more each time it is submitted to Ray again: resumed, extended, or because its job vanished.
        losses: how often its driver was killed or its Ray job vanished since somebody last asked for it to run.
        left_attempt: the driver's attempt in the run folder that the attempt before left behind; what is not later is
            not this one's. Null where nothing was left.
        job_status: Ray's own word, shown beside the state.
        message: what is going on right now, where the state alone does not tell.
        error: why it failed.
        request_hash: of the request's body, to tell a repeated request from another one with the same key.
        priority: of those in the queue the highest is started first.
        admitted: it has a place among those that run (``api.server.queue``).
        submitted_by: name of the token that asked for it; null where none was needed.
        dataset: name of the data set, read from ``spec`` where a query asks for it, else null.
        changed_at: last change of state. updated_at: last change of anything.
    """

    __tablename__ = "searches"
    __table_args__ = (Index("ix_searches_listed", "kind", "created_at", "id"),)

    id: Mapped[str] = mapped_column(String(40), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16), default=SEARCH, server_default=SEARCH)
    parent_id: Mapped[str | None] = mapped_column(String(40), index=True)
    trial: Mapped[int | None]
    study: Mapped[str | None] = mapped_column(String(16))
    first_job_id: Mapped[str | None] = mapped_column(String(255))
    name: Mapped[str] = mapped_column(String(100))
    spec: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[str] = mapped_column(String(16), index=True, default=SearchState.QUEUED.value)
    phase: Mapped[str | None] = mapped_column(String(32))
    progress: Mapped[dict[str, Any]] = mapped_column(JSON, default=dict)
    message: Mapped[str | None] = mapped_column(ToldText)
    error: Mapped[str | None] = mapped_column(ToldText)
    attempt: Mapped[int] = mapped_column(default=1)
    losses: Mapped[int] = mapped_column(default=0, server_default="0")
    left_attempt: Mapped[int | None]
    job_status: Mapped[str | None] = mapped_column(String(16))
    idempotency_key: Mapped[str | None] = mapped_column(String(255), unique=True)
    request_hash: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    started_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    changed_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    priority: Mapped[int] = mapped_column(default=0, server_default="0")
    admitted: Mapped[bool] = mapped_column(default=False, server_default=false())
    submitted_by: Mapped[str | None] = mapped_column(String(100))
    dataset: Mapped[str | None] = query_expression()
    label_rows: Mapped[list[Label]] = relationship(cascade="all, delete-orphan", lazy="selectin")

    @property
    def labels(self) -> dict[str, str]:
        return {row.key: row.value for row in self.label_rows}

    @property
    def job_id(self) -> str:
        """The submission id in Ray: a repeated attempt needs another one."""
        return self.job_id_of(self.attempt)

    def job_id_of(self, attempt: int) -> str:
        return self.first_job_id or self.id if attempt == 1 else f"{self.id}-{attempt}"

    @property
    def folder(self) -> str:
        """Of a follow-up job: its folder in that of its search."""
        return f"{JOBS}/{self.id}"

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"search {self.id}" if self.kind == SEARCH else f"{self.kind} job {self.id}"


class Label(Base):
    """A label of a search, in a table of its own so that a filter works alike on every database."""

    __tablename__ = "labels"
    __table_args__ = (Index("ix_labels_key_value", "key", "value"),)

    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class StateChange(Base):
    """One change of state, written in the same transaction as the change.

    Attributes:
        old_state: null for the first.
        by: name of the token that asked for it; null for what nobody asked for, or where no token was needed.
        untold: webhooks are still to be told of it.
    """

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    search_id: Mapped[str] = mapped_column(ForeignKey("searches.id", ondelete="CASCADE"), index=True)
    time: Mapped[datetime] = mapped_column(UtcDateTime)
    old_state: Mapped[str | None] = mapped_column(String(16))
    new_state: Mapped[str] = mapped_column(String(16))
    message: Mapped[str | None] = mapped_column(ToldText)
    by: Mapped[str | None] = mapped_column(String(100))
    untold: Mapped[bool] = mapped_column(default=False, server_default=false())


class Token(Base):
    """An access token, without its secret."""

    __tablename__ = "tokens"

    id: Mapped[str] = mapped_column(String(16), primary_key=True)
    name: Mapped[str] = mapped_column(String(100))
    scope: Mapped[str] = mapped_column(String(16))
    secret_hash: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    used_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)

    @property
    def expired(self) -> bool:
        return self.expires_at is not None and self.expires_at <= utc_now()
