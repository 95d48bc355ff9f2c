"""The client of the service, for Python and the command line.

client = Client("http://127.0.0.1:8000")
search = client.submit({"data": {"name": "synthetic"}, ...})
client.wait(search.id)
for trial in client.pareto(search.id).trials: ...
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from api import schemas
from api.sse import ServerEvent, parse_events
from slicemamba.errors import InputError

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT = httpx.Timeout(10.0, read=120.0)  # the checks of a large data set take their time
RETRY_DELAYS_SECONDS = (0.2, 0.5, 1.0)
_LOOPBACK = ("127.0.0.1", "::1", "localhost")

Answer = TypeVar("Answer", bound=BaseModel)


class ApiError(Exception):
    """The service answered with an error; ``problem`` holds all it said."""

    def __init__(self, problem: schemas.Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.status = problem.status

    def __str__(self) -> str:
        lines = [f"{item.pointer or item.parameter or '/'}: {item.detail}" for item in self.problem.errors]
        told = [line for line in lines if self.problem.detail not in line and line not in self.problem.detail]
        return "\n  - ".join([self.problem.detail, *told])


class ApiUnreachableError(Exception):
    """Nobody answers at the service's address, or the connection broke again and again."""


class Client:
    """Talks to one service. Requests that a broken connection ended are repeated; submissions with the same key.

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
        self.url = (url or os.environ.get("SLICEMAMBA_URL") or DEFAULT_URL).rstrip("/")
        try:
            parsed = httpx.URL(self.url)
        except httpx.InvalidURL:
            parsed = httpx.URL("")
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise InputError(f"the service's URL must look like {DEFAULT_URL}; got {self.url!r}; see SLICEMAMBA_URL")
        # A proxy for the way out would be asked for this very machine otherwise.
        trust_env = parsed.host not in _LOOPBACK
        token = token or os.environ.get("SLICEMAMBA_TOKEN")
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=TIMEOUT,
            trust_env=trust_env,
            transport=transport,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def submit(self, job: Mapping[str, Any], *, idempotency_key: str | None = None) -> schemas.Search:
        """Submits a search. A repeated call with the same key and job gives the search made before."""
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return self._ask(schemas.Search, "POST", "/v1/searches", json=dict(job), headers=headers)

    def validate(self, job: Mapping[str, Any]) -> schemas.Validation:
        """Checks a job and its data set without starting anything."""
        return self._ask(schemas.Validation, "POST", "/v1/searches/validate", json=dict(job))

    def get(self, search_id: str) -> schemas.Search:
        return self._ask(schemas.Search, "GET", _path(search_id))

    def cancel(self, search_id: str) -> schemas.Search:
        return self._ask(schemas.Search, "POST", _path(search_id, "cancel"))

    def pause(self, search_id: str) -> schemas.Search:
        """Stops a search so that ``resume`` lets it go on."""
        return self._ask(schemas.Search, "POST", _path(search_id, "pause"))

    def resume(self, search_id: str) -> schemas.Search:
        """Lets a paused, cancelled or failed search go on from where it stopped."""
        return self._ask(schemas.Search, "POST", _path(search_id, "resume"))

    def extend(self, search_id: str, num_trials: int) -> schemas.Search:
        """Raises the number of trials of a search that is paused or has ended, and lets it go on."""
        return self._ask(schemas.Search, "POST", _path(search_id, "extend"), json={"num_trials": num_trials})

    def delete(self, search_id: str) -> None:
        """Removes an ended search with all its files on the server."""
        self._send("DELETE", _path(search_id))

    def list(
        self,
        *,
        states: Sequence[str] = (),
        labels: Mapping[str, str] | None = None,
        page_size: int = 50,
        page_token: str | None = None,
    ) -> schemas.SearchPage:
        """One page of searches, newest first."""
        wanted = [f"{key}={value}" for key, value in (labels or {}).items()]
        params = _params(state=tuple(states), label=wanted, page_size=page_size, page_token=page_token)
        return self._ask(schemas.SearchPage, "GET", "/v1/searches", params=params)

    def trials(
        self,
        search_id: str,
        *,
        study: schemas.StudyName = "search",
        states: Sequence[str] = (),
        page_size: int = 1000,
        page_token: str | None = None,
    ) -> schemas.TrialPage:
        """One page of trials by number."""
        params = _params(study=study, state=tuple(states), page_size=page_size, page_token=page_token)
        return self._ask(schemas.TrialPage, "GET", _path(search_id, "trials"), params=params)

    def pareto(
        self, search_id: str, *, objectives: Sequence[str] | None = None, study: schemas.StudyName = "search"
    ) -> schemas.Pareto:
        """The Pareto frontier, over the search's objectives where none are given."""
        params = _params(study=study, objectives=",".join(objectives) if objectives else None)
        return self._ask(schemas.Pareto, "GET", _path(search_id, "pareto"), params=params)

    def result(self, search_id: str) -> dict[str, Any]:
        """The content of ``result.json``."""
        values: dict[str, Any] = self._send("GET", _path(search_id, "result")).json()
        return values

    def logs(self, search_id: str, *, tail: int = 1000) -> str:
        """The last lines of what the driver has printed."""
        return self._send("GET", _path(search_id, "logs"), params={"tail": tail}).text

    def version(self) -> schemas.Version:
        return self._ask(schemas.Version, "GET", "/v1/version")

    def events(
        self, search_id: str, *, last_event_id: str | None = None, patience_seconds: float = 60.0
    ) -> Iterator[ServerEvent]:
        """The driver's events until the search has ended; a broken stream is taken up where it broke.

        Raises:
            ApiError: there is no such search. ApiUnreachableError: the service stays away for longer than patience.
        """
        heard_at = time.monotonic()
        while True:
            headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
            try:
                with self._http.stream("GET", _path(search_id, "events"), headers=headers) as response:
                    _raise_for_problem(response)
                    for event in parse_events(response.iter_lines()):
                        heard_at, last_event_id = time.monotonic(), event.id or last_event_id
                        yield event
                        if event.kind == "end":
                            return
                raise httpx.RemoteProtocolError("the stream ended before the search")
            except httpx.TransportError as error:
                if time.monotonic() - heard_at > patience_seconds:
                    raise ApiUnreachableError(self._lost(error)) from error
                time.sleep(RETRY_DELAYS_SECONDS[-1])

    def download(self, search_id: str, directory: Path) -> Sequence[Path]:
        """Fetches all files of the run into ``directory``, each whole or not at all. Returns their paths."""
        root = directory.expanduser().resolve()
        listed = self._ask(schemas.ArtifactList, "GET", _path(search_id, "artifacts")).artifacts
        targets = [(item.path, (root / item.path).resolve()) for item in listed]
        for name, target in targets:
            if not target.is_relative_to(root):
                raise InputError(f"the service names a file {name!r} that would not lie in {root}; nothing was fetched")
        for name, target in targets:
            self._fetch(_path(search_id, "artifacts", *name.split("/")), target)
        return [target for _, target in targets]

    def _fetch(self, path: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = target.with_name(f".{target.name}.part")
        try:
            with self._http.stream("GET", path) as response, unfinished.open("wb") as file:
                _raise_for_problem(response)
                for chunk in response.iter_bytes():
                    file.write(chunk)
            unfinished.replace(target)
        except httpx.TransportError as error:
            raise ApiUnreachableError(self._lost(error)) from error
        finally:
            unfinished.unlink(missing_ok=True)

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
        heard_at = time.monotonic()
        while True:
            try:
                search = self.get(search_id)
            except ApiUnreachableError:
                if time.monotonic() - heard_at > patience_seconds:
                    raise
                if on_lost:
                    on_lost()
            else:
                heard_at = time.monotonic()
                if on_update:
                    on_update(search)
                if search.state.ended:
                    return search
            time.sleep(poll_seconds)

    def _ask(self, schema: type[Answer], method: str, path: str, **options: Any) -> Answer:
        return schema.model_validate_json(self._send(method, path, **options).content)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Sends a request, again after each broken connection: every one of them may be repeated."""
        for delay in (*RETRY_DELAYS_SECONDS, None):
            try:
                response = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                if delay is None:
                    raise ApiUnreachableError(self._lost(error)) from error
                time.sleep(delay)
            else:
                _raise_for_problem(response)
                return response
        raise AssertionError("the last round returns or raises")

    def _lost(self, error: httpx.TransportError) -> str:
        what = "nobody answers" if isinstance(error, httpx.ConnectError) else f"the connection breaks ({error!r})"
        return f"{what} at {self.url}"


def _path(search_id: str, *parts: str) -> str:
    return "/".join(["/v1/searches", *(quote(part, safe="") for part in (search_id, *parts))])


def _params(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _raise_for_problem(response: httpx.Response) -> None:
    if response.is_success:
        return
    body = response.read()
    try:
        problem = schemas.Problem.model_validate_json(body)
    except ValidationError:  # something between here and the service answered
        problem = schemas.Problem(
            title=response.reason_phrase,
            status=response.status_code,
            detail=f"{response.url} answered {response.status_code} {response.reason_phrase}; is this the service?",
            instance=response.url.path,
        )
    raise ApiError(problem)
