"""/v1/searches/{id}/logs and /events: what the driver prints and reports."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated, Any

from anyio import sleep
from fastapi import APIRouter, Header, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse, StreamingResponse

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
router = APIRouter(prefix="/v1/searches/{search_id}", tags=["streams"], responses=_RESPONSES)

POLL_SECONDS = 0.5
KEEPALIVE_SECONDS = 15.0


Tail = Annotated[int, Query(ge=1, le=100_000, description="at most this many last lines")]


def read_log(parts: Parts, row: Search, tail: int) -> str:
    """The last lines that the driver of a search or job has printed. Raises ProblemError: 404 without a log, 503."""
    try:
        log = parts.jobs.job_logs(parts.settings.ray_address, row.job_id)
    except ClusterUnavailableError:
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, UNREACHABLE.partition(";")[0]) from None
    if log is None:
        raise not_found(f"Ray has no log of {row.title}, which is {row.state}")
    return "".join(log.splitlines(keepends=True)[-tail:])


@router.get("/logs", response_class=PlainTextResponse, responses={503: {"model": Problem}})
def get_logs(search_id: str, parts: AppParts, tail: Tail = 1000) -> PlainTextResponse:
    """What the driver has printed, from Ray."""
    return PlainTextResponse(read_log(parts, parts.service.get(search_id), tail))


@router.get("/events", response_class=StreamingResponse)
async def get_events(
    search_id: str, parts: AppParts, last_event_id: Annotated[str | None, Header()] = None
) -> StreamingResponse:
    """The driver's events as server-sent events. Ends with an event `end` once the search has ended.

    `Last-Event-ID` resumes after the event of that id.
    """
    await run_in_threadpool(parts.service.get, search_id)
    folder = parts.service.run_folder(search_id)
    offset = await run_in_threadpool(_read_offset, folder, last_event_id) if last_event_id else 0
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return StreamingResponse(_stream(parts, search_id, offset), media_type="text/event-stream", headers=headers)


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


def _format(kind: str, data: dict[str, Any], offset: int | None) -> str:
    place = "" if offset is None else f"id: {offset}\n"
    return f"{place}event: {kind}\ndata: {json.dumps(finite(data))}\n\n"
