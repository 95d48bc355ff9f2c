"""/v1/searches/{id}/logs and /events: what the driver prints and reports."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

from anyio import sleep, to_thread
from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from api.decisions import UNREACHABLE
from api.deps import AppParts, Parts
from api.models import Search
from api.plain import finite
from api.problems import ProblemError, bad_parameter, not_found
from api.routes.searches import UNKNOWN
from api.schemas import Problem
from api.states import SearchState
from cluster.jobs import ClusterUnavailableError
from cluster.run_folder import RunFolder

_RESPONSES: dict[int | str, dict[str, Any]] = {422: {"model": Problem}, **UNKNOWN}
EVENT_STREAM = "text/event-stream"
LOG_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {EVENT_STREAM: {}}, "description": "The last lines, or an event `log` for each line"},
    503: {"model": Problem},
}
router = APIRouter(prefix="/v1/searches/{search_id}", tags=["streams"], responses=_RESPONSES)

POLL_SECONDS = 0.5
LOG_POLL_SECONDS = 2.0  # Ray gives a log as a whole only
KEEPALIVE_SECONDS = 15.0
CHECK_TOKEN_SECONDS = 10.0


Tail = Annotated[int, Query(ge=1, le=100_000, description="at most this many last lines")]
Follow = Annotated[bool, Query(description="server-sent events: each line as it is printed, then `end`")]
Accept = Annotated[str, Header(include_in_schema=False)]
LastEventId = Annotated[str | None, Header(description="resumes a stream after the event of this id")]


def read_log(parts: Parts, row: Search, tail: int) -> str:
    """The last lines that the driver of a search or job has printed. Raises ProblemError: 404 without a log, 503."""
    try:
        log = parts.jobs.job_logs(parts.settings.ray_address, row.job_id)
    except ClusterUnavailableError:
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, UNREACHABLE.partition(";")[0]) from None
    if log is None:
        raise not_found(f"Ray has no log of {row.title}, which is {row.state}")
    return "".join(log.splitlines(keepends=True)[-tail:])


@router.get("/logs", response_class=PlainTextResponse, responses=LOG_RESPONSES)
async def get_logs(
    request: Request,
    search_id: str,
    parts: AppParts,
    tail: Tail = 1000,
    follow: Follow = False,
    accept: Accept = "",
    last_event_id: LastEventId = None,
) -> Response:
    """What the driver has printed, from Ray; with `follow`, or `Accept: text/event-stream`, as it is printed."""
    row = await run_in_threadpool(parts.service.get, search_id)
    return await answer_log(request, parts, row, tail, follow or EVENT_STREAM in accept, last_event_id)


async def answer_log(
    request: Request, parts: Parts, row: Search, tail: int, follow: bool, last_event_id: str | None
) -> Response:
    """The log of a driver, as text or line by line. Raises ProblemError: as ``read_log``, and 422 for a wrong id."""
    if not follow:
        return PlainTextResponse(await to_thread.run_sync(read_log, parts, row, tail, limiter=parts.log_readers))
    place = _read_log_place(row, last_event_id) if last_event_id else None
    return _event_stream(request, parts, _follow_log(parts, row.id, tail, place))


@dataclass(frozen=True)
class _LogPlace:
    """How far a log was read: ``offset`` characters of that of the ``attempt``."""

    attempt: int
    offset: int

    def __str__(self) -> str:
        return f"{self.attempt}-{self.offset}"


def _read_log_place(row: Search, text: str) -> _LogPlace:
    """Raises ProblemError (422)."""
    match = re.fullmatch(r"(\d{1,6})-(\d{1,15})", text)
    if match is None or not 1 <= int(match[1]) <= row.attempt:
        raise bad_parameter("Last-Event-ID", f"must be the id of an event of this stream; got {text!r}")
    return _LogPlace(int(match[1]), int(match[2]))


async def _follow_log(parts: Parts, row_id: str, tail: int, place: _LogPlace | None) -> AsyncIterator[str]:
    """Each whole line as an event; after the last line of an attempt come those of the next one.

    Args:
        tail: where to begin, in lines from the end. place: where to begin instead.
    """
    spoke_at = time.monotonic()
    while not parts.closing.is_set():  # the client resumes at the next process
        # The state is read before the log: when it is final, what is read after it is the last.
        row = await run_in_threadpool(parts.service.find, row_id)
        if row is None:
            yield _format("end", {"state": None}, None)
            return
        attempt = row.attempt if place is None else place.attempt
        past = attempt < row.attempt or SearchState(row.state).ended
        log = await run_in_threadpool(_read_attempt, parts, row, attempt)
        if log is not None:
            place = place or _LogPlace(attempt, _tail_offset(log, tail))
            for line, place in _lines(log, place, whole=not past):  # noqa: B020
                yield _format("log", {"line": line}, place)
                spoke_at = time.monotonic()
        if past and attempt < row.attempt:
            place = _LogPlace(attempt + 1, 0)
            continue
        if past:
            yield _format("end", {"state": row.state}, None)
            return
        if time.monotonic() - spoke_at > KEEPALIVE_SECONDS:
            yield ": still here\n\n"
            spoke_at = time.monotonic()
        await sleep(LOG_POLL_SECONDS)


def _read_attempt(parts: Parts, row: Search, attempt: int) -> str | None:
    """None while Ray cannot be reached, or where it does not know the job (any more)."""
    try:
        return parts.jobs.job_logs(parts.settings.ray_address, row.job_id_of(attempt))
    except ClusterUnavailableError:
        return None


def _tail_offset(log: str, tail: int) -> int:
    return len(log) - len("".join(log.splitlines(keepends=True)[-tail:]))


def _lines(log: str, place: _LogPlace, *, whole: bool) -> Iterator[tuple[str, _LogPlace]]:
    """(line, place after it); with ``whole``, a last line without its end waits for it."""
    offset = place.offset
    for line in re.findall(r"[^\n]*\n|[^\n]+", log[offset:]):
        if whole and not line.endswith("\n"):
            return
        offset += len(line)
        yield line.rstrip("\r\n"), _LogPlace(place.attempt, offset)


@router.get("/events", response_class=StreamingResponse)
async def get_events(
    request: Request, search_id: str, parts: AppParts, last_event_id: LastEventId = None
) -> StreamingResponse:
    """The driver's events as server-sent events. Ends with an event `end` once the search has ended.

    `Last-Event-ID` resumes after the event of that id.
    """
    await run_in_threadpool(parts.service.get, search_id)
    folder = parts.service.run_folder(search_id)
    offset = await run_in_threadpool(_read_offset, folder, last_event_id) if last_event_id else 0
    return _event_stream(request, parts, _stream(parts, search_id, offset))


def _event_stream(request: Request, parts: Parts, events: AsyncIterator[str]) -> StreamingResponse:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    token_id = getattr(request.state, "token_id", None)
    allowed = events if token_id is None else _while_valid(parts, token_id, events)
    return StreamingResponse(allowed, media_type=EVENT_STREAM, headers=headers)


async def _while_valid(parts: Parts, token_id: str, events: AsyncIterator[str]) -> AsyncIterator[str]:
    """A stream may last for days, longer than the token it was opened with; the client is told so as it resumes."""
    checked_at = time.monotonic()
    async for event in events:
        if time.monotonic() - checked_at >= CHECK_TOKEN_SECONDS:
            if not await run_in_threadpool(parts.tokens.is_valid, token_id):
                return
            checked_at = time.monotonic()
        yield event


def _read_offset(folder: RunFolder, text: str) -> int:
    """Raises ProblemError (422) for what is no end of a line: half an event would follow."""
    offset = int(text) if text.isdecimal() and len(text) < 16 else -1
    if offset < 0 or not _ends_line(folder, offset):
        raise bad_parameter("Last-Event-ID", f"must be the id of an event of this stream; got {text!r}")
    return offset


def _ends_line(folder: RunFolder, offset: int) -> bool:
    if offset == 0:
        return True
    try:
        with folder.events_path.open("rb") as file:
            file.seek(offset - 1)
            return file.read(1) == b"\n"
    except FileNotFoundError:
        return False


async def _stream(parts: Parts, search_id: str, offset: int) -> AsyncIterator[str]:
    folder = parts.service.run_folder(search_id)
    spoke_at = time.monotonic()
    while not parts.closing.is_set():  # the client resumes at the next process
        # The state is read before the events: when it is final, the events read after it are the last ones.
        search = await run_in_threadpool(parts.service.find, search_id)
        for offset, event in await run_in_threadpool(lambda start: list(folder.events(start)), offset):  # noqa: B020
            yield _format(event.get("event", "message"), event, offset)
            spoke_at = time.monotonic()
        if search is None or SearchState(search.state).ended:
            yield _format("end", {"state": search.state if search else None}, None)
            return
        if time.monotonic() - spoke_at > KEEPALIVE_SECONDS:
            yield ": still here\n\n"
            spoke_at = time.monotonic()
        await sleep(POLL_SECONDS)


def _format(kind: str, data: dict[str, Any], offset: int | _LogPlace | None) -> str:
    place = "" if offset is None else f"id: {offset}\n"
    return f"{place}event: {kind}\ndata: {json.dumps(finite(data))}\n\n"
