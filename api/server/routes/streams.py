"""/v1/searches/{id}/logs and /events: what the driver prints and reports."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated, Any

from anyio import sleep, to_thread
from fastapi import APIRouter, Header, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from api.schemas import Problem
from api.server.decisions import UNREACHABLE
from api.server.dependencies import AppContext, Context
from api.server.driver_output import DriversEvents, DriversLog, LogPlace
from api.server.feeds import STILL_HERE
from api.server.models import Search
from api.server.problems import ProblemError, bad_parameter, not_found
from api.server.routes.searches import UNKNOWN
from cluster.event_files import START, Place, is_place
from cluster.jobs import ClusterUnavailableError
from cluster.run_folder import RunFolder

_RESPONSES: dict[int | str, dict[str, Any]] = {422: {"model": Problem}, **UNKNOWN}
EVENT_STREAM = "text/event-stream"
LOG_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {"content": {EVENT_STREAM: {}}, "description": "The last lines, or an event `log` for each line"},
    503: {"model": Problem},
}
router = APIRouter(prefix="/v1/searches/{search_id}", tags=["streams"], responses=_RESPONSES)

CHECK_TOKEN_SECONDS = 10.0
_MAX_DIGITS = 15  # of a number in an id: no file is longer, and no folder's name

Tail = Annotated[int, Query(ge=1, le=100_000, description="number of last lines")]
Follow = Annotated[bool, Query(description="server-sent events: each line as it is printed, then `end`")]
Accept = Annotated[str, Header(include_in_schema=False)]
LastEventId = Annotated[str | None, Header(description="resumes a stream after the event with this id")]


def read_log(context: AppContext, row: Search, tail: int) -> str:
    """The last lines that the driver of a search or job has printed. Raises ProblemError: 404 without a log, 503."""
    try:
        log = DriversLog(context.service, context.jobs, context.settings, row).tail(tail)
    except ClusterUnavailableError:
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, UNREACHABLE.partition(";")[0]) from None
    if log is None:
        raise not_found(f"there is no log of {row.title}, which is {row.state}")
    return log


@router.get("/logs", response_class=PlainTextResponse, responses=LOG_RESPONSES)
async def get_logs(
    request: Request,
    search_id: str,
    context: Context,
    tail: Tail = 1000,
    follow: Follow = False,
    accept: Accept = "",
    last_event_id: LastEventId = None,
) -> Response:
    """The driver's log, without folders and addresses of the server.

    With `follow` or `Accept: text/event-stream`, line by line as it is printed.
    """
    row = await run_in_threadpool(context.service.get, search_id)
    return await answer_log(request, context, row, tail, follow or EVENT_STREAM in accept, last_event_id)


async def answer_log(
    request: Request, context: AppContext, row: Search, tail: int, follow: bool, last_event_id: str | None
) -> Response:
    """The log of a driver, as text or line by line. Raises ProblemError: as ``read_log``, and 422 for a wrong id."""
    if not follow:
        return PlainTextResponse(await to_thread.run_sync(read_log, context, row, tail, limiter=context.log_readers))
    place = _read_log_place(row, last_event_id) if last_event_id else None
    return _event_stream(request, context, _follow_log(context, row, tail, place))


def _read_log_place(row: Search, text: str) -> LogPlace:
    """Raises ProblemError (422)."""
    match = re.fullmatch(r"(\d{1,6})-(\d{1,15})", text)
    if match is None or not 1 <= int(match[1]) <= row.attempt:
        raise bad_parameter("Last-Event-ID", f"must be the id of an event of this stream; got {text!r}")
    return LogPlace(int(match[1]), int(match[2]))


async def _follow_log(context: AppContext, row: Search, tail: int, place: LogPlace | None) -> AsyncIterator[str]:
    """Each whole line as an event.

    Args:
        tail: where to begin, in lines from the end. place: where to begin instead.
    """
    log = DriversLog(context.service, context.jobs, context.settings, row)
    while place is None and not context.closing.is_set():
        place = await run_in_threadpool(log.place_of_tail, tail)
        if place is None:  # its job has just been submitted
            yield STILL_HERE
            await sleep(context.log_feeds.period_seconds)
    async for text in context.log_feeds.follow(row.id, log, place):
        yield text


@router.get("/events", response_class=StreamingResponse)
async def get_events(
    request: Request, search_id: str, context: Context, last_event_id: LastEventId = None
) -> StreamingResponse:
    """The driver's events as server-sent events. Ends with an event `end` once the search has ended.

    `Last-Event-ID` resumes after the event with that id.
    """
    await run_in_threadpool(context.service.get, search_id)
    events = DriversEvents(context.service, search_id)
    place = await run_in_threadpool(_read_place, events.folder, last_event_id) if last_event_id else START
    return _event_stream(request, context, context.event_feeds.follow(search_id, events, place))


def _event_stream(request: Request, context: AppContext, events: AsyncIterator[str]) -> StreamingResponse:
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    token_id = getattr(request.state, "token_id", None)
    allowed = events if token_id is None else _while_valid(context, token_id, events)
    return StreamingResponse(allowed, media_type=EVENT_STREAM, headers=headers)


async def _while_valid(context: AppContext, token_id: str, events: AsyncIterator[str]) -> AsyncIterator[str]:
    """A stream may last for days, longer than the token it was opened with; the client is told so as it resumes."""
    checked_at = time.monotonic()
    async for event in events:
        if time.monotonic() - checked_at >= CHECK_TOKEN_SECONDS:
            if not await run_in_threadpool(context.tokens.is_valid, token_id):
                return
            checked_at = time.monotonic()
        yield event


def _read_place(folder: RunFolder, text: str) -> Place:
    """Raises ProblemError (422) for what is no end of a line: half an event would follow."""
    numbers = text.split("-")
    if all(number.isdecimal() and len(number) <= _MAX_DIGITS for number in numbers):
        # From before attempts were numbered: an offset alone.
        place = (0, int(text)) if len(numbers) == 1 else tuple(map(int, numbers))
        if is_place(folder.path, place):
            return place
    raise bad_parameter("Last-Event-ID", f"must be the id of an event of this stream; got {text!r}")
