"""Finals: the frontier's members and the fixed networks, each trained on from its part of the supernet's weights.

A supernet ranks well over the whole space and badly at its top, where the answer is taken from. So the few that may be
the answer are trained a little, each with weights of its own by then, in rounds after which the better half goes on
(successive halving, arXiv 1502.07943). A round is a study and a Tune experiment of its own, so a stopped one goes on
after its last ended trial; what a trial gives follows from the seed alone.

<run>/finals.json                who takes part
<run>/finals/<round>/<trial>.pt  the state that the next round goes on from, by number in the search's study
<run>/finals/<trial>/            the network of one that got through all rounds
<run>/scores/finals-<round>/     counts of each image of the search split, as of the search's candidates
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.config import SearchJob, parse_job
from cluster.driver import open_study
from cluster.front import keep_front, latency_resolution_ms
from cluster.ray_tune import SlicingTrial, Weights, search, supernet_on
from cluster.rounds import finals_training, round_epochs, round_sizes
from cluster.run_folder import FINALS_KINDS, RunFolder
from cluster.workers import device_for, use_threads
from nas.counts import ScoredImages, load_scored, save_counts
from nas.front import MeasuredFront, measured_front
from nas.objectives import loss_matrix
from nas.pareto import crowded_order
from nas.pick import spread
from nas.search import SearchSession
from nas.searchers.listed import ListedSearcher
from nas.study import Trial, TrialState, delete_studies
from slicemamba.architecture import Architecture
from slicemamba.config import TrainConfig
from slicemamba.data.base import load_split
from slicemamba.data.patients import groups_of
from slicemamba.evaluation.evaluate import evaluate
from slicemamba.files import writing
from slicemamba.models.checkpoints import NetworkCard, save_network
from slicemamba.training.trainer import State, fit, trained_weights

FINALS = "finals"
FINALISTS = "finals.json"
_COSTS = ("params", "flops", "latency_ms", "peak_memory_mb")
"""What training does not change, and the search has measured."""


def hold(
    job: SearchJob, run: RunFolder, front: MeasuredFront, trials: Sequence[Trial], supernet: Path, cache_dir: Path
) -> MeasuredFront:
    """Holds the finals; the frontier by their scores, or the search's where it has one network and there is no rival.

    Args:
        front: by the supernet's scores. trials: of the search.
    """
    settings = job.finals_settings
    assert settings is not None
    chosen = choose_finalists(front, trials, settings.max_candidates, job.search.objectives[0])
    if len(chosen) < 2:
        run.warn("finals need two networks to compare, and the frontier has one; they are left out", FINALS)
        return front
    run.emit("phase", phase=FINALS)
    _set_aside_others(run, chosen)
    sizes = round_sizes(len(chosen), settings.rounds)
    ended, results = 0, dict[int, Trial]()
    for number, size in enumerate(sizes, 1):
        running = chosen if number == 1 else survivors(chosen, results, job.search.objectives, size)
        results = _hold_round(job, run, number, running, supernet, cache_dir, ended, sum(sizes))
        ended += len(running)
        chosen = [one for one in running if one.number in results]
    if not any(result.eligible for result in results.values()):
        run.warn("none of the finalists meets the constraints after the finals; the search's frontier stands", FINALS)
        return front
    return _front_of(job, run, trials, results, len(sizes))


def choose_finalists(front: MeasuredFront, trials: Sequence[Trial], most: int, objective: str) -> list[Trial]:
    """The best fixed networks, at most half, and members spread evenly over the frontier, its ends first.

    Args:
        most: of both together. objective: by which the fixed ones are ranked, and the frontier is.
    """
    members = [trials[member.number] for member in front.members]
    others = [t for t in trials if t.origin == "fixed" and t.eligible and t not in members]
    others.sort(key=lambda t: loss_matrix([t.metrics], [objective])[0, 0])
    fixed = others[: max(most // 2, most - len(members))]
    room = most - len(fixed)
    return spread(members, room) + fixed


def survivors(
    running: Sequence[Trial], results: Mapping[int, Trial], objectives: tuple[str, ...], count: int
) -> list[Trial]:
    """Who goes on: the best by all objectives, and among them the fixed network that scores best.

    Args:
        running: of the round, as of the search. results: by their numbers, those that ended with a score.
        count: how many.
    """
    left = [one for one in running if one.number in results]
    losses = loss_matrix([results[one.number].metrics for one in left], objectives)
    violations = np.array([results[one.number].violation for one in left])
    order = [left[place] for place in crowded_order(losses, violations)]
    fixed = [one for one in left if one.origin == "fixed"]
    kept = order[:count]
    if fixed and not any(one.origin == "fixed" for one in kept):
        best = min(fixed, key=lambda one: loss_matrix([results[one.number].metrics], objectives[:1])[0, 0])
        kept = [*kept[: count - 1], best]
    return kept


def _set_aside_others(run: RunFolder, chosen: Sequence[Trial]) -> None:
    """Removes finals of other networks: a search that was extended may have another frontier."""
    names = [one.architecture for one in chosen]
    before = run.read_json(FINALISTS)
    if before is not None and before["architectures"] != names:
        delete_studies(run.study_location, [run.study_name(kind) for kind in FINALS_KINDS])
        for folder in (run.path / FINALS, *(run.path / "scores").glob(f"{FINALS}-*")):
            shutil.rmtree(folder, ignore_errors=True)
    run.write_json(FINALISTS, {"architectures": names})


def _hold_round(
    job: SearchJob,
    run: RunFolder,
    number: int,
    running: Sequence[Trial],
    supernet: Path,
    cache_dir: Path,
    ended: int,
    total: int,
) -> dict[int, Trial]:
    """Trains and scores those that take part; the trials that ended with a score, by number in the search's study."""
    kind = f"{FINALS}-{number}"
    by_architecture = {one.architecture: one for one in running}
    study = open_study(run, kind, job.search_space, job.search.objectives, FINALS, job.search.constraints)
    listed = [Architecture.parse(text) for text in by_architecture]
    session = SearchSession(study, ListedSearcher(listed), origin=FINALS, num_trials=len(listed))

    def show(trial: Trial | None = None) -> None:
        done = ended + session.num_ended
        run.emit("progress", phase=FINALS, done=done, total=total, unit="trainings", metrics={"round": number})

    show()
    known = {
        text: {"number": one.number, "costs": {name: one.metrics[name] for name in _COSTS if name in one.metrics}}
        for text, one in by_architecture.items()
    }
    search(
        job,
        session,
        supernet,
        run,
        cache_dir,
        name=kind,
        on_trial=show,
        worker=FinalsTrial,
        more={"number": number, "known": known},
    )
    done = [trial for trial in study.trials() if trial.state is TrialState.COMPLETED]
    return {by_architecture[trial.architecture].number: trial for trial in done}


def _front_of(
    job: SearchJob, run: RunFolder, trials: Sequence[Trial], results: Mapping[int, Trial], last: int
) -> MeasuredFront:
    """The frontier by the scores of the last round, with those of the supernet beside."""
    scores = {"metrics", "violation"}
    final = [
        trials[number].model_copy(update=result.model_dump(include=scores))
        for number, result in sorted(results.items())
    ]

    @cache
    def scored(number: int) -> ScoredImages:
        return load_scored(run.counts_path(f"{FINALS}-{last}", results[number].number))

    names = scored(final[0].number).names
    front = measured_front(
        final,
        job.search.objectives,
        scored,
        patients=groups_of(names, job.data),
        latency_ms=latency_resolution_ms(job, run, trials),
    )
    members = tuple(
        one.model_copy(update={"supernet": {name: trials[one.number].metrics[name] for name in job.search.objectives}})
        for one in front.members
    )
    return keep_front(run, front.model_copy(update={"members": members}))


def finals_rows(job: SearchJob, run: RunFolder, studies: Mapping[str, Sequence[Trial]]) -> list[dict[str, Any]]:
    """All finalists with the supernet's scores and those after each round; empty without finals."""
    begun = run.read_json(FINALISTS)
    settings = job.finals_settings
    if begun is None or settings is None:
        return []
    by_architecture = {trial.architecture: trial for trial in studies["search"]}
    rows: dict[str, dict[str, Any]] = {}
    for architecture in begun["architectures"]:
        own = by_architecture[architecture]
        rows[architecture] = {
            "number": own.number,
            "architecture": architecture,
            "origin": own.origin,
            "supernet": own.metrics,
            "rounds": [],
        }
    for number in range(1, settings.rounds + 1):
        for trial in studies[f"{FINALS}-{number}"]:
            if trial.architecture in rows and trial.state is TrialState.COMPLETED:
                rows[trial.architecture]["rounds"].append(trial.metrics)
    return list(rows.values())


class FinalsTrial(SlicingTrial):
    """A worker that trains a candidate on from the supernet's weights or its last round, and scores it."""

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
        number: int,
        known: Mapping[str, Mapping[str, Any]],
        latencies: dict[str, Any] | None = None,
    ) -> None:
        spec = parse_job(job)
        assert isinstance(spec, SearchJob)
        settings = spec.finals_settings
        assert settings is not None
        use_threads(spec.resources.search.cpus)
        self._job, self._settings = spec, settings
        self._device = device_for(spec.resources.search)
        self._supernet = supernet_on(NetworkCard.model_validate_json(card), weights)
        self._data = {split: load_split(spec.data, split, Path(cache_dir)) for split in ("train", "search")}
        self._run, self._study = RunFolder(Path(run_path)), study
        self._number, self._known = number, known

    def _evaluate(self) -> dict[str, Any]:
        started = time.perf_counter()
        architecture = Architecture.parse(self.config["architecture"])
        known = self._known[self.config["architecture"]]
        torch.manual_seed(self._training().seed)
        network = self._supernet.extract(architecture).to(self._device)
        before = self._state_path(self._number - 1, known["number"]) if self._number > 1 else None
        states: list[State] = []
        fit(
            network,
            self._data["train"],
            self._training(),
            validate=dict,
            on_epoch=lambda report, state: states.append(state()) if report.epoch == report.epochs else None,
            state=None if before is None else torch.load(before, weights_only=True, map_location="cpu"),
        )
        [state] = states
        if self._number < self._settings.rounds:
            _save(self._state_path(self._number, known["number"]), state)
        network.load_state_dict(trained_weights(state))
        metrics = self._score(network.eval()) | known["costs"]
        if self._number == self._settings.rounds:
            save_network(self._run.path / FINALS / f"{known['number']:05d}", network, self._job.data)
        work = {"images": len(self._data["search"])}
        return {"pruned": False, "metrics": metrics, "work": work, "seconds": time.perf_counter() - started}

    def _training(self) -> TrainConfig:
        """Of this round: up to its last epoch, on the schedule of all rounds."""
        whole = finals_training(self._job, self._settings)
        return whole.model_copy(update={"epochs": round_epochs(whole.epochs, self._settings.rounds)[self._number - 1]})

    def _score(self, network: torch.nn.Module) -> dict[str, float]:
        """On the search split, with the counts of each image left in the run's folder."""
        data, search = self._data["search"], self._job.search
        with torch.inference_mode():
            scored = evaluate(
                network,
                data,
                batch_size=search.batch_size,
                device=self._device,
                with_hd95="hd95" in search.measured,
            )
        path = self._run.counts_path(self._study, self.config["number"])
        save_counts(path, ScoredImages(data.names, scored.counts, scored.hd95))
        return scored.metrics

    def _state_path(self, number: int, trial: int) -> Path:
        return self._run.path / FINALS / str(number) / f"{trial:05d}.pt"


def _save(path: Path, state: State) -> None:
    """What the next round goes on from; the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as draft:
        torch.save(state, draft)
