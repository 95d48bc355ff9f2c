"""The driver of one run: its phases in order, each skipped when its output is there already.

    supernet → search → random (optional) → retrain (optional) → evaluate

Killed at any point and started again on the same folder, a run goes on from the last checkpoint and the last trial.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.config import Job, PretrainJob, RetrainJob, SearchJob, SupernetJob, parse_job, refuse_mixing
from cluster.connect import cluster_resources, ray_cluster, shortage
from cluster.initial import check_init, resolve_init
from cluster.run_folder import RunFolder, RunStatus
from cluster.status import StatusWriter
from nas.config import SearchConfig
from nas.search import SearchSession
from nas.searchers import make_searcher
from nas.study import Study, Trial, TrialState, pareto_front
from slicemamba.architecture import Architecture
from slicemamba.data.cache import default_cache_dir
from slicemamba.data.catalog import resolve_root
from slicemamba.data.checks import check_dataset
from slicemamba.data.pictures import find_pictures, resolve_pictures
from slicemamba.errors import InputError, RunFailedError

SEARCH, RANDOM = "search", "random"


def run_job(
    job: Job, run: RunFolder, *, address: str | None = None, on_status: Callable[[RunStatus], None] | None = None
) -> dict[str, Any]:
    """Runs a job to its end. Everything that can be checked is checked before Ray is touched.

    Args:
        job: what to do. run: its folder; one that holds an unfinished run of the same job goes on, and nothing is done
            for a finished one.
        address: of the Ray cluster, as for ``ray_cluster``.
        on_status: called with each new status.

    Returns:
        What ``result.json`` holds.

    Raises:
        InputError: a fault of the data, a folder that holds a run with another configuration or a running driver, an
            address where no Ray answers, or a cluster without the resources.
    """
    job = _with_paths(job)
    values = job.model_dump(mode="json")
    before = run.read_json("config.json")
    if before is not None:
        # Parsed, so that an option which this version has added counts with its default.
        refuse_mixing(parse_job(before, source=str(run.config_path)).model_dump(mode="json"), values, run.path)
        done = run.read_json("result.json")  # written last, so the run is finished
        if done is not None:
            return done
    with _only_driver(run), StatusWriter(run, on_status):
        run.emit("phase", phase="check")
        _check_input(job)
        run.write_json("config.json", values)
        with ray_cluster(address) as own:
            _check_resources(job, own)
            result = _phases(job, run, default_cache_dir())
        run.write_json("result.json", result)
        return result


def _with_paths(job: Job) -> Job:
    """The job with absolute paths, which hold on other processes too. Raises InputError for unknown data."""
    if isinstance(job, PretrainJob):
        return job.model_copy(update={"data": resolve_pictures(job.data)})
    return resolve_init(job.model_copy(update={"data": resolve_root(job.data)}))


def _check_input(job: Job) -> None:
    """Raises InputError for faults of the data and for weights to start from that do not fit."""
    if isinstance(job, PretrainJob):
        find_pictures(job.data)
        return
    check_init(job)
    check_dataset(job.data, cache_dir=default_cache_dir())


def _check_resources(job: Job, own: bool) -> None:
    """Refuses what a Ray on this machine will never have; a cluster may yet grow, so there it is but a warning."""
    missing = shortage(job.resources, cluster_resources())
    if missing and own:
        raise InputError("this machine has too little for the job; lower it", pointer="/resources", details=missing)
    for sentence in missing:
        print(f"warning: {sentence}; waiting for it to grow", flush=True)


@contextmanager
def _only_driver(run: RunFolder) -> Iterator[None]:
    """One run has one driver: a second one in the same folder is refused. The lock dies with its process."""
    run.path.mkdir(parents=True, exist_ok=True)
    with (run.path / ".driver.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{run.path} has a running driver; wait for it or stop it first") from None
        yield


def _phases(job: Job, run: RunFolder, cache_dir: Path) -> dict[str, Any]:
    # Imported here, so that a fault in the input is told without waiting for torch.
    from cluster import ray_pretrain, ray_train, results

    if isinstance(job, PretrainJob):
        _once(run, "pretrain", "pretrained", lambda: ray_pretrain.pretrain(job, run))
        return results.pretrained(job, run)
    if isinstance(job, RetrainJob):
        folder = _once(run, "retrain", "retrained", lambda: ray_train.retrain(job, job.slicing, run, cache_dir))
        return results.retrained(job, run, folder, cache_dir)
    supernet = _once(run, "supernet", "supernet", lambda: ray_train.train_supernet(job, run, cache_dir))
    if isinstance(job, SupernetJob):
        return results.supernet(job, run)
    study = _search(job, run, cache_dir, supernet, SEARCH, job.search)
    if job.search.random_baseline:
        _search(
            job,
            run,
            cache_dir,
            supernet,
            RANDOM,
            job.search.model_copy(update={"searcher": "random", "evaluate_fixed": False}),
        )
    front = pareto_front(study.trials(), study.objectives)
    if not front:
        raise RunFailedError(f"none of the candidates could be evaluated; the first: {study.trials()[0].error}")
    network: Path | None = None
    if job.retrain is not None:
        winner = Architecture.parse(front[0].architecture)
        network = _once(run, "retrain", "retrained", lambda: ray_train.retrain(job, winner, run, cache_dir))
    return results.searched(job, run, network, cache_dir)


def _once(run: RunFolder, phase: str, folder: str, train: Callable[[], Path]) -> Path:
    """Trains unless the trained network is there: its card is written last."""
    run.emit("phase", phase=phase)
    if (run.path / folder / "config.json").exists():
        return run.path / folder
    return train()


def _search(job: SearchJob, run: RunFolder, cache_dir: Path, supernet: Path, name: str, config: SearchConfig) -> Study:
    from cluster import ray_tune

    run.emit("phase", phase=name)
    space = job.search_space
    study = Study(run.study_location, run.study_name(name), space, config.objectives, config.searcher)
    session = SearchSession(
        study,
        make_searcher(config, space),
        origin=config.searcher,
        num_trials=config.num_trials,
        enqueue=space.fixed() if config.evaluate_fixed else [],
    )
    progress = _SearchProgress(run, name, study, config)
    ray_tune.search(job, session, supernet, run, cache_dir, name=name, on_trial=progress)
    return study


class _SearchProgress:
    """Writes each ended trial and the search's progress to the events."""

    def __init__(self, run: RunFolder, phase: str, study: Study, config: SearchConfig) -> None:
        self._run = run
        self._phase = phase
        self._config = config
        self._trials = [trial for trial in study.trials() if trial.ended]
        self._front = pareto_front(self._trials, config.objectives)
        self._show()

    def __call__(self, trial: Trial) -> None:
        self._trials.append(trial)
        if trial.state is TrialState.COMPLETED:
            self._front = pareto_front([*self._front, trial], self._config.objectives)
        fields = {"number": trial.number, "state": trial.state.value, "architecture": trial.architecture}
        self._run.emit("trial", phase=self._phase, **fields, metrics=trial.metrics, error=trial.error)
        self._show()

    def _show(self) -> None:
        metrics: dict[str, float] = {"front": len(self._front)}
        if self._front:
            first = self._config.objectives[0]
            metrics[f"best_{first}"] = self._front[0].metrics[first]
        self._run.emit(
            "progress",
            phase=self._phase,
            done=len(self._trials),
            total=self._config.num_trials,
            unit="trials",
            metrics=metrics,
        )
