"""What can be done with searches. Routes and reconciler go through here; the database is touched nowhere else.

Each change of a state is one transaction: the row is changed only where it still has the state it was seen in
(so of two processes one acts), and an event row is written beside it.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from threading import Event
from typing import Any

from sqlalchemy import CursorResult, delete, func, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.db import Sessions
from api.models import Label, Search, StateChange, utc_now
from api.problems import ProblemError, conflict, not_found
from api.settings import Settings
from api.specs import check_data, read_job
from api.states import ACTIVE, SearchState, check_transition
from cluster.config import SearchJob, config_hash, parse_job
from cluster.ids import new_id
from cluster.jobs import JobState
from cluster.run_folder import RunFolder
from slicemamba.data.checks import DatasetReport
from slicemamba.errors import InputError

_UNDER_WAY = (SearchState.QUEUED, SearchState.STARTING, SearchState.RUNNING)


@dataclass(frozen=True)
class Filter:
    """Which searches to list: any of the states (all when empty), all of the labels, ids below ``before``."""

    states: Sequence[SearchState] = ()
    labels: Sequence[tuple[str, str]] = ()
    before: str | None = None


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

    def run_folder(self, search_id: str) -> RunFolder:
        return RunFolder(self._settings.runs_path / search_id)

    def check_database(self) -> None:
        """Raises SQLAlchemyError when the database does not answer."""
        with self._sessions() as session:
            session.execute(text("SELECT 1"))

    def check(self, body: Mapping[str, Any]) -> tuple[SearchJob, DatasetReport]:
        """All checks of a submission, without submitting. Raises InputError."""
        settings = self._settings
        job = self._with_warm_start(read_job(body))
        return check_data(job, settings.data_root, settings.runs_path / ".checks")

    def _with_warm_start(self, job: SearchJob) -> SearchJob:
        """The job with the folder of the earlier search in place of its id."""
        warm_start = job.search.warm_start
        if warm_start is None:
            return job
        if self.find(warm_start.study) is None:
            raise InputError(
                f"a request names an earlier search by its id, and there is no search {warm_start.study!r}; "
                "GET /v1/searches lists those there are",
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
            ProblemError: 409, the key was used with another body.
        """
        request_hash = config_hash(body)
        if key is not None and (found := self._of_key(key, request_hash)) is not None:
            return found, False
        job, _ = self.check(body)
        search = _new_search(job, key, request_hash)
        try:
            with self._sessions.begin() as session:
                session.add(search)
                session.flush()
                session.add(_change(search.id, None, SearchState.QUEUED, None))
        except IntegrityError:  # the same key came in at the same time, and the other was first
            found = self._of_key(key, request_hash) if key is not None else None
            if found is None:
                raise
            return found, False
        self._wake.set()
        return search, True

    def _of_key(self, key: str, request_hash: str) -> Search | None:
        with self._sessions() as session:
            found = session.scalar(select(Search).where(Search.idempotency_key == key))
        if found is not None and found.request_hash != request_hash:
            raise conflict(
                f"Idempotency-Key {key!r} was used for search {found.id} with another body; "
                "repeat that body, or take a new key for a new search"
            )
        return found

    def find(self, search_id: str) -> Search | None:
        with self._sessions() as session:
            return session.get(Search, search_id)

    def get(self, search_id: str) -> Search:
        """Raises ProblemError (404) for an unknown id."""
        found = self.find(search_id)
        if found is None:
            raise not_found(f"there is no search {search_id!r}; GET /v1/searches lists those there are")
        return found

    def history(self, search_id: str) -> list[StateChange]:
        """Changes of state, oldest first."""
        query = select(StateChange).where(StateChange.search_id == search_id).order_by(StateChange.id)
        with self._sessions() as session:
            return list(session.scalars(query))

    def page(self, wanted: Filter, size: int) -> tuple[list[Search], bool]:
        """The newest searches that pass the filter, and whether there are more."""
        query = select(Search).order_by(Search.id.desc()).limit(size + 1)
        if wanted.states:
            query = query.where(Search.state.in_([state.value for state in wanted.states]))
        if wanted.before:
            query = query.where(Search.id < wanted.before)
        for key, value in wanted.labels:
            query = query.where(Search.label_rows.any((Label.key == key) & (Label.value == value)))
        with self._sessions() as session:
            found = list(session.scalars(query))
        return found[:size], len(found) > size

    def count_by_state(self) -> dict[str, int]:
        """Number of searches in each state that any is in."""
        query = select(Search.state, func.count()).group_by(Search.state)
        with self._sessions() as session:
            return {row[0]: row[1] for row in session.execute(query)}

    def active_ids(self) -> list[str]:
        """Searches the reconciler has to look after, oldest first."""
        stopped = (Search.state == SearchState.PAUSED.value) & Search.job_status.in_(
            [status.value for status in JobState if status.ended]
        )
        query = select(Search.id).where(Search.state.in_([state.value for state in ACTIVE]), ~stopped)
        with self._sessions() as session:
            return list(session.scalars(query.order_by(Search.id)))

    def cancel(self, search_id: str, if_match: str | None = None) -> Search:
        """Asks for the end of a search. Raises ProblemError: 404, 412, or 409 when it has ended."""

        def step(search: Search, state: SearchState) -> bool:
            if state.ended:
                raise conflict(f"search {search_id} is {state.value} already; there is nothing to cancel")
            return state is SearchState.CANCELLING or self.move(search, SearchState.CANCELLING, "cancelled by request")

        return self._change(search_id, if_match, step)

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
            ProblemError: 404, 412, or 409 when it has succeeded or is being cancelled.
        """

        def step(search: Search, state: SearchState) -> bool:
            if state is SearchState.SUCCEEDED:
                raise conflict(f"search {search_id} has SUCCEEDED; extend it by further trials to let it go on")
            if state is SearchState.CANCELLING:
                raise conflict(f"search {search_id} is being cancelled; resume it when it is CANCELLED")
            return state in _UNDER_WAY or self._requeue(search, "resumed by request")

        return self._change(search_id, if_match, step)

    def extend(self, search_id: str, num_trials: int, if_match: str | None = None) -> Search:
        """Raises the number of trials of a search that is paused or has ended, and lets it go on.

        Raises:
            InputError: not more trials than before, or more than the space has.
            ProblemError: 404, 412, or 409 while it is under way.
        """

        def step(search: Search, state: SearchState) -> bool:
            if state in _UNDER_WAY and search.spec["search"]["num_trials"] == num_trials:
                return True  # the same request, repeated
            if state in _UNDER_WAY or state is SearchState.CANCELLING:
                raise conflict(f"search {search_id} is {state.value}; pause it first, then extend it")
            spec = _extended(search.spec, num_trials)
            return self._requeue(search, f"extended to {num_trials} trials", spec=spec)

        return self._change(search_id, if_match, step)

    def _requeue(self, search: Search, message: str, **values: Any) -> bool:
        fresh = {"attempt": search.attempt + 1, "losses": 0, "job_status": None, "error": None, "ended_at": None}
        return self.move(search, SearchState.QUEUED, message, **fresh, **values)

    def _change(self, search_id: str, if_match: str | None, step: Callable[[Search, SearchState], bool]) -> Search:
        """Repeats ``step`` on the search as it is now until nobody else was faster."""
        while True:
            search = self.get(search_id)
            if if_match is not None and if_match not in ("*", etag(search)):
                raise ProblemError(
                    HTTPStatus.PRECONDITION_FAILED,
                    f"search {search_id} has changed since: its ETag is {etag(search)}, If-Match asks for {if_match}; "
                    "get it again and decide anew",
                )
            if step(search, SearchState(search.state)):
                self._wake.set()
                return self.get(search_id)

    def delete(self, search_id: str, if_match: str | None = None) -> None:
        """Removes an ended search with its folder. Raises ProblemError: 404, 412, or 409 when it has not ended.

        The folder goes first: when that fails the record is still there, and the request can be repeated.
        """
        search = self._change(search_id, if_match, lambda *_: True)
        if not SearchState(search.state).ended:
            raise conflict(f"search {search_id} is {search.state}; cancel it and wait for its end before you delete it")
        folder = self.run_folder(search_id).path
        if folder.exists():
            shutil.rmtree(folder)
        with self._sessions.begin() as session:
            for table in (StateChange, Label):
                session.execute(delete(table).where(table.search_id == search_id))
            session.execute(delete(Search).where(Search.id == search_id))

    def move(self, search: Search, new: SearchState, message: str | None = None, **values: Any) -> bool:
        """Changes the state, if the row still is as ``search`` was seen.

        Args:
            search: as it was read.
            new: its next state.
            message: why; kept with the event, and shown while the state lasts.
            values: further columns to set.

        Returns:
            False where somebody else was faster; then nothing is changed.

        Raises:
            IllegalTransitionError: the transition is not in the table.
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
            if done:
                session.add(_change(search.id, old, new, values.get("error") or message))
        return done

    def note(self, search: Search, **values: Any) -> None:
        """Writes down what was seen of a search that keeps its state; nothing is written where nothing is new."""
        fresh = {name: value for name, value in values.items() if getattr(search, name) != value}
        if fresh:
            with self._sessions.begin() as session:
                _update_as_seen(session, search, fresh)


def etag(search: Search) -> str:
    """Changes with what somebody decides about a search, not with its progress: else no change could be asked for."""
    seen = (search.id, search.state, search.attempt, search.changed_at.isoformat())
    return f'"{hashlib.sha256(repr(seen).encode()).hexdigest()[:20]}"'


def _extended(spec: Mapping[str, Any], num_trials: int) -> dict[str, Any]:
    before = spec["search"]["num_trials"]
    if num_trials <= before:
        raise InputError(
            f"num_trials is the new total and must exceed the {before} so far; got {num_trials}", pointer="/num_trials"
        )
    job = parse_job({**spec, "search": {**spec["search"], "num_trials": num_trials}}, source="the extended search")
    return job.model_dump(mode="json")


def _update_as_seen(session: Session, search: Search, values: dict[str, Any]) -> bool:
    same = (Search.id == search.id, Search.state == search.state, Search.attempt == search.attempt)
    result = session.execute(update(Search).where(*same).values(**values, updated_at=utc_now()))
    assert isinstance(result, CursorResult)
    return result.rowcount == 1


def _new_search(job: SearchJob, key: str | None, request_hash: str) -> Search:
    now = utc_now()
    return Search(
        id=new_id(),
        name=job.name,
        spec=job.model_dump(mode="json"),
        state=SearchState.QUEUED.value,
        progress={},
        attempt=1,
        idempotency_key=key,
        request_hash=request_hash,
        created_at=now,
        changed_at=now,
        updated_at=now,
        label_rows=[Label(key=name, value=value) for name, value in job.labels.items()],
    )


def _change(search_id: str, old: SearchState | None, new: SearchState, message: str | None) -> StateChange:
    return StateChange(
        search_id=search_id, time=utc_now(), old_state=old.value if old else None, new_state=new.value, message=message
    )
