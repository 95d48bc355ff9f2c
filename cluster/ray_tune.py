"""The search on Ray Tune: a pool of reused actors evaluates what the session hands out.

The study is the truth and Tune the workforce: a resumed search starts a fresh Tuner on a session that knows all ended
trials, so nothing of Tune's own state has to survive. A candidate whose worker or node has died is handed out again
under its number, and as many are evaluated at the same time as the cluster has room for at that moment.
"""

from __future__ import annotations

import itertools
import logging
import socket
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from ray import tune
from ray.tune import CheckpointConfig, RunConfig, Stopper, TuneConfig, Tuner
from ray.tune.search import Searcher as TuneSearcher
from ray.tune.utils import flatten_dict

from cluster.capacity import live_nodes, num_fitting
from cluster.config import SearchJob, parse_job
from cluster.connect import connected
from cluster.run_folder import RunFolder
from cluster.tune_internals import ForgetNumbers, KeepWorkers
from cluster.workers import device_for, run_on_worker, show_as, use_threads
from nas.counts import load_counts, save_counts
from nas.evaluator import Evaluator
from nas.latency import LatencyTable
from nas.precision import ranking_agreement
from nas.search import SearchSession
from nas.study import Trial
from slicemamba.architecture import Architecture
from slicemamba.data.base import load_split
from slicemamba.errors import RunFailedError
from slicemamba.models.checkpoints import NetworkCard, read_card, read_state
from slicemamba.models.supernet import Supernet

Weights = dict[str, npt.NDArray[Any]]
T = TypeVar("T")

_MAX_ATTEMPTS = 4
"""A candidate whose worker dies this often is taken for what kills it."""
_FAULT_SECONDS = 2.0
"""What a worker waits before it tells a fault of its disk or network, which may have passed by then."""
_ROOM_SECONDS = 1.0


class SlicingTrial(tune.Trainable):  # type: ignore[misc]
    """One evaluating worker. It keeps supernet, images and activations, and gets a new slicing by ``reset_config``.

    What is wrong with the worker and not with the candidate it reports as ``broken``, which ends the search resumably:
    every other candidate would fail for it too. A fault of its disk or network it reports as ``fault``: the candidate
    is evaluated again, as after a death, and the search ends only where that happens to it again and again.
    """

    def setup(self, config: dict[str, Any], **given: Any) -> None:
        self._broken: str | None = None
        try:
            self._prepare(config, **given)
        except Exception as error:
            self._broken = f"a worker on {socket.gethostname()} cannot start: {type(error).__name__}: {error}"

    def _prepare(  # type: ignore[override]
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
        use_threads(spec.resources.search.cpus)
        supernet = supernet_on(NetworkCard.model_validate_json(card), weights).to(device_for(spec.resources.search))
        table = None if latencies is None else LatencyTable.model_validate(latencies)
        self._evaluator = Evaluator(supernet, load_split(spec.data, "search", Path(cache_dir)), spec.search, table)
        self._run = RunFolder(Path(run_path))
        self._study = study

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The new slicing is in ``self.config``; nothing else changes."""
        return True

    def step(self) -> dict[str, Any]:
        if self._broken is not None:
            return {"broken": self._broken, tune.result.DONE: True}
        show_as(repr(self))
        try:
            return self._evaluate() | {tune.result.DONE: True}
        except OSError as error:  # a full disk, or files that are not to be read from this node
            time.sleep(_FAULT_SECONDS)
            return {"fault": f"a worker on {socket.gethostname()}: {error}", tune.result.DONE: True}
        except (RuntimeError, MemoryError) as error:  # out of memory and the like: this candidate's fault alone
            if "CUDA error" in str(error):  # the process cannot use its GPU any more; a fresh one tries again
                raise
            return {"failure": f"{type(error).__name__}: {error}", tune.result.DONE: True}

    def _evaluate(self) -> dict[str, Any]:
        started = time.perf_counter()
        evaluation = self._evaluator.score(
            Architecture.parse(self.config["architecture"]),
            references=[self._counts(number) for number in self.config["reference"]],
            peers=[self._counts(number) for number in self.config["peers"]],
        )
        save_counts(self._run.counts_path(self._study, self.config["number"]), evaluation)
        outcome = {"pruned": evaluation.pruned, "metrics": evaluation.metrics, "work": evaluation.work}
        return outcome | {"seconds": time.perf_counter() - started}

    def _counts(self, number: int) -> npt.NDArray[np.uint32]:
        return load_counts(self._run.counts_path(self._study, number))

    def __repr__(self) -> str:
        return f"trial {self.config['number']} {self.config['architecture']}"


def supernet_on(card: NetworkCard, weights: Weights) -> Supernet:
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
    """Tune's view of a session.

    Tune logs what is raised in here and goes on, so the first error is kept in ``broken`` and the search ended.

    Args:
        session: of the study. on_trial: called with each ended trial.
        room: how many candidates may be evaluated at the same time, asked again and again.
        on_lost: called with a trial whose worker died, how often that has happened to it, and what the worker said if
            it has only failed.
        on_running: called with how many are being evaluated, whenever that changes.
    """

    def __init__(
        self,
        session: SearchSession,
        on_trial: Callable[[Trial], None],
        room: Callable[[], int],
        on_lost: Callable[[Trial, int, str | None], None],
        on_running: Callable[[int], None] = lambda number: None,
    ) -> None:
        super().__init__()
        self._session = session
        self._on_trial = on_trial
        self._room = room
        self._on_lost = on_lost
        self._on_running = on_running
        self._handed_out: dict[str, Trial] = {}
        self._again: deque[Trial] = deque()
        self._deaths: Counter[int] = Counter()
        self.broken: Exception | None = None

    def set_max_concurrency(self, max_concurrent: int) -> bool:
        """True: how many run at the same time is kept count of here, as the room for them changes."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        try:
            return self._suggest(trial_id)
        except Exception as error:
            self.broken = error
            return None

    def _suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._session.finished:
            return TuneSearcher.FINISHED
        if len(self._handed_out) >= self._room():
            return None
        trial = self._again.popleft() if self._again else self._session.ask()
        if trial is None:
            return None
        self._handed_out[trial_id] = trial
        self._on_running(len(self._handed_out))
        fields = {"number": trial.number, "architecture": trial.architecture}
        return fields | {"reference": list(trial.reference), "peers": list(trial.peers)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        trial = self._handed_out.pop(trial_id, None)
        if trial is None or self.broken is not None:
            return
        try:
            self._on_running(len(self._handed_out))
            self._end(trial, result or {})
        except Exception as fault:
            self.broken = fault

    def _end(self, trial: Trial, result: dict[str, Any]) -> None:
        metrics, work = _nested(result, "metrics"), _nested(result, "work")
        if "broken" in result:
            raise _ended_by(result["broken"])
        if result.get("pruned"):
            self._on_trial(self._session.prune(trial.number, result["seconds"], work))
        elif metrics:
            self._on_trial(self._session.tell(trial.number, metrics, result["seconds"], work))
        elif "failure" in result:
            self._on_trial(self._session.fail(trial.number, str(result["failure"])))
        else:
            self._lose(trial, result.get("fault"))

    def _lose(self, trial: Trial, fault: str | None) -> None:
        """Its worker or node died, or had a fault that is not the candidate's: evaluated again, the same number and
        slicing, until that has happened too often.
        """
        self._deaths[trial.number] += 1
        deaths = self._deaths[trial.number]
        if deaths < _MAX_ATTEMPTS:
            self._again.append(trial)
            self._on_lost(trial, deaths, fault)
            return
        if fault is not None:
            raise _ended_by(fault)
        reason = f"the worker died in all {deaths} evaluations; see Ray's logs"
        self._on_trial(self._session.fail(trial.number, reason))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study holds it all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class _StopWhenBroken(Stopper):  # type: ignore[misc]
    def __init__(self, searcher: _SessionSearcher) -> None:
        self._searcher = searcher

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return self._searcher.broken is not None


def _weights(supernet_dir: Path) -> Weights:
    return {key: value.numpy() for key, value in read_state(supernet_dir / "weights.safetensors").items()}


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
    on_running: Callable[[int], None] = lambda number: None,
    worker: type[tune.Trainable] = SlicingTrial,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Runs a session to its end on Ray or, without one, in this process.

    Args:
        job: the job. session: of the study to fill. supernet_dir: the trained supernet.
        name: of the study in the run's folder, and of the Tune experiment.
        on_trial: called in this process with each ended trial.
        latencies: of ``measure_latencies``, when the job asks for the table.
        on_running: called in this process with the number of candidates being evaluated, whenever it changes.
        worker: what evaluates: the finals put one that trains in its place, benchmarks.scaling one that sleeps.
        more: what it is given beside the others' arguments.
    """
    if session.finished:
        return
    given = {
        "weights": _weights(supernet_dir),
        "card": read_card(supernet_dir).model_dump_json(),
        "job": job.model_dump(mode="json"),
        "cache_dir": str(cache_dir),
        "run_path": str(run.path),
        "study": name,
        "latencies": latencies,
        **(more or {}),
    }
    searcher = _SessionSearcher(session, on_trial, _Room(job), partial(_tell_lost, run, name), on_running)
    if connected():
        _search_on_ray(job, searcher, worker, given, run, name)
    else:
        _search_here(searcher, worker, given)
    if searcher.broken is not None:
        raise searcher.broken
    if not session.finished:  # Tune takes an interrupt for itself and returns
        raise KeyboardInterrupt


def _search_here(searcher: _SessionSearcher, worker: type[tune.Trainable], given: Mapping[str, Any]) -> None:
    """By one worker in this process, without all that Tune prepares for one of its own."""
    actor = worker.__new__(worker)
    actor.setup({}, **given)
    for number in itertools.count():
        config = searcher.suggest(str(number))
        if not isinstance(config, dict):
            return
        actor.config = config
        searcher.on_trial_complete(str(number), flatten_dict(actor.step()))
        if searcher.broken is not None:
            return


def _search_on_ray(
    job: SearchJob,
    searcher: _SessionSearcher,
    worker: type[tune.Trainable],
    given: Mapping[str, Any],
    run: RunFolder,
    name: str,
) -> None:
    """By workers of Ray Tune."""
    logging.getLogger("ray.tune").setLevel(logging.ERROR)  # it warns that trials left no result files: none are wanted
    workers = job.resources.search
    tuner = Tuner(
        tune.with_resources(
            tune.with_parameters(worker, **given),
            {"CPU": workers.cpus} | ({"GPU": workers.gpus} if workers.gpus else {}),
        ),
        tune_config=TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            scheduler=KeepWorkers(partial(run.warn, phase=name)),
            max_concurrent_trials=sys.maxsize,  # the searcher keeps count itself
            reuse_actors=True,
            trial_name_creator=lambda trial: f"trial-{trial.config.get('number', 0):05d}",
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(run.path / ".ray"),
            verbose=0,
            stop=_StopWhenBroken(searcher),
            checkpoint_config=CheckpointConfig(checkpoint_at_end=False),
            callbacks=[ForgetNumbers()],
        ),
    )
    try:
        tuner.fit()
    except Exception:
        if searcher.broken is None:
            raise


def _tell_lost(run: RunFolder, phase: str, trial: Trial, deaths: int, fault: str | None) -> None:
    what = "died" if fault is None else "failed"
    why = "" if fault is None else f": {fault}"
    run.warn(
        f"the worker of trial {trial.number} {what} ({deaths} of {_MAX_ATTEMPTS}); it is evaluated again{why}", phase
    )


def _ended_by(fault: str) -> RunFailedError:
    return RunFailedError(f"{fault}; fix it and run again; the search continues from here")


class _Room:
    """How many candidates the cluster has room for now; asked of Ray once in a while, as nodes come and go."""

    def __init__(self, job: SearchJob) -> None:
        self._job = job
        self._asked_at = float("-inf")
        self._room = 1

    def __call__(self) -> int:
        if time.monotonic() - self._asked_at >= _ROOM_SECONDS:
            self._room = num_search_workers(self._job)
            self._asked_at = time.monotonic()
        return self._room


def agreement_of_precision(job: SearchJob, supernet_dir: Path, cache_dir: Path) -> float:
    """``ranking_agreement`` of ``job.search.precision`` with float32, measured on a worker as the search will use."""
    return _on_worker(_agreement, "precision", job, supernet_dir, cache_dir)


def _agreement(weights: Weights, card: str, job: dict[str, Any], cache_dir: str) -> float:
    spec = parse_job(job)
    assert isinstance(spec, SearchJob)
    supernet = supernet_on(NetworkCard.model_validate_json(card), weights).to(device_for(spec.resources.search))
    data = load_split(spec.data, "search", Path(cache_dir))
    return ranking_agreement(supernet, data, spec.search, spec.search_space)


def measure_latencies(job: SearchJob, supernet_dir: Path, cache_dir: Path) -> dict[str, Any]:
    """The table of latencies, a ``LatencyTable`` as JSON, measured on a worker as the search will use."""
    return _on_worker(_latencies, "latencies", job, supernet_dir, cache_dir)


def _latencies(weights: Weights, card: str, job: dict[str, Any], cache_dir: str) -> dict[str, Any]:
    spec = parse_job(job)
    assert isinstance(spec, SearchJob)
    supernet = supernet_on(NetworkCard.model_validate_json(card), weights).to(device_for(spec.resources.search))
    evaluator = Evaluator(supernet, load_split(spec.data, "search", Path(cache_dir)), spec.search)
    return evaluator.measure_latencies().model_dump(mode="json")


def _on_worker(function: Callable[..., T], name: str, job: SearchJob, supernet_dir: Path, cache_dir: Path) -> T:
    given = (_weights(supernet_dir), read_card(supernet_dir).model_dump_json(), job.model_dump(mode="json"))
    return run_on_worker(function, job.resources.search, name, *given, str(cache_dir))


def num_search_workers(job: SearchJob) -> int:
    """Candidates evaluated at the same time: as configured, or as many as the cluster has room for now."""
    workers = job.resources.search
    if not connected():
        return 1
    if workers.num_workers:
        return workers.num_workers
    return max(1, num_fitting(workers, live_nodes()))
