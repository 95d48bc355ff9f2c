"""What the service answers with; the client reads the same models. Imports neither torch, Ray nor FastAPI."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field

from api.states import SearchState
from nas.study import TrialState
from slicemamba.text import displayable, finite, well_formed

StudyName = Literal["search", "random"]
EXPECTED_END = "estimated end, all remaining phases included; null while it does not run or nothing allows an estimate"
QUEUE_POSITION = "place in the queue, 1 for the next; null unless it waits for others to end"
ASKED_BY = "name of the token that asked for it; null where no token was needed"
LAST_WARNING = "the last one of its driver; null if there was none, and in lists once it has ended"
Quoting = Annotated[str, BeforeValidator(well_formed)]
"""Text that may quote a request."""
Spec = Annotated[dict[str, Any], BeforeValidator(displayable)]
Metrics = Annotated[dict[str, float | None], BeforeValidator(finite)]


class _Answer(BaseModel):
    """Fields a newer server adds do not disturb an older client."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class Finding(_Answer):
    """One fault of a request.

    Attributes:
        pointer: JSON pointer into the body. parameter: name of the query, path or header parameter.
        detail: what was expected, what came, and how to mend it.
    """

    pointer: Quoting | None = None
    parameter: Quoting | None = None
    detail: Quoting


class Problem(_Answer):
    """The body of every error (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: Quoting
    instance: Quoting
    errors: list[Finding] = []


class PhaseProgress(_Answer):
    """Progress of a phase: `done` of `total` units, with its latest metrics."""

    done: int
    total: int
    unit: str
    metrics: Metrics = {}
    seconds: float = Field(default=0.0, description="time spent on units so far, without the start-up of workers")
    seconds_per_unit: float | None = Field(default=None, description="recent time per unit; null if unknown")


class SearchSummary(_Answer):
    """A search in a list."""

    id: str
    name: str
    labels: dict[str, str]
    dataset: str | None = Field(default=None, description="name of its data set")
    state: SearchState
    phase: str | None = Field(
        description="check, supernet, survey, search, random, finals, retrain, baselines or evaluate"
    )
    progress: dict[str, PhaseProgress] = Field(description="by phase, for phases that have begun")
    message: str | None = Field(description="details that the state alone does not give")
    error: str | None = Field(description="why the search failed")
    warning: Quoting | None = Field(default=None, description=LAST_WARNING)
    expected_end_at: datetime | None = Field(default=None, description=EXPECTED_END)
    job_id: str = Field(description="the job's id in Ray")
    job_status: str | None = Field(description="Ray's own status of the job; only a hint")
    priority: int = Field(default=0, description="searches of higher priority leave the queue first")
    queue_position: int | None = Field(default=None, description=QUEUE_POSITION)
    submitted_by: str | None = Field(default=None, description=ASKED_BY)
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    updated_at: datetime


class Change(_Answer):
    """One change of state."""

    time: datetime
    old_state: SearchState | None
    new_state: SearchState
    message: str | None
    by: str | None = Field(default=None, description=ASKED_BY)


class Search(SearchSummary):
    """A search with its job and its changes of state, oldest first."""

    spec: Spec
    history: list[Change]


class Extension(BaseModel):
    """By how much a search is extended."""

    model_config = ConfigDict(extra="forbid")

    num_trials: int = Field(ge=1, description="new total number of trials")


def _flat(options: dict[str, Any]) -> dict[str, Any]:
    """No option of a training holds more; what is nested deeply enough could not even be refused in JSON."""
    for name, value in options.items():
        inner = value if isinstance(value, list) else [value]
        if any(isinstance(item, (dict, list)) for item in inner):
            raise ValueError(f"{name} must be a value or a list of values")
    return options


class RetrainRequest(BaseModel):
    """How to train a trial's slicing."""

    model_config = ConfigDict(extra="forbid")

    retrain: Annotated[dict[str, Any], AfterValidator(_flat)] = Field(
        default={},
        description="options of the search's `retrain` to change, such as `epochs`",
        examples=[{"epochs": 100}],
    )
    init: Literal["supernet"] | None = Field(
        default=None, description="null: from scratch; omitted: as for the search's winner"
    )


class ExportRequest(BaseModel):
    """What to export."""

    model_config = ConfigDict(extra="forbid")

    format: Literal["bundle", "torch", "onnx"] = Field(
        default="bundle",
        description="programs besides weights and card: all that the cluster can create, those for torch, or ONNX",
    )


class FiguresRequest(BaseModel):
    """How many predictions to draw."""

    model_config = ConfigDict(extra="forbid")

    images: int = Field(default=8, ge=1, le=64, description="maximum number: half the worst, half the best")


class JobSummary(_Answer):
    """A follow-up job of a search, in a list."""

    id: str
    kind: Literal["retrain", "export", "audit", "figures"]
    search_id: str = Field(validation_alias=AliasChoices("parent_id", "search_id"))
    trial: int | None = Field(description="null for an audit, which concerns the whole search")
    study: StudyName | None
    state: SearchState
    phase: str | None
    progress: dict[str, PhaseProgress] = Field(description="by phase, for phases that have begun")
    message: str | None = Field(description="details that the state alone does not give")
    error: str | None = Field(description="why the job failed")
    warning: Quoting | None = Field(default=None, description=LAST_WARNING)
    expected_end_at: datetime | None = Field(default=None, description=EXPECTED_END)
    folder: str = Field(description="where its files are among the search's artifacts")
    queue_position: int | None = Field(default=None, description=QUEUE_POSITION)
    submitted_by: str | None = Field(default=None, description=ASKED_BY)
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    updated_at: datetime


class Job(JobSummary):
    """A job with what it does and its changes of state, oldest first."""

    spec: Spec
    history: list[Change]


class JobList(_Answer):
    jobs: list[JobSummary]


class SearchPage(_Answer):
    searches: list[SearchSummary]
    next_page_token: str | None = Field(description="for the next page; null on the last")


class Estimate(_Answer):
    """Estimated cost of a search. Device hours are hours of worker time, as in the report."""

    num_evaluations: int = Field(description="architectures evaluated, including the random baseline")
    device_hours: float
    device_hours_low: float
    device_hours_high: float
    memory_mb: float = Field(description="memory of a training worker: weights, optimiser and activations, in MiB")
    basis: str = Field(description="basis of the hours: measured, scaled or assumed")


class Proposal(_Answer):
    """An option, and why it is proposed; as `slicemamba plan` tells it."""

    option: str = Field(examples=["data.fit"])
    value: Any
    reason: str


class Validation(_Answer):
    """What a search would do and cost. Nothing was started."""

    valid: Literal[True] = True
    evaluations: int = Field(description="architectures evaluated, including the random baseline")
    space_size: int = Field(description="architectures in the search space")
    images_trained: int = Field(description="forward and backward passes of one image in all trainings")
    images_evaluated: int = Field(description="forward passes of one image in the search, without any savings")
    advice: list[str] = Field(
        description="what may not be meant: settings that are valid and seldom wanted, or workers the cluster has no "
        "room for now"
    )
    estimate: Estimate
    data: dict[str, Any] = Field(description="content of the data set")
    proposed: list[Proposal] = Field(
        description="options that the images ask for, no side longer than asked for; empty until they were decoded"
    )
    spec: Spec = Field(description="the job with all defaults filled in")


class Trial(_Answer):
    """One architecture: evaluated, or about to be."""

    number: int
    state: TrialState
    architecture: str
    origin: str = Field(description="`fixed`, `warm` (from an earlier search), or the searcher that proposed it")
    metrics: Metrics
    violation: float = Field(description="excess over the constraints, relative to their limits; 0 if all are met")
    error: str | None
    seconds: float | None
    started_at: datetime | None
    ended_at: datetime | None


class TrialPage(_Answer):
    study: StudyName
    total: int = Field(description="trials that pass the filter, on all pages")
    trials: list[Trial]
    next_page_token: str | None


class Objective(_Answer):
    name: str
    direction: Literal["maximize", "minimize"]
    unit: str
    title: str


class ImageScore(_Answer):
    name: str
    dice: float
    iou: float


class TrialImages(_Answer):
    """Scores of one trial on each image of the search split."""

    study: StudyName
    number: int
    images: list[ImageScore] = Field(description="worst first")


class HypervolumePoint(_Answer):
    number: int = Field(description="number of the trial that ended")
    evaluations: int = Field(description="number of trials that have ended, including this one")
    ended_at: datetime | None
    hypervolume: float


class Hypervolume(_Answer):
    """The volume that the frontier dominates: after the first trial that ended, each that enlarged it, and the last."""

    study: StudyName
    objectives: list[Objective]
    reference: list[float] | None = Field(description="reference point, in the objectives' own units")
    points: list[HypervolumePoint]


class SearchFigure(_Answer):
    """A figure with its legend: what Plotly draws, in the colours of a light page."""

    key: str = Field(examples=["parallel"])
    title: str
    text: str = Field(description="legend")
    alt: str = Field(description="what it shows, in words")
    data: list[dict[str, Any]] = Field(description="traces of Plotly")
    layout: dict[str, Any]


class SearchFigures(_Answer):
    figures: list[SearchFigure] = Field(description="empty before a trial is completed that keeps to the constraints")


class Ends(_Answer):
    """A score with the ends of its 95 % interval over images or patients."""

    value: float
    low: float
    high: float


class FrontTrial(Trial):
    """A trial of the frontier."""

    intervals: dict[str, Ends] = Field(default_factory=dict, description="of its scores, once the search has ended")
    tied_with: list[int] | None = Field(
        default=None,
        description="trials that differ from it measurably in no objective; null while the search is under way",
    )
    supernet: Metrics | None = Field(
        default=None, description="its objectives with the supernet's weights, where `metrics` are those of the finals"
    )


class Pareto(_Answer):
    """The frontier, best first in the first objective.

    While the search is under way, and over objectives of the caller's choice, the completed trials that no other one
    dominates by its figures. Of a search that has ended, those of them that are measurably better than one another.
    """

    study: StudyName
    objectives: list[Objective]
    measured: list[str] = Field(description="objectives that may be requested")
    num_completed: int
    worker_seconds: float = Field(description="spent on all trials of this study that have ended")
    trials: list[FrontTrial]
    sentence: str | None = Field(default=None, description="how many of them differ measurably, in words")


class Picked(_Answer):
    """The member of a frontier to take within some limits."""

    trial: FrontTrial
    best: int = Field(description="number of the best trial in the first objective, within the limits or not")
    lost: dict[str, float] = Field(description="by objective, its value less that of the best")


class Artifact(_Answer):
    path: str = Field(description="relative to …/artifacts/")
    size_bytes: int
    modified_at: datetime


class ArtifactList(_Answer):
    artifacts: list[Artifact]


class DatasetList(_Answer):
    datasets: list[str]


class Preset(_Answer):
    """A search that travels with the service, to start from."""

    name: str
    title: str
    job: Spec


class PresetList(_Answer):
    presets: list[Preset]


class Dataset(_Answer):
    """A data set, with the report of the last check that it passed for a search on this service."""

    name: str
    checked_at: datetime | None = Field(description="null: no search has asked for it yet; files may change afterwards")
    report: dict[str, Any] | None = Field(description="images of each split, sizes, share of each class, warnings")


class ObjectiveList(_Answer):
    objectives: list[Objective]


class Version(_Answer):
    version: str
    api: Literal["v1"] = "v1"
    ray_dashboard: str | None = Field(default=None, description="where a browser finds Ray's dashboard, if it is known")


class Health(_Answer):
    status: Literal["ok"] = "ok"
