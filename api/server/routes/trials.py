"""/v1/searches/{id}/trials, /pareto and /hypervolume: what was evaluated, and the best of it."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from typing import Annotated, Any
from zipfile import BadZipFile

from fastapi import APIRouter, Path, Query
from fastapi.responses import StreamingResponse

from api import schemas
from api.schemas import Problem
from api.server import studies
from api.server.dependencies import AppContext, Context, bad_token, page_token, read_page_token, written_in_its_thread
from api.server.problems import not_found
from api.server.routes.searches import BUSY_STUDY, UNKNOWN, PageSize, PageToken
from cluster.config import SearchJob, parse_job
from cluster.run_folder import FRONT
from nas.objectives import OBJECTIVES
from nas.pick import parse_bounds, pick
from nas.study import Trial, TrialState
from slicemamba.files import open_inside

_RESPONSES: dict[int | str, dict[str, Any]] = {
    422: {"model": Problem},
    503: {"model": Problem, "description": BUSY_STUDY},
    **UNKNOWN,
}
router = APIRouter(prefix="/v1/searches/{search_id}", tags=["trials"], responses=_RESPONSES)

Study = Annotated[schemas.StudyName, Query(description="`random` is the baseline of equal budget")]


States = Annotated[list[TrialState] | None, Query(description="any of these")]
Sort = Annotated[
    str, Query(description="`number`, `seconds` or a metric; `-dice` for the largest first", max_length=64)
]
Objectives = Annotated[str | None, Query(description="names, separated by commas; default: the search's own")]
Limits = Annotated[Sequence[str], Query(description="`NAME=VALUE`, such as `params=2M`; may be repeated")]
_MAX_DIGITS = 15  # of a place in a list of trials
_CSV_CHUNK = 1 << 16


class _CsvResponse(StreamingResponse):
    media_type = "text/csv"


def _objectives(context: AppContext, search_id: str, text: str | None) -> tuple[str, ...]:
    if text is not None:
        return tuple(map(str.strip, text.split(",")))
    return tuple(context.service.spec_of(search_id)["search"]["objectives"])


def _view(context: AppContext, search_id: str, study: str) -> studies.StudyView:
    context.service.check_exists(search_id)
    return context.studies.view(search_id, context.service.run_folder(search_id), study)


@router.get("/trials")
@written_in_its_thread
def list_trials(
    search_id: str,
    context: Context,
    study: Study = "search",
    state: States = None,
    sort: Sort = "number",
    page_size: PageSize = 100,
    page_token: PageToken = None,
) -> schemas.TrialPage:
    """Trials, sorted by number or by `sort`."""
    wanted = _view(context, search_id, study).chosen(state or (), sort)
    first = _read_place(page_token) if page_token else 0
    last = first + page_size
    return schemas.TrialPage(
        study=study,
        total=len(wanted),
        trials=[schemas.Trial.model_validate(trial) for trial in wanted[first:last]],
        next_page_token=_token(last) if len(wanted) > last else None,
    )


@router.get("/trials.csv", response_class=_CsvResponse)
def download_trials(
    search_id: str, context: Context, study: Study = "search", state: States = None, sort: Sort = "number"
) -> StreamingResponse:
    """All trials as a table for spreadsheets and pandas."""
    wanted = _view(context, search_id, study).chosen(state or (), sort)
    headers = {"Content-Disposition": f'attachment; filename="{search_id}-{study}.csv"'}
    return _CsvResponse(_csv(wanted), headers=headers)


def _csv(trials: list[Trial]) -> Iterator[str]:
    metrics = sorted({name for trial in trials for name in trial.metrics})
    fields = ["number", "state", "architecture", "origin", "violation", "seconds", "started_at", "ended_at", "error"]
    buffer = StringIO()
    writer = csv.writer(buffer)
    writer.writerow([*fields, *metrics])
    for trial in trials:
        values = trial.model_dump(mode="json", include=set(fields))
        writer.writerow([*(values[name] for name in fields), *(trial.metrics.get(name) for name in metrics)])
        if buffer.tell() > _CSV_CHUNK:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


def _token(place: int) -> str:
    return page_token(place)


def _read_place(token: str) -> int:
    place = read_page_token(token)
    if not place.isdecimal() or len(place) > _MAX_DIGITS:
        raise bad_token()
    return int(place)


@router.get("/trials/{number}")
def get_trial(
    search_id: str, number: Annotated[int, Path(ge=0)], context: Context, study: Study = "search"
) -> schemas.Trial:
    """One trial."""
    found = _view(context, search_id, study).trials
    if number >= len(found):
        raise not_found(f"study {study!r} of search {search_id} has no trial {number}; it has {len(found)} so far")
    return schemas.Trial.model_validate(found[number])


@router.get("/trials/{number}/images")
def get_trial_images(
    search_id: str, number: Annotated[int, Path(ge=0)], context: Context, study: Study = "search"
) -> schemas.TrialImages:
    """Dice and IoU of each image of the search split."""
    get_trial(search_id, number, context, study)
    folder = context.service.run_folder(search_id)
    try:
        with open_inside(folder.path, folder.counts_path(study, number)) as file:
            scores = studies.image_scores(file)
    except FileNotFoundError:
        raise not_found(
            f"trial {number} of study {study!r} has no scores by image; only completed trials have"
        ) from None
    except (ValueError, KeyError, BadZipFile):
        raise not_found(f"the scores by image of trial {number} of study {study!r} are damaged") from None
    images = [schemas.ImageScore(name=name, dice=dice, iou=iou) for name, dice, iou in scores]
    return schemas.TrialImages(study=study, number=number, images=sorted(images, key=lambda image: image.dice))


@router.get("/hypervolume")
@written_in_its_thread
def get_hypervolume(
    search_id: str, context: Context, objectives: Objectives = None, study: Study = "search"
) -> schemas.Hypervolume:
    """Growth of the frontier's hypervolume. Both studies are measured from the same point, so they are comparable."""
    names = _objectives(context, search_id, objectives)
    searched = _view(context, search_id, "search")
    reference = searched.reference(names)
    view = searched if study == "search" else _view(context, search_id, study)
    curve = [] if reference is None else view.curve(names, reference)
    signs = [-1 if OBJECTIVES[name].direction == "maximize" else 1 for name in names]
    return schemas.Hypervolume(
        study=study,
        objectives=[schemas.Objective.model_validate(OBJECTIVES[name]) for name in names],
        reference=None if reference is None else [sign * loss for sign, loss in zip(signs, reference, strict=True)],
        points=[
            schemas.HypervolumePoint(number=trial.number, evaluations=i, ended_at=trial.ended_at, hypervolume=volume)
            for trial, i, volume in curve
        ],
    )


@router.get("/figures")
@written_in_its_thread
def get_figures(search_id: str, context: Context) -> schemas.SearchFigures:
    """The search so far, for Plotly: hypervolume, workers over time, effects of choices, candidates by stage.

    The report's figures, of the last 2,000 trials.
    """
    from nas.report_drawn import live_figures  # scipy takes a while to be imported

    job = parse_job(context.service.spec_of(search_id), source=f"search {search_id}")
    assert isinstance(job, SearchJob)
    trials, random = (_view(context, search_id, study).trials for study in studies.STUDIES)
    found = live_figures(trials, random, job.search_space, job.search.objectives)
    return schemas.SearchFigures(
        figures=[
            schemas.SearchFigure(
                key=figure.key,
                title=figure.title,
                text=figure.text,
                alt=figure.alt,
                data=figure.spec["data"],
                layout=figure.spec["layout"],
            )
            for figure in found
        ]
    )


@router.get("/pareto")
@written_in_its_thread
def get_pareto(
    search_id: str,
    context: Context,
    objectives: Objectives = None,
    study: Study = "search",
) -> schemas.Pareto:
    """The frontier over the search's objectives, or any others that were measured.

    Over its own objectives, a search that has ended tells which members differ measurably, with intervals and ties.
    """
    return _pareto(search_id, context, objectives, study)


def _pareto(search_id: str, context: Context, objectives: Objectives = None, study: Study = "search") -> schemas.Pareto:
    names = _objectives(context, search_id, objectives)
    view = _view(context, search_id, study)
    front = view.front(names).trials()
    return schemas.Pareto(
        study=study,
        objectives=[schemas.Objective.model_validate(OBJECTIVES[name]) for name in names],
        measured=view.measured(),
        num_completed=view.num_completed,
        worker_seconds=view.worker_seconds,
        **_members(_measured(context, search_id, study, names), view.trials, front),
    )


@router.get("/pick")
@written_in_its_thread
def pick_trial(search_id: str, context: Context, max: Limits = (), min: Limits = ()) -> schemas.Picked:
    """The best member of the frontier within limits, such as `max=latency_ms=20&min=dice=0.8`.

    422 names the nearest member where none is within them.
    """
    front = _pareto(search_id, context)
    rows = [trial.model_dump() for trial in front.trials]
    found = pick(rows, [objective.name for objective in front.objectives], parse_bounds(max, min))
    return schemas.Picked(
        trial=schemas.FrontTrial.model_validate(found.row), best=found.best["number"], lost=found.lost
    )


def _measured(context: AppContext, search_id: str, study: str, names: tuple[str, ...]) -> Mapping[str, Any] | None:
    """The frontier that the search has measured over just these objectives when it ended; None without one."""
    folder = context.service.run_folder(search_id)
    found = folder.read_json(FRONT) if study == "search" and (folder.path / "result.json").exists() else None
    return found if found is not None and tuple(found["objectives"]) == names else None


def _members(measured: Mapping[str, Any] | None, trials: Sequence[Trial], front: Sequence[Trial]) -> dict[str, Any]:
    if measured is None:
        return {"trials": [trial.model_dump() for trial in front]}
    members = [member for member in measured["members"] if member["number"] < len(trials)]
    return {
        "trials": [trials[member["number"]].model_dump() | member for member in members],
        "sentence": measured["sentence"],
    }
