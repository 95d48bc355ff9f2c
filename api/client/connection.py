"""The client's way to the service: repeated requests, streams and downloads that go on where they broke."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from glob import escape
from pathlib import Path
from typing import Any

import httpx
from pydantic import ValidationError

from api import schemas
from api.client.sse import ServerEvent, parse_events
from slicemamba.errors import Crossing, InputError, crossing

DEFAULT_URL = "http://127.0.0.1:8000"
TIMEOUT = httpx.Timeout(10.0, read=120.0)  # the checks of a large data set take their time
RETRY_DELAYS_SECONDS = (0.2, 0.5, 1.0)
LONGEST_WAIT_SECONDS = 30.0  # that a busy service may ask for
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_BUSY = (429, 503)
AWAY = (502, 503, 504)
"""What a proxy answers for a service that is being restarted, and the service where it is too busy."""


class ApiError(Exception):
    """The service answered with an error; ``problem`` holds all it said."""

    def __init__(self, problem: schemas.Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem
        self.status = problem.status

    def __reduce__(self) -> Crossing:
        return crossing(self)

    def __str__(self) -> str:
        lines = [f"{item.pointer or item.parameter or '/'}: {item.detail}" for item in self.problem.errors]
        told = [line for line in lines if self.problem.detail not in line and line not in self.problem.detail]
        return "\n  - ".join([self.problem.detail, *told])


class ApiUnreachableError(Exception):
    """Nobody answers at the service's address, or the connection broke again and again."""


class AnswerLostError(ApiUnreachableError):
    """The connection broke before the answer to a change came: it may have been made."""


class Connection:
    """Sends requests to one service.

    Args:
        url: of the service; SLICEMAMBA_URL, or the local one, when None.
        token: for a service that asks for one; SLICEMAMBA_TOKEN when None.
        transport: another way to reach it, for tests.

    Raises:
        InputError: the URL is none.
    """

    def __init__(self, url: str | None, token: str | None, transport: httpx.BaseTransport | None) -> None:
        self.url = (url or os.environ.get("SLICEMAMBA_URL") or DEFAULT_URL).rstrip("/")
        try:
            parsed = httpx.URL(self.url)
        except httpx.InvalidURL:
            parsed = httpx.URL("")
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise InputError(f"the service's URL must look like {DEFAULT_URL}; got {self.url!r}; see SLICEMAMBA_URL")
        # A proxy for the way out would be asked for this very machine otherwise.
        trust_env = parsed.host not in _LOOPBACK
        token = (token or os.environ.get("SLICEMAMBA_TOKEN") or "").strip()  # files end with an empty line
        if not re.fullmatch("[!-~]*", token):
            raise InputError(
                "a token consists of plain letters, digits and signs, without spaces; see SLICEMAMBA_TOKEN"
            )
        self._http = httpx.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=TIMEOUT,
            trust_env=trust_env,
            transport=transport,
        )

    def close(self) -> None:
        self._http.close()

    def send(self, method: str, path: str, *, changes: bool = False, **options: Any) -> httpx.Response:
        """Sends a request, again where the service asks for patience, and after each broken connection if it may be
        repeated: what changes nothing may, and what makes something new, which carries a key that makes it once.

        Args:
            changes: it changes what is there, so it is repeated only where it cannot have reached the service.

        Raises:
            ApiError: the service refuses. ApiUnreachableError: nobody answers.
            AnswerLostError: of one that ``changes``: it may have been made.
        """
        for delay in (*RETRY_DELAYS_SECONDS, None):
            try:
                response = self._http.request(method, path, **options)
            except httpx.TransportError as error:
                if changes and not isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
                    raise AnswerLostError(
                        f"{self._lost(error)} before the answer came, so the change may have been made; look before "
                        "you repeat it"
                    ) from error
                if delay is None:
                    raise ApiUnreachableError(self._lost(error)) from error
                time.sleep(delay)
                continue
            asked = _asked_to_wait(response)
            if delay is None or asked is None:
                _raise_for_problem(response)
                return response
            time.sleep(max(delay, asked))
        raise AssertionError("the last round returns or raises")

    def events(
        self,
        path: str,
        params: Mapping[str, Any],
        last_event_id: str | None,
        patience_seconds: float,
        on_lost: Callable[[], None] | None = None,
    ) -> Iterator[ServerEvent]:
        """Server-sent events up to that named ``end``; a broken stream is taken up where it broke.

        Args:
            path, params: of the request. last_event_id: after which to begin.
            patience_seconds: for which the service may be away. on_lost: called when the connection is lost.

        Raises:
            ApiError: the service refuses. ApiUnreachableError: it stays away for longer than patience.
        """
        lost_at: float | None = None

        def heard(lines: Iterator[str]) -> Iterator[str]:
            # Anything but a comment may come from something else that answers in the service's place.
            nonlocal lost_at
            for line in lines:
                if line.startswith(":"):
                    lost_at = None
                yield line

        while True:
            headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last_event_id} if last_event_id else {})
            try:
                with self._http.stream("GET", path, params=params, headers=headers) as response:
                    if response.status_code in AWAY:
                        raise httpx.RemoteProtocolError(f"answered {response.status_code} {response.reason_phrase}")
                    _raise_for_problem(response)
                    for event in parse_events(heard(response.iter_lines())):
                        lost_at, last_event_id = None, event.id or last_event_id
                        yield event
                        if event.kind == "end":
                            return
                raise httpx.RemoteProtocolError("the stream ended before what it reports on")
            except httpx.TransportError as error:
                # Not from the last event: a search may be silent for longer, and then breaks would end it.
                if lost_at is None:
                    lost_at = time.monotonic()
                    if on_lost:
                        on_lost()
                if time.monotonic() - lost_at > patience_seconds:
                    raise ApiUnreachableError(self._lost(error)) from error
                time.sleep(RETRY_DELAYS_SECONDS[-1])

    def fetch(self, path: str, target: Path, on_bytes: Callable[[int], None]) -> None:
        """Writes a file, whole or not at all. What a broken download has brought is kept beside it for the next one.

        Args:
            path: of the request. target: the file to write.
            on_bytes: called with the number of bytes that are there.

        Raises:
            ApiError: the service refuses. ApiUnreachableError: the connection broke again and again.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        for delay in (*RETRY_DELAYS_SECONDS, None):
            try:
                self._fetch_rest(path, target, on_bytes)
                break
            except httpx.TransportError as error:
                if delay is None:
                    raise ApiUnreachableError(
                        f"{self._lost(error)}; run it again to continue with {target.name}"
                    ) from error
                time.sleep(delay)

    def _fetch_rest(self, path: str, target: Path, on_bytes: Callable[[int], None]) -> None:
        """The part is named after the version of the file that it is of, so that two versions are never mixed."""
        part = next(target.parent.glob(f".{escape(target.name)}.*.part"), None)
        headers = {"Accept-Encoding": "identity"}
        if part is not None:
            version = part.name.removesuffix(".part").rpartition(".")[2]
            headers |= {"Range": f"bytes={part.stat().st_size}-", "If-Range": f'"{version}"'}
        with self._http.stream("GET", path, headers=headers) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and part is not None:
                part.unlink()  # of a file that is shorter now
                raise httpx.RemoteProtocolError("the file has changed meanwhile")
            _raise_for_problem(response)
            if part is None or response.status_code != httpx.codes.PARTIAL_CONTENT:
                if part is not None:
                    part.unlink()
                version = re.sub(r"[^0-9A-Za-z-]", "", response.headers.get("ETag", "")) or "whole"
                part = target.with_name(f".{target.name}.{version}.part")
            with part.open("ab") as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)
                    on_bytes(file.tell())
        part.replace(target)

    def _lost(self, error: httpx.TransportError) -> str:
        away = isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout))
        reason = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
        return f"{'nobody answers' if away else 'the connection breaks'} at {self.url} ({reason})"


def _asked_to_wait(response: httpx.Response) -> float | None:
    """Seconds; None where an answer is final, or the wait would be too long."""
    asked = response.headers.get("Retry-After", "")
    if response.status_code not in _BUSY or not asked.isdecimal() or int(asked) > LONGEST_WAIT_SECONDS:
        return None
    return float(asked)


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
