"""What a run has cost, from its events and trials."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime
from typing import Any

from cluster.config import SearchJob
from cluster.run_folder import FINALS_KINDS, RunFolder
from cluster.studies import Studies
from nas.study import Trial


def phase_seconds(run: RunFolder) -> dict[str, float]:
    """Wall time of each phase in seconds, over all starts of the driver; the time between two starts is not counted."""
    seconds: dict[str, float] = defaultdict(float)
    phase, before = "", None
    for _, event in run.events():
        now = datetime.fromisoformat(event["time"])
        starts = event["event"] == "started" or (event["event"], event.get("phase")) == ("phase", "check")
        if before is not None and not starts:
            seconds[phase] += (now - before).total_seconds()
        if event["event"] == "phase":
            phase = event["phase"]
        before = now
    return dict(seconds)


def device_hours(job: SearchJob, run: RunFolder, studies: Studies) -> dict[str, float]:
    """Hours of worker time by phase: training as wall time by the number of workers, trials as measured there.

    Args:
        job: the run's. run: its folder, or that of its audit. studies: that belong to it.
    """
    workers = job.resources.train.num_workers
    wall = phase_seconds(run)
    shares = {"supernet": workers, "retrain": workers, "baselines": workers, "evaluate": 1, "audit_front": 1}
    hours = {name: wall[name] * share / 3600 for name, share in shares.items() if name in wall}
    for kind, trials in studies.items():
        if not trials:
            continue
        name = "finals" if kind in FINALS_KINDS else "candidates"
        hours[name] = hours.get(name, 0.0) + _seconds(trials) / 3600
    return hours


def _seconds(trials: list[Trial]) -> float:
    return sum(trial.seconds or 0.0 for trial in trials)


def search_costs(job: SearchJob, run: RunFolder, studies: Studies) -> dict[str, Any]:
    """Where the time of a search went: phases, and evaluating against waiting within the search.

    ``waiting`` is what the search's workers did not spend on evaluating: start-up, hand-out and, for searchers with
    generations, the wait for the last of one. ``blocks_reused`` is the share of blocks whose output was taken from
    earlier candidates; None where that was not recorded.
    """
    wall, trials = phase_seconds(run), studies["search"]
    spans = [(t.ended_at - t.started_at).total_seconds() for t in trials if t.started_at and t.ended_at]
    evaluating = _seconds(trials)
    everyone = [*trials, *studies["random"]]
    reused = sum(trial.work.get("blocks_reused", 0) for trial in everyone)
    blocks = reused + sum(trial.work.get("blocks_computed", 0) for trial in everyone)
    return {
        "wall_seconds": wall,
        "device_hours": device_hours(job, run, {kind: some for kind, some in studies.items() if kind != "audit"}),
        "evaluating_seconds": evaluating,
        "waiting_seconds": max(0.0, sum(spans) - evaluating),
        "blocks_reused": reused / blocks if blocks else None,
        "trials": dict(Counter(trial.state.value for trial in everyone)),
    }
