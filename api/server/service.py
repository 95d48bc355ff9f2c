"""What can be done with searches and the jobs that follow them. Routes and reconciler go through here.

The tables of both are touched nowhere else. A follow-up job (``api.server.follow_ups``) is a row like a search's,
of another kind, so that all that is said here of changes holds for both.

Each change of a state is one transaction: the row is changed only where it still has the state it was seen in
(so of two processes one acts), and an event row is written beside it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from threading import Event
from typing import Any, cast

from sqlalchemy import ColumnElement, Table, bindparam, delete, func, or_, select, text, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import InstrumentedAttribute, Session, defer, raiseload, undefer, with_expression

from api.server import queue
from api.server.database import Sessions
from api.server.models import SEARCH, Label, Search, StateChange, utc_now
from api.server.problems import ProblemError, conflict, not_found
from api.server.settings import Settings
from api.server.specs import DataLooks, read_job
from api.server.webhooks import TOLD
from api.states import ACTIVE, SearchState, check_transition
from cluster.config import SearchJob, config_hash, parse_job
from cluster.follow_up import FollowUp, job_folder
from cluster.ids import new_id
from cluster.jobs import JobState
from cluster.run_folder import STUDY_KINDS, RunFolder, reports_dir
from nas.study import delete_studies
from slicemamba.data.catalog import fit_model
from slicemamba.data.checks import Listing
from slicemamba.errors import InputError

logger = logging.getLogger(__name__)

_DELETED = ".deleted-"
_UNDER_WAY = (SearchState.QUEUED, SearchState.STARTING, SearchState.RUNNING)
_MAX_PARAMETERS = 500  # of a statement; databases have limits
ASKED_BY: ContextVar[str | None] = ContextVar("asked_by", default=None)
"""Name of the token of the request that is being answered; None where none was needed, and in the reconciler."""
SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")
"""What a search may be called: our own ids, and names of folders that are adopted."""


@dataclass(frozen=True)
class Filter:
    """Which searches to list: any of the states (all when empty), all of the labels, a text somewhere in name, id,
    labels or data set; by a column of ``SORTED_BY`` (from its highest value down where the name begins with ``-``),
    those after ``after``.
    """

    states: Sequence[SearchState] = ()
    labels: Sequence[tuple[str, str]] = ()
    text: str = ""
    sort: str = "-created_at"
    after: tuple[datetime | str, str] | None = None  # the column's value, and id


_DATASET = Search.spec["data"]["name"].as_string()
SORTED_BY = {
    "created_at": Search.created_at,
    "name": Search.name,
    "dataset": func.coalesce(_DATASET, ""),
    "state": Search.state,
}


def _holds(column: InstrumentedAttribute[str] | ColumnElement[str], text: str) -> ColumnElement[bool]:
    """Whether it holds the text, whatever the case."""
    return column.icontains(text, autoescape=True)


class SearchService:
    """Searches in the run database.

    Args:
        sessions: of the run database.
        settings: where run folders and data sets are.
        wake: set after each change the reconciler should look at.
    """

    def __init__(self, sessions: Sessions, settings: Settings, wake: Event) -> None:
        self._sessions = sessions
        self._settings = settings
        self._wake = wake
        self._looks = DataLooks(settings.data_root, self.checks_dir)

    def run_folder(self, search_id: str) -> RunFolder:
        return RunFolder(self._settings.runs_path / search_id)

    def folder_of(self, row: Search) -> RunFolder:
        """Where the driver of a search, or of a follow-up job, keeps its files."""
        return self.run_folder(row.id) if row.parent_id is None else job_folder(self.run_folder(row.parent_id), row.id)

    @property
    def checks_dir(self) -> Path:
        """Where drivers remember reports on data sets that have passed their checks."""
        return reports_dir(self._settings.runs_path)

    def check_database(self) -> None:
        """Raises SQLAlchemyError when the database does not answer."""
        with self._sessions() as session:
            session.execute(text("SELECT 1"))

    def check(self, body: Mapping[str, Any]) -> tuple[SearchJob, Listing]:
        """All checks of a submission, without submitting.

        Raises:
            InputError: as ``submit``.
        """
        job = self._with_warm_start(read_job(body))
        self.checks_dir.mkdir(parents=True, exist_ok=True)  # drivers look for it beside their run's folder
        data, listing = self._looks.check(job.data)
        return job.model_copy(update={"data": data, "model": fit_model(job.model, data)}), listing

    def _with_warm_start(self, job: SearchJob) -> SearchJob:
        """The job with the folder of the earlier search in place of its id."""
        warm_start = job.search.warm_start
        if warm_start is None:
            return job
        earlier = self.find(warm_start.study)
        if earlier is None or earlier.kind != SEARCH:
            raise InputError(
                f"a request names an earlier search by its id, and there is no search {warm_start.study!r}; "
                "GET /v1/searches lists all",
                pointer="/search/warm_start/study",
            )
        warm_start = warm_start.model_copy(update={"study": str(self.run_folder(warm_start.study).path)})
        return job.model_copy(update={"search": job.search.model_copy(update={"warm_start": warm_start})})

    def submit(self, body: Mapping[str, Any], key: str | None = None) -> tuple[Search, bool]:
        """Puts a search in the queue; the reconciler starts it.

        Returns:
            The search, and whether it is new: the same key with the same body gives the search made before.

        Raises:
            InputError: the body or its data set is not as it should be.
            ProblemError: 409, the key was used with another body; 429, its owner has too many that have not ended.
        """
        request_hash = config_hash(body)
        if (found := self.repeated(key, request_hash)) is not None:
            return found, False
        job, _ = self.check(body)
        row = _new_row(new_id(), job.name, job.model_dump(mode="json"), key, request_hash)
        row.label_rows = [Label(key=name, value=value) for name, value in job.labels.items()]
        row.priority = job.priority
        return self.enqueue(row)

    def submit_job(
        self,
        parent: Search,
        job: FollowUp,
        key: str | None,
        request_hash: str,
        *,
        trial: int | None = None,
        study: str | None = None,
    ) -> tuple[Search, bool]:
        """Puts a job that follows a search in the queue; the rest as ``submit``.

        Raises ProblemError besides: 404 when the search was deleted meanwhile, 409 when it cannot be audited now.
        """
        row = _new_row(new_id("j"), parent.name, job.model_dump(mode="json"), key, request_hash)
        row.kind, row.parent_id, row.trial, row.study = job.kind, parent.id, trial, study
        row.priority, row.admitted = parent.priority, job.kind not in queue.LIMITED
        return self.enqueue(row)

    def enqueue(self, row: Search) -> tuple[Search, bool]:
        """The row, now stored, or the one that was first with its key or id; and whether it is new."""
        try:
            with self._sessions.begin() as session:
                if row.parent_id is not None:
                    _check_parent(session, row)
                if row.submitted_by is not None:
                    self._check_quota(session, row.submitted_by)
                session.add(row)
                session.flush()
                session.add(_change(row.id, None, SearchState(row.state), row.message))
        except IntegrityError:  # the same key came in at the same time, and the other was first
            found = self.repeated(row.idempotency_key, row.request_hash) or self.find(row.id)
            if found is None:
                raise
            return found, False
        self._wake.set()
        return row, True

    def _check_quota(self, session: Session, owner: str) -> None:
        most = self._settings.max_unfinished_per_token
        if most is not None and queue.num_unfinished(session, owner) >= most:
            raise ProblemError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"{owner} has {most} searches and jobs that wait or run, which is the most that one token may have "
                "here; wait until one has ended, or cancel or pause one",
            )

    def repeated(self, key: str | None, request_hash: str) -> Search | None:
        """What an earlier request with this key made. Raises ProblemError (409) where that asked for something else."""
        if key is None:
            return None
        with self._sessions() as session:
            found = session.scalar(select(Search).where(Search.idempotency_key == key))
        if found is not None and found.request_hash != request_hash:
            raise conflict(
                f"Idempotency-Key {key!r} was used for {found.title} with another body; "
                "repeat that body, or use a new key for a new request"
            )
        return found

    def find(self, row_id: str) -> Search | None:
        """A search or a follow-up job."""
        if not SAFE_ID.fullmatch(row_id):  # whatever a database would make of it
            return None
        with self._sessions() as session:
            return session.get(Search, row_id)

    def state_of(self, row_id: str) -> tuple[SearchState, int] | None:
        """State and attempt of a search or follow-up job, for those who ask again and again."""
        query = select(Search.state, Search.attempt).where(Search.id == row_id)
        with self._sessions() as session:
            found = session.execute(query).first()
        return None if found is None else (SearchState(found[0]), found[1])

    def get(self, search_id: str) -> Search:
        """Raises ProblemError (404) for an unknown id."""
        found = self.find(search_id)
        if found is None or found.kind != SEARCH:
            raise _unknown(search_id)
        return found

    def spec_of(self, search_id: str) -> dict[str, Any]:
        """What a search does, without all else that is known of it. Raises ProblemError (404) for an unknown id."""
        query = select(Search.spec).where(Search.id == search_id, Search.kind == SEARCH)
        with self._sessions() as session:
            spec: dict[str, Any] | None = session.scalar(query) if SAFE_ID.fullmatch(search_id) else None
        if spec is None:
            raise _unknown(search_id)
        return spec

    def check_exists(self, search_id: str) -> None:
        """``get`` for those who need no more than its error. Raises ProblemError (404)."""
        query = select(Search.kind).where(Search.id == search_id)
        with self._sessions() as session:
            if not SAFE_ID.fullmatch(search_id) or session.scalar(query) != SEARCH:
                raise _unknown(search_id)

    def get_job(self, job_id: str) -> Search:
        """Raises ProblemError (404) for what is no follow-up job."""
        found = self.find(job_id)
        if found is None or found.kind == SEARCH:
            raise not_found(f"there is no job {job_id!r}; GET /v1/searches/{{id}}/jobs lists those of a search")
        return found

    def jobs_of(self, search_id: str) -> list[Search]:
        """Follow-up jobs of a search, newest first."""
        query = select(Search).where(Search.parent_id == search_id).order_by(Search.created_at.desc(), Search.id.desc())
        with self._sessions() as session:
            return list(session.scalars(query))

    def history(self, search_id: str) -> list[StateChange]:
        """Changes of state, oldest first."""
        query = select(StateChange).where(StateChange.search_id == search_id).order_by(StateChange.id)
        with self._sessions() as session:
            return list(session.scalars(query))

    def page(self, wanted: Filter, size: int, *, with_specs: bool = False) -> tuple[list[Search], bool]:
        """The first searches that pass the filter, and whether there are more; by default without ``spec``."""
        order, down = (SORTED_BY[wanted.sort.removeprefix("-")], Search.id), wanted.sort.startswith("-")
        query = select(Search).where(Search.kind == SEARCH).limit(size + 1)
        query = query.order_by(*(column.desc() if down else column.asc() for column in order))
        query = query.options(undefer(Search.spec) if with_specs else defer(Search.spec, raiseload=True))
        if wanted.states:
            query = query.where(Search.state.in_([state.value for state in wanted.states]))
        if wanted.after:
            query = query.where(tuple_(*order) < wanted.after if down else tuple_(*order) > wanted.after)
        query = query.options(with_expression(Search.dataset, _DATASET))
        if wanted.text:
            labelled = Search.label_rows.any(_holds(Label.key, wanted.text) | _holds(Label.value, wanted.text))
            named = (_holds(column, wanted.text) for column in (Search.name, Search.id, _DATASET))
            query = query.where(or_(*named, labelled))
        for key, value in wanted.labels:
            query = query.where(Search.label_rows.any((Label.key == key) & (Label.value == value)))
        with self._sessions() as session:
            found = list(session.scalars(query))
        return found[:size], len(found) > size

    def count_by_state(self) -> dict[str, int]:
        """Number of searches in each state that any is in."""
        query = select(Search.state, func.count()).where(Search.kind == SEARCH).group_by(Search.state)
        with self._sessions() as session:
            return {row[0]: row[1] for row in session.execute(query)}

    def known_among(self, ids: Iterable[str]) -> set[str]:
        """Which of these are searches."""
        wanted, found = sorted(ids), set[str]()
        with self._sessions() as session:
            for first in range(0, len(wanted), _MAX_PARAMETERS):
                some = Search.id.in_(wanted[first : first + _MAX_PARAMETERS])
                found.update(session.scalars(select(Search.id).where(Search.kind == SEARCH, some)))
        return found

    def active(self) -> list[Search]:
        """Searches and jobs the reconciler has to look after, oldest first, without their labels."""
        # What is null in SQL would be neither in a list nor outside of it.
        stopped = (Search.state == SearchState.PAUSED.value) & func.coalesce(Search.job_status, "").in_(
            [status.value for status in JobState if status.ended]
        )
        query = select(Search).where(Search.state.in_([state.value for state in ACTIVE]), ~stopped)
        query = query.options(raiseload(Search.label_rows)).order_by(Search.created_at, Search.id)
        with self._sessions() as session:
            return list(session.scalars(query))

    def admit(self, limit: int) -> None:
        """Gives free places of so many to searches and jobs in the queue (``api.server.queue``)."""
        with self._sessions.begin() as session:
            queue.admit(session, limit)

    def positions(self, rows: Iterable[Search]) -> dict[str, int]:
        """Places in the queue of those of these searches and jobs that wait in it, by id; the next one has 1."""
        waiting = {row.id for row in rows if row.state == SearchState.QUEUED and not row.admitted}
        if not waiting:
            return {}
        with self._sessions() as session:
            return {row_id: place for place, row_id in enumerate(queue.waiting(session), 1) if row_id in waiting}

    def cancel(self, search_id: str, if_match: str | None = None) -> Search:
        """Asks for the end of a search. Raises ProblemError: 404, 412, or 409 when it has ended."""
        return self._change(search_id, if_match, self._cancel)

    def cancel_job(self, job_id: str, if_match: str | None = None) -> Search:
        """The same of a follow-up job."""
        return self._change(job_id, if_match, self._cancel, self.get_job)

    def _cancel(self, row: Search, state: SearchState) -> bool:
        if state.ended:
            raise conflict(f"{row.title} is {state.value} already; there is nothing to cancel")
        return state is SearchState.CANCELLING or self.move(row, SearchState.CANCELLING, "cancelled by request")

    def pause(self, search_id: str, if_match: str | None = None) -> Search:
        """Stops a search so that it can be resumed. Raises ProblemError: 404, 412, or 409 when it has ended."""

        def step(search: Search, state: SearchState) -> bool:
            if state.ended or state is SearchState.CANCELLING:
                raise conflict(f"search {search_id} is {state.value}; there is nothing to pause")
            return state is SearchState.PAUSED or self.move(search, SearchState.PAUSED, "paused by request")

        return self._change(search_id, if_match, step)

    def resume(self, search_id: str, if_match: str | None = None) -> Search:
        """Lets a paused, cancelled or failed search go on from where it stopped; a running one goes on anyway.

        Raises:
            ProblemError: 404, 412, 409 when it has succeeded or is being cancelled, or 429 as ``submit``.
        """

        def step(search: Search, state: SearchState) -> bool:
            if state is SearchState.SUCCEEDED:
                raise conflict(f"search {search_id} has SUCCEEDED; extend it by more trials to continue it")
            if state is SearchState.CANCELLING:
                raise conflict(f"search {search_id} is being cancelled; resume it when it is CANCELLED")
            return state in _UNDER_WAY or self._requeue(search, "resumed by request")

        return self._change(search_id, if_match, step)

    def extend(self, search_id: str, num_trials: int, if_match: str | None = None) -> Search:
        """Raises the number of trials of a search that is paused or has ended, and lets it go on.

        Raises:
            InputError: not more trials than before, or more than the space has.
            ProblemError: 404, 412, 409 while it is under way, or 429 as ``submit``.
        """

        def step(search: Search, state: SearchState) -> bool:
            if state in _UNDER_WAY and search.spec["search"]["num_trials"] == num_trials:
                return True  # the same request, repeated
            if state in _UNDER_WAY or state is SearchState.CANCELLING:
                raise conflict(f"search {search_id} is {state.value}; pause it first, then extend it")
            spec = _extended(search.spec, num_trials)
            return self._requeue(search, f"extended to {num_trials} trials", unless="audit", spec=spec)

        return self._change(search_id, if_match, step)

    def continue_all(self, message: str) -> None:
        """Queues what was at work when Ray was stopped with the service: none of its jobs is left, and none failed."""
        for row in self.active():
            if row.state in (SearchState.STARTING, SearchState.RUNNING):
                self._requeue(row, message)

    def _requeue(self, search: Search, message: str, unless: str | None = None, **values: Any) -> bool:
        fresh: dict[str, Any] = {
            "attempt": search.attempt + 1,
            "losses": 0,
            "admitted": False,
            "job_status": None,
            "error": None,
            "ended_at": None,
        }
        # What is under way is among those that its owner has, so it takes nobody's place.
        if search.submitted_by is not None and SearchState(search.state) not in _UNDER_WAY:
            with self._sessions() as session:
                self._check_quota(session, search.submitted_by)
        if SearchState(search.state).ended:  # else its end would be taken for that of the attempt that is to come
            status = self.folder_of(search).read_status()
            fresh["left_attempt"] = None if status is None else status.attempt
        return self.move(search, SearchState.QUEUED, message, unless, **fresh, **values)

    def _change(
        self,
        row_id: str,
        if_match: str | None,
        step: Callable[[Search, SearchState], bool],
        get: Callable[[str], Search] | None = None,
    ) -> Search:
        """Repeats ``step`` on the search, or what else ``get`` finds, as it is now until nobody else was faster."""
        get = get or self.get
        while True:
            search = get(row_id)
            if if_match is not None and not _matches(if_match, etag(search)):
                raise ProblemError(
                    HTTPStatus.PRECONDITION_FAILED,
                    f"{search.title} has changed since: its ETag is {etag(search)}, If-Match asks for {if_match}; "
                    "get it again and repeat the request if it still applies",
                )
            if step(search, SearchState(search.state)):
                self._wake.set()
                return get(row_id)

    def delete(self, search_id: str, if_match: str | None = None) -> None:
        """Removes an ended search with its follow-up jobs, its folder and its trials.

        Raises ProblemError: 404, 412, or 409 when it, or a job that follows it, has not ended.

        Its records go together with the name of its folder, so that nothing begins in that meanwhile; then the folder.
        """
        run, folder = self.run_folder(search_id), self._settings.runs_path / search_id
        aside = folder.with_name(f"{_DELETED}{search_id}-{uuid.uuid4().hex}")
        while not self._delete(self._change(search_id, if_match, lambda *_: True), folder, aside):
            pass
        self._delete_studies(run)
        _remove(aside)

    def _delete(self, search: Search, folder: Path, aside: Path) -> bool:
        """False where somebody else was faster; then nothing is changed."""
        if not SearchState(search.state).ended:
            raise conflict(
                f"{search.title} is {search.state}; cancel it and wait until it has ended before you delete it"
            )
        try:
            with self._sessions.begin() as session:
                if not _update_as_seen(session, search, {}):
                    return False
                _refuse_while_followed(session, search.id)
                _delete_rows(session, search.id)
                with contextlib.suppress(FileNotFoundError):
                    folder.rename(aside)
        except Exception:
            with contextlib.suppress(OSError):
                aside.rename(folder)
            raise
        return True

    def remove_deleted(self) -> None:
        """Removes folders of deleted searches that a process which was killed has left."""
        try:
            for aside in self._settings.runs_path.glob(f"{_DELETED}*"):
                _remove(aside)
        except OSError:  # the folder of runs is away; it may come back
            logger.exception("could not look for folders of deleted searches")

    def _delete_studies(self, folder: RunFolder) -> None:
        """Those in a database, which are not in the folder."""
        if isinstance(folder.study_location, Path):
            return
        try:
            delete_studies(folder.study_location, [folder.study_name(kind) for kind in STUDY_KINDS])
        except Exception:  # of Optuna and of whatever database it is; the search itself is gone
            logger.exception("could not delete the trials of search %s from the study database", folder.path.name)

    def move(
        self, search: Search, new: SearchState, message: str | None = None, unless: str | None = None, /, **values: Any
    ) -> bool:
        """Changes the state, if the row still is as ``search`` was seen.

        Args:
            search: as it was read.
            new: its next state.
            message: why; kept with the event, and shown while the state lasts.
            unless: the kind of a follow-up job while which is at work nothing may change.
            values: further columns to set.

        Returns:
            False where somebody else was faster; then nothing is changed.

        Raises:
            IllegalTransitionError: the transition is not in the table.
            ProblemError: 409, a job of the kind ``unless`` is at work.
        """
        old = SearchState(search.state)
        check_transition(old, new)
        values |= {"state": new.value, "message": message, "changed_at": utc_now()}
        if new is SearchState.RUNNING and search.started_at is None:
            values["started_at"] = values["changed_at"]
        if new.ended:
            values["ended_at"] = values["changed_at"]
        with self._sessions.begin() as session:
            done = _update_as_seen(session, search, values)
            if done and unless is not None:
                _refuse_while_followed(session, search.id, unless)
            if done:
                change = _change(search.id, old, new, values.get("error") or message)
                change.untold = bool(self._settings.webhooks) and new in TOLD
                session.add(change)
        return done

    def note(self, search: Search, **values: Any) -> None:
        """Writes down what was seen of a search that keeps its state; nothing is written where nothing is new."""
        self.note_all([(search, values)])

    def note_all(self, seen: Iterable[tuple[Search, Mapping[str, Any]]]) -> None:
        """The same of several searches at once, with the same columns of each."""
        fresh = [
            {**values, "row_id": search.id, "row_state": search.state, "row_attempt": search.attempt}
            for search, values in seen
            if any(getattr(search, name) != value for name, value in values.items())
        ]
        if fresh:
            now = {"updated_at": utc_now()}
            with self._sessions.begin() as session:
                session.connection().execute(_UPDATE_AS_SEEN, [row | now for row in fresh])


def _unknown(search_id: str) -> ProblemError:
    return not_found(f"there is no search {search_id!r}; GET /v1/searches lists all")


def etag(search: Search) -> str:
    """Changes with what somebody decides about a search, not with its progress: else no change could be asked for."""
    seen = (search.id, search.state, search.attempt, search.changed_at.isoformat())
    return f'"{hashlib.sha256(repr(seen).encode()).hexdigest()[:20]}"'


def _matches(if_match: str, tag: str) -> bool:
    """Whether the header names the tag, alone or among others (RFC 9110): a weak one, ``W/"…"``, is none of them."""
    return if_match.strip() == "*" or tag in re.findall(r'(?:W/)?"[^"]*"', if_match)


def _extended(spec: Mapping[str, Any], num_trials: int) -> dict[str, Any]:
    before = spec["search"]["num_trials"]
    if num_trials <= before:
        raise InputError(
            f"num_trials is the new total and must exceed the {before} so far; got {num_trials}", pointer="/num_trials"
        )
    job = parse_job({**spec, "search": {**spec["search"], "num_trials": num_trials}}, source="the extended search")
    return job.model_dump(mode="json")


_table = cast(Table, Search.__table__)
_UPDATE_AS_SEEN = update(_table).where(
    _table.c.id == bindparam("row_id"),
    _table.c.state == bindparam("row_state"),
    _table.c.attempt == bindparam("row_attempt"),
)
"""Of a row that still is as it was seen. Of the table and not of the class: the mapper would take as long again."""


def _update_as_seen(session: Session, search: Search, values: dict[str, Any]) -> bool:
    seen = {"row_id": search.id, "row_state": search.state, "row_attempt": search.attempt}
    result = session.connection().execute(_UPDATE_AS_SEEN, {**values, **seen, "updated_at": utc_now()})
    return result.rowcount == 1


def _check_parent(session: Session, row: Search) -> None:
    """Locks the search of a new follow-up job until that is stored: every change of it, its end too, waits.

    Raises ProblemError: 404 where it is gone, 409 where an audit cannot be made of what may change meanwhile.
    """
    search_id = row.parent_id or ""
    session.execute(update(Search).where(Search.id == search_id).values(updated_at=Search.updated_at))
    state = session.scalar(select(Search.state).where(Search.id == search_id))
    if state is None:
        raise not_found(f"search {search_id!r} has been deleted")
    if row.kind != "audit":
        return
    if state != SearchState.SUCCEEDED:
        raise conflict(f"search {search_id} is {state}; only one that has SUCCEEDED can be audited")
    _refuse_while_followed(session, search_id, row.kind)


def _refuse_while_followed(session: Session, search_id: str, kind: str | None = None) -> None:
    """Raises ProblemError (409) while a follow-up job of this kind, or of any, has not ended."""
    query = select(Search).where(Search.parent_id == search_id, Search.state.in_([state.value for state in ACTIVE]))
    job = session.scalar(query.where(Search.kind == kind) if kind else query)
    if job is not None:
        raise conflict(f"{job.title} is {job.state}; wait until it has ended, or cancel it, and try again")


def _delete_rows(session: Session, search_id: str) -> None:
    its = or_(Search.id == search_id, Search.parent_id == search_id)
    for table in (StateChange, Label):
        session.execute(delete(table).where(table.search_id.in_(select(Search.id).where(its))))
    session.execute(delete(Search).where(its))


def _remove(folder: Path) -> None:
    """A link that somebody has put in the place of a folder is removed, not what it leads to."""
    try:
        if folder.is_symlink():
            folder.unlink()
        elif folder.exists():
            shutil.rmtree(folder)
    except OSError:
        logger.exception("could not remove all of %s; retrying at the next start", folder)


def _new_row(row_id: str, name: str, spec: dict[str, Any], key: str | None, request_hash: str) -> Search:
    now = utc_now()
    return Search(
        id=row_id,
        name=name,
        spec=spec,
        state=SearchState.QUEUED.value,
        progress={},
        attempt=1,
        idempotency_key=key,
        request_hash=request_hash,
        submitted_by=ASKED_BY.get(),
        created_at=now,
        changed_at=now,
        updated_at=now,
    )


def _change(search_id: str, old: SearchState | None, new: SearchState, message: str | None) -> StateChange:
    return StateChange(
        search_id=search_id,
        time=utc_now(),
        old_state=old.value if old else None,
        new_state=new.value,
        message=message,
        by=ASKED_BY.get(),
    )
