"""The driver of one run: its phases in order, each skipped when its output is there already.

    supernet → search → random (optional) → retrain (optional) → evaluate

Killed at any point and started again on the same folder, a run goes on from the last checkpoint and the last trial.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.config import Job, PretrainJob, RetrainJob, SearchJob, SupernetJob, refuse_mixing
from cluster.connect import cluster_resources, ray_cluster, shortage
from cluster.initial import check_init, resolve_init
from cluster.run_folder import JOURNAL, RunFolder, RunStatus
from cluster.status import StatusWriter
from nas.config import SearchConfig, WarmStart
from nas.racing import Leaders
from nas.search import SearchSession
from nas.searchers import make_searcher
from nas.study import Study, Trial, TrialState, find_settings, open_storage, pareto_front
from nas.warm_start import best_architectures
from slicemamba.architecture import Architecture
from slicemamba.data.cache import default_cache_dir
from slicemamba.data.catalog import resolve_root
from slicemamba.data.checks import check_dataset
from slicemamba.data.pictures import find_pictures, resolve_pictures
from slicemamba.errors import InputError, RunFailedError

SEARCH, RANDOM = "search", "random"
WINNER = "winner.json"
LATENCIES = "latencies.json"


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
    refuse_mixing(before, job, run.path)
    if before is not None:
        done = run.read_json("result.json")  # written last, so the run is finished
        if done is not None:
            return done
    with only_driver(run), StatusWriter(run, on_status):
        run.emit("phase", phase="check")
        _check_input(job)
        if before is None and isinstance(job, SearchJob) and job.search.warm_start is not None:
            _warm_start(job, run, job.search.warm_start)
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
def only_driver(run: RunFolder) -> Iterator[None]:
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
    config = with_proven_precision(job, run, cache_dir, supernet)
    study = _search(job, run, cache_dir, supernet, SEARCH, config)
    if job.search.random_baseline:
        # Scored in full: what a search is compared with shows how scores are spread, not the best one alone.
        plain = {"searcher": "random", "evaluate_fixed": False, "warm_start": None, "racing": None}
        _search(job, run, cache_dir, supernet, RANDOM, config.model_copy(update=plain))
    front = pareto_front(study.trials(), study.objectives)
    if not front:
        raise RunFailedError(_why_no_front(study.trials()))
    network: Path | None = None
    if job.retrain is not None:
        winner = Architecture.parse(front[0].architecture)
        _set_aside_other_winner(run, winner)
        network = _once(run, "retrain", "retrained", lambda: ray_train.retrain(job, winner, run, cache_dir))
    return results.searched(job, run, network, cache_dir)


def _set_aside_other_winner(run: RunFolder, winner: Architecture) -> None:
    """A search that was extended may have another winner: nothing of the former one's training may go into its own."""
    begun = run.read_json(WINNER)
    if begun is not None and begun["architecture"] != str(winner):
        for folder in (".ray/retrain", "tensorboard/retrain"):
            shutil.rmtree(run.path / folder, ignore_errors=True)
        if (run.path / "retrained").exists():
            taken = len(list(run.path.glob("retrained-*")))
            (run.path / "retrained").rename(run.path / f"retrained-{taken + 1}")
        run.emit("set_aside", phase="retrain", architecture=begun["architecture"])
    run.write_json(WINNER, {"architecture": str(winner)})


def _why_no_front(trials: list[Trial]) -> str:
    completed = [trial for trial in trials if trial.state is TrialState.COMPLETED]
    if not completed:
        return f"none of the candidates could be evaluated; the first: {trials[0].error}"
    nearest = min(completed, key=lambda trial: trial.violation)
    metrics = ", ".join(f"{name} {value:.6g}" for name, value in nearest.metrics.items())
    return (
        f"none of {len(completed)} candidates meets the constraints; the nearest is {nearest.architecture}: {metrics}. "
        "Loosen search.constraints, or widen the space"
    )


def _once(run: RunFolder, phase: str, folder: str, train: Callable[[], Path]) -> Path:
    """Trains unless the trained network is there: its card is written last."""
    run.emit("phase", phase=phase)
    if (run.path / folder / "config.json").exists():
        return run.path / folder
    return train()


def with_proven_precision(job: SearchJob, run: RunFolder, cache_dir: Path, supernet: Path) -> SearchConfig:
    """The search's settings, with float32 in place of a precision that does not rank slicings as float32 does.

    Decided once in a run and kept in its folder, so that a resumed search goes on in the same precision.
    """
    from cluster import ray_tune
    from nas.precision import REQUIRED_TAU

    if job.search.precision == "float32":
        return job.search
    found = run.read_json("precision.json")
    if found is None:
        tau = ray_tune.agreement_of_precision(job, supernet, cache_dir)
        found = {"asked": job.search.precision, "kendall_tau": tau, "required_tau": REQUIRED_TAU}
        run.write_json("precision.json", found)
    if found["kendall_tau"] >= REQUIRED_TAU:
        return job.search
    message = (
        f"{job.search.precision} is not used: Kendall's tau between its ranking of slicings and float32's is "
        f"{found['kendall_tau']:.3f}, less than {REQUIRED_TAU}; the search goes on in float32"
    )
    run.emit("warning", phase=SEARCH, message=message)
    print(f"warning: {message}", flush=True)
    return job.search.model_copy(update={"precision": "float32"})


def _search(job: SearchJob, run: RunFolder, cache_dir: Path, supernet: Path, name: str, config: SearchConfig) -> Study:
    from cluster import ray_tune

    run.emit("phase", phase=name)
    space = job.search_space
    study = Study(
        run.study_location, run.study_name(name), space, config.objectives, config.searcher, config.constraints
    )
    warm_start = config.warm_start
    session = SearchSession(
        study,
        make_searcher(config, space),
        origin=config.searcher,
        num_trials=config.num_trials,
        enqueue=space.fixed() if config.evaluate_fixed else [],
        # Kept with the study, so that a resumed search does not depend on the earlier one.
        warm=study.warm_start(lambda: _warm_start(job, run, warm_start)) if warm_start else [],
        leaders=Leaders(config) if config.racing else None,
    )
    progress = _SearchProgress(run, name, study, config)
    settled = job.model_copy(update={"search": config})
    latencies = _latency_table(settled, run, cache_dir, supernet)
    ray_tune.search(settled, session, supernet, run, cache_dir, name=name, on_trial=progress, latencies=latencies)
    return study


def _latency_table(job: SearchJob, run: RunFolder, cache_dir: Path, supernet: Path) -> dict[str, Any] | None:
    """Measured once in a run, before other workers are busy, and kept in its folder."""
    from cluster import ray_tune

    if job.search.latency != "table" or "latency_ms" not in job.search.measured:
        return None
    found = run.read_json(LATENCIES)
    if found is None:
        found = ray_tune.measure_latencies(job, supernet, cache_dir)
        run.write_json(LATENCIES, found)
    return found


def _warm_start(job: SearchJob, run: RunFolder, warm_start: WarmStart) -> list[Architecture]:
    """The best of an earlier search: from its run folder, or from the database that runs share."""
    earlier = RunFolder(Path(warm_start.study))
    location, name = run.study_location, warm_start.study
    if (journal := earlier.path / JOURNAL).is_file() or isinstance(location, Path):
        location, name = journal, SEARCH
    elif find_settings(open_storage(location), name) is None:
        name = earlier.study_name(SEARCH)
    return best_architectures(location, name, job.search_space, warm_start.top)


class _SearchProgress:
    """Writes each ended trial and the search's progress to the events."""

    def __init__(self, run: RunFolder, phase: str, study: Study, config: SearchConfig) -> None:
        self._run = run
        self._phase = phase
        self._config = config
        trials = [trial for trial in study.trials() if trial.ended]
        self._savings = _Savings()
        for trial in trials:
            self._savings.add(trial)
        self._front = pareto_front(trials, config.objectives)
        self._show()

    def __call__(self, trial: Trial) -> None:
        self._savings.add(trial)
        if trial.state is TrialState.COMPLETED:
            self._front = pareto_front([*self._front, trial], self._config.objectives)
        fields = {"number": trial.number, "state": trial.state.value, "architecture": trial.architecture}
        self._run.emit("trial", phase=self._phase, **fields, metrics=trial.metrics, error=trial.error, work=trial.work)
        self._show()

    def _show(self) -> None:
        metrics: dict[str, float] = {"front": len(self._front)}
        if self._front:
            first = self._config.objectives[0]
            metrics[f"best_{first}"] = self._front[0].metrics[first]
        metrics |= self._savings.figures()
        self._run.emit(
            "progress",
            phase=self._phase,
            done=self._savings.num_ended,
            total=self._config.num_trials,
            unit="trials",
            metrics=metrics,
        )


class _Savings:
    """How many trials ended, and what was saved on them, added up as they end."""

    def __init__(self) -> None:
        self.num_ended = 0
        self._num_pruned = 0
        self._reused = 0
        self._computed = 0

    def add(self, trial: Trial) -> None:
        self.num_ended += 1
        self._num_pruned += trial.state is TrialState.PRUNED
        self._reused += trial.work.get("blocks_reused", 0)
        self._computed += trial.work.get("blocks_computed", 0)

    def figures(self) -> dict[str, float]:
        """Share of the blocks that were taken from earlier candidates, and trials given up, if any."""
        blocks = self._reused + self._computed
        pruned = {"pruned": self._num_pruned} if self._num_pruned else {}
        return ({"reused": self._reused / blocks} if blocks else {}) | pruned
