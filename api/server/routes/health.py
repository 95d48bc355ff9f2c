"""How the server is, for whatever watches over it; needs no token."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from sqlalchemy.exc import SQLAlchemyError

from api import schemas
from api.schemas import Problem
from api.server.dependencies import Context
from api.server.problems import ProblemError
from api.server.telemetry import CONTENT_TYPE
from cluster.disk import check_disk
from slicemamba.errors import InputError

logger = logging.getLogger(__name__)
router = APIRouter(tags=["health"])


@router.get("/healthz")
async def get_health() -> schemas.Health:
    """The process answers, also while a database or Ray that hangs keeps all of its threads."""
    return schemas.Health()


@router.get("/readyz", responses={503: {"model": Problem}})
def get_readiness(context: Context) -> schemas.Health:
    """Searches can be submitted and run: database and Ray answer, the disk has room, and searches are looked after."""
    faults = []
    try:
        context.service.check_database()
    except SQLAlchemyError:
        logger.exception("the run database does not answer")
        faults.append("the run database does not answer")
    try:
        context.jobs.check_cluster(context.settings.ray_address)
    except InputError as error:
        logger.warning("%s", error.message)
        faults.append("the Ray cluster cannot be reached; searches wait in the queue until it can")
    try:
        check_disk(context.settings.runs_path)
    except InputError as error:
        logger.warning("%s", error.message)
        faults.append("the disk of the runs is full or cannot be written to")
    age = context.reconciler.seconds_since_round()
    if age is not None and age > context.settings.stale_seconds:
        logger.warning("searches were last looked after %.0f s ago", age)
        faults.append(f"searches were last looked after {age:.0f} seconds ago")
    if faults:
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, " and ".join(faults))
    return schemas.Health()


@router.get("/metrics", response_class=PlainTextResponse)
def get_metrics(context: Context) -> PlainTextResponse:
    """Metrics for Prometheus: searches by state, requests, rounds of the reconciler."""
    return PlainTextResponse(context.telemetry.render(), media_type=CONTENT_TYPE)
