"""Figures of a search's course and of its choices, with legends: for the report, and for the page of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from nas import report_choices as choices
from nas import report_figures as figures
from nas.objectives import OBJECTIVES, primary_metric
from nas.pareto import hypervolume_curves
from nas.report_figures import Spec, completed
from nas.space import SearchSpace
from nas.study import Trial, loss_rows, pareto_front
from slicemamba.architecture import format_block
from slicemamba.text import to_json

LATEST = 2_000
"""Trials that the page of a search draws, the last that were begun: more would make the page slow, and show no more."""
_ENOUGH_RANDOM = 30  # from here on, random candidates alone show the effect of choices


@dataclass(frozen=True)
class Figure:
    """A figure on the page. ``alt`` says in words what it shows, ``text`` is its legend."""

    key: str
    spec: Spec
    title: str
    text: str
    alt: str

    @property
    def json(self) -> Markup:
        """The specification for a script element: ``<`` is escaped, so nothing in it can end that element."""
        text = to_json(self.spec, compact=True)
        return Markup(text.replace("<", "\\u003c"))

    @property
    def stops(self) -> list[str]:
        return [step["label"] for step in self.spec.get("steps", [])]


def live_figures(
    trials: Sequence[Trial], random: Sequence[Trial], space: SearchSpace, objectives: Sequence[str]
) -> list[Figure]:
    """What the page of a search shows beside its frontier, of ``LATEST`` trials: course, workers, choices.

    Args:
        trials, random: in the order of their numbers, in any state.
    """
    trials, random = trials[-LATEST:], random[-LATEST:]
    done = completed(trials)
    front = pareto_front(done, tuple(objectives))
    if not front:  # nothing is completed, or all of it breaks the constraints
        return []
    curves = measured_curves(trials, random, objectives)
    return course_figures(trials, curves) + choice_figures(done, completed(random), front, space, objectives)


def measured_curves(
    trials: Sequence[Trial], random: Sequence[Trial], objectives: Sequence[str]
) -> dict[str, list[float]]:
    """Hypervolume curves of the search, of random search and of the fixed slicings, as far as any has ended."""
    searches = {"search": trials, "random": random, "fixed": [trial for trial in trials if trial.origin == "fixed"]}
    rows = {}
    for name, found in searches.items():
        ended = sorted((trial for trial in found if trial.ended), key=lambda trial: trial.ended_as or 0)
        if ended:
            rows[name] = loss_rows(ended, objectives)
    return hypervolume_curves(rows)


def course_figures(trials: Sequence[Trial], curves: Mapping[str, Sequence[float]]) -> list[Figure]:
    """Hypervolume over evaluations and, where times are known, over time, and what the workers did.

    Args:
        trials: of the search, in any state.
        curves: as for ``nas.report_figures.hypervolume_figure``.
    """
    at_the_end = ", ".join(f"{name} {curve[-1]:.3f}" for name, curve in curves.items() if curve)
    found = [
        Figure(
            "hypervolume",
            figures.hypervolume_figure(curves),
            "What the search reached, and random search at equal budget.",
            "Share of the box between the best and the worst value of each objective that is dominated after so many "
            "evaluations. The band spans the random searches' seeds.",
            f"Line plot; at the end {at_the_end}",
        )
    ]
    timed = figures.time_figure(trials, curves["search"])
    if timed is not None:
        found.append(
            Figure(
                "time",
                timed,
                "Hypervolume over time.",
                "Wall time of the search alone, without the supernet's training.",
                f"Line plot of hypervolume over time, {curves['search'][-1]:.3f} at the end.",
            )
        )
    at_work = figures.workers_figure(trials)
    if at_work is not None:
        places = 1 + max(int(y) for bars in at_work["data"] for y in bars["y"])
        found.append(
            Figure(
                "workers",
                at_work,
                "What the workers did.",
                "Each bar is an evaluation, from its start in a worker to its end, in as many rows as were at work at "
                "once. Gaps are waiting: for a proposal, a worker or a place on the cluster.",
                f"Time line of evaluations in {places} rows.",
            )
        )
    return found


def choice_figures(
    done: Sequence[Trial],
    random: Sequence[Trial],
    front: Sequence[Trial],
    space: SearchSpace,
    objectives: Sequence[str],
    *,
    scans: str = "",
) -> list[Figure]:
    """Where the scan is kept, the effect of each choice alone, and candidates by stage.

    Args:
        done, random: completed trials of the search and of random search.
        front: the best first.
        scans: a sentence on what the scan brings.
    """
    metric = primary_metric(objectives)
    by_chance = len(random) >= _ENOUGH_RANDOM
    shown = random if by_chance else done
    found = []
    if len({choice.scans for choice in space.choices if not choice.divisor}) == 2:
        found.append(
            Figure(
                "scans",
                choices.scan_figure(front, space),
                "Where the scan is kept.",
                f"Each row is a network of the frontier, the best on top; each column a block. {scans}",
                "Table of blocks: " + "; ".join(f"trial {t.number}: {t.architecture}" for t in front[:3]),
            )
        )
    return [
        *found,
        Figure(
            "effects",
            choices.effects_figure(shown, space, metric),
            "Effect of each choice alone.",
            f"Mean {OBJECTIVES[metric].title} of the candidates with a slice size in a block, less the mean of all, "
            "with 95 % intervals (Student). About one interval in twenty misses by chance. "
            + (
                "From random search alone, so the blocks are independent of each other."
                if by_chance
                else "From the search's candidates, which are not a random sample: an association, not an effect."
            ),
            _effects_in_words(shown, space, metric),
        ),
        Figure(
            "parallel",
            choices.parallel_figure(done, space, objectives, front[0].number),
            "Candidates by stage.",
            "Each line is a candidate: the most frequent slice size of each stage, then its objectives, better "
            "upwards. Colour: quarters by the first objective.",
            f"Parallel coordinates of up to 300 candidates; the best goes through {front[0].architecture}",
        ),
    ]


def _effects_in_words(trials: Sequence[Trial], space: SearchSpace, metric: str) -> str:
    table = choices.effects(trials, space, metric)
    means = [(one[0], c, b) for c, row in enumerate(table) for b, one in enumerate(row) if one is not None]
    (high, c, b), (low, d, e) = max(means), min(means)
    return (
        f"Dot plot with intervals; the highest mean, {high:.4f}, has {format_block(space.choices[c])} in block "
        f"{b + 1}, the lowest, {low:.4f}, {format_block(space.choices[d])} in block {e + 1}."
    )
