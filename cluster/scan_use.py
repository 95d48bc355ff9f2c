"""Where a scan pays: what the search says of blocks that scan, in one sentence with an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cluster.config import SearchJob
from cluster.run_folder import RunFolder
from nas.audit import difference
from nas.counts import load_scored
from nas.objectives import OBJECTIVES, losses, primary_metric
from nas.study import Trial
from slicemamba.architecture import Architecture, format_block
from slicemamba.data.patients import groups_of
from slicemamba.models.complexity import cost

UNSCANNED = "unscanned"
"""The baseline that is the winner with its scans left out."""


def scan_use(
    job: SearchJob, run: RunFolder, best: Trial, trials: Sequence[Trial], finals: Sequence[Sequence[Trial]] = ()
) -> dict[str, Any] | None:
    """What scanning brings, by the scores of the finals where they tell, else of the search (search split).

    Compared is the best with the best network that differs in just this: that scans nowhere or, where the best itself
    scans nowhere, that scans somewhere. In the finals both were trained alike, so the last round that held both kinds
    goes before the search, whose scores depend on how often the supernet has trained a network.

    Args:
        best: of the frontier. trials: of the search. finals: trials of each round, the first round first.

    Returns:
        scans: blocks of the best that scan, of ``blocks``. rival: number and architecture of the other network.
        difference: the best's score less the rival's, on the same images. flops_ratio: the best's over the rival's.
        sentence: the same in words. None where the space leaves no such choice, or the counts are not there.
    """
    metric = primary_metric(job.search.objectives)
    scans = num_scans(best.architecture)
    studies = {f"finals-{number}": of for number, of in enumerate(finals, 1)}
    for study, of in [*reversed(studies.items()), ("search", trials)]:
        scored = [t for t in of if t.eligible and run.counts_path(study, t.number).exists()]
        own = next((t for t in scored if t.architecture == best.architecture), None)
        others = [t for t in scored if bool(num_scans(t.architecture)) != bool(scans)]
        if own is not None and others:
            break
    else:
        return None
    rival = min(others, key=lambda t: (losses(t.metrics, [metric]), t.number))
    ours, theirs = (load_scored(run.counts_path(study, trial.number)) for trial in (own, rival))
    found = difference([ours.counts], [theirs.counts], metric, patients=groups_of(ours.names, job.data))
    ratio = _flops(job, best) / _flops(job, rival)
    number_of = {trial.architecture: trial.number for trial in trials}
    trained = "supernet weights" if study == "search" else "after the same training in the finals"
    blocks = sum(1 for block in Architecture.parse(best.architecture).blocks() if not block.divisor)
    return {
        "scans": scans,
        "blocks": blocks,
        "rival": {"number": number_of[rival.architecture], "architecture": rival.architecture},
        "metric": metric,
        "difference": found.model_dump(),
        "flops_ratio": ratio,
        "sentence": _sentence(scans, blocks, metric, found.value or 0.0, found.low or 0.0, found.high or 0.0, ratio)
        + f" (search split, {trained}).",
    }


def without_scans(job: SearchJob, architecture: Architecture) -> Architecture:
    """The network with each block that scans left out or, where blocks of the space are not, a convolution; itself
    where every choice scans."""
    others = [block for block in job.search_space.choices if not block.scans and not block.divisor]
    if not others:
        return architecture
    instead = min(others, key=lambda block: format_block(block) != "-")
    stages = [[instead if block.scans else block for block in stage] for stage in architecture.stages]
    return Architecture(tuple(map(tuple, stages)))


def baselines_of(job: SearchJob, winner: Architecture) -> list[str]:
    """The baselines of the job that this winner can be set beside."""
    scans = without_scans(job, winner) != winner
    return [name for name in job.baselines if scans or name != UNSCANNED]


def trained_sentence(use: Mapping[str, Any], unscanned: Mapping[str, Any]) -> str:
    """What scanning brings by networks that were both trained, in place of what the search's own weights tell."""
    return f"The scan is kept in {use['scans']} of {use['blocks']} blocks. {unscanned['sentence']}"


def num_scans(architecture: str) -> int:
    """Blocks that scan."""
    return sum(block.scans for block in Architecture.parse(architecture).blocks())


def _flops(job: SearchJob, trial: Trial) -> float:
    architecture = Architecture.parse(trial.architecture)
    return cost(job.model, job.data.num_classes, architecture, job.data.image_size)["flops"]


def _sentence(scans: int, blocks: int, metric: str, value: float, low: float, high: float, ratio: float) -> str:
    title = OBJECTIVES[metric].title
    by = f"{100 * abs(value):.1f} points of {title} (95 % interval {100 * low:+.1f} to {100 * high:+.1f})"
    words = "more" if value >= 0 else "less"
    cheaper = f"{ratio:.2f} times the FLOPs" if ratio >= 1 else f"{1 / ratio:.2f} times fewer FLOPs"
    if scans:
        first = f"The scan is kept in {scans} of {blocks} blocks. Beside the best network found without any scan it"
    else:
        first = f"The chosen network scans in none of its {blocks} blocks. Beside the best one found that scans it"
    measurable = "" if low > 0 or high < 0 else " – no measurable difference"
    return f"{first} scores {by} {words} at {cheaper}{measurable}"
