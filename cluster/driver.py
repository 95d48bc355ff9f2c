"""The driver of one run: its phases in order, each skipped when its output is there already.

    supernet → survey (optional) → search → random (optional) → finals (optional)
    → retrain (optional) → baselines (optional) → evaluate

Killed at any point and started again on the same folder, a run goes on from the last checkpoint and the last trial.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.attempts import check_no_audit, only_driver
from cluster.capacity import Need, needs_of
from cluster.cluster_health import cluster_with_room
from cluster.config import Job, PretrainJob, RetrainJob, SearchJob, SupernetJob, extends, refuse_mixing
from cluster.connect import check_can_search
from cluster.initial import check_init, resolve_init
from cluster.run_folder import JOURNAL, LATENCIES, RunFolder, reports_dir
from cluster.run_view import RunStatus
from cluster.status import StatusWriter
from cluster.storage import mirrored
from cluster.tracking import tracked
from nas.advice import advice
from nas.config import SearchConfig, WarmStart
from nas.objectives import Bound, Constraints, format_value
from nas.racing import Leaders
from nas.retries import DatabaseRetries
from nas.search import SearchSession
from nas.searchers import baseline_seed, make_searcher
from nas.space import SearchSpace
from nas.study import Study, Trial, TrialState, find_settings, mend_journal, open_storage
from nas.tally import SearchTally
from nas.warm_start import best_architectures
from slicemamba.architecture import Architecture
from slicemamba.config import DataConfig, TrainConfig
from slicemamba.data.cache import default_cache_dir
from slicemamba.data.catalog import fit_model, resolve_root
from slicemamba.data.checks import check_dataset
from slicemamba.data.pictures import find_pictures, resolve_pictures
from slicemamba.errors import RunFailedError
from slicemamba.recipes import FEW_STEPS, TRAININGS

if TYPE_CHECKING:
    from nas.survey import Survey

SEARCH, RANDOM, SURVEY = "search", "random", "survey"
SURVEY_INDEX = 2**16  # of its seed, apart from those of the audit's random searches
WINNER = "winner.json"


def run_job(
    job: Job,
    run: RunFolder,
    *,
    address: str | None = None,
    on_status: Callable[[RunStatus], None] | None = None,
    store: str | None = None,
) -> dict[str, Any]:
    """Runs a job to its end. Everything that can be checked is checked before Ray is touched.

    Args:
        job: what to do. run: its folder; one that holds an unfinished run of the same job goes on, as does a search
            that has more trials than before, and nothing is done for a finished one.
        address: of the Ray cluster, as for ``ray_cluster``; NO_RAY for none.
        on_status: called with each new status.
        store: ``s3://bucket/prefix`` that keeps a copy of the folder, which is brought from there where it is newer.

    Returns:
        What ``result.json`` holds.

    Raises:
        InputError: a fault of the data, a folder that holds a run with another configuration or a running driver, an
            address where no Ray answers, or a cluster without the resources.
    """
    if isinstance(job, SearchJob):
        check_can_search(address)
    with mirrored(run, store):  # first, as weights that the job starts from may come with it
        return _run_job(with_paths(job), run, address, on_status)


def _run_job(
    job: Job, run: RunFolder, address: str | None, on_status: Callable[[RunStatus], None] | None
) -> dict[str, Any]:
    values = job.model_dump(mode="json")
    before = run.read_json("config.json")
    other_resources = refuse_mixing(before, job, run.path)
    extended = extends(before, job)
    if before is not None and not extended:
        done = run.read_json("result.json")  # written last, so the run is finished
        if done is not None:
            return done
    with only_driver(run), tracked(run, job), StatusWriter(run, on_status):
        if extended:
            check_no_audit(run)
            run.set_aside_result()
        run.emit("phase", phase="check")
        if other_resources:
            run.warn(f"continues with other resources, so the last digits may differ: {'; '.join(other_resources)}")
        num_images = _check_input(job, run)
        if before is None and isinstance(job, SearchJob) and job.search.warm_start is not None:
            _warm_start(job, run, job.search.warm_start)
        run.write_json("config.json", values)
        with cluster_with_room(address, _needs(job, run), job.resources.wait_seconds, run.warn):
            _tell_scale(job, run, num_images)
            result = _phases(job, run, default_cache_dir())
        run.write_json("result.json", result)
        return result


def with_paths(job: Job) -> Job:
    """The job with absolute paths, which hold on other processes too. Raises InputError for unknown data."""
    if isinstance(job, PretrainJob):
        return job.model_copy(update={"data": resolve_pictures(job.data)})
    data = resolve_root(job.data)
    return resolve_init(job.model_copy(update={"data": data, "model": fit_model(job.model, data)}))


def _check_input(job: Job, run: RunFolder) -> dict[str, int]:
    """Images of each split. Raises InputError for faults of the data and for weights to start from that do not fit."""
    if isinstance(job, PretrainJob):
        find_pictures(job.data)
        return {}
    from slicemamba.data.base import load_split

    check_init(job)
    shared = reports_dir(run.path.parent)  # of the service whose run it is, which then knows the set
    reports = shared if shared.is_dir() else default_cache_dir()
    counted = check_dataset(job.data, cache_dir=reports, on_progress=partial(_tell_checked, run)).num_images
    load_split(job.data, "train", default_cache_dir())  # a cache that cannot be written to shows before Ray is started
    return counted


def _tell_checked(run: RunFolder, done: int, total: int) -> None:
    if done % max(1, total // 100) == 0:
        run.emit("progress", phase="check", done=done, total=total, unit="images", metrics={})


def _tell_scale(job: Job, run: RunFolder, num_images: dict[str, int]) -> None:
    """Tells what was checked, from which follows how long the run will take."""
    from cluster.ray_tune import num_search_workers

    if num_images:
        figures: dict[str, float] = dict(num_images)
        if isinstance(job, SearchJob):
            figures["workers"] = num_search_workers(job)
        total = sum(num_images.values())
        run.emit("progress", phase="check", done=total, total=total, unit="images", metrics=figures)
        _warn_of_few_steps(job, run, num_images["train"])
    for name in TRAININGS:
        settings: TrainConfig | None = getattr(job, name, None)
        if settings is not None and settings.learning_rate < settings.min_learning_rate:
            run.warn(
                f"{name}: learning_rate {settings.learning_rate:g} is below min_learning_rate "
                f"{settings.min_learning_rate:g}, so the cosine raises it; lower the minimum too, to 0 for example",
                "check",
            )


def _warn_of_few_steps(job: Job, run: RunFolder, num_train: int) -> None:
    """Short trainings from scratch tell little; better said before they are paid for.

    The built-in lesions are there to see the machinery at work, and are learned within a hundred steps. How many steps
    patches give is known only when all sizes are.
    """
    from slicemamba.training.trainer import steps_per_epoch

    counted = isinstance(job.data, DataConfig) and job.data.name != "synthetic" and job.data.fit != "patch"
    for name in TRAININGS if counted else ():
        settings: TrainConfig | None = getattr(job, name, None)
        if settings is None or getattr(job, "recipe", None) != "scratch":
            continue
        a_epoch = steps_per_epoch(num_train, settings.batch_size, job.resources.train.num_workers)
        steps = settings.epochs * a_epoch
        if steps < FEW_STEPS:
            epochs = math.ceil(FEW_STEPS * settings.epochs / steps)
            run.warn(
                f"{name}: {settings.epochs} epochs of {num_train} images are {steps} steps, few for a network from "
                f"scratch: seeds will differ by several points of Dice; {FEW_STEPS} steps take {name}.epochs={epochs}",
                "check",
            )


def _needs(job: Job, run: RunFolder) -> list[Need]:
    """What is left to do cannot be done without."""
    trains = not isinstance(job, SearchJob) or job.retrain is not None or not _trained(run, "supernet")
    return needs_of(job.resources, trains=trains, searches=isinstance(job, SearchJob))


def _phases(job: Job, run: RunFolder, cache_dir: Path) -> dict[str, Any]:
    # Imported here, so that a fault in the input is told without waiting for torch.
    from cluster import baselines, finals, ray_pretrain, ray_train, results
    from cluster.front import measure_front

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
    if config.num_surveyed:
        found = _survey(job, run, cache_dir, supernet, config)
        if found is not None and found.flat and config.stop_if_flat:
            run.warn("stop_if_flat: only the fixed networks are evaluated, and the best of them is taken", SEARCH)
            config = config.model_copy(update={"num_trials": len(job.search_space.fixed()), "random_baseline": False})
    study = _search(job, run, cache_dir, supernet, SEARCH, config)
    if config.random_baseline:
        _search(job, run, cache_dir, supernet, RANDOM, _at_random(config, baseline_seed(config.seed)))
    trials = study.trials()
    if not any(trial.eligible for trial in trials):
        raise RunFailedError(_why_no_front(trials, study.constraints))
    front = measure_front(job, run, trials)
    if job.finals_settings is not None:
        front = finals.hold(job, run, front, trials, supernet, cache_dir)
    network: Path | None = None
    if job.retrain is not None:
        winner = Architecture.parse(front.members[0].architecture)
        _set_aside_other_winner(run, winner)
        network = _once(run, "retrain", "retrained", lambda: ray_train.retrain(job, winner, run, cache_dir))
        if job.baselines:
            baselines.train(job, run, winner, cache_dir)
    return results.searched(job, run, front, network, cache_dir)


def _at_random(config: SearchConfig, seed: int) -> SearchConfig:
    """A random search, scored in full: what others are compared with shows how scores are spread, not the best one."""
    plain = {"searcher": "random", "evaluate_fixed": False, "warm_start": None, "racing": None, "seed": seed}
    return config.model_copy(update=plain)


def _survey(job: SearchJob, run: RunFolder, cache_dir: Path, supernet: Path, config: SearchConfig) -> Survey | None:
    """Random architectures before the search, and what they show; told in the log and kept in ``survey.json``."""
    from cluster.front import survey_of

    drawn = _at_random(config, baseline_seed(config.seed, SURVEY_INDEX))
    count = min(config.num_surveyed, job.search_space.size)
    study = _search(job, run, cache_dir, supernet, SURVEY, drawn.model_copy(update={"num_trials": count}))
    found = survey_of(job, run, study.trials(), SURVEY)
    if found is not None:
        run.emit("survey", phase=SURVEY, **found.model_dump(mode="json"))
        run.write_json("survey.json", found.model_dump(mode="json"))
        if found.flat:
            run.warn(found.sentence, SURVEY)
    return found


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


def _why_no_front(trials: list[Trial], constraints: Constraints) -> str:
    completed = [trial for trial in trials if trial.state is TrialState.COMPLETED]
    if not completed:
        return f"none of the candidates could be evaluated; the first: {trials[0].error}"
    nearest = min(completed, key=lambda trial: trial.violation)
    broken = {name: bound for name, bound in constraints.items() if bound.excess(nearest.metrics[name])}
    missed = " and ".join(f"{name} {format_value(name, nearest.metrics[name])}" for name in broken)
    limits = " and ".join(f"{name} {_limits(name, bound)}" for name, bound in broken.items())
    return (
        f"none of {len(completed)} candidates meets the constraints; the nearest has {missed}, where {limits} is asked "
        f"for: {nearest.architecture}. Loosen search.constraints, or widen the space"
    )


def _limits(name: str, bound: Bound) -> str:
    """``at least 0.9``, ``at most 317 M``, or both."""
    told = (("at least", bound.min), ("at most", bound.max))
    return " and ".join(f"{word} {format_value(name, limit)}" for word, limit in told if limit is not None)


def _once(run: RunFolder, phase: str, folder: str, train: Callable[[], Path]) -> Path:
    """Trains unless the trained network is there: its card is written last."""
    run.emit("phase", phase=phase)
    return run.path / folder if _trained(run, folder) else train()


def _trained(run: RunFolder, folder: str) -> bool:
    return (run.path / folder / "config.json").exists()


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
    run.warn(
        f"{job.search.precision} is not used: Kendall's tau between its ranking of slicings and that of float32 is "
        f"{found['kendall_tau']:.3f}, less than {REQUIRED_TAU}; the search continues in float32",
        SEARCH,
    )
    return job.search.model_copy(update={"precision": "float32"})


def _search(job: SearchJob, run: RunFolder, cache_dir: Path, supernet: Path, name: str, config: SearchConfig) -> Study:
    from cluster import ray_tune

    run.emit("phase", phase=name)
    for sentence in advice(config, job.data.num_classes):
        run.warn(sentence, name)
    space = job.search_space
    study = open_study(run, name, space, config.objectives, config.searcher, config.constraints)
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
    ray_tune.search(
        settled,
        session,
        supernet,
        run,
        cache_dir,
        name=name,
        on_trial=progress,
        latencies=latencies,
        on_running=progress.on_running,
    )
    return study


def open_study(
    run: RunFolder,
    kind: str,
    space: SearchSpace,
    objectives: tuple[str, ...],
    searcher: str,
    constraints: Constraints | None = None,
    *,
    driver: RunFolder | None = None,
) -> Study:
    """A study of a run, which this process alone may write to from now on; it waits for a database that is away.

    Args:
        run, kind: whose study, and which. space, objectives, searcher, constraints: as of ``Study``.
        driver: the folder at which this process has an attempt, and that is told of waiting; ``run`` by default.
    """
    driver = driver or run
    if isinstance(run.study_location, Path):
        mend_journal(run.study_location)
    retries = DatabaseRetries(partial(driver.warn, phase=kind))
    study = Study(run.study_location, run.study_name(kind), space, objectives, searcher, constraints, retries)
    if driver.attempt is not None:
        study.claim(driver.attempt.token)
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


_TOLD = {"number", "state", "architecture", "metrics", "error", "seconds", "work"}


class _SearchProgress:
    """Writes each ended trial and the search's progress to the events, and to Ray's metrics."""

    def __init__(self, run: RunFolder, phase: str, study: Study, config: SearchConfig) -> None:
        from cluster.metrics import SearchMetrics

        self._run = run
        self._phase = phase
        self._config = config
        self._tally = SearchTally(config.objectives, [trial for trial in study.trials() if trial.ended])
        self._metrics = SearchMetrics(run.path.name, phase)
        self._running = self._most_running = 0
        self._show()

    def __call__(self, trial: Trial) -> None:
        self._tally.add(trial)
        self._metrics.ended(trial)
        fields = trial.model_dump(mode="json", include=_TOLD)
        self._run.emit("trial", phase=self._phase, **fields)
        self._show()

    def on_running(self, number: int) -> None:
        self._running, self._most_running = number, max(number, self._most_running)
        self._metrics.running(number)

    def _show(self) -> None:
        tally = self._tally
        figures: dict[str, float] = {"front": tally.front_size}
        if self._phase == SEARCH:  # that has no fixed slicings to measure from, so its figure would not compare
            figures["hypervolume"] = tally.hypervolume
        if tally.best is not None:
            figures[f"best_{self._config.objectives[0]}"] = tally.best
        if tally.reused is not None:
            figures["reused"] = tally.reused
        if pruned := tally.states[TrialState.PRUNED]:
            figures["pruned"] = pruned
        if self._most_running:  # since the last trial ended
            figures["running"], self._most_running = self._most_running, self._running
        total = self._config.num_trials
        self._run.emit("progress", phase=self._phase, done=tally.num_ended, total=total, unit="trials", metrics=figures)
        self._metrics.show(tally)
