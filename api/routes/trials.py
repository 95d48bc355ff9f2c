"""/v1/searches/{id}/trials and /pareto: what was evaluated, and the best of it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from api import schemas, studies
from api.deps import AppParts, Parts, bad_token, page_token, read_page_token
from api.problems import not_found
from api.routes.searches import UNKNOWN, PageSize, PageToken
from api.schemas import Problem
from nas.objectives import OBJECTIVES
from nas.study import Trial, TrialState

_RESPONSES: dict[int | str, dict[str, Any]] = {422: {"model": Problem}, **UNKNOWN}
router = APIRouter(prefix="/v1/searches/{search_id}", tags=["trials"], responses=_RESPONSES)

Study = Annotated[schemas.StudyName, Query(description="`random` is the baseline of equal budget")]


def _trials(parts: Parts, search_id: str, study: str) -> list[Trial]:
    parts.service.get(search_id)
    return parts.studies.trials(search_id, parts.service.run_folder(search_id), study)


@router.get("/trials")
def list_trials(
    search_id: str,
    parts: AppParts,
    study: Study = "search",
    state: Annotated[list[TrialState] | None, Query(description="any of these")] = None,
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> schemas.TrialPage:
    """Trials by number."""
    wanted = [trial for trial in _trials(parts, search_id, study) if not state or trial.state in state]
    first = _read_place(page_token) if page_token else 0
    rest = [trial for trial in wanted if trial.number >= first]
    return schemas.TrialPage(
        study=study,
        total=len(wanted),
        trials=[schemas.Trial.model_validate(trial) for trial in rest[:page_size]],
        next_page_token=_token_of(rest[page_size]) if len(rest) > page_size else None,
    )


def _token_of(trial: Trial) -> str:
    return page_token(trial.number)


def _read_place(token: str) -> int:
    place = read_page_token(token)
    if not place.isdecimal():
        raise bad_token()
    return int(place)


@router.get("/trials/{number}")
def get_trial(
    search_id: str, number: Annotated[int, Path(ge=0)], parts: AppParts, study: Study = "search"
) -> schemas.Trial:
    """One trial."""
    found = _trials(parts, search_id, study)
    if number >= len(found):
        raise not_found(f"study {study!r} of search {search_id} has no trial {number}; it has {len(found)} so far")
    return schemas.Trial.model_validate(found[number])


@router.get("/pareto")
def get_pareto(
    search_id: str,
    parts: AppParts,
    objectives: Annotated[
        str | None, Query(description="names, separated by commas; default: the search's own")
    ] = None,
    study: Study = "search",
) -> schemas.Pareto:
    """The Pareto frontier over the search's objectives, or any others that were measured."""
    spec = parts.service.get(search_id).spec
    names = tuple(spec["search"]["objectives"] if objectives is None else map(str.strip, objectives.split(",")))
    found = _trials(parts, search_id, study)
    front = studies.front(found, names)
    return schemas.Pareto(
        study=study,
        objectives=[schemas.Objective.model_validate(OBJECTIVES[name]) for name in names],
        measured=studies.measured(found),
        num_completed=sum(trial.state is TrialState.COMPLETED for trial in found),
        trials=[schemas.Trial.model_validate(trial) for trial in front],
    )
