"""Interactive figures of what was chosen: slice sizes by block and generation, their effects, candidates by stage."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy

from nas.objectives import OBJECTIVES, format_value, losses
from nas.report_figures import (
    FIXED,
    FRONT,
    RANDOM,
    SAMPLED,
    SURFACE,
    TEXT,
    TRIALS,
    Spec,
    completed,
    hover_text,
    layout_of,
    steps_of,
)
from nas.space import SearchSpace
from nas.study import Trial
from slicemamba.architecture import Architecture, format_block

CHOICES = (TRIALS, FRONT, FIXED, SAMPLED, "#e69f00", "#56b4e9", RANDOM)
_SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "star", "x")
_MAX_LINES = 300
_MAX_ROWS = 12
_ENOUGH = 5  # candidates with a choice, for their interval to set the scale


def stage_names(space: SearchSpace) -> list[str]:
    """``enc 1`` … and ``dec 1`` …, one a stage."""
    half = (len(space.depths) + 1) // 2  # the convolutional skeleton's last level has one stage
    return [f"enc {i + 1}" if i < half else f"dec {i + 1 - half}" for i in range(len(space.depths))]


def slicing_figure(trials: Sequence[Trial], best: Trial, space: SearchSpace, generation: int | None) -> Spec:
    """Share of each slice size in each block among the candidates of a generation; the best's slicing framed."""
    done = completed(trials)
    genes = np.array([space.encode(Architecture.parse(t.architecture)) for t in done])
    labels = [format_block(size) for size in space.choices]
    stops = steps_of(len(done), generation)
    steps: list[Spec] = []
    for start, end in zip([0, *stops], stops, strict=False):
        share = np.stack([(genes[start:end] == choice).mean(axis=0) for choice in range(len(labels))])
        name = f"evaluations {start + 1} to {end}"
        steps.append({"label": name, "count": None, "fields": {"z": np.round(share, 4).tolist()}})
    blocks = [str(i + 1) for i in range(space.num_blocks)]
    heat = {
        "type": "heatmap", "x": blocks, "y": labels, "z": steps[-1]["fields"]["z"], "zmin": 0, "zmax": 1, "xgap": 1,
        "ygap": 1, "colorscale": [[0, SURFACE], [1, TRIALS]], "meta": "stepped",
        "colorbar": {"title": {"text": "share", "side": "right"}, "thickness": 10, "outlinewidth": 0},
        "hovertemplate": "block %{x}, %{y}: %{z:.0%}<extra></extra>",
    }  # fmt: skip
    genes_of_best = space.encode(Architecture.parse(best.architecture))
    frames = [_shape("rect", b - 0.5, b + 0.5, c - 0.5, c + 0.5, FRONT, 2) for b, c in enumerate(genes_of_best)]
    edges = np.cumsum(space.depths)
    lines = [_shape("line", e - 0.5, e - 0.5, 0, 1, TEXT, 1) | {"yref": "paper"} for e in edges[:-1].tolist()]
    notes = [
        {"x": float(end - depth / 2 - 0.5), "y": 1, "yref": "paper", "yanchor": "bottom", "showarrow": False,
         "text": name, "font": {"size": 11}}
        for name, end, depth in zip(stage_names(space), edges, space.depths, strict=True)
    ]  # fmt: skip
    layout = layout_of("block", "slice size", 130 + 44 * len(labels), shapes=lines + frames, annotations=notes)
    layout["margin"] = {"l": 56, "r": 8, "t": 30, "b": 48}
    for axis in ("xaxis", "yaxis"):
        layout[axis] |= {"type": "category", "showgrid": False, "ticks": ""}
    return {"data": [heat], "layout": layout, "steps": steps}


def scan_figure(front: Sequence[Trial], space: SearchSpace) -> Spec:
    """What each block of the frontier's networks takes: a scan and its slices, a convolution, or nothing."""
    shown = front[:_MAX_ROWS][::-1]  # the best on top
    widths = {place for place, options in enumerate(space.options) if space.choices[options[0]].divisor}
    places = [place for place in range(space.num_blocks) if place not in widths]
    blocks = [list(Architecture.parse(trial.architecture).blocks()) for trial in shown]
    kinds = [[2 if row[p].scans else 1 if row[p].kernel else 0 for p in places] for row in blocks]
    labels = [[format_block(row[p]) for p in places] for row in blocks]
    stages = np.repeat(np.arange(len(space.depths)), space.depths)[places]
    names = stage_names(space)
    columns = [f"{names[stage]}·{number + 1}" for number, stage in enumerate(stages.tolist())]
    heat = {
        "type": "heatmap", "x": columns, "y": [f"trial {trial.number}" for trial in shown], "z": kinds, "zmin": 0,
        "zmax": 2, "xgap": 2, "ygap": 2, "text": labels, "texttemplate": "%{text}",
        "colorscale": [[0, SURFACE], [0.33, SURFACE], [0.33, "#56b4e9"], [0.67, "#56b4e9"], [0.67, FRONT], [1, FRONT]],
        "colorbar": {"tickvals": [1 / 3, 1, 5 / 3], "ticktext": ["left out", "convolution", "scan"], "thickness": 10,
                     "outlinewidth": 0},
        "hovertemplate": "%{y}, block %{x}: %{text}<extra></extra>",
    }  # fmt: skip
    layout = layout_of("block", "", 130 + 30 * len(shown))
    for axis in ("xaxis", "yaxis"):
        layout[axis] |= {"type": "category", "showgrid": False, "ticks": ""}
    layout["margin"]["l"] = 72
    return {"data": [heat], "layout": layout}


def _shape(kind: str, x0: float, x1: float, y0: float, y1: float, colour: str, width: float) -> Spec:
    return {"type": kind, "x0": x0, "x1": x1, "y0": y0, "y1": y1, "line": {"color": colour, "width": width}}


def effects(trials: Sequence[Trial], space: SearchSpace, metric: str) -> list[list[tuple[float, float, int] | None]]:
    """(mean score, half width of its 95 % interval, count) of the candidates that have a choice in a block.

    Returns:
        A list for each choice, in it an entry for each block; None where no candidate has that choice there.
    """
    done = completed(trials)
    genes = np.array([space.encode(Architecture.parse(t.architecture)) for t in done]).reshape(-1, space.num_blocks)
    scores = np.array([t.metrics[metric] for t in done])
    return [[_mean(scores[genes[:, b] == c]) for b in range(space.num_blocks)] for c in range(len(space.choices))]


def _mean(scores: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float, int] | None:
    """Student's interval; of one score alone it is 0 wide, and the count tells."""
    count = len(scores)
    if not count:
        return None
    half = scipy.stats.t.ppf(0.975, count - 1) * scores.std(ddof=1) / math.sqrt(count) if count > 1 else 0.0
    return float(scores.mean()), float(half), count


def effects_range(table: Sequence[Sequence[tuple[float, float, int] | None]]) -> tuple[float, float]:
    """(lowest, highest) score that a picture of the effects shows: all means, and intervals of ``_ENOUGH`` candidates.

    An interval of two candidates can be many times as wide as all others, which would be squeezed to nothing.
    """
    ends = []
    for mean, half, count in (one for row in table for one in row if one is not None):
        shown = half if count >= _ENOUGH else 0.0
        ends += [mean - shown, mean + shown]
    if not ends:
        return 0.0, 1.0
    margin = 0.08 * (max(ends) - min(ends)) or 0.01
    return min(ends) - margin, max(ends) + margin


def effects_figure(trials: Sequence[Trial], space: SearchSpace, metric: str) -> Spec:
    """Mean score of the candidates that have a choice in a block, with its interval, less the mean of all."""
    done = completed(trials)
    overall = float(np.mean([t.metrics[metric] for t in done]))
    data = []
    num = len(space.choices)
    table = effects(done, space, metric)
    for c, (size, row) in enumerate(zip(space.choices, table, strict=True)):
        found = [(b, one) for b, one in enumerate(row) if one is not None]
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": format_block(size),
                "x": [b + 1 + (c - (num - 1) / 2) * 0.7 / num for b, _ in found],
                "y": [mean - overall for _, (mean, _, _) in found],
                "error_y": {"type": "data", "array": [half for _, (_, half, _) in found], "thickness": 1.2, "width": 0},
                "marker": {"color": CHOICES[c % len(CHOICES)], "symbol": _SYMBOLS[c % len(_SYMBOLS)], "size": 7},
                "customdata": [[b + 1, n] for b, (_, _, n) in found],
                "hovertemplate": "block %{customdata[0]}: %{y:+.4f}, of %{customdata[1]} candidates",
            }
        )
    layout = layout_of("block", f"{OBJECTIVES[metric].title} against the mean", 380)
    layout["xaxis"] |= {"dtick": 1 if space.num_blocks <= 12 else 2, "tick0": 1, "showgrid": False}
    layout["xaxis"] |= {"range": [0.4, space.num_blocks + 0.6]}
    layout["yaxis"] |= {"zeroline": True, "zerolinecolor": TEXT, "zerolinewidth": 1}
    layout["yaxis"] |= {"range": [end - overall for end in effects_range(table)]}
    layout["yaxis"] |= {"exponentformat": "none"}  # a Dice of 200µ is nothing that anybody says
    return {"data": data, "layout": layout}


def parallel_figure(
    trials: Sequence[Trial], space: SearchSpace, objectives: Sequence[str], chosen: int | None = None
) -> Spec:
    """A line a candidate through the most frequent slice size of each stage and its objectives, the best on top.

    Args:
        chosen: number of the trial that is drawn as the best; None for the best of these. After finals it need not be.

    Drawn as plain lines: the library's own parallel coordinates need WebGL and code made at run time, which the page's
    security policy forbids.
    """
    done = completed(trials)
    ranked = sorted(done, key=lambda t: (t.violation, losses(t.metrics, objectives), t.number), reverse=True)
    kept = [ranked[i] for i in np.unique(np.linspace(0, len(ranked) - 1, min(_MAX_LINES, len(ranked))).astype(int))]
    stages, labels = stage_names(space), [format_block(size) for size in space.choices]
    arrows = ("↑" if OBJECTIVES[name].direction == "maximize" else "↓" for name in objectives)
    names = [*stages, *(f"{OBJECTIVES[name].title} {arrow}" for name, arrow in zip(objectives, arrows, strict=True))]
    scale = {name: _range([t.metrics[name] for t in done]) for name in objectives}
    groups = np.array_split(np.arange(len(kept)), min(4, len(kept)))
    colours = [RANDOM, "#56b4e9", TRIALS, FRONT][-len(groups) :]
    titles = ["worst quarter", "third quarter", "second quarter", "best quarter"][-len(groups) :]
    data = []
    for group, colour, title in zip(groups, colours, titles, strict=True):
        xs: list[int | None] = []
        ys: list[float | None] = []
        for i in group.tolist():
            xs += [*range(len(names)), None]
            ys += [*_line(kept[i], space, objectives, scale), None]
        line = {"color": colour, "width": 1.4}
        data.append(
            {"type": "scatter", "mode": "lines", "x": xs, "y": ys, "name": title, "line": line, "opacity": 0.55,
             "hoverinfo": "skip"}
        )  # fmt: skip
    best = next((t for t in done if t.number == chosen), kept[-1])
    data.append(
        {"type": "scatter", "mode": "lines+markers", "x": list(range(len(names))),
         "y": _line(best, space, objectives, scale), "name": "best",
         "line": {"color": TEXT, "width": 3}, "text": [hover_text(best, objectives)] * len(names),
         "hoverinfo": "text"}
    )  # fmt: skip
    layout = layout_of("", "", 420)
    layout["xaxis"] |= {"tickvals": list(range(len(names))), "ticktext": names}
    layout["xaxis"] |= {"range": [-0.4, len(names) - 0.6]}
    layout["margin"]["b"] = 72
    layout["yaxis"] |= {"tickvals": [(i + 0.5) / len(labels) for i in range(len(labels))], "ticktext": labels}
    layout["yaxis"] |= {"range": [-0.08, 1.08], "showgrid": False}
    note = {"showarrow": False, "font": {"size": 11}}
    layout["annotations"] = [
        {**note, "x": len(stages) + i, "y": y, "text": format_value(name, value), "yanchor": anchor}
        for i, name in enumerate(objectives)
        for y, anchor, value in zip((1, 0), ("bottom", "top"), _best_first(name, scale[name]), strict=True)
    ]
    return {"data": data, "layout": layout}


def _range(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _best_first(name: str, ends: tuple[float, float]) -> tuple[float, float]:
    return (ends[1], ends[0]) if OBJECTIVES[name].direction == "maximize" else ends


def _line(
    trial: Trial, space: SearchSpace, objectives: Sequence[str], scale: Mapping[str, tuple[float, float]]
) -> list[float]:
    """Heights 0…1 on each axis; better is higher. Within a slice size, candidates lie apart so that all are seen."""
    genes, heights, start = space.encode(Architecture.parse(trial.architecture)), [], 0
    apart = (trial.number * 0.618 % 1 - 0.5) * 0.6
    for depth in space.depths:
        majority = Counter(sorted(genes[start : start + depth])).most_common(1)[0][0]
        heights.append((majority + 0.5 + apart) / len(space.choices))
        start += depth
    for name in objectives:
        top, bottom = _best_first(name, scale[name])
        heights.append(1.0 if top == bottom else (trial.metrics[name] - bottom) / (top - bottom))
    return heights
