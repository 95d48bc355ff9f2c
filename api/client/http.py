"""The service's routes as methods, for Python and the command line."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from api import schemas
from api.client.connection import AWAY, AnswerLostError, ApiError, ApiUnreachableError, Connection
from api.client.sse import ServerEvent
from api.states import SearchState
from slicemamba.errors import InputError

LATEST = "latest"
_CANCELLED = (SearchState.CANCELLING, SearchState.CANCELLED)
_GOING_ON = (SearchState.QUEUED, SearchState.STARTING, SearchState.RUNNING)
_ID_LENGTH = 28  # of an id that the service has made: `s-` or `j-` and 26 characters
_JOB = "j-"

Answer = TypeVar("Answer", bound=BaseModel)
Seen = TypeVar("Seen", schemas.Search, schemas.Job)
Page = TypeVar("Page", schemas.SearchPage, schemas.TrialPage)


class Client:
    """Talks to one service. Requests that a broken connection ended are repeated; what they make is made once.

    Methods that change something take ``if_match``, an ETag as ``etag`` gives it: then the change is made only if
    nobody else was faster. All raise ApiError where the service refuses, and ApiUnreachableError where it is away.

    Args:
        url: of the service; SLICEMAMBA_URL, or the local one, when None.
        token: for a service that asks for one; SLICEMAMBA_TOKEN when None.
        transport: another way to reach it, for tests.

    Raises:
        InputError: the URL is none.
    """

    def __init__(
        self, url: str | None = None, *, token: str | None = None, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._connection = Connection(url, token, transport)
        self.url = self._connection.url

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    # Searches

    def submit(self, job: Mapping[str, Any], *, idempotency_key: str | None = None) -> schemas.Search:
        """Submits a search. A repeated call with the same key and job gives the search made before."""
        return self._make(schemas.Search, "/v1/searches", dict(job), idempotency_key)

    def validate(self, job: Mapping[str, Any]) -> schemas.Validation:
        """Checks a job and its data set, and estimates what it would take, without starting anything."""
        return self._ask(schemas.Validation, "POST", "/v1/searches/validate", json=dict(job))

    def get(self, search_id: str) -> schemas.Search:
        return self._ask(schemas.Search, "GET", _search(search_id))

    def etag(self, search_or_job_id: str) -> str:
        """The version of a search's or job's state, for ``if_match``."""
        etag: str = self._connection.send("GET", _either(search_or_job_id)).headers["ETag"]
        return etag

    def resolve(self, wanted: str) -> str:
        """The id of the search that is meant by an id, the beginning of one, a name, or ``latest``.

        Raises:
            InputError: there is none, or more than one.
        """
        if wanted.startswith("s-") and len(wanted) == _ID_LENGTH:
            return wanted
        if wanted == LATEST:
            page = self.list(page_size=1).searches
            if not page:
                raise InputError("there is no search yet; `slicemamba submit` creates one")
            return page[0].id
        known = list(self.iter_searches())
        exact = [found for found in known if wanted in (found.id, found.name)]
        found = exact or [item for item in known if wanted and item.id.startswith(wanted)]
        if len(found) == 1:
            return found[0].id
        if found:
            told = "\n  - ".join(f"{item.id} {item.name} ({item.state.value})" for item in found[:10])
            raise InputError(f"{len(found)} searches match {wanted!r}; give the id of one:\n  - {told}")
        near = get_close_matches(wanted, [text for item in known for text in (item.id, item.name)], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "`slicemamba list` lists all"
        _search(wanted)  # says so where it is the id of a job
        raise InputError(f"no search has the id or name {wanted!r}; {hint}")

    def cancel(self, search_id: str, *, if_match: str | None = None) -> schemas.Search:
        return self._change(
            schemas.Search, _search(search_id), "cancel", if_match, lambda seen: seen.state in _CANCELLED
        )

    def pause(self, search_id: str, *, if_match: str | None = None) -> schemas.Search:
        """Stops a search so that ``resume`` lets it go on."""
        return self._change(
            schemas.Search, _search(search_id), "pause", if_match, lambda seen: seen.state is SearchState.PAUSED
        )

    def resume(self, search_id: str, *, if_match: str | None = None) -> schemas.Search:
        """Lets a paused, cancelled or failed search go on from where it stopped."""
        return self._change(
            schemas.Search, _search(search_id), "resume", if_match, lambda seen: seen.state in _GOING_ON
        )

    def extend(self, search_id: str, num_trials: int, *, if_match: str | None = None) -> schemas.Search:
        """Raises the number of trials of a search that is paused or has ended, and lets it go on."""

        def is_extended(seen: schemas.Search) -> bool:
            return seen.state in _GOING_ON and bool(seen.spec["search"]["num_trials"] == num_trials)

        return self._change(
            schemas.Search, _search(search_id), "extend", if_match, is_extended, {"num_trials": num_trials}
        )

    def delete(self, search_id: str, *, if_match: str | None = None) -> None:
        """Removes an ended search with all its files on the server."""
        for last in (False, False, True):
            try:
                self._connection.send("DELETE", _search(search_id), changes=True, headers=_if_match(if_match))
            except AnswerLostError:
                if not self._exists(search_id):
                    return
                if last:
                    raise
            else:
                return

    def _exists(self, search_id: str) -> bool:
        try:
            self.get(search_id)
        except ApiError as error:
            if error.status == httpx.codes.NOT_FOUND:
                return False
            raise
        return True

    def list(
        self,
        *,
        states: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        text: str = "",
        sort: str = "-created_at",
        page_size: int = 50,
        page_token: str | None = None,
    ) -> schemas.SearchPage:
        """One page of searches; ``text`` is looked for in names, ids, labels and data sets. ``sort``: ``created_at``,
        ``name``, ``dataset`` or ``state``, with ``-`` in front from the highest value down.
        """
        wanted = [f"{key}={value}" for key, value in (labels or {}).items()]
        params = _params(
            state=tuple(states),
            label=wanted,
            text=text or None,
            sort=sort,
            page_size=page_size,
            page_token=page_token,
        )
        return self._ask(schemas.SearchPage, "GET", "/v1/searches", params=params)

    def iter_searches(
        self, *, states: Sequence[str] = (), labels: Mapping[str, str] | None = None, page_size: int = 200
    ) -> Iterator[schemas.SearchSummary]:
        """All searches, newest first, fetched page by page."""
        for page in _pages(
            lambda token: self.list(states=states, labels=labels, page_size=page_size, page_token=token)
        ):
            yield from page.searches

    # What a search has found

    def trials(
        self,
        search_id: str,
        *,
        study: schemas.StudyName = "search",
        states: Sequence[str] = (),
        sort: str = "number",
        page_size: int = 1000,
        page_token: str | None = None,
    ) -> schemas.TrialPage:
        """One page of trials, by number or as ``sort`` says: a metric, or with ``-`` before it the largest first."""
        params = _params(study=study, state=tuple(states), sort=sort, page_size=page_size, page_token=page_token)
        return self._ask(schemas.TrialPage, "GET", _search(search_id, "trials"), params=params)

    def iter_trials(
        self,
        search_id: str,
        *,
        study: schemas.StudyName = "search",
        states: Sequence[str] = (),
        sort: str = "number",
        page_size: int = 1000,
    ) -> Iterator[schemas.Trial]:
        """All trials, fetched page by page."""
        for page in _pages(
            lambda token: self.trials(
                search_id, study=study, states=states, sort=sort, page_size=page_size, page_token=token
            )
        ):
            yield from page.trials

    def trials_csv(
        self,
        search_id: str,
        *,
        study: schemas.StudyName = "search",
        states: Sequence[str] = (),
        sort: str = "number",
    ) -> str:
        """All trials as a table of comma-separated values with a header."""
        params = _params(study=study, state=tuple(states), sort=sort)
        return self._connection.send("GET", _search(search_id, "trials.csv"), params=params).text

    def trial(self, search_id: str, number: int, *, study: schemas.StudyName = "search") -> schemas.Trial:
        return self._ask(schemas.Trial, "GET", _search(search_id, "trials", str(number)), params={"study": study})

    def trial_images(self, search_id: str, number: int, *, study: schemas.StudyName = "search") -> schemas.TrialImages:
        """Dice and IoU of each image of the search split, the worst first."""
        path = _search(search_id, "trials", str(number), "images")
        return self._ask(schemas.TrialImages, "GET", path, params={"study": study})

    def pareto(
        self, search_id: str, *, objectives: Sequence[str] | None = None, study: schemas.StudyName = "search"
    ) -> schemas.Pareto:
        """The Pareto frontier, over the search's objectives where none are given."""
        params = _params(study=study, objectives=",".join(objectives) if objectives else None)
        return self._ask(schemas.Pareto, "GET", _search(search_id, "pareto"), params=params)

    def hypervolume(
        self, search_id: str, *, objectives: Sequence[str] | None = None, study: schemas.StudyName = "search"
    ) -> schemas.Hypervolume:
        """How the frontier's hypervolume grew; both studies are measured from one point."""
        params = _params(study=study, objectives=",".join(objectives) if objectives else None)
        return self._ask(schemas.Hypervolume, "GET", _search(search_id, "hypervolume"), params=params)

    def result(self, search_id: str) -> dict[str, Any]:
        """The content of ``result.json``."""
        return self._json(_search(search_id, "result"))

    def audit_result(self, search_id: str) -> dict[str, Any]:
        """What the last audit found: ``audit.json``."""
        return self._json(_search(search_id, "audit"))

    def report(self, search_id: str) -> str:
        """The report as a page (HTML) that needs nothing else."""
        return self._connection.send("GET", _search(search_id, "report")).text

    # Jobs that follow a search

    def retrain(
        self,
        search_id: str,
        number: int,
        *,
        study: schemas.StudyName = "search",
        options: Mapping[str, Any] | None = None,
        init: Literal["search", "scratch", "supernet"] = "search",
        idempotency_key: str | None = None,
    ) -> schemas.Job:
        """Trains a trial's slicing as the search trains its winner.

        Args:
            options: of that training to change, such as ``{"epochs": 100}``.
            init: from what weights: as the search does it, none, or the supernet's.
        """
        body: dict[str, Any] = {"retrain": dict(options or {})}
        body |= {} if init == "search" else {"init": None if init == "scratch" else init}
        return self._follow_up(search_id, number, "retrain", study, body, idempotency_key)

    def export(
        self,
        search_id: str,
        number: int,
        *,
        study: schemas.StudyName = "search",
        format: Literal["bundle", "torch", "onnx"] = "bundle",
        idempotency_key: str | None = None,
    ) -> schemas.Job:
        """Makes a bundle of a trial's trained network: the winner's, or one that ``retrain`` has trained."""
        return self._follow_up(search_id, number, "export", study, {"format": format}, idempotency_key)

    def figures(
        self,
        search_id: str,
        number: int,
        *,
        study: schemas.StudyName = "search",
        images: int = 8,
        idempotency_key: str | None = None,
    ) -> schemas.Job:
        """Draws what a trial predicts on the worst and the best images of the search split."""
        return self._follow_up(search_id, number, "figures", study, {"images": images}, idempotency_key)

    def audit(
        self, search_id: str, settings: Mapping[str, Any] | None = None, *, idempotency_key: str | None = None
    ) -> schemas.Job:
        """Starts an audit of a search that has succeeded; ``audit_result`` has what it finds."""
        return self._make(schemas.Job, _search(search_id, "audit"), dict(settings or {}), idempotency_key)

    def jobs(self, search_id: str) -> Sequence[schemas.JobSummary]:
        """Jobs that follow a search, newest first."""
        return self._ask(schemas.JobList, "GET", _search(search_id, "jobs")).jobs

    def get_job(self, job_id: str) -> schemas.Job:
        return self._ask(schemas.Job, "GET", _job(job_id))

    def cancel_job(self, job_id: str, *, if_match: str | None = None) -> schemas.Job:
        return self._change(schemas.Job, _job(job_id), "cancel", if_match, lambda seen: seen.state in _CANCELLED)

    # What happens, as it happens

    def logs(self, search_or_job_id: str, *, tail: int = 1000) -> str:
        """The last lines of what the driver of a search or job has printed."""
        return self._connection.send("GET", _either(search_or_job_id, "logs"), params={"tail": tail}).text

    def follow_logs(
        self,
        search_or_job_id: str,
        *,
        tail: int = 1000,
        patience_seconds: float = 60.0,
        on_lost: Callable[[], None] | None = None,
    ) -> Iterator[str]:
        """Those lines, and then each further one, until the search or job has ended; ``on_lost`` as for ``events``."""
        params = {"tail": tail, "follow": "true"}
        path = _either(search_or_job_id, "logs")
        for event in self._connection.events(path, params, None, patience_seconds, on_lost):
            if event.kind == "log":
                yield event.data["line"]

    def events(
        self,
        search_id: str,
        *,
        last_event_id: str | None = None,
        patience_seconds: float = 60.0,
        on_lost: Callable[[], None] | None = None,
    ) -> Iterator[ServerEvent]:
        """The driver's events until the search has ended; a broken stream is taken up where it broke.

        Args:
            search_id: of the search.
            last_event_id: after which to begin.
            patience_seconds: for which the service may be away, from when the connection was lost.
            on_lost: called each time it is lost.

        Raises:
            ApiError: there is no such search. ApiUnreachableError: the service stays away for longer than patience.
        """
        return self._connection.events(_search(search_id, "events"), {}, last_event_id, patience_seconds, on_lost)

    def wait(
        self,
        search_id: str,
        on_update: Callable[[schemas.Search], None] | None = None,
        *,
        poll_seconds: float = 1.0,
        patience_seconds: float = 300.0,
        on_lost: Callable[[], None] | None = None,
    ) -> schemas.Search:
        """Looks at the search until it has ended.

        Args:
            search_id: of the search.
            on_update: called with each look.
            poll_seconds: between two looks.
            patience_seconds: for which the service may be away (being restarted, say).
            on_lost: called each time it is found away.

        Raises:
            ApiUnreachableError: the service stayed away for longer.
        """
        return _wait(lambda: self.get(search_id), on_update, poll_seconds, patience_seconds, on_lost)

    def wait_job(
        self,
        job_id: str,
        on_update: Callable[[schemas.Job], None] | None = None,
        *,
        poll_seconds: float = 1.0,
        patience_seconds: float = 300.0,
        on_lost: Callable[[], None] | None = None,
    ) -> schemas.Job:
        """Looks at a job until it has ended, as ``wait`` does at a search."""
        return _wait(lambda: self.get_job(job_id), on_update, poll_seconds, patience_seconds, on_lost)

    # Files

    def artifacts(self, search_id: str) -> Sequence[schemas.Artifact]:
        """All files of the run."""
        return self._ask(schemas.ArtifactList, "GET", _search(search_id, "artifacts")).artifacts

    def read_artifact(self, search_id: str, path: str) -> bytes:
        """The content of one file; its path as ``artifacts`` names it."""
        return self._connection.send("GET", _search(search_id, "artifacts", *path.split("/"))).content

    def download(
        self,
        search_id: str,
        directory: Path,
        *,
        folder: str = "",
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Sequence[Path]:
        """Fetches files of the run into ``directory``, each whole or not at all.

        Called again after a broken connection or an interrupt, it goes on where it was: files that are there unchanged
        are not fetched again.

        Args:
            directory: where they go, under their paths in the run or in ``folder``.
            folder: only what is in this folder of the run, such as a job's ``folder``.
            on_progress: called as (bytes done, bytes in all).

        Returns:
            The paths of the files.

        Raises:
            InputError: there is none, or the service names a file that would lie outside ``directory``.
        """
        root = directory.expanduser().resolve()
        prefix = f"{folder.strip('/')}/" if folder.strip("/") else ""
        listed = [item for item in self.artifacts(search_id) if item.path.startswith(prefix)]
        if not listed:
            raise InputError(f"search {search_id} has no file" + (f" in the folder {folder!r}" if prefix else " yet"))
        targets = [(item, (root / item.path.removeprefix(prefix)).resolve()) for item in listed]
        for item, target in targets:
            if not target.is_relative_to(root):
                raise InputError(
                    f"the service names a file {item.path!r} that would not lie in {root}; nothing was fetched"
                )
        tell = on_progress or (lambda done, total: None)
        before, total = 0, sum(item.size_bytes for item in listed)
        for item, target in targets:
            if not _is_there(item, target):
                start = before  # bound now: the callback is called in this round only
                path = _search(search_id, "artifacts", *item.path.split("/"))
                self._connection.fetch(path, target, lambda here, start=start: tell(start + here, total))  # type: ignore[misc]
                moment = item.modified_at.timestamp()
                os.utime(target, (moment, moment))
            before += item.size_bytes
            tell(before, total)
        return [target for _, target in targets]

    def version(self) -> schemas.Version:
        return self._ask(schemas.Version, "GET", "/v1/version")

    def datasets(self) -> Sequence[str]:
        """Names that a search may use as ``data.name``."""
        return self._ask(schemas.DatasetList, "GET", "/v1/datasets").datasets

    def objectives(self) -> Sequence[schemas.Objective]:
        """What slicings can be judged by."""
        return self._ask(schemas.ObjectiveList, "GET", "/v1/objectives").objectives

    def _follow_up(
        self, search_id: str, number: int, what: str, study: str, body: dict[str, Any], key: str | None
    ) -> schemas.Job:
        path = _search(search_id, "trials", str(number), what)
        return self._make(schemas.Job, path, body, key, params={"study": study})

    def _make(self, schema: type[Answer], path: str, body: dict[str, Any], key: str | None, **options: Any) -> Answer:
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        return self._ask(schema, "POST", path, json=body, headers=headers, **options)

    def _change(
        self,
        schema: type[Seen],
        path: str,
        what: str,
        if_match: str | None,
        is_made: Callable[[Seen], bool],
        body: dict[str, Any] | None = None,
    ) -> Seen:
        """Asks for a change. Where the answer is lost it looks whether the change was made, and asks again if not."""
        for last in (False, False, True):
            try:
                return self._ask(schema, "POST", f"{path}/{what}", changes=True, headers=_if_match(if_match), json=body)
            except AnswerLostError:
                seen = self._ask(schema, "GET", path)
                if is_made(seen):
                    return seen
                if last:
                    raise
        raise AssertionError("the last round returns or raises")

    def _ask(self, schema: type[Answer], method: str, path: str, **options: Any) -> Answer:
        content = self._connection.send(method, path, **options).content
        try:
            return schema.model_validate_json(content)
        except ValidationError as error:  # another program, or another version of this one
            raise InputError(
                f"{self.url} answered {path} with something else than this client knows; is SLICEMAMBA_URL the address "
                "of the service, and is the service of this client's version?"
            ) from error

    def _json(self, path: str) -> dict[str, Any]:
        values: dict[str, Any] = self._connection.send("GET", path).json()
        return values


def _wait(
    look: Callable[[], Seen],
    on_update: Callable[[Seen], None] | None,
    poll_seconds: float,
    patience_seconds: float,
    on_lost: Callable[[], None] | None,
) -> Seen:
    lost_at: float | None = None
    while True:
        try:
            seen = look()
        except (ApiUnreachableError, ApiError) as error:
            lost_at = time.monotonic() if lost_at is None else lost_at
            gone = not isinstance(error, ApiError) or error.status in AWAY
            if not gone or time.monotonic() - lost_at > patience_seconds:
                raise
            if on_lost:
                on_lost()
        else:
            lost_at = None
            if on_update:
                on_update(seen)
            if seen.state.ended:
                return seen
        time.sleep(poll_seconds)


def _is_there(item: schemas.Artifact, target: Path) -> bool:
    """Whether the file was fetched as it is now: a download gives it the time that it has on the server."""
    if not target.is_file():
        return False
    facts = target.stat()
    return facts.st_size == item.size_bytes and abs(facts.st_mtime - item.modified_at.timestamp()) < 1e-3


def _pages(fetch: Callable[[str | None], Page]) -> Iterator[Page]:
    """All pages of a list, from the first on; ``fetch`` takes a page's token."""
    token: str | None = None
    while True:
        page = fetch(token)
        yield page
        if (token := page.next_page_token) is None:
            return


def _search(search_id: str, *parts: str) -> str:
    if _is_job(search_id):
        raise InputError(f"expected a search; {search_id!r} is the id of a job; see `slicemamba job show {search_id}`")
    return _joined("searches", search_id, *parts)


def _job(job_id: str, *parts: str) -> str:
    if not job_id.startswith(_JOB):
        raise InputError(
            f"expected the id of a job, which begins with {_JOB}; got {job_id!r}; `slicemamba job list` lists the jobs "
            "of a search; for a search itself there are `slicemamba status`, `logs`, `download` and `cancel`"
        )
    return _joined("jobs", job_id, *parts)


def _either(search_or_job_id: str, *parts: str) -> str:
    return (_job if _is_job(search_or_job_id) else _search)(search_or_job_id, *parts)


def _is_job(found: str) -> bool:
    # Not by its beginning alone: a run that was adopted as a search has its folder's name, which may be any other.
    return found.startswith(_JOB) and len(found) == _ID_LENGTH


def _joined(*parts: str) -> str:
    return "/".join(["/v1", *(quote(part, safe="") for part in parts)])


def _if_match(etag: str | None) -> dict[str, str]:
    return {} if etag is None else {"If-Match": etag}


def _params(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
