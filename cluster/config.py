"""Job specifications: what one run does and which resources it takes. Imports neither torch nor Ray."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveInt, create_model, model_validator

from nas.config import FinalsConfig, SearchConfig, SpaceConfig, SupernetConfig
from nas.sizes import has_sizes, refuse_without_sizes
from nas.space import SearchSpace
from slicemamba.architecture import Architecture, format_block
from slicemamba.config import (
    Config,
    DataConfig,
    ModelConfig,
    PicturesConfig,
    PretrainConfig,
    TrainConfig,
    one_of,
    validate,
)
from slicemamba.documents import override, read_yaml
from slicemamba.errors import InputError
from slicemamba.recipes import TRAININGS, RecipeName, with_recipe


def _whole_or_shared(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError(f"takes whole GPUs, or a share of one such as 0.5; got {gpus:g}")
    return gpus


def _one_line(text: str) -> str:
    """Names and labels are shown in terminals, tables and logs, and PostgreSQL keeps no NUL."""
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise ValueError(f"must not contain line breaks, tabs or other control characters; got {text!r}")
    return text


Name = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(_one_line)]
LabelValue = Annotated[str, Field(max_length=200), AfterValidator(_one_line)]
Gpus = Annotated[NonNegativeFloat, AfterValidator(_whole_or_shared)]
Cpus = Annotated[float, Field(ge=0.01)]


class TrainWorkers(Config):
    """Workers that train: several as a group of Ray Train, one as a task of Ray.

    Attributes:
        num_workers: number of workers; the global batch is divided among them.
        cpus: CPUs of each worker, and the number of threads it uses; a fraction counts as one thread.
        gpus: GPUs of each worker; fractions let several workers share one.
        placement: ``PACK``, on as few nodes as possible, or ``SPREAD``, over as many as possible.
    """

    num_workers: PositiveInt = 1
    cpus: Cpus = 1
    gpus: Gpus = 0.0
    placement: Literal["PACK", "SPREAD"] = "PACK"


class SearchWorkers(Config):
    """Workers that evaluate candidates, each one candidate at a time.

    Attributes:
        num_workers: number of workers; null for as many as the cluster has room for.
        cpus: CPUs of each worker, and the number of threads it uses; a fraction counts as one thread.
        gpus: GPUs of each worker; fractions let several workers share one.
    """

    num_workers: PositiveInt | None = None
    cpus: Cpus = 1
    gpus: Gpus = 0.0


class ResourcesConfig(Config):
    """What a run takes from the Ray cluster. The cluster's address is never part of a job: see ``RAY_ADDRESS``.

    Attributes:
        train: workers that train.
        search: workers that evaluate candidates.
        wait_seconds: how long to wait for a cluster that is too small for the workers to grow before the run fails.
    """

    train: TrainWorkers = TrainWorkers()
    search: SearchWorkers = SearchWorkers()
    wait_seconds: NonNegativeFloat = 600.0


class _AnyJob(Config):
    """What every kind of job has.

    Attributes:
        kind: what the job does.
        name: a name for people; it need not be unique.
        labels: your own keys and values, to find the job by; at most 64.
    """

    name: Name = "search"
    labels: dict[Name, LabelValue] = Field(default_factory=dict, max_length=64)
    model: ModelConfig = ModelConfig()
    resources: ResourcesConfig = ResourcesConfig()

    def _check_training(self, field: str, train: TrainConfig) -> None:
        workers = self.resources.train
        if train.batch_size % (workers.num_workers * train.accumulate_steps):
            raise ValueError(
                f"{field}.batch_size ({train.batch_size}) must be a multiple of resources.train.num_workers × "
                f"accumulate_steps ({workers.num_workers} × {train.accumulate_steps}), so that all shares are equal"
            )
        if train.precision == "fp16" and not workers.gpus:
            raise ValueError(
                f"{field}.precision fp16 needs a GPU: set resources.train.gpus, or use bf16 or float32 on the CPU"
            )


class _Job(_AnyJob):
    """What every job that segments has.

    Attributes:
        recipe: defaults of all its trainings: ``published``, those of the paper, or ``scratch``, for training on some
            hundred images without pretrained weights, whatever the network (docs/training.md).
    """

    recipe: RecipeName = "published"
    data: DataConfig = DataConfig()
    space: SpaceConfig = SpaceConfig()

    @model_validator(mode="before")
    @classmethod
    def _from_recipe(cls, values: Any) -> Any:
        trainings = tuple(name for name in TRAININGS if name in cls.model_fields)
        return with_recipe(values, trainings) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _choices_fit(self) -> _Job:
        for block in self.space.choices:
            if block.divisor and not self.model.has_widths:
                raise ValueError(
                    f"space.choices: {format_block(block)} is the width of a stage's convolutions, which the skeleton "
                    f"{self.model.skeleton} does not have; leave it out, or set model.skeleton to conv"
                )
            if block.d_state > self.model.d_state or block.expand > self.model.expand:
                raise ValueError(
                    f"space.choices: {format_block(block)} exceeds model.d_state ({self.model.d_state}) or "
                    f"model.expand ({self.model.expand}); a choice may be smaller than the model, not larger"
                )
        return self

    @model_validator(mode="after")
    def _image_fits(self) -> _Job:
        smallest = min(self.data.image_size)
        if self.model.skeleton == "conv" and smallest < self.model.stride:
            raise ValueError(
                f"model.levels {self.model.levels} needs images of {self.model.stride} pixels or more, so that the "
                f"smallest map is 2×2; data.image_size has {smallest}: lower model.levels or enlarge the images"
            )
        return self

    @property
    def search_space(self) -> SearchSpace:
        return SearchSpace(self.space.choices, self.model.depths, self.model.has_widths)


def _check_sandwich(job: SupernetJob | SearchJob) -> None:
    if job.supernet.sampling == "sandwich":
        refuse_without_sizes(job.search_space, job.model)


class SupernetJob(_Job):
    """Trains the supernet."""

    kind: Literal["supernet"] = "supernet"
    supernet: SupernetConfig = SupernetConfig()

    @model_validator(mode="after")
    def _batch(self) -> SupernetJob:
        self._check_training("supernet", self.supernet)
        _check_sandwich(self)
        return self


class SearchJob(_Job):
    """Trains the supernet, searches, retrains the winner (unless ``retrain`` is null), and evaluates it on test.

    Attributes:
        init: weights that the winner starts from: null for none (published); ``supernet`` for those in this run's
            supernet; or a path, as in a retrain job.
        baselines: networks to train beside the winner for as many seconds; all are scored on the same images. Of MONAI
            ``unet`` and ``attention_unet``, from scratch; ``unscanned`` is the winner with its scans left out, trained
            where it scans and the space has choices that do not. An empty list trains none.
        priority: in the queue of a service searches of higher priority are started first; no effect elsewhere.
        finals: training of the frontier's members and the fixed networks before one is chosen; null for none. ``auto``:
            with the defaults where architectures of the space differ in size, none in a space of slicings alone.
    """

    kind: Literal["search"] = "search"
    priority: Annotated[int, Field(ge=-100, le=100)] = 0
    supernet: SupernetConfig = SupernetConfig()
    search: SearchConfig = SearchConfig()
    retrain: TrainConfig | None = TrainConfig()
    init: Annotated[Literal["supernet"] | Path | None, Field(union_mode="left_to_right")] = None
    baselines: tuple[Literal["unet", "attention_unet", "unscanned"], ...] = ("unet",)
    finals: Annotated[Literal["auto"] | FinalsConfig | None, Field(union_mode="left_to_right")] = "auto"

    @property
    def finals_settings(self) -> FinalsConfig | None:
        """What ``finals`` comes to in this space; None for no finals."""
        if self.finals == "auto":
            return FinalsConfig() if has_sizes(self.search_space, self.model) else None
        return self.finals

    @model_validator(mode="after")
    def _baselines_once(self) -> SearchJob:
        if len(set(self.baselines)) != len(self.baselines):
            raise ValueError(f"baselines must not name one twice; got {', '.join(self.baselines)}")
        return self

    @model_validator(mode="after")
    def _fits(self) -> SearchJob:
        self._check_training("supernet", self.supernet)
        _check_sandwich(self)
        if self.retrain is not None:
            self._check_training("retrain", self.retrain)
        elif self.init is not None:
            raise ValueError("init is what the retraining starts from, and retrain is null; leave one of them out")
        if "peak_memory_mb" in self.search.measured and not self.resources.search.gpus:
            raise ValueError(
                "peak_memory_mb is measured on CUDA devices only; give resources.search.gpus, or leave it out of "
                "search.objectives and search.constraints"
            )
        if self.search.flips and self.data.fit == "patch":
            raise ValueError("search.flips are of whole images, and data.fit is patch; leave one of them out")
        if self.search.num_trials > self.search_space.size:
            raise ValueError(
                f"search.num_trials ({self.search.num_trials}) exceeds the {self.search_space.size} architectures of "
                "the space, and none is evaluated twice; lower it or widen space.choices"
            )
        return self


class RetrainJob(_Job):
    """Trains one network and evaluates it on test.

    Attributes:
        network: what to train; ``slicemamba`` needs an ``architecture``, the others, for comparison, take none.
        architecture: slice sizes of all blocks, ``s1:2x2,2x4|s2:…``.
        init: weights to start from: null for none; or the folder of a supernet, a trained network or a pretrained
            encoder, or a published file of VMamba or VM-UNet.
    """

    kind: Literal["retrain"] = "retrain"
    network: Literal["slicemamba", "vm_unet", "unet", "attention_unet"] = "slicemamba"
    architecture: str | None = None
    retrain: TrainConfig = TrainConfig()
    init: Path | None = None

    @model_validator(mode="after")
    def _of_this_network(self) -> RetrainJob:
        self._check_training("retrain", self.retrain)
        if (self.network == "slicemamba") != (self.architecture is not None):
            raise ValueError(
                "network slicemamba needs an architecture; give one, such as 's1:2x2|…' (--architecture 2x2 for the "
                "same in every block), or another network"
                if self.architecture is None
                else f"network {self.network} takes no architecture; remove it, or use network slicemamba"
            )
        if self.network == "vm_unet" and self.model.skeleton != "published":
            raise ValueError("network vm_unet is of the published skeleton; set model.skeleton to published")
        if self.slicing is not None and self.slicing.depths != self.model.depths:
            raise ValueError(f"architecture has stages of depths {self.slicing.depths}, model has {self.model.depths}")
        return self

    @property
    def slicing(self) -> Architecture | None:
        """Slice sizes of the network's blocks; none of a network that slices nothing."""
        if self.network == "vm_unet":
            return Architecture.uniform((1, 1), self.model.depths)
        return None if self.architecture is None else Architecture.parse(self.architecture)


def retraining(job: SearchJob, settings: TrainConfig, **network: Any) -> RetrainJob:
    """The training from scratch of one network beside a search, on the same data and workers.

    Args:
        settings: how it is trained. network: ``architecture``, or ``network`` for one that slices nothing.
    """
    shared = {name: getattr(job, name) for name in ("name", "data", "model", "space", "resources")}
    return RetrainJob(**shared, retrain=settings, **network)


class PretrainJob(_AnyJob):
    """Trains the encoder of an architecture as an image classifier; its weights may start a retraining.

    Attributes:
        architecture: slice sizes of all blocks, ``s1:2x2,2x4|s2:…``; those of the decoder are not used.
    """

    kind: Literal["pretrain"] = "pretrain"
    architecture: str
    data: PicturesConfig = PicturesConfig()
    pretrain: PretrainConfig = PretrainConfig()

    @model_validator(mode="after")
    def _of_this_network(self) -> PretrainJob:
        self._check_training("pretrain", self.pretrain)
        if self.model.skeleton != "published":
            raise ValueError(
                "pretraining as a classifier is for the published skeleton; a network with skeleton conv can start "
                "from one trained on another set instead (init)"
            )
        if self.slicing.depths != self.model.depths:
            raise ValueError(f"architecture has stages of depths {self.slicing.depths}, model has {self.model.depths}")
        return self

    @property
    def slicing(self) -> Architecture:
        """Slice sizes of the network's blocks; those of the decoder are not used."""
        return Architecture.parse(self.architecture)


SegmentationJob = SupernetJob | SearchJob | RetrainJob
Job = SegmentationJob | PretrainJob
JobSpec = Annotated[Job, Field(discriminator="kind")]

_KINDS: dict[str, type[_AnyJob]] = {
    "supernet": SupernetJob,
    "search": SearchJob,
    "retrain": RetrainJob,
    "pretrain": PretrainJob,
}


def parse_job(values: Mapping[str, Any], *, source: str = "job") -> Job:
    """Checks a mapping against the schema of its ``kind`` (``search`` when absent). Raises InputError."""
    kind = values.get("kind", "search")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise InputError(f"{source}: kind {one_of(list(_KINDS), kind)}", pointer="/kind")
    job: Job = validate(_KINDS[kind], values, source=source)
    return job


def fields_of(kind: str) -> frozenset[str]:
    """Top-level options of a kind of job."""
    return frozenset(_KINDS[kind].model_fields)


def check_document(values: Mapping[str, Any], source: str, used: Collection[str] = ()) -> list[str]:
    """Checks the parts of a job's document that a command leaves aside, so that nothing misspelt passes in silence.

    Args:
        values: the document. source: where it comes from. used: parts that the command checks itself.

    Returns:
        The parts that are left aside.

    Raises:
        InputError: an option is unknown, a value is impossible, or the kind is unknown.
    """
    kind = values.get("kind", "search")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise InputError(f"{source}: kind {one_of(list(_KINDS), kind)}", pointer="/kind")
    rest = {name: value for name, value in values.items() if name not in (*used, "kind")}
    validate(_document(kind if "kind" in values else None), rest, source=source)
    return list(rest)


@lru_cache
def _document(kind: str | None) -> type[Config]:
    """All parts of a kind of job, none of them needed; without a kind, those of any command."""
    kinds: list[type[_AnyJob]] = [RetrainJob, SupernetJob, SearchJob] if kind is None else [_KINDS[kind]]
    parts: dict[str, Any] = {}
    for name, field in ((name, field) for one in kinds for name, field in one.model_fields.items()):
        parts[name] = (Annotated[(field.annotation, *field.metadata, None)], None)
    return create_model("Document", __base__=Config, **parts)


def load_job(path: Path, overrides: list[str] | None = None, **fields: Any) -> Job:
    """Reads a job from a YAML or JSON file; ``overrides`` are ``a.b=value``, ``fields`` replace top-level ones."""
    return parse_job({**override(read_yaml(path), overrides or []), **fields}, source=str(path))


def config_hash(config: Config | Mapping[str, Any]) -> str:
    """A short hash of a configuration's JSON; the same values give the same hash everywhere."""
    values = config.model_dump(mode="json") if isinstance(config, Config) else config
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def public_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A job, or the card of a network, as shown to whoever may see its run: where data and runs lie is not theirs."""
    shown = dict(spec)
    if shown.get("data"):
        shown["data"] = {key: value for key, value in shown["data"].items() if key != "root"}
    if shown.get("init"):  # the search's own supernet, or what somebody with access to the server has named
        shown["init"] = Path(shown["init"]).name
    warm = shown.get("search", {}).get("warm_start")
    if warm:  # the folder of a run is named after its search
        shown["search"] = {**shown["search"], "warm_start": {**warm, "study": Path(warm["study"]).name}}
    return shown


def differing_fields(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of the fields in which two configurations differ, with both values."""
    found = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differing_fields(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before!r} before, {after!r} now")
    return found


def extends(found: Mapping[str, Any] | None, job: Job) -> bool:
    """Whether a run folder's ``config.json`` is of a search with fewer trials than this one."""
    if found is None or not isinstance(job, SearchJob):
        return False
    old = parse_job(found)
    return isinstance(old, SearchJob) and old.search.num_trials < job.search.num_trials


def refuse_mixing(found: Mapping[str, Any] | None, job: Job, where: Path) -> list[str]:
    """Raises InputError with the differing fields when a run folder holds a run of another configuration.

    Names, labels and resources may differ: a run may be taken up on another cluster. But what is measured on a worker
    is measured on workers of one kind. A search may have more trials, see ``extends``.

    Args:
        found: its ``config.json``, None where there is none. job: what is to be run. where: the run folder.

    Returns:
        The resources that differ, and may.
    """
    if found is None:
        return []
    # Parsed, so that an option which this version has added counts with its default.
    old = parse_job(found, source=str(where / "config.json"))
    fields = differing_fields(old.model_dump(mode="json"), job.model_dump(mode="json"))
    free = (*_free_fields(job), "search.num_trials:") if extends(found, job) else _free_fields(job)
    mixing = [field for field in fields if not field.startswith(free)]
    if mixing:
        raise InputError(
            f"{where} holds a run with another configuration; use a new folder (--out), or the same configuration to "
            "resume",
            details=mixing,
        )
    return [field for field in fields if field.startswith("resources.")]


def _free_fields(job: Job) -> tuple[str, ...]:
    """What the fields begin with that do not change what comes out, but for the last digits."""
    free = (
        "name:",
        "labels",
        "priority:",
        "resources.train.",
        "resources.wait_seconds:",
        "resources.search.num_workers:",
    )
    measures = isinstance(job, SearchJob) and {"latency_ms", "peak_memory_mb"} & set(job.search.measured)
    return free if measures else (*free, "resources.search.")
