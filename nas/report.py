"""Figures of a search as PNG: frontier, slicing of each block, hypervolume, effects of choices, supernet's ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nas.objectives import OBJECTIVES, format_count, loss_matrix
from nas.pareto import pareto_mask
from nas.report_choices import effects_range, stage_names
from nas.report_figures import fixed_labels
from nas.space import SearchSpace
from nas.study import Trial, TrialState, pareto_front
from slicemamba.architecture import Architecture, format_block
from slicemamba.files import save_figure

FRONT, TRIALS, RANDOM, FIXED = "#d55e00", "#0072b2", "#999999", "#009e73"


def plot_pareto(
    path: Path,
    trials: Sequence[Trial],
    objectives: Sequence[str],
    *,
    random: Sequence[Trial] = (),
    front: Sequence[Trial] | None = None,
) -> None:
    """Writes a picture of all completed trials, a panel for each further objective against the first.

    The frontier over all objectives is marked in each panel; a member may look dominated there, being better in an
    objective that the panel does not show. The line joins what is optimal in the panel's two objectives.

    Args:
        path: PNG to write.
        trials: of the search. random: of the random search at equal budget, if there was one.
        front: the frontier, with the metrics it was made from; what is Pareto-optimal by its figures when None. A
            dotted line leads to a member from where the search has seen it.
    """
    done = [trial for trial in trials if trial.state is TrialState.COMPLETED]
    others = [trial for trial in random if trial.state is TrialState.COMPLETED]
    first, *rest = objectives
    figure = Figure(figsize=(5.6 * max(1, len(rest)) + 1.6, 4.6), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, max(1, len(rest))))
    members = pareto_front(done, tuple(objectives)) if front is None else list(front)
    for axes, other in zip(panels, rest or ["number"], strict=True):
        _panel(axes, done, members, others, other, first)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)  # covers no point
    figure.suptitle(f"{len(done)} networks evaluated, {len(members)} on the frontier")
    save_figure(figure, path, dpi=150)


def _panel(axes: Axes, trials: list[Trial], front: list[Trial], random: list[Trial], x: str, y: str) -> None:
    def values(of: Sequence[Trial], name: str) -> list[float]:
        return [float(trial.number) if name == "number" else trial.metrics[name] for trial in of]

    searched = {trial.number: trial for trial in trials}
    fixed = [trial for trial in trials if trial.origin == "fixed"]
    outside = [trial for trial in [*trials, *random] if not trial.eligible]
    trials, random = ([trial for trial in of if trial.eligible] for of in (trials, random))
    if random:
        axes.scatter(values(random, x), values(random, y), s=16, c=RANDOM, marker="x", lw=1, label="random search")
    axes.scatter(values(trials, x), values(trials, y), s=18, c=TRIALS, alpha=0.55, lw=0, label="search")
    if outside:
        look: dict[str, Any] = {"s": 18, "fc": "none", "ec": RANDOM, "lw": 0.8, "marker": "v"}
        axes.scatter(values(outside, x), values(outside, y), label="outside the constraints", **look)
    if fixed:
        axes.scatter(values(fixed, x), values(fixed, y), s=52, c=FIXED, marker="s", label="fixed slicing", zorder=3)
    lefts, heights = values(fixed, x), values(fixed, y)
    for left, height, label in zip(lefts, heights, fixed_labels(fixed, lefts, heights), strict=True):
        axes.annotate(label, (left, height), xytext=(0, 8), textcoords="offset points", fontsize=8, ha="center")
    if x != "number" and front:
        _join(axes, front, x, y)
    moved = [
        (searched[member.number], member) for member in front if member.metrics[y] != searched[member.number].metrics[y]
    ]
    for place, ends in enumerate(moved):
        label = "_" if place else "trained in the finals"  # one line of the legend for all
        axes.plot(values(ends, x), values(ends, y), color=FRONT, lw=0.9, ls=":", zorder=2, label=label)
    axes.scatter(
        values(front, x), values(front, y), s=46, fc="none", ec=FRONT, lw=1.6, label="Pareto-optimal", zorder=4
    )
    best = sorted(front, key=lambda trial: loss_matrix([trial.metrics], [y])[0, 0])[:1]
    axes.scatter(values(best, x), values(best, y), s=150, c=FRONT, marker="*", label="best", zorder=5)
    axes.ticklabel_format(useOffset=False)
    for name, axis in ((x, axes.xaxis), (y, axes.yaxis)):
        if name in OBJECTIVES and OBJECTIVES[name].unit == "count":  # 300 M, not 3.0 and 1e8 at the end of the axis
            axis.set_major_formatter(lambda value, _: format_count(value))
    axes.set_xlabel("trial" if x == "number" else _title(x))
    axes.set_ylabel(_title(y))
    axes.grid(alpha=0.25)


def _join(axes: Axes, front: list[Trial], x: str, y: str) -> None:
    """The staircase through what is optimal in x and y alone."""
    two = [t for t, on in zip(front, pareto_mask(loss_matrix([t.metrics for t in front], [x, y])), strict=True) if on]
    points = sorted((trial.metrics[x], trial.metrics[y]) for trial in two)
    minimised = OBJECTIVES[x].direction == "minimize"
    axes.step(*zip(*points, strict=True), where="post" if minimised else "pre", c=FRONT, lw=1, alpha=0.7, zorder=2)


def _title(name: str) -> str:
    objective = OBJECTIVES[name]
    better = "higher is better" if objective.direction == "maximize" else "lower is better"
    unit = "" if objective.unit in ("0…1", "count") else f" [{objective.unit}]"
    return f"{objective.title}{unit} – {better}"


def plot_slicing(path: Path, front: Sequence[Trial], space: SearchSpace) -> None:
    """Writes a picture of blocks × choices: the best trial's slicing, over each choice's share in the frontier.

    Args:
        path: PNG to write.
        front: Pareto-optimal trials, the best first; at least one.
        space: the search space.
    """
    genes = np.array([space.encode(Architecture.parse(trial.architecture)) for trial in front])
    share = np.stack([(genes == choice).mean(axis=0) for choice in range(len(space.choices))])
    figure = Figure(figsize=(0.46 * space.num_blocks + 2.4, 0.52 * len(space.choices) + 1.9), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for block, choice in enumerate(genes[0]):
        axes.add_patch(Rectangle((block - 0.5, choice - 0.5), 1, 1, fill=False, ec=FRONT, lw=2.4))
    edges = np.cumsum(space.depths)
    for edge in edges[:-1]:
        axes.axvline(edge - 0.5, c="black", lw=0.8)
    for name, end, depth in zip(stage_names(space), edges, space.depths, strict=True):
        axes.text(end - depth / 2 - 0.5, -0.62, name, ha="center", va="bottom", fontsize=8)
    axes.set_yticks(range(len(space.choices)), [format_block(size) for size in space.choices])
    axes.set_xticks(range(space.num_blocks), [str(i) for i in range(1, space.num_blocks + 1)], fontsize=8)
    axes.set_xlabel("block")
    axes.set_ylabel("choice")
    axes.set_title("What the best takes (framed)", pad=22)
    figure.colorbar(image, ax=axes, label=f"share of the {len(front)} Pareto-optimal", fraction=0.03, pad=0.02)
    save_figure(figure, path, dpi=150)


def plot_hypervolume(path: Path, curves: Mapping[str, Sequence[float]]) -> None:
    """Writes a picture of the hypervolume after each evaluation, with the band of the random searches.

    Args:
        path: PNG to write. curves: by name: ``search``, ``random …`` and ``fixed``, from ``hypervolume_curves``.
    """
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axes = figure.subplots()
    random = [curve for name, curve in curves.items() if name.startswith("random")]
    if random:
        rows = np.array([curve[: min(map(len, random))] for curve in random])
        x = np.arange(1, rows.shape[1] + 1)
        axes.fill_between(x, rows.min(axis=0), rows.max(axis=0), step="post", color=RANDOM, alpha=0.28, lw=0)
        label = "random search" + (f", mean of {len(rows)} seeds" if len(rows) > 1 else "")
        axes.step(x, rows.mean(axis=0), where="post", c=RANDOM, lw=2, label=label)
    own = curves["search"]
    axes.step(range(1, len(own) + 1), own, where="post", c=TRIALS, lw=2.2, label="search")
    if curves.get("fixed"):
        axes.axhline(curves["fixed"][-1], c=FIXED, lw=1.6, ls="--", label="fixed slicings alone")
    axes.set_xlabel("evaluations")
    axes.set_ylabel("hypervolume (share of the box)")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", fontsize=8)
    save_figure(figure, path, dpi=150)


def plot_effects(
    path: Path, effects: Sequence[Sequence[tuple[float, float, int] | None]], space: SearchSpace, metric: str
) -> None:
    """Writes a picture of the mean score with each choice in each block, with intervals.

    Args:
        path: PNG to write. effects: from ``report_choices.effects``; space, metric: what they are of.
    """
    figure = Figure(figsize=(0.36 * space.num_blocks + 3.6, 3.8), layout="constrained")
    axes = figure.subplots()
    num = len(space.choices)
    for choice, (size, row) in enumerate(zip(space.choices, effects, strict=True)):
        found = [(block, one) for block, one in enumerate(row) if one is not None]
        x = [block + 1 + (choice - (num - 1) / 2) * 0.7 / num for block, _ in found]
        means, halves = [one[0] for _, one in found], [one[1] for _, one in found]
        axes.errorbar(x, means, halves, fmt="o", ms=4, lw=1, label=format_block(size))
    axes.set_xticks(range(1, space.num_blocks + 1))
    axes.set_xlabel("block")
    axes.set_ylabel(f"mean {OBJECTIVES[metric].title} of candidates with it")
    axes.set_ylim(*effects_range(effects))
    axes.grid(axis="y", alpha=0.25)
    figure.legend(title="choice", fontsize=8, loc="outside right upper")
    save_figure(figure, path, dpi=150)


def plot_ranking(path: Path, retrained: Sequence[Mapping[str, Any]], metric: str) -> None:
    """Writes a picture of supernet against stand-alone scores of the audit's networks.

    Args:
        path: PNG to write. retrained: of ``audit.json``. metric: the audit's.
    """
    rows = [row for row in retrained if "test" in row and row["supernet"] is not None]
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    for kind, colour, marker in (("sampled", TRIALS, "o"), ("fixed", FIXED, "s"), ("best", FRONT, "*")):
        own = [row for row in rows if row["roles"][0].startswith(kind)]
        x, y = [row["supernet"] for row in own], [row["test"]["value"] for row in own]
        ends = [[row["test"]["value"] - row["test"]["low"], row["test"]["high"] - row["test"]["value"]] for row in own]
        size = 11 if kind == "best" else 6
        axes.errorbar(x, y, np.array(ends).reshape(-1, 2).T, fmt=marker, c=colour, ms=size, lw=1, label=kind)
    title = OBJECTIVES[metric].title
    axes.set_xlabel(f"{title}, supernet (search split)")
    axes.set_ylabel(f"{title}, retrained (test)")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    save_figure(figure, path, dpi=150)
