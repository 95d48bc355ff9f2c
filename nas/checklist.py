"""The checklist of good practice in architecture search, filled from a run.

After Lindauer & Hutter, Best practices for scientific research on neural architecture search, JMLR 21(243), 2020;
the questions in our words. What a run cannot know of itself is answered "by you".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from slicemamba.config import Config

Answer = Literal["yes", "partly", "no", "by you"]


class Item(Config):
    """One question with its answer and what the answer rests on."""

    part: str
    question: str
    answer: Answer
    evidence: str


@dataclass(frozen=True)
class RunFacts:
    """What the checklist asks of a run.

    Attributes:
        code: version, and commit where it is known. environment: packages and platform, in one line.
        searcher, num_trials, num_choices, num_blocks, space_size: of the search.
        seeds: by what they are of. random_seeds, retrain_seeds, num_retrained: of the audit.
        device_hours: by phase; of workers, whatever they have.
        disjoint: no image is in two splits. baselines: what the best was compared with.
    """

    code: str
    environment: str
    searcher: str
    num_trials: int
    num_choices: int
    num_blocks: int
    space_size: int
    seeds: dict[str, int]
    random_seeds: int
    retrain_seeds: int
    num_retrained: int
    device_hours: dict[str, float]
    disjoint: bool
    baselines: list[str]


CODE, COMPARISON, DETAILS = "Code and settings", "Comparison", "Reporting"


def checklist(facts: RunFacts) -> list[Item]:
    """All questions with their answers."""
    seeds = ", ".join(f"{name} {seed}" for name, seed in facts.seeds.items())
    hours = ", ".join(f"{phase} {value:.2g}" for phase, value in facts.device_hours.items())
    space = f"{facts.num_choices} slice sizes in each of {facts.num_blocks} blocks, {facts.space_size:.3g} slicings"
    several = "yes" if facts.random_seeds > 1 and facts.retrain_seeds > 1 else "no"
    rows: list[tuple[str, str, Answer, str]] = [
        (CODE, "Is the code that trains the final architectures available?", "yes", facts.code),
        (CODE, "Is the code of the search space available?", "yes", space),
        (CODE, "Are settings and seeds of the final training kept?", "yes", f"config.json; seeds: {seeds}"),
        (CODE, "Is the code of the search method available?", "yes", f"{facts.searcher}; {facts.code}"),
        (CODE, "Are settings and seeds of the search kept?", "yes", "config.json; each trial in the study"),
        (
            COMPARISON,
            "Did everything compared use the same data, space, training code and settings?",
            "yes",
            f"{', '.join(facts.baselines)}: same supernet, splits, epochs and code",
        ),
        (
            COMPARISON,
            "Are train, val, search and test disjoint?",
            "yes" if facts.disjoint else "no",
            "hashes of images",
        ),
        (COMPARISON, "Were confounders held fixed (hardware, versions)?", "yes", f"one run: {facts.environment}"),
        (COMPARISON, "Were ablations run?", "no", "not part of an audit"),
        (COMPARISON, "Was everything evaluated by the same protocol?", "yes", "the metrics contract, docs/metrics.md"),
        (
            COMPARISON,
            "Was performance compared over the course of the search?",
            "yes" if facts.random_seeds else "no",
            "hypervolume after each evaluation",
        ),
        (
            COMPARISON,
            "Was it compared with random search?",
            "yes" if facts.random_seeds else "no",
            f"{facts.random_seeds} random searches of {facts.num_trials} evaluations",
        ),
        (
            COMPARISON,
            "Were there several runs, with their seeds reported?",
            "partly" if several == "yes" else "no",
            f"random search {facts.random_seeds} seeds, final training {facts.retrain_seeds}; the search itself 1",
        ),
        (COMPARISON, "Were tabular benchmarks used for what one run cannot show?", "by you", "docs/benchmarks.md"),
        (DETAILS, "Is it reported how settings were tuned, and at what cost?", "by you", "a run does not know"),
        (DETAILS, "Is the total cost reported, not only that of the search?", "yes", f"device hours: {hours}"),
        (
            DETAILS,
            "Is the budget also reported in evaluations?",
            "yes",
            f"{facts.num_trials} evaluations, {facts.num_retrained} trainings from scratch",
        ),
        (DETAILS, "Are all details of the setup reported?", "yes", "config.json, result.json, audit.json"),
    ]
    return [Item(part=part, question=q, answer=answer, evidence=evidence) for part, q, answer, evidence in rows]
