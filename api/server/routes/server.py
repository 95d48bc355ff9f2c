"""What the server knows: data sets, objectives, its version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter

from api import schemas
from api.schemas import Problem
from api.server.dependencies import Context
from api.server.problems import not_found
from nas.objectives import OBJECTIVES
from slicemamba import __version__
from slicemamba.data.checks import list_datasets
from slicemamba.data.reports import newest_report
from slicemamba.documents import read_yaml
from slicemamba.presets import list_presets
from slicemamba.text import finite

router = APIRouter(tags=["server"])
SMALLEST = "laptop"  # of the presets


@router.get("/v1/datasets")
def get_datasets(context: Context) -> schemas.DatasetList:
    """Names that a search may use as `data.name`."""
    return schemas.DatasetList(datasets=list_datasets(context.settings.data_root))


@router.get("/v1/datasets/{name}", responses={404: {"model": Problem}, 422: {"model": Problem}})
def get_dataset(name: str, context: Context) -> schemas.Dataset:
    """One data set, as of its last check. `POST /v1/searches/validate` checks it again."""
    known = list_datasets(context.settings.data_root)
    if name not in known:
        raise not_found(f"data set {name!r} is not known to this server; known: {', '.join(known)}")
    report, checked_at = newest_report(context.service.checks_dir, name) or (None, None)
    return schemas.Dataset(
        name=name, checked_at=checked_at, report=None if report is None else finite(report.model_dump(mode="json"))
    )


@router.get("/v1/presets")
def get_presets() -> schemas.PresetList:
    """Searches to start from, the smallest first: as files, `slicemamba config show NAME` prints them."""
    found = [schemas.Preset(name=name, title=title, job=_job(name)) for name, title in list_presets().items()]
    searches = [preset for preset in found if preset.job.get("kind") == "search"]
    return schemas.PresetList(presets=sorted(searches, key=lambda preset: preset.name != SMALLEST))


def _job(name: str) -> dict[str, Any]:
    """Without folders, which no request names."""
    values = read_yaml(Path(name))
    return {**values, "data": {option: value for option, value in values.get("data", {}).items() if option != "root"}}


@router.get("/v1/objectives")
def get_objectives() -> schemas.ObjectiveList:
    """The objectives that slicings can be judged by."""
    return schemas.ObjectiveList(objectives=[schemas.Objective.model_validate(item) for item in OBJECTIVES.values()])


@router.get("/v1/version")
def get_version(context: Context) -> schemas.Version:
    """Version of the package and of the API, and where Ray's dashboard is."""
    return schemas.Version(version=__version__, ray_dashboard=context.settings.dashboard)
