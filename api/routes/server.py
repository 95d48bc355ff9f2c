"""What the server knows: data sets, objectives, its version."""

from __future__ import annotations

from fastapi import APIRouter

from api import schemas
from api.deps import AppParts
from nas.objectives import OBJECTIVES
from slicemamba import __version__
from slicemamba.data.checks import list_datasets

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
