"""Jobs that follow a search: retrain, export and draw a trial, audit the search; and /v1/jobs/{id}."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from api import schemas
from api.schemas import Problem
from api.server.bodies import StrictRoute
from api.server.dependencies import AppContext, Context, link
from api.server.models import Search
from api.server.routes.searches import BUSY_STUDY, CHANGES, UNKNOWN, IfMatch, listed, shown, whole
from api.server.routes.streams import EVENT_STREAM, LOG_RESPONSES, Accept, Follow, LastEventId, Tail, answer_log
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


def _answer(response: Response, context: AppContext, row: Search) -> schemas.Job:
    return schemas.Job(**whole(schemas.JobSummary, response, context, row))


def _accepted(request: Request, response: Response, context: AppContext, submitted: tuple[Search, bool]) -> schemas.Job:
    row, new = submitted
    response.headers["Location"] = link(request, "get_job", job_id=row.id)
    if not new:
        response.headers["Idempotent-Replayed"] = "true"
    return _answer(response, context, row)


class _OfTrial:
    """What all jobs on a trial are told: which trial, and the key of the request."""

    def __init__(
        self,
        search_id: str,
        number: Number,
        request: Request,
        response: Response,
        context: Context,
        study: Study = "search",
        idempotency_key: Key = None,
    ) -> None:
        self._trial = search_id, number, study
        self._key = idempotency_key
        self._exchange = request, response, context
        self.follow_ups = context.follow_ups

    def start(self, kind: Callable[..., tuple[Search, bool]], wanted: BaseModel) -> schemas.Job:
        return _accepted(*self._exchange, kind(*self._trial, wanted, self._key))


OfTrial = Annotated[_OfTrial, Depends()]


@router.post("/searches/{search_id}/trials/{number}/retrain", status_code=HTTPStatus.ACCEPTED, responses=_NEW)
def retrain(trial: OfTrial, body: schemas.RetrainRequest | None = None) -> schemas.Job:
    """Trains the trial's slicing in the same way as the search's winner, and scores it on test.

    `retrain` changes single options of that training; `init` null trains from scratch, `supernet` from its weights.
    """
    return trial.start(trial.follow_ups.retrain, body or schemas.RetrainRequest())


@router.post("/searches/{search_id}/trials/{number}/export", status_code=HTTPStatus.ACCEPTED, responses=_NEW)
def export(trial: OfTrial, body: schemas.ExportRequest | None = None) -> schemas.Job:
    """Exports weights, model card, scores and programs of the trial's trained network; 409 if it is not trained."""
    return trial.start(trial.follow_ups.export, body or schemas.ExportRequest())


@router.post("/searches/{search_id}/trials/{number}/figures", status_code=HTTPStatus.ACCEPTED, responses=_NEW)
def figures(trial: OfTrial, body: schemas.FiguresRequest | None = None) -> schemas.Job:
    """Draws the trial's predictions on the search split, with the supernet's weights: the worst images and the best."""
    return trial.start(trial.follow_ups.figures, body or schemas.FiguresRequest())


@router.post("/searches/{search_id}/audit", status_code=HTTPStatus.ACCEPTED, responses=_NEW)
def audit(
    search_id: str,
    request: Request,
    response: Response,
    context: Context,
    body: AuditConfig | None = None,
    idempotency_key: Key = None,
) -> schemas.Job:
    """Audits how far to trust a search that has succeeded; `GET …/audit` returns the answer.

    The same settings continue an earlier audit; different settings first move it aside.
    """
    made = context.follow_ups.audit(search_id, body or AuditConfig(), idempotency_key)
    return _accepted(request, response, context, made)


@router.get("/searches/{search_id}/jobs", responses=UNKNOWN)
def list_jobs(search_id: str, context: Context) -> schemas.JobList:
    """Follow-up jobs of this search, newest first."""
    context.service.check_exists(search_id)
    found = context.service.jobs_of(search_id)
    show = partial(shown, schemas.JobSummary, context, context.service.positions(found))
    return schemas.JobList(jobs=listed(found, show))


@router.get("/jobs/{job_id}", responses=UNKNOWN, name="get_job")
def get_job(job_id: str, context: Context, response: Response) -> schemas.Job:
    """One job. Its files are artifacts of its search, under `folder`."""
    return _answer(response, context, context.service.get_job(job_id))


@router.post("/jobs/{job_id}/cancel", status_code=HTTPStatus.ACCEPTED, responses=CHANGES)
def cancel_job(job_id: str, context: Context, response: Response, if_match: IfMatch = None) -> schemas.Job:
    """Asks the job to stop; it is CANCELLED soon after."""
    return _answer(response, context, context.service.cancel_job(job_id, if_match))


@router.get("/jobs/{job_id}/logs", response_class=PlainTextResponse, responses={**UNKNOWN, **LOG_RESPONSES})
async def get_job_logs(
    request: Request,
    job_id: str,
    context: Context,
    tail: Tail = 1000,
    follow: Follow = False,
    accept: Accept = "",
    last_event_id: LastEventId = None,
) -> Response:
    """The job's log, in the same form as `GET /v1/searches/{id}/logs`."""
    row = await run_in_threadpool(context.service.get_job, job_id)
    return await answer_log(request, context, row, tail, follow or EVENT_STREAM in accept, last_event_id)
