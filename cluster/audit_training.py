"""The audit's trainings on Ray: slicings trained from scratch and scored, and what follows from their scores."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np
import torch

from cluster.audit_front import Counts
from cluster.capacity import live_nodes, num_fitting
from cluster.config import RetrainJob, SearchJob, TrainWorkers, refuse_mixing, retraining
from cluster.connect import connected
from cluster.ray_train import retrain
from cluster.run_folder import RunFolder
from cluster.run_view import RunStatus
from cluster.status import StatusWriter
from cluster.studies import studies_of
from cluster.workers import device_for, run_on_worker
from nas.audit import (
    Estimate,
    difference,
    not_worse,
    rank_agreement,
    score_interval,
    seed_deviation,
    spread_sample,
)
from nas.config import AuditConfig
from nas.objectives import primary_metric
from nas.study import Trial, TrialState
from slicemamba.architecture import Architecture
from slicemamba.config import DataConfig, TrainConfig
from slicemamba.data.base import SegmentationData, load_split
from slicemamba.errors import RunFailedError
from slicemamba.evaluation.evaluate import evaluate
from slicemamba.evaluation.metrics import confusion, summarize
from slicemamba.evaluation.scores import save_arrays
from slicemamba.models.checkpoints import load_network

SPLITS = ("search", "test")
A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Training:
    """One training of the audit: the ``first`` of its architecture, or from a further seed.

    ``place`` names its folder; ``roles`` say why it is done.
    """

    place: int
    architecture: str
    roles: tuple[str, ...]
    seed: int
    first: bool = True


def plan_trainings(job: SearchJob, settings: AuditConfig, best: Trial, pool: Sequence[Trial]) -> list[Training]:
    """The best, the fixed slicings and a sample of all others over the supernet's scores, with one seed."""
    fixed = {str(one): f"fixed {one.fixed_name}" for one in job.search_space.fixed()}
    roles: dict[str, tuple[str, ...]] = {best.architecture: ("best",)}
    for architecture, role in fixed.items():
        roles[architecture] = (*roles.get(architecture, ()), role)
    metric = primary_metric(job.search.objectives)
    for trial in spread_sample(pool, metric, settings.num_retrained, set(roles)):
        roles[trial.architecture] = ("sampled",)
    seed = _settings(job, settings).seed
    return [Training(place, architecture, role, seed) for place, (architecture, role) in enumerate(roles.items())]


def _settings(job: SearchJob, settings: AuditConfig) -> TrainConfig:
    """The run's own settings of retraining, the published ones where it has none, with the audit's epochs."""
    base = job.retrain or TrainConfig()
    return base if settings.epochs is None else base.model_copy(update={"epochs": settings.epochs})


def retrained_scores(
    job: SearchJob,
    run: RunFolder,
    folder: RunFolder,
    settings: AuditConfig,
    front: Sequence[Trial],
    known: dict[str, Trial],
    cache_dir: Path,
) -> dict[str, Any]:
    """Trains and scores what is planned, then the best and its rival from further seeds; and what follows from it."""
    metric, best = primary_metric(job.search.objectives), front[0]
    # The search's record of an architecture goes before the random search's, so that its trial number is told.
    pool = {
        **known,
        **{t.architecture: t for t in studies_of(run, "search")["search"]},
    }
    plan = plan_trainings(job, settings, best, list(pool.values()))
    work = _Trainings(job, run, folder, settings, cache_dir)
    folder.emit("phase", phase="audit_retrain")
    counts = work.train(plan, more=(2 + settings.cheaper_members) * (settings.retrain_seeds - 1))
    patients = {split: _patients(job.data, split, cache_dir) for split in SPLITS}
    own = [one for one in counts if "best" in one.roles]
    if not own:
        raise RunFailedError(f"the best slicing could not be trained: {work.failures.get(plan[0].place)}")
    rival = _rival(counts, metric)
    twins = [] if rival is None else [own[0], rival] * (settings.retrain_seeds - 1)
    extra = [replace(one, place=len(plan) + i, seed=one.seed + 1 + i // 2, first=False) for i, one in enumerate(twins)]
    counts |= work.train(extra)
    fixed = _best_fixed(counts, metric)
    members = _cheaper_members(front, fixed, pool, settings.cheaper_members)
    extra += _further_trainings([*members, fixed.architecture], [*plan, *extra], settings.retrain_seeds)
    counts |= work.train([one for one in extra if one not in counts])
    rows = [_row(one, counts.get(one), pool, metric, patients, work.failures.get(one.place)) for one in [*plan, *extra]]
    first = [one for one in plan if one in counts and _supernet_score(one, pool, metric) is not None]
    return {
        "metric": metric,
        "retrained": rows,
        "seed_deviation": _seed_deviation(rows),
        "ranking": {split: _ranking(first, counts, pool, metric, split, settings.seed) for split in SPLITS},
        "cheaper": _judge_cheaper(members, fixed, counts, pool, metric, patients["test"], settings),
        "comparison": _comparison(counts, own[0], rival, metric, patients["test"], settings.seed),
        "trivial": _against_trivial(job.data, counts[own[0]]["test"], metric, settings.seed, cache_dir),
        "num_test_images": len(counts[own[0]]["test"]),
        "num_test_patients": len(set(patients["test"])),
    }


def _seed_deviation(rows: Sequence[dict[str, Any]]) -> float | None:
    """Of the score on test."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        if "test" in row:
            scores.setdefault(row["architecture"], []).append(row["test"]["value"])
    return seed_deviation(list(scores.values()))


class _Trainings:
    """Trains and scores, each in ``audit/retrained/NN``, as many at once as the cluster has room for.

    What is there already is read.
    """

    def __init__(
        self, job: SearchJob, run: RunFolder, folder: RunFolder, settings: AuditConfig, cache_dir: Path
    ) -> None:
        self._job = job
        self._run = run
        self._folder = folder
        self._settings = _settings(job, settings)
        self._cache_dir = cache_dir
        self._parts: dict[int, float] = {}
        self._total = 0
        self.failures: dict[int, str] = {}

    def train(self, trainings: Sequence[Training], more: int = 0) -> dict[Training, dict[str, Counts]]:
        """Counts of each split by training; one that failed is left out and does not stop the others.

        Args:
            more: trainings that will follow, for the progress.
        """
        self._total = max(self._total, len(self._parts) + len(trainings) + more)
        for one in trainings:
            self._progress(one, 0.0, {})
        found = in_threads(self._train, trainings, num_trainings_at_once(self._job.resources.train))
        return {one: counts for one, counts in zip(trainings, found, strict=True) if counts is not None}

    def _train(self, one: Training) -> dict[str, Counts] | None:
        place = RunFolder(self._folder.path / "retrained" / f"{one.place:02d}")
        place.attempt = self._folder.attempt  # the audit's driver is that of its trainings
        job = self._retrain_job(one)
        refuse_mixing(place.read_json("config.json"), job, place.path)
        place.write_json("config.json", job.model_dump(mode="json"))
        scores = place.path / "scores.npz"
        if not scores.exists():
            try:
                network = self._network(one, job, place)
            except RunFailedError as error:
                self.failures[one.place] = str(error)
                return None
            workers = self._job.resources.train
            given = (workers, self._job.data, network, self._cache_dir, job.retrain.batch_size)
            counts = run_on_worker(_count_splits, workers, "audit evaluate", *given)
            place.check_attempt()
            save_arrays(scores, **counts)
        self._progress(one, 1.0, {})
        with np.load(scores, allow_pickle=False) as arrays:
            return {split: arrays[split] for split in SPLITS}

    def _retrain_job(self, one: Training) -> RetrainJob:
        settings = self._settings.model_copy(update={"seed": one.seed})
        return retraining(self._job, settings, architecture=one.architecture)

    def _network(self, one: Training, job: RetrainJob, place: RunFolder) -> Path:
        """The folder of the trained network: the run's own where it was trained just so."""
        own = self._run.path / "retrained"
        # From other weights it is another recipe.
        same = "best" in one.roles and job.retrain == self._job.retrain and self._job.init is None
        if same and (own / "config.json").exists():
            return own
        if (place.path / "retrained" / "config.json").exists():  # written last
            return place.path / "retrained"

        def forward(status: RunStatus) -> None:
            step = status.progress.get("retrain")
            if step is not None and step.total:
                self._progress(one, step.done / step.total, step.metrics)

        with StatusWriter(place, forward):
            place.emit("phase", phase="retrain")
            return retrain(job, Architecture.parse(one.architecture), place, self._cache_dir)

    def _progress(self, one: Training, part: float, metrics: dict[str, float]) -> None:
        """In epochs of all trainings together."""
        self._parts[one.place] = part
        self._folder.emit(
            "progress",
            phase="audit_retrain",
            done=round(self._settings.epochs * sum(self._parts.values())),
            total=self._settings.epochs * self._total,
            unit="epochs",
            metrics=metrics,
        )


def in_threads(function: Callable[[A], B], arguments: Sequence[A], num_threads: int) -> list[B]:
    """``map`` by several threads, which raises the first error as soon as there is one, and begins nothing after it.

    What others have begun by then does not keep the process from ending, unlike threads of concurrent.futures.
    """
    waiting = deque(enumerate(arguments))
    ended: SimpleQueue[tuple[int, B] | BaseException] = SimpleQueue()

    def work() -> None:
        with suppress(IndexError):  # nothing waits any more
            while True:
                place, argument = waiting.popleft()
                try:
                    ended.put((place, function(argument)))
                except BaseException as error:
                    ended.put(error)
                    return

    for _ in range(min(num_threads, len(arguments))):
        threading.Thread(target=work, daemon=True).start()
    found: dict[int, B] = {}
    try:
        while len(found) < len(arguments):
            outcome = ended.get()
            if isinstance(outcome, BaseException):
                raise outcome
            found[outcome[0]] = outcome[1]
    finally:
        waiting.clear()
    return [found[place] for place in range(len(arguments))]


def num_trainings_at_once(workers: TrainWorkers) -> int:
    """How many trainings the cluster has room for now; at least one, which then waits for room.

    Without a cluster they are in this process, whose generators of random numbers are the training's: one at a time.
    """
    if not connected():
        return 1
    return max(1, num_fitting(workers, live_nodes()) // workers.num_workers)


def _count_splits(
    workers: TrainWorkers, config: DataConfig, folder: Path, cache_dir: Path, batch_size: int
) -> dict[str, Counts]:
    device = device_for(workers)
    network = load_network(folder).to(device)
    counts = {}
    for split in SPLITS:
        data = load_split(config, split, cache_dir)
        counts[split] = evaluate(network, data, batch_size=batch_size, device=device, with_hd95=False).counts
    return counts


def _patients(config: DataConfig, split: str, cache_dir: Path) -> Sequence[str]:
    data = load_split(config, split, cache_dir)
    return data.patients or data.names


def _rival(counts: dict[Training, dict[str, Counts]], metric: str) -> Training | None:
    """The fixed slicing that scores best on the search split; None when the best is itself one.

    Chosen there, so that the test split is not used to choose the one it is then used to compare with.
    """
    best = _best_fixed(counts, metric)
    return None if any("best" in one.roles and _is_fixed(one) for one in counts) else best


def _best_fixed(counts: dict[Training, dict[str, Counts]], metric: str) -> Training:
    """Of the fixed networks' first trainings, the one that scores best on the search split."""
    fixed = [one for one in counts if _is_fixed(one) and one.first]
    if not fixed:
        raise RunFailedError("none of the fixed slicings could be trained, so there is nothing to compare with")
    return max(fixed, key=lambda one: _score(counts[one]["search"], metric))


def _is_fixed(one: Training) -> bool:
    return any(role.startswith("fixed") for role in one.roles)


def _cheaper_members(front: Sequence[Trial], fixed: Training, known: dict[str, Trial], most: int) -> list[str]:
    """Architectures of the front, best first, that need fewer operations than the best fixed network."""
    rival = known.get(fixed.architecture)
    if rival is None or "flops" not in rival.metrics:
        return []
    return [one.architecture for one in front if one.metrics["flops"] < rival.metrics["flops"]][:most]


def _further_trainings(architectures: Sequence[str], done: Sequence[Training], num_seeds: int) -> list[Training]:
    """What is missing until each architecture has been trained from so many seeds."""
    seed, place = done[0].seed, max(one.place for one in done) + 1
    known = {(one.architecture, one.seed): one.roles for one in done}
    wanted = [(text, seed + offset) for text in architectures for offset in range(num_seeds)]
    missing = [one for one in wanted if one not in known]
    return [
        Training(place + i, text, known.get((text, seed), ("cheaper",)), own, first=False)
        for i, (text, own) in enumerate(missing)
    ]


def _judge_cheaper(
    members: Sequence[str],
    fixed: Training,
    counts: dict[Training, dict[str, Counts]],
    known: dict[str, Trial],
    metric: str,
    patients: Sequence[str],
    settings: AuditConfig,
) -> dict[str, Any]:
    """Each cheaper member against the best fixed network, over all of their trainings on test, and what both cost."""

    def trainings(architecture: str) -> list[Counts]:
        return [found["test"] for one, found in counts.items() if one.architecture == architecture]

    judged = [text for text in members if trainings(text)]
    rival = trainings(fixed.architecture)
    found = not_worse([trainings(text) for text in judged], rival, metric, patients=patients, seed=settings.seed)
    costs = ("flops", "params", "latency_ms")
    own, other = ([known[text].metrics for text in texts] for texts in (judged, [fixed.architecture]))
    return {
        "margin": settings.margin,
        "rival": fixed.roles[-1].removeprefix("fixed "),
        "members": [
            {
                "number": known[text].number,
                "architecture": text,
                "difference": estimate.model_dump(),
                "seeds": min(len(trainings(text)), len(rival)),
                "costs": {name: [metrics[name], other[0][name]] for name in costs if name in metrics},
            }
            for text, estimate, metrics in zip(judged, found, own, strict=True)
        ],
    }


def _score(counts: Counts, metric: str) -> float:
    return summarize(torch.from_numpy(counts.astype(np.int64)))[metric]


def _supernet_score(one: Training, known: dict[str, Trial], metric: str) -> float | None:
    trial = known.get(one.architecture)
    return None if trial is None or trial.state is not TrialState.COMPLETED else trial.metrics[metric]


def _row(
    one: Training,
    counts: dict[str, Counts] | None,
    known: dict[str, Trial],
    metric: str,
    patients: dict[str, Sequence[str]],
    failure: str | None,
) -> dict[str, Any]:
    scores = {
        split: score_interval(found, metric, patients=patients[split]).model_dump()
        for split, found in (counts or {}).items()
    }
    return {
        "folder": f"audit/retrained/{one.place:02d}",
        "architecture": one.architecture,
        "roles": list(one.roles),
        "seed": one.seed,
        "supernet": _supernet_score(one, known, metric),
        **scores,
        "error": failure,
    }


def _ranking(
    trainings: list[Training],
    counts: dict[Training, dict[str, Counts]],
    known: dict[str, Trial],
    metric: str,
    split: str,
    seed: int,
) -> dict[str, Any]:
    supernet = [_supernet_score(one, known, metric) or 0.0 for one in trainings]
    return rank_agreement(supernet, [_score(counts[one][split], metric) for one in trainings], seed)


def _comparison(
    counts: dict[Training, dict[str, Counts]],
    best: Training,
    rival: Training | None,
    metric: str,
    patients: Sequence[str],
    seed: int,
) -> dict[str, Any]:
    """The best against its rival over all their trainings, and against each fixed slicing with one seed."""

    def trainings(of: Training) -> list[Counts]:
        return [found["test"] for one, found in counts.items() if one.architecture == of.architecture]

    def less(of: list[Counts], other: list[Counts]) -> Estimate:
        return difference(of, other, metric, patients=patients, seed=seed)

    fixed = {
        one.roles[-1].removeprefix("fixed "): less(trainings(best)[:1], [found["test"]])
        for one, found in counts.items()
        if one.roles[-1].startswith("fixed") and one.seed == best.seed and one.architecture != best.architecture
    }
    against = None if rival is None else less(trainings(best), trainings(rival))
    return {
        "best": best.architecture,
        "rival": None if rival is None else rival.roles[-1].removeprefix("fixed "),
        "difference": None if against is None else against.model_dump(),
        "retrain_seeds": 0 if rival is None else min(len(trainings(best)), len(trainings(rival))),
        "fixed": {size: one.model_dump() for size, one in fixed.items()},
    }


def _against_trivial(config: DataConfig, best: Counts, metric: str, seed: int, cache_dir: Path) -> dict[str, Any]:
    """The best less the better of marking nothing and marking everything, on test."""
    data = load_split(config, "test", cache_dir)
    trivial = {name: _trivial_counts(data, label) for name, label in (("all background", 0), ("all foreground", 1))}
    better = max(trivial, key=lambda name: _score(trivial[name], metric))
    found = difference([best], [trivial[better]], metric, patients=data.patients, seed=seed)
    return {"name": better, "difference": found.model_dump()}


def _trivial_counts(data: SegmentationData, label: int) -> Counts:
    masks = torch.from_numpy(np.array(data.masks))
    counts: Counts = confusion(torch.full_like(masks, label), masks, data.num_classes).numpy()
    return counts
