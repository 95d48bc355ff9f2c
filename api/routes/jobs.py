"""Jobs that follow a search: retrain, export and draw a trial, audit the search; and /v1/jobs/{id}."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse

from api import schemas
from api.bodies import StrictRoute
from api.deps import AppParts, Parts, link
from api.models import Search
from api.routes.searches import BUSY_STUDY, CHANGES, UNKNOWN, IfMatch, listed, readable, warning_of
from api.routes.streams import EVENT_STREAM, LOG_RESPONSES, Accept, Follow, LastEventId, Tail, answer_log
from api.schemas import Problem
from api.service import etag
from cluster.config import public_spec
from nas.config import AuditConfig

router = APIRouter(route_class=StrictRoute, prefix="/v1", tags=["jobs"], responses={422: {"model": Problem}})

_NEW: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "No such search or trial"},
    409: {"model": Problem, "description": "What it needs is not there yet, or the key was used for something else"},
    503: {"model": Problem, "description": BUSY_STUDY},
}
Number = Annotated[int, Path(ge=0)]
Study = Annotated[schemas.StudyName, Query(description="the study of the trial")]
Key = Annotated[str | None, Header(min_length=1, max_length=255, description="the same key returns the same job")]


def _summary(parts: Parts, row: Search) -> schemas.JobSummary:
    summary = readable(schemas.JobSummary, row)
    return summary.model_copy(update={"expected_end_at": parts.etas.expected_end(row)})


def to_answer(parts: Parts, row: Search) -> schemas.Job:
    summary = _summary(parts, row)
    history = [schemas.Change.model_validate(change) for change in parts.service.history(row.id)]
    shown = {**dict(summary), "warning": warning_of(parts, row)}
    return schemas.Job(**shown, spec=public_spec(row.spec), history=history)


def _answer(response: Response, parts: Parts, row: Search) -> schemas.Job:
    response.headers["ETag"] = etag(row)
    return to_answer(parts, row)


def _accepted(request: Request, response: Response, parts: Parts, submitted: tuple[Search, bool]) -> schemas.Job:
    row, new = submitted
    response.headers["Location"] = link(request, "get_job", job_id=row.id)
    if not new:
        response.headers["Idempotent-Replayed"] = "true"
    return _answer(response, parts, row)


@router.post("/searches/{search_id}/trials/{number}/retrain", status_code=HTTPStatus.ACCEPTED, responses=_NEW)
def retrain(
    search_id: str,
    number: Number,
    request: Request,
    response: Response,
    parts: AppParts,
    body: schemas.RetrainRequest | None = None,
    study: Study = "search",
    idempotency_key: Key = None,
) -> schemas.Job:
    """Trains the trial's slicing in the same way as the search's winner, and scores it on test.

    `retrain` changes single options of that training; `init` null trains from scratch, `supernet` from its weights.
    """
    wanted = body or schemas.RetrainRequest()
    made = parts.follow_ups.retrain(search_id, number, study, wanted, idempotency_key)
    return _accepted(request, response, parts, made)


@router.post("/searches/{search_id}/trials/{number}/export", status_code=HTTPStatus.ACCEPTED, responses=_NEW)
def export(
    search_id: str,
    number: Number,
    request: Request,
    response: Response,
    parts: AppParts,
    body: schemas.ExportRequest | None = None,
    study: Study = "search",
    idempotency_key: Key = None,
) -> schemas.Job:
    """Exports weights, model card, scores and programs of the trial's trained network; 409 if it is not trained."""
    wanted = body or schemas.ExportRequest()
    made = parts.follow_ups.export(search_id, number, study, wanted, idempotency_key)
    return _accepted(request, response, parts, made)


@router.post("/searches/{search_id}/trials/{number}/figures", status_code=HTTPStatus.ACCEPTED, responses=_NEW)
def figures(
    search_id: str,
    number: Number,
    request: Request,
    response: Response,
    parts: AppParts,
    body: schemas.FiguresRequest | None = None,
    study: Study = "search",
    idempotency_key: Key = None,
) -> schemas.Job:
    """Draws the trial's predictions on the search split, with the supernet's weights: the worst images and the best."""
    wanted = body or schemas.FiguresRequest()
    made = parts.follow_ups.figures(search_id, number, study, wanted, idempotency_key)
    return _accepted(request, response, parts, made)


@router.post("/searches/{search_id}/audit", status_code=HTTPStatus.ACCEPTED, responses=_NEW)
def audit(
    search_id: str,
    request: Request,
    response: Response,
    parts: AppParts,
    body: AuditConfig | None = None,
    idempotency_key: Key = None,
) -> schemas.Job:
    """Audits how far to trust a search that has succeeded; `GET …/audit` returns the answer.

    The same settings continue an earlier audit; different settings first move it aside.
    """
    made = parts.follow_ups.audit(search_id, body or AuditConfig(), idempotency_key)
    return _accepted(request, response, parts, made)


@router.get("/searches/{search_id}/jobs", responses=UNKNOWN)
def list_jobs(search_id: str, parts: AppParts) -> schemas.JobList:
    """Follow-up jobs of this search, newest first."""
    parts.service.check_exists(search_id)
    found = parts.service.jobs_of(search_id)
    return schemas.JobList(jobs=listed(found, partial(_summary, parts)))


@router.get("/jobs/{job_id}", responses=UNKNOWN, name="get_job")
def get_job(job_id: str, parts: AppParts, response: Response) -> schemas.Job:
    """One job. Its files are artifacts of its search, under `folder`."""
    return _answer(response, parts, parts.service.get_job(job_id))


@router.post("/jobs/{job_id}/cancel", status_code=HTTPStatus.ACCEPTED, responses=CHANGES)
def cancel_job(job_id: str, parts: AppParts, response: Response, if_match: IfMatch = None) -> schemas.Job:
    """Asks the job to stop; it is CANCELLED soon after."""
    return _answer(response, parts, parts.service.cancel_job(job_id, if_match))


@router.get("/jobs/{job_id}/logs", response_class=PlainTextResponse, responses={**UNKNOWN, **LOG_RESPONSES})
async def get_job_logs(
    request: Request,
    job_id: str,
    parts: AppParts,
    tail: Tail = 1000,
    follow: Follow = False,
    accept: Accept = "",
    last_event_id: LastEventId = None,
) -> Response:
    """The job's log, in the same form as `GET /v1/searches/{id}/logs`."""
    row = await run_in_threadpool(parts.service.get_job, job_id)
    return await answer_log(request, parts, row, tail, follow or EVENT_STREAM in accept, last_event_id)
