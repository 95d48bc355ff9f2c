"""/v1/searches: submit, check, list, get, cancel, delete."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, TypeVar

from anyio import to_thread
from fastapi import APIRouter, Body, Header, Query, Request, Response
from pydantic import ValidationError

from api import schemas
from api.schemas import Problem
from api.server.bodies import StrictRoute
from api.server.dependencies import (
    AppContext,
    Context,
    bad_token,
    link,
    page_token,
    read_page_token,
    written_in_its_thread,
)
from api.server.estimate import estimate, num_evaluations
from api.server.models import Search
from api.server.past_searches import earlier_searches
from api.server.problems import ProblemError, bad_parameter, conflict
from api.server.service import SAFE_ID, SORTED_BY, Filter, etag
from api.server.specs import EXAMPLE, JobBody
from api.states import SearchState
from cluster.capacity import needs_of, waits_for
from cluster.config import SearchJob, public_spec
from cluster.work import samples_of, work_of
from nas.advice import advice
from slicemamba.data.checks import Listing
from slicemamba.data.plan import propose
from slicemamba.text import masked

router = APIRouter(
    route_class=StrictRoute, prefix="/v1/searches", tags=["searches"], responses={422: {"model": Problem}}
)

logger = logging.getLogger(__name__)

UNKNOWN: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "No such search"}}
CHANGES: dict[int | str, dict[str, Any]] = {
    **UNKNOWN,
    409: {"model": Problem, "description": "Not possible in this state"},
    412: {"model": Problem, "description": "The search has changed since the ETag of If-Match"},
}

NOT_DECODED = (
    "the files have not been decoded yet: the search does so first, and fails where one is broken or does not fit"
)
BUSY_STUDY = "Too many requests wait for a large study that is being read for the first time"

BodyOfJob = Annotated[JobBody, Body(openapi_examples={"small": {"summary": "A small search", "value": EXAMPLE}})]
Row = TypeVar("Row", schemas.SearchSummary, schemas.JobSummary)
IfMatch = Annotated[str | None, Header(description="the ETag that you know; 412 if it has changed")]
PageSize = Annotated[int, Query(ge=1, le=1000, description="maximum number")]
Sort = Annotated[str, Query(description="with `-` from the highest value down", pattern=f"^-?({'|'.join(SORTED_BY)})$")]
PageToken = Annotated[str | None, Query(description="next_page_token of the previous page")]


def shown(kind: type[Row], context: AppContext, positions: Mapping[str, int], row: Search) -> Row:
    """The row with what is not in it: its expected end, and its place in the queue. Raises ProblemError (409)."""
    more = {"expected_end_at": context.etas.expected_end(row), "queue_position": positions.get(row.id)}
    return readable(kind, row).model_copy(update=more)


def _listed(context: AppContext, positions: Mapping[str, int], search: Search) -> schemas.SearchSummary:
    """The same in a list, where only of what is under way a file is read."""
    summary = shown(schemas.SearchSummary, context, positions, search)
    return summary if summary.state.ended else summary.model_copy(update={"warning": warning_of(context, search)})


def warning_of(context: AppContext, row: Search) -> str | None:
    """The last warning of a driver that is at work or was last."""
    if row.state in (SearchState.QUEUED, SearchState.STARTING):  # it would be that of an attempt before
        return None
    try:
        status = context.service.folder_of(row).read_status()
    except OSError:  # its disk is away; that breaks no list
        return None
    return masked(status.warning) if status is not None and status.warning is not None else None


def readable(kind: type[Row], row: Search) -> Row:
    """What is shown of a row; without its progress where another version has written that in its own way.

    Raises:
        ProblemError: nothing of it can be shown (409).
    """
    try:
        return kind.model_validate(row)
    except ValidationError:
        known = {name: getattr(row, name, None) for name in kind.model_fields}
        note = "its progress was written by another version and cannot be shown"
    try:
        return kind.model_validate({**known, "progress": {}, "message": row.message or note})
    except ValidationError:
        raise conflict(f"{row.title} was written by another version of the service and cannot be shown") from None


def listed(rows: Iterable[Search], show: Callable[[Search], Row]) -> list[Row]:
    """What is shown of each row; one that cannot be shown is left out, and the log says so: it breaks no list."""
    found = []
    for row in rows:
        try:
            found.append(show(row))
        except ProblemError as error:
            logger.warning("%s", error.detail)
    return found


def whole(kind: type[Row], response: Response, context: AppContext, row: Search) -> dict[str, Any]:
    """All that is told of one search or job, beside its ETag: the summary ``kind``, what it does and its history."""
    response.headers["ETag"] = etag(row)
    summary = shown(kind, context, context.service.positions([row]), row)
    history = [schemas.Change.model_validate(change) for change in context.service.history(row.id)]
    more = {"warning": warning_of(context, row), "spec": public_spec(row.spec), "history": history}
    return {**dict(summary), **more}


def _answer(response: Response, context: AppContext, search: Search) -> schemas.Search:
    more = {"dataset": search.spec.get("data", {}).get("name")}
    return schemas.Search(**{**whole(schemas.SearchSummary, response, context, search), **more})


@router.post("", status_code=HTTPStatus.ACCEPTED, responses={409: {"model": Problem}})
async def submit(
    request: Request,
    response: Response,
    context: Context,
    body: BodyOfJob,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> schemas.Search:
    """Checks the job and the files of its data set by their names, and puts the search in the queue.

    Files that are broken or do not fit together make the search fail in its `check` phase, with the same words.

    The same `Idempotency-Key` and body return the search created before; a different body gives 409.
    """

    def take_in() -> schemas.Search:
        search, new = context.service.submit(body, idempotency_key)
        response.headers["Location"] = link(request, "get_search", search_id=search.id)
        if not new:
            response.headers["Idempotent-Replayed"] = "true"
        return _answer(response, context, search)

    return await to_thread.run_sync(take_in, limiter=context.data_checkers)


@router.post("/validate")
async def validate(context: Context, body: BodyOfJob) -> schemas.Validation:
    """Performs all checks of a submission and estimates the cost of the search, without starting it.

    Files of a data set that is new or has changed are decoded by the search itself, in its `check` phase.
    """
    return await to_thread.run_sync(_validate, context, body, limiter=context.data_checkers)


def _validate(context: AppContext, body: Mapping[str, Any]) -> schemas.Validation:
    job, listing = context.service.check(body)
    size = None if listing.report is None else listing.report.median_size
    evaluations, samples = num_evaluations(job), samples_of(job.data, listing.num_images, size)
    return schemas.Validation(
        evaluations=evaluations,
        space_size=job.search_space.size,
        images_trained=work_of(job, samples).trained,
        images_evaluated=evaluations * samples["search"],
        advice=[*advice(job.search, job.data.num_classes), *_missing(context, job)],
        estimate=estimate(job, samples, earlier_searches(context.service, job)),
        data=_content(job, listing),
        proposed=_proposed(job, listing),
        spec=public_spec(job.model_dump(mode="json")),
    )


def _proposed(job: SearchJob, listing: Listing) -> list[schemas.Proposal]:
    """What the images ask for, where they have been decoded before: by a search, or by ``slicemamba data check``."""
    report = listing.report
    if report is None:
        return []
    found = propose(job.data, report, max(job.data.image_size))
    told = [one for one in found if one.option not in ("data.name", "data.root")]
    return [schemas.Proposal(option=one.option, value=one.value, reason=one.reason) for one in told]


def _missing(context: AppContext, job: SearchJob) -> list[str]:
    """What the cluster has no room for, where it answers."""
    nodes = context.jobs.cluster_nodes(context.settings.ray_address)
    sentence = waits_for(needs_of(job.resources, trains=True, searches=True), nodes) if nodes else None
    return [masked(sentence)] if sentence is not None else []


def _content(job: SearchJob, listing: Listing) -> dict[str, Any]:
    if listing.report is not None:
        return listing.report.model_dump(mode="json")
    return {"name": job.data.name, "num_images": listing.num_images, "warnings": [NOT_DECODED]}


@router.get("")
@written_in_its_thread
def list_searches(
    context: Context,
    page_size: PageSize = 50,
    page_token: PageToken = None,
    state: Annotated[list[SearchState] | None, Query(description="any of these")] = None,
    label: Annotated[list[str] | None, Query(description="`key=value`; all of these")] = None,
    text: Annotated[str, Query(max_length=100, description="in name, id, labels or data set, whatever the case")] = "",
    sort: Sort = "-created_at",
) -> schemas.SearchPage:
    """Searches, newest first or by `sort`."""
    after = _read_place(page_token, sort) if page_token else None
    if "\0" in text:
        raise bad_parameter("text", "must not contain NUL")
    wanted = Filter(state or (), [_read_label(one) for one in label or ()], text, sort, after)
    found, more = context.service.page(wanted, page_size)
    show = partial(_listed, context, context.service.positions(found))
    return schemas.SearchPage(
        searches=listed(found, show),
        next_page_token=_token_after(found[-1], sort) if more else None,
    )


def _token_after(last: Search, sort: str) -> str:
    value = getattr(last, sort.removeprefix("-")) or ""
    return page_token(json.dumps([sort, value.isoformat() if isinstance(value, datetime) else value, last.id]))


def _read_place(token: str, sort: str) -> tuple[datetime | str, str]:
    try:
        sorted_by, value, search_id = map(str, json.loads(read_page_token(token)))
        value.encode()  # a lone surrogate is no text for a database
        by_time = sort.endswith("created_at")
        place = datetime.fromisoformat(value).astimezone(timezone.utc) if by_time else value
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise bad_token() from None
    if sorted_by != sort or not SAFE_ID.fullmatch(search_id) or "\0" in value:
        raise bad_token()
    return place, search_id


def _read_label(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not key or not separator or "\0" in text:
        raise bad_parameter("label", f"must look like key=value; got {text!r}")
    return key, value


@router.get("/{search_id}", responses=UNKNOWN, name="get_search")
@written_in_its_thread
def get(search_id: str, context: Context, response: Response) -> schemas.Search:
    """One search, with its job and its changes of state. Its ETag changes with its state."""
    return _answer(response, context, context.service.get(search_id))


@router.post("/{search_id}/cancel", status_code=HTTPStatus.ACCEPTED, responses=CHANGES)
def cancel(search_id: str, context: Context, response: Response, if_match: IfMatch = None) -> schemas.Search:
    """Asks the search to stop; it is CANCELLED soon after and keeps what it has found so far."""
    return _answer(response, context, context.service.cancel(search_id, if_match))


@router.post("/{search_id}/pause", status_code=HTTPStatus.ACCEPTED, responses=CHANGES)
def pause(search_id: str, context: Context, response: Response, if_match: IfMatch = None) -> schemas.Search:
    """Stops the search and frees the cluster; `resume` continues it where it stopped."""
    return _answer(response, context, context.service.pause(search_id, if_match))


@router.post("/{search_id}/resume", status_code=HTTPStatus.ACCEPTED, responses=CHANGES)
def resume(search_id: str, context: Context, response: Response, if_match: IfMatch = None) -> schemas.Search:
    """Continues a paused, cancelled or failed search; no finished trial is evaluated again."""
    return _answer(response, context, context.service.resume(search_id, if_match))


@router.post("/{search_id}/extend", status_code=HTTPStatus.ACCEPTED, responses=CHANGES)
def extend(
    search_id: str, context: Context, response: Response, body: schemas.Extension, if_match: IfMatch = None
) -> schemas.Search:
    """Raises the number of trials of a paused or ended search, and continues it where it stopped."""
    return _answer(response, context, context.service.extend(search_id, body.num_trials, if_match))


@router.delete("/{search_id}", status_code=HTTPStatus.NO_CONTENT, response_class=Response, responses=CHANGES)
def delete(search_id: str, context: Context, if_match: IfMatch = None) -> None:
    """Removes an ended search with all its files."""
    context.service.delete(search_id, if_match)
    context.studies.forget(search_id)
