"""The search on Ray Tune: a pool of reused actors evaluates what the session hands out.

The study is the truth and Tune the workforce: a resumed search starts a fresh Tuner on a session that knows all ended
trials, so nothing of Tune's own state has to survive.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import torch
from ray import tune
from ray.tune import Callback, CheckpointConfig, RunConfig, TuneConfig, Tuner
from ray.tune.search import Searcher as TuneSearcher

from cluster.config import SearchJob, parse_job
from cluster.connect import cluster_resources
from cluster.run_folder import RunFolder
from nas.counts import load_counts, save_counts
from nas.evaluator import Evaluator
from nas.latency import LatencyTable
from nas.precision import ranking_agreement
from nas.search import SearchSession
from nas.study import Trial
from slicemamba.architecture import Architecture
from slicemamba.data.base import load_split
from slicemamba.models.checkpoints import NetworkCard, read_card, read_state
from slicemamba.models.supernet import Supernet

Weights = dict[str, npt.NDArray[Any]]


class SlicingTrial(tune.Trainable):  # type: ignore[misc]
    """One evaluating worker. It keeps supernet, images and activations, and gets a new slicing by ``reset_config``."""

    def setup(  # type: ignore[override]
        self,
        config: dict[str, Any],
        *,
        weights: Weights,
        card: str,
        job: dict[str, Any],
        cache_dir: str,
        run_path: str,
        study: str,
        latencies: dict[str, Any] | None = None,
    ) -> None:
        spec = parse_job(job)
        assert isinstance(spec, SearchJob)
        supernet = _supernet(NetworkCard.model_validate_json(card), weights).to(_device(spec))
        table = None if latencies is None else LatencyTable.model_validate(latencies)
        self._evaluator = Evaluator(supernet, load_split(spec.data, "search", Path(cache_dir)), spec.search, table)
        self._run = RunFolder(Path(run_path))
        self._study = study

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The new slicing is in ``self.config``; nothing else changes."""
        return True

    def step(self) -> dict[str, Any]:
        started = time.perf_counter()
        try:
            evaluation = self._evaluator.score(
                Architecture.parse(self.config["architecture"]),
                references=[self._counts(number) for number in self.config["reference"]],
                peers=[self._counts(number) for number in self.config["peers"]],
            )
        except RuntimeError as error:  # out of memory and the like are the candidate's fault, not the worker's
            return {"failure": f"{type(error).__name__}: {error}", tune.result.DONE: True}
        save_counts(self._run.counts_path(self._study, self.config["number"]), evaluation)
        outcome = {"pruned": evaluation.pruned, "metrics": evaluation.metrics, "work": evaluation.work}
        return outcome | {"seconds": time.perf_counter() - started, tune.result.DONE: True}

    def _counts(self, number: int) -> npt.NDArray[np.uint32]:
        return load_counts(self._run.counts_path(self._study, number))

    def __repr__(self) -> str:
        return f"trial {self.config['number']} {self.config['architecture']}"


def _supernet(card: NetworkCard, weights: Weights) -> Supernet:
    """The supernet on the weights in Ray's object store themselves, not on a copy."""
    with torch.device("meta"):
        supernet = card.build()
    assert isinstance(supernet, Supernet)
    with warnings.catch_warnings():  # the store's arrays are read-only, and evaluation writes to none
        warnings.filterwarnings("ignore", message=".*not writable.*")
        state = {key: torch.from_numpy(value) for key, value in weights.items()}
    supernet.load_state_dict(state, assign=True)
    return supernet.requires_grad_(False)


class _SessionSearcher(TuneSearcher):  # type: ignore[misc]
    """Tune's view of a session."""

    def __init__(self, session: SearchSession, on_trial: Callable[[Trial], None]) -> None:
        super().__init__()
        self._session = session
        self._on_trial = on_trial
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        trial = self._session.ask()
        if trial is None:
            return TuneSearcher.FINISHED if self._session.finished else None
        self._numbers[trial_id] = trial.number
        fields = {"number": trial.number, "architecture": trial.architecture}
        return fields | {"reference": list(trial.reference), "peers": list(trial.peers)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        number = self._numbers.pop(trial_id, None)
        if number is None:
            return
        result = result or {}
        metrics, work = _nested(result, "metrics"), _nested(result, "work")
        if result.get("pruned"):
            self._on_trial(self._session.prune(number, result["seconds"], work))
        elif metrics:
            self._on_trial(self._session.tell(number, metrics, result["seconds"], work))
        else:
            reason = result.get("failure", "the worker died while evaluating it; see Ray's logs")
            self._on_trial(self._session.fail(number, str(reason)))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study holds it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class _Forget(Callback):  # type: ignore[misc]
    """Drops what Tune keeps of each ended trial's numbers (their averages and last values), most of its memory: the
    study holds the numbers.
    """

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        trial.run_metadata.metric_analysis = {}
        trial.run_metadata.metric_n_steps = {}


def _weights(supernet_dir: Path) -> Weights:
    return {key: value.numpy() for key, value in read_state(supernet_dir / "weights.safetensors").items()}


def _device(job: SearchJob) -> torch.device:
    return torch.device("cuda" if job.resources.search.gpus and torch.cuda.is_available() else "cpu")


def _nested(result: dict[str, Any], name: str) -> dict[str, Any]:
    """One of the dictionaries in a result, which Tune hands over with nested keys joined by "/"."""
    return {key.removeprefix(f"{name}/"): value for key, value in result.items() if key.startswith(f"{name}/")}


def search(
    job: SearchJob,
    session: SearchSession,
    supernet_dir: Path,
    run: RunFolder,
    cache_dir: Path,
    *,
    name: str,
    on_trial: Callable[[Trial], None],
    latencies: dict[str, Any] | None = None,
    worker: type[tune.Trainable] = SlicingTrial,
) -> None:
    """Runs a session to its end on Ray.

    Args:
        job: the job. session: of the study to fill. supernet_dir: the trained supernet.
        name: of the study in the run's folder, and of the Tune experiment.
        on_trial: called in this process with each ended trial.
        latencies: of ``measure_latencies``, when the job asks for the table.
        worker: what evaluates; benchmarks.scaling puts one that sleeps in its place.
    """
    if session.finished:
        return
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it warns that trials left no result files: none are wanted
    workers, weights = job.resources.search, _weights(supernet_dir)
    trainable = tune.with_parameters(
        worker,
        weights=weights,
        card=read_card(supernet_dir).model_dump_json(),
        job=job.model_dump(mode="json"),
        cache_dir=str(cache_dir),
        run_path=str(run.path),
        study=name,
        latencies=latencies,
    )
    Tuner(
        tune.with_resources(trainable, {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {})),
        tune_config=TuneConfig(
            search_alg=_SessionSearcher(session, on_trial),
            num_samples=-1,
            max_concurrent_trials=num_search_workers(job),
            reuse_actors=True,
            trial_name_creator=lambda trial: f"trial-{trial.config.get('number', 0):05d}",
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(run.path / ".ray"),
            verbose=0,
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
            callbacks=[_Forget()],
        ),
    ).fit()


def agreement_of_precision(job: SearchJob, supernet_dir: Path, cache_dir: Path) -> float:
    """``ranking_agreement`` of ``job.search.precision`` with float32, measured on a worker as the search will use."""
    workers = job.resources.search
    task = ray.remote(_agreement).options(num_cpus=workers.cpus, num_gpus=workers.gpus, name="precision")
    card = read_card(supernet_dir).model_dump_json()
    tau: float = ray.get(task.remote(_weights(supernet_dir), card, job.model_dump(mode="json"), str(cache_dir)))
    return tau


def _agreement(weights: Weights, card: str, job: dict[str, Any], cache_dir: str) -> float:
    spec = parse_job(job)
    assert isinstance(spec, SearchJob)
    supernet = _supernet(NetworkCard.model_validate_json(card), weights).to(_device(spec))
    data = load_split(spec.data, "search", Path(cache_dir))
    return ranking_agreement(supernet, data, spec.search, spec.search_space)


def measure_latencies(job: SearchJob, supernet_dir: Path, cache_dir: Path) -> dict[str, Any]:
    """The table of latencies, a ``LatencyTable`` as JSON, measured on a worker as the search will use."""
    workers = job.resources.search
    task = ray.remote(_latencies).options(num_cpus=workers.cpus, num_gpus=workers.gpus, name="latencies")
    card = read_card(supernet_dir).model_dump_json()
    table: dict[str, Any] = ray.get(
        task.remote(_weights(supernet_dir), card, job.model_dump(mode="json"), str(cache_dir))
    )
    return table


def _latencies(weights: Weights, card: str, job: dict[str, Any], cache_dir: str) -> dict[str, Any]:
    spec = parse_job(job)
    assert isinstance(spec, SearchJob)
    supernet = _supernet(NetworkCard.model_validate_json(card), weights).to(_device(spec))
    evaluator = Evaluator(supernet, load_split(spec.data, "search", Path(cache_dir)), spec.search)
    return evaluator.measure_latencies().model_dump(mode="json")


def num_search_workers(job: SearchJob) -> int:
    """Candidates evaluated at the same time: as configured, or as many as the cluster has room for now."""
    workers, total = job.resources.search, cluster_resources()
    room = total.get("CPU", 0) // workers.cpus
    if workers.gpus:
        room = min(room, np.floor(total.get("GPU", 0) / workers.gpus))
    return workers.num_workers or max(1, int(room))
