"""What the server knows and how it is: data sets, objectives, version, health."""

from __future__ import annotations

import logging
from http import HTTPStatus

from fastapi import APIRouter
from sqlalchemy.exc import SQLAlchemyError

from api import schemas
from api.deps import AppParts
from api.problems import ProblemError
from api.schemas import Problem
from nas.objectives import OBJECTIVES
from slicemamba import __version__
from slicemamba.data.checks import list_datasets
from slicemamba.errors import InputError

logger = logging.getLogger(__name__)
router = APIRouter(tags=["server"])


@router.get("/v1/datasets")
def get_datasets(parts: AppParts) -> schemas.DatasetList:
    """Names that a search may use as `data.name`."""
    return schemas.DatasetList(datasets=list_datasets(parts.settings.data_root))


@router.get("/v1/objectives")
def get_objectives() -> schemas.ObjectiveList:
    """What slicings can be judged by."""
    return schemas.ObjectiveList(objectives=[schemas.Objective.model_validate(item) for item in OBJECTIVES.values()])


@router.get("/v1/version")
def get_version() -> schemas.Version:
    return schemas.Version(version=__version__)


@router.get("/healthz")
def get_health() -> schemas.Health:
    """The process answers."""
    return schemas.Health()


@router.get("/readyz", responses={503: {"model": Problem}})
def get_readiness(parts: AppParts) -> schemas.Health:
    """Searches can be submitted and run: the database and Ray answer."""
    faults = []
    try:
        parts.service.check_database()
    except SQLAlchemyError:
        logger.exception("the run database does not answer")
        faults.append("the run database does not answer")
    try:
        parts.jobs.check_cluster(parts.settings.ray_address)
    except InputError as error:
        logger.warning("%s", error.message)
        faults.append("the Ray cluster cannot be reached; searches wait in the queue until it can")
    if faults:
        raise ProblemError(HTTPStatus.SERVICE_UNAVAILABLE, " and ".join(faults))
    return schemas.Health()
