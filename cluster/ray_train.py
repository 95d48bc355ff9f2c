"""Training of the supernet and of the retrained winner, by the same loop as the pretraining.

By a group of workers of Ray Train; by one worker as a task of Ray or, without a Ray, in this process. A run with the
same folder and phase goes on from its last checkpoint.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cluster.attempts import Attempt
from cluster.config import Job, PretrainJob, RetrainJob, SearchJob, SegmentationJob, SupernetJob, parse_job
from cluster.connect import connected
from cluster.disk import disk_fault
from cluster.final_fault import FinalFault
from cluster.history import plot_trainings
from cluster.initial import build_network, init_source
from cluster.metrics import TrainingMetrics
from cluster.run_folder import RunFolder
from cluster.training_place import Place, checkpoints_of, place_of
from cluster.workers import run_on_worker, use_threads
from nas.evaluator import mean_scores
from nas.sampling import PathSampler
from nas.space import SearchSpace
from slicemamba.architecture import Architecture
from slicemamba.config import TrainConfig
from slicemamba.data.base import SegmentationData, load_split
from slicemamba.errors import InputError, RunFailedError
from slicemamba.models.checkpoints import save_network
from slicemamba.models.ensemble import SingleNetwork
from slicemamba.models.initialise import initialise
from slicemamba.models.supernet import Supernet
from slicemamba.training.learning import LearningWatch
from slicemamba.training.logs import TensorBoardLog
from slicemamba.training.prior import start_at_prior
from slicemamba.training.seeds import generator_for
from slicemamba.training.trainer import EpochReport, State, fit, steps_per_epoch, trained_weights
from slicemamba.training.validation import shared_scores

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import WorkerGroupError

_PROGRESS_SECONDS = 0.5
_MAX_FAILURES = 3


def train_supernet(job: SupernetJob | SearchJob, run: RunFolder, cache_dir: Path) -> Path:
    """Trains the supernet; returns the folder of the best epoch's weights, ``<run>/supernet``."""
    return _train(job, run, cache_dir, phase="supernet", architecture=None)


def retrain(job: SearchJob | RetrainJob, architecture: Architecture | None, run: RunFolder, cache_dir: Path) -> Path:
    """Trains one network; returns the folder of the best epoch's weights, ``<run>/retrained``.

    With ``init`` it starts from those weights, and ``<run>/init_report.json`` says what of them was taken.
    """
    source = init_source(job, run)
    if source is not None:
        report = initialise(build_network(job, architecture), source, architecture)
        run.write_json("init_report.json", report.to_json())
        print(report.summary(), flush=True)
    return _train(job, run, cache_dir, phase="retrain", architecture=architecture, init=source)


def _train(
    job: SegmentationJob,
    run: RunFolder,
    cache_dir: Path,
    *,
    phase: str,
    architecture: Architecture | None,
    init: Path | None = None,
) -> Path:
    # Loaded here first, so that the images are decoded once and not by each worker.
    num_samples = load_split(job.data, "train", cache_dir).num_samples
    state = run_workers(
        _worker,
        job,
        run,
        _settings(job, phase),
        num_samples,
        phase=phase,
        cache=str(cache_dir),
        architecture=None if architecture is None else str(architecture),
        init=None if init is None else str(init),
    )
    network = build_network(job, architecture)
    network.load_state_dict(trained_weights(state))
    target = run.path / ("supernet" if isinstance(network, Supernet) else "retrained")
    run.check_attempt()
    plot_trainings(run)
    save_network(target, network, job.data)
    return target


def run_workers(
    worker: Callable[[dict[str, Any]], None],
    job: Job,
    run: RunFolder,
    settings: TrainConfig,
    num_samples: int,
    *,
    phase: str,
    score: str = "val_dice",
    **more: Any,
) -> State:
    """Trains, or goes on with it; returns the state of the epoch with the best score.

    Args:
        worker: what each worker runs; it gets the job, the run's folder, the phase and ``more`` as one mapping.
        settings: how it trains. num_samples: of the training split.
        phase: of the run. score: what epochs are compared by.

    Raises:
        InputError: a fault of the data or of the job, at once.
        RunFailedError: the training diverged, or the workers failed, again and again.
    """
    workers = job.resources.train
    total = settings.epochs * steps_per_epoch(num_samples, settings.batch_size, workers.num_workers)
    run.emit("progress", phase=phase, done=0, total=total, unit="steps", metrics={})
    fault = FinalFault(run.path / ".ray" / f"fault-{phase}.json")
    fault.forget()
    config = {
        "job": job.model_dump(mode="json"),
        "run": str(run.path),
        "driver": None if run.attempt is None else [str(run.attempt.run_path), run.attempt.number],
        "phase": phase,
        "score": score,
        **more,
    }
    train = _here if not connected() else _as_task if workers.num_workers == 1 else _by_group
    try:
        train(partial(fault.run, worker), config, job, run)
    finally:
        fault.tell()
    state = checkpoints_of(config).best()
    if state is None:  # the last epoch is always validated, and every validated epoch leaves a checkpoint
        raise RunFailedError(
            f"the training has left no checkpoint below {run.path}: its worker sees another disk there; put runs on "
            "storage that all nodes of the cluster share"
        )
    return state


def _here(worker: Callable[[dict[str, Any]], None], config: dict[str, Any], job: Job, run: RunFolder) -> None:
    """By one worker in this process."""
    if job.resources.train.num_workers > 1:
        raise InputError(
            "several training workers need Ray; set resources.train.num_workers=1, or leave out --address none",
            pointer="/resources/train/num_workers",
        )
    try:
        worker(config)
    except RuntimeError as error:  # of torch: out of memory and the like
        raise RunFailedError(f"training failed: {_reason(error)}") from error


def _as_task(worker: Callable[[dict[str, Any]], None], config: dict[str, Any], job: Job, run: RunFolder) -> None:
    """By one worker of the cluster. A group of one would need four more processes to look after it, which take longer
    to start than a small training takes (docs/scaling.md)."""
    from ray.exceptions import RayError

    try:
        run_on_worker(worker, job.resources.train, f"training {config['phase']}", config, retries=_MAX_FAILURES)
    except RayError as error:
        fault = disk_fault(getattr(error, "cause", error), run.path)
        raise RunFailedError(fault or f"training failed after its retries: {_reason(error)}") from error


def _by_group(worker: Callable[[dict[str, Any]], None], config: dict[str, Any], job: Job, run: RunFolder) -> None:
    """By several workers, a group of Ray Train."""
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    workers = job.resources.train
    trainer = partial(
        TorchTrainer,
        worker,
        train_loop_config=config,
        scaling_config=ScalingConfig(
            num_workers=workers.num_workers,
            placement_strategy=workers.placement,
            use_gpu=workers.gpus > 0,
            resources_per_worker={"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {}),
        ),
        run_config=RunConfig(
            name=config["phase"],
            storage_path=str(run.path / ".ray"),
            failure_config=FailureConfig(max_failures=_MAX_FAILURES),
            logging_config=LoggingConfig(log_level="WARNING"),  # type: ignore[call-arg]  # mypy sees the older class
        ),
    )
    _fit(trainer, run, config["phase"])


def _fit(trainer: Callable[[], TorchTrainer], run: RunFolder, phase: str) -> None:
    """Trains, again where Ray Train gives up though a checkpoint is there to go on from.

    It starts a group of workers again of which one has died, but not where one dies while the group starts, nor where
    its own controller dies.
    """
    from ray.exceptions import RayActorError
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    for deaths in itertools.count(1):
        try:
            trainer().fit()
        except WorkerGroupError as error:
            raise RunFailedError(_why_failed(error, run)) from error
        except (ControllerError, RayActorError) as error:
            cause = error.controller_failure if isinstance(error, ControllerError) else error
            reason = _reason(cause)
            if not isinstance(cause, RayActorError) or deaths > _MAX_FAILURES:
                raise RunFailedError(f"training failed: {reason}") from error
            message = f"training could not start or lost its controller ({reason}); continuing from the last checkpoint"
            run.warn(message, phase)
        else:
            return


def _why_failed(error: WorkerGroupError, run: RunFolder) -> str:
    """What the first failed worker raised, without the tracebacks around it."""
    failure = next((error.worker_failures[rank] for rank in sorted(error.worker_failures)), error)
    raised = getattr(failure, "_base_exc", failure)  # which Ray Train puts beside its traceback
    if (fault := disk_fault(raised, run.path)) is not None:
        return fault
    return f"training failed after its retries: {_reason(failure)}"


def _reason(error: BaseException) -> str:
    """The line of an error that tells its cause: the last one of a traceback, else the first."""
    lines = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip().splitlines() or [type(error).__name__]
    from_worker = any(line.startswith(("Traceback", "ray::")) for line in lines)
    return lines[-1] if from_worker else lines[0]


def validation_architectures(space: SearchSpace, num_random: int, seed: int) -> list[Architecture]:
    """The architectures a supernet is validated on: the fixed slicings, and some drawn once from the seed."""
    rng = generator_for(seed, "path")
    return space.fixed() + [space.sample(rng) for _ in range(num_random)]


def _worker(config: dict[str, Any]) -> None:
    """What each worker runs."""
    job = parse_job(config["job"])
    assert not isinstance(job, PretrainJob)
    use_threads(job.resources.train.cpus)
    architecture = None if config["architecture"] is None else Architecture.parse(config["architecture"])
    settings = _settings(job, config["phase"])
    place = place_of(config)
    torch.manual_seed(settings.seed)
    network = build_network(job, architecture)
    state = place.checkpoints.last()
    data = load_split(job.data, "train", Path(config["cache"]))
    if state is None and settings.prior_bias:
        start_at_prior(network, data)
    if state is None and config["init"] is not None:
        initialise(network, Path(config["init"]), architecture)
    network.to(place.device)
    val = load_split(job.data, "val", Path(config["cache"]))
    reporter = Reporter(workers_folder(config), config["phase"], place)
    if place.is_first or settings.stop_if_not_learning:  # then all stop at once
        reporter.learning = LearningWatch(data, val, job.model, settings, pretrained=config["init"] is not None)

    fit(
        network,
        data,
        settings,
        validate=_validator(job, network, val, settings),
        on_epoch=reporter.on_epoch,
        on_step=reporter.on_step,
        draw=None if isinstance(job, RetrainJob) or not isinstance(network, Supernet) else path_sampler(job),
        distillation_weight=1.0 if isinstance(job, RetrainJob) else job.supernet.distillation_weight,
        state=state,
    )


def workers_folder(config: dict[str, Any]) -> RunFolder:
    """The run's folder for a worker, which stops reporting and leaving checkpoints once its driver has lost the run."""
    run = RunFolder(Path(config["run"]))
    if config["driver"] is not None:
        folder, number = config["driver"]
        run.attempt = Attempt(Path(folder), number)
    return run


def path_sampler(job: SupernetJob | SearchJob) -> PathSampler:
    """What draws the architectures of each step of the job's supernet."""
    settings = job.supernet
    return PathSampler(
        job.search_space, settings.sampling, settings.seed, model=job.model, num_random=settings.sandwich_random
    )


def _settings(job: SegmentationJob, phase: str) -> TrainConfig:
    if phase == "supernet":
        assert not isinstance(job, RetrainJob)
        return job.supernet
    assert isinstance(job, (SearchJob, RetrainJob))
    assert job.retrain is not None
    return job.retrain


def _validator(
    job: SegmentationJob, network: Supernet | SingleNetwork, val: SegmentationData, settings: TrainConfig
) -> Callable[[], dict[str, float]]:
    device = next(network.parameters()).device
    if isinstance(network, Supernet):
        assert not isinstance(job, RetrainJob)
        fixed = validation_architectures(job.search_space, job.supernet.num_val_architectures, settings.seed)
        return lambda: mean_scores(network, fixed, val, settings.batch_size)
    return lambda: shared_scores(network, val, batch_size=settings.batch_size, device=device)


class Reporter:
    """Sends progress to the run's events, TensorBoard and metrics (first worker only), checkpoints to their place."""

    def __init__(self, run: RunFolder, phase: str, place: Place) -> None:
        self._run = run
        self._phase = phase
        self._tensorboard = TensorBoardLog(run.path / "tensorboard" / phase)
        self._place = place
        self._is_first = place.is_first
        self._gauges = TrainingMetrics(run.path.name, phase)
        self._metrics: dict[str, float] = {}
        self._last = 0.0
        self.learning: LearningWatch | None = None

    def on_step(self, done: int, total: int, loss: float) -> None:
        now = time.monotonic()
        if self._is_first and now - self._last >= _PROGRESS_SECONDS:
            self._last = now
            self._progress(done, total, {**self._metrics, "loss": loss})

    def on_epoch(self, report: EpochReport, state: Callable[[], State]) -> None:
        if self._is_first:
            shown = ("loss", "val_dice", "val_miou", "val_top1", "val_top5")
            self._metrics |= {name: value for name, value in report.flat().items() if name in shown}
            self._run.emit("epoch", phase=self._phase, **report.flat())
            self._tensorboard.add(report)
            total = report.step if report.stopped_early else report.step // report.epoch * report.epochs
            self._progress(report.step, total, self._metrics)
        doubt = self.learning.check(report) if self.learning is not None else None
        if doubt is not None and self._is_first:
            self._run.warn(doubt, self._phase)
        if report.validation:
            self._place.keep(report, state)

    def _progress(self, done: int, total: int, metrics: dict[str, float]) -> None:
        self._run.emit("progress", phase=self._phase, done=done, total=total, unit="steps", metrics=metrics)
        self._gauges.show(done, total, metrics)
