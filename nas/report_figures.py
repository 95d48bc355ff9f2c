"""Interactive figures of the report, as plain Plotly specifications: ``data``, ``layout``, and ``steps`` for a slider.

Colours are written as those of the light theme; the page replaces each by its own variable (``PALETTE``), so one
specification serves both themes. The palette is Okabe and Ito's, told apart by colour-blind readers, and the same as in
``nas.report``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from nas.objectives import OBJECTIVES, loss_matrix
from nas.pareto import pareto_mask
from nas.space import SearchSpace
from nas.study import Trial, TrialState
from slicemamba.architecture import Architecture, format_block

Spec = dict[str, Any]

FRONT, TRIALS, RANDOM, FIXED, SAMPLED = "#d55e00", "#0072b2", "#999999", "#009e73", "#cc79a7"
TEXT, GRID, SURFACE = "#1a1a1b", "#e4e4e7", "#fffffe"
PALETTE = (FRONT, TRIALS, RANDOM, FIXED, SAMPLED, TEXT, GRID, SURFACE, "#e69f00", "#56b4e9")
CHOICES = (TRIALS, FRONT, FIXED, SAMPLED, "#e69f00", "#56b4e9", RANDOM)
_BAND = "rgba(153,153,153,0.28)"
_SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "star", "x")
_MAX_STEPS, _MAX_LINES = 40, 300
_TIMES = (("seconds", 1), ("minutes", 60), ("hours", 3600))


def completed(trials: Sequence[Trial]) -> list[Trial]:
    """Those with metrics, in the order they ended in."""
    return sorted((t for t in trials if t.state is TrialState.COMPLETED), key=lambda t: (t.ended_as or 0, t.number))


def title_of(name: str) -> str:
    """An objective's title with its unit and direction."""
    objective = OBJECTIVES[name]
    unit = "" if objective.unit in ("0…1", "count") else f" ({objective.unit})"
    return f"{objective.title}{unit} {'↑' if objective.direction == 'maximize' else '↓'}"


def fixed_label(trial: Trial) -> str:
    """The slice size of a fixed slicing."""
    return format_block(next(Architecture.parse(trial.architecture).blocks()))


def stage_names(space: SearchSpace) -> list[str]:
    """``enc 1`` … and ``dec 1`` …, one a stage."""
    half = len(space.depths) // 2
    return [f"enc {i + 1}" if i < half else f"dec {i + 1 - half}" for i in range(len(space.depths))]


def steps_of(count: int, generation: int | None) -> list[int]:
    """Numbers of evaluations at which a slider stops: after each generation, or evenly; the last is ``count``."""
    size = generation or max(1, math.ceil(count / _MAX_STEPS))
    while count / size > _MAX_STEPS:
        size *= 2
    return [*range(size, count, size), count] if count else []


def _layout(x: str, y: str, height: int = 420, **more: Any) -> Spec:
    axis = {"gridcolor": GRID, "zeroline": False, "linecolor": TEXT, "ticks": "outside", "automargin": True}
    return {
        "height": height,
        "margin": {"l": 56, "r": 16, "t": 16, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": TEXT, "size": 13},
        "hoverlabel": {"align": "left"},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "xaxis": {**axis, "title": {"text": x}},
        "yaxis": {**axis, "title": {"text": y}},
        **more,
    }


def _hover(trial: Trial, objectives: Sequence[str]) -> str:
    values = "<br>".join(f"{OBJECTIVES[name].title} {trial.metrics[name]:.4g}" for name in objectives)
    stages = "<br>".join(trial.architecture.split("|"))
    return f"<b>trial {trial.number}</b> ({trial.origin})<br>{values}<br>{stages}"


def front_figure(
    trials: Sequence[Trial],
    random: Sequence[Trial],
    objectives: Sequence[str],
    x: str,
    *,
    intervals: Mapping[int, Mapping[str, Mapping[str, float]]],
    generation: int | None = None,
) -> Spec:
    """All candidates in the plane of the first objective (y) and ``x``, and the front over all objectives.

    Args:
        x: another objective, or ``number``, the place in the search.
        intervals: of the front's members by trial number and metric, from the audit; may be empty.
        generation: evaluations between two stops of the slider.
    """
    done, others, y = completed(trials), completed(random), objectives[0]

    def points(of: Sequence[Trial]) -> Spec:
        value = [float(i + 1) for i in range(len(of))] if x == "number" else [t.metrics[x] for t in of]
        return {
            "x": value,
            "y": [t.metrics[y] for t in of],
            "text": [_hover(t, objectives) for t in of],
            "hoverinfo": "text",
            "type": "scatter",
            "mode": "markers",
        }

    fixed = [t for t in done if t.origin == "fixed"]
    place = {t.number: i + 1.0 for i, t in enumerate(done)}
    search = points(done) | {"name": "search", "marker": {"color": TRIALS, "size": 7, "opacity": 0.55}}
    data = [points(others) | {"name": "random search", "marker": {"color": RANDOM, "size": 7, "symbol": "x-thin-open"}}]
    data = data * bool(others) + [search | {"meta": "grows"}]
    if fixed:
        squares: Spec = {
            "mode": "markers+text",
            "texttemplate": "%{customdata}",
            "textposition": "top right",
            "cliponaxis": False,
        }
        squares |= {"customdata": [fixed_label(t) for t in fixed], "name": "fixed slicing"}
        data.append(points(fixed) | squares | {"marker": {"color": FIXED, "size": 10, "symbol": "square"}})
        if x == "number":
            data[-1]["x"] = [place[t.number] for t in fixed]
    steps: list[Spec] = []
    for count in steps_of(len(done), generation):
        members = _front(done[:count], objectives)
        shown = points(members) | {"x": [place[t.number] for t in members]} if x == "number" else points(members)
        bars = {f"error_{axis}": _bars(members, name, intervals) for axis, name in (("x", x), ("y", y))}
        fields = {key: shown[key] for key in ("x", "y", "text")} | bars | {"marker": _rings(len(members))}
        steps.append({"label": f"{count} evaluations", "count": count, "fields": fields})
    if steps:
        front: Spec = {
            "name": "Pareto-optimal",
            "type": "scatter",
            "mode": "markers",
            "hoverinfo": "text",
        }
        data.append({**front, **steps[-1]["fields"], "meta": "stepped"})
    labels = ("evaluation", title_of(y)) if x == "number" else (title_of(x), title_of(y))
    return {"data": data, "layout": _layout(*labels), "steps": steps}


def _front(trials: Sequence[Trial], objectives: Sequence[str]) -> list[Trial]:
    mask = pareto_mask(loss_matrix([trial.metrics for trial in trials], objectives))
    members = [trial for trial, keep in zip(trials, mask, strict=True) if keep]
    return sorted(members, key=lambda trial: loss_matrix([trial.metrics], objectives)[0].tolist())


def _rings(count: int) -> Spec:
    """A star for the best, which comes first, and rings for the others."""
    rest = count - 1
    return {
        "color": [FRONT, *[SURFACE] * rest],
        "symbol": ["star", *["circle"] * rest],
        "size": [15, *[10] * rest],
        "line": {"color": FRONT, "width": 2.5},
    }


def _bars(members: Sequence[Trial], name: str, intervals: Mapping[int, Mapping[str, Mapping[str, float]]]) -> Spec:
    """Error bars of a metric, of length 0 for members without an interval."""
    found = [intervals.get(trial.number, {}).get(name) for trial in members]
    if not any(found):
        return {"visible": False}
    up = [max(0.0, one["high"] - one["value"]) if one else 0.0 for one in found]
    down = [max(0.0, one["value"] - one["low"]) if one else 0.0 for one in found]
    return {
        "type": "data", "symmetric": False, "array": up, "arrayminus": down,
        "color": FRONT, "thickness": 1.2, "width": 3,
    }  # fmt: skip


def hypervolume_figure(curves: Mapping[str, Sequence[float]]) -> Spec:
    """Hypervolume after each evaluation: the search, the band and the mean of random searches, and fixed slicing.

    Args:
        curves: by name: ``search``, any number of ``random …``, and ``fixed``.
    """
    random = [curve for name, curve in curves.items() if name.startswith("random")]
    data: list[Spec] = []
    if random:
        length = min(map(len, random))
        rows = np.array([curve[:length] for curve in random])
        x = list(range(1, length + 1))
        line = {"type": "scatter", "mode": "lines", "x": x, "line": {"shape": "hv"}}
        if len(random) > 1:
            edge = {"line": {"width": 0, "shape": "hv"}, "hoverinfo": "skip"}
            data.append({**line, **edge, "y": rows.max(axis=0).tolist(), "showlegend": False})
            band = {"fill": "tonexty", "fillcolor": _BAND, "name": f"random search, range of {len(random)} seeds"}
            data.append({**line, **edge, "y": rows.min(axis=0).tolist(), **band})
        mean = {
            "name": "random search" + (", mean" if len(random) > 1 else ""),
            "line": {"color": RANDOM, "width": 2, "shape": "hv"},
        }
        data.append({**line, "y": rows.mean(axis=0).tolist(), **mean})
    own = list(curves["search"])
    step = {"type": "scatter", "mode": "lines", "line": {"color": TRIALS, "width": 2.5, "shape": "hv"}}
    data.append({**step, "x": list(range(1, len(own) + 1)), "y": own, "name": "search"})
    if curves.get("fixed"):
        level = {"type": "scatter", "mode": "lines", "name": "fixed slicings alone"}
        dashes = {"line": {"color": FIXED, "width": 2, "dash": "dash"}}
        data.append({**level, **dashes, "x": [1, len(own)], "y": [curves["fixed"][-1]] * 2})
    return {"data": data, "layout": _layout("evaluations", "hypervolume (share of the box)")}


def time_figure(trials: Sequence[Trial], curve: Sequence[float]) -> Spec | None:
    """Hypervolume against wall time since the first candidate, None where times are not known."""
    ended = sorted((t for t in trials if t.ended), key=lambda t: t.ended_as or 0)
    starts = [t.started_at for t in ended if t.started_at]
    ends = [t.ended_at for t in ended if t.ended_at]
    if not starts or len(ends) != len(ended) or len(ended) != len(curve):
        return None
    seconds = [(end - min(starts)).total_seconds() for end in ends]
    unit, size = next((one for one in _TIMES if max(seconds) < 120 * one[1]), _TIMES[-1])
    line = {"color": TRIALS, "width": 2.5, "shape": "hv"}
    x, y = [0.0, *(value / size for value in seconds)], [0.0, *curve]
    data = [{"type": "scatter", "mode": "lines", "x": x, "y": y, "name": "search", "line": line}]
    layout = _layout(f"{unit} since the first candidate", "hypervolume", 300)
    layout["xaxis"] |= {"rangemode": "tozero"}
    return {"data": data, "layout": layout}


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
    layout = _layout("block", "slice size", 130 + 44 * len(labels), shapes=lines + frames, annotations=notes)
    layout["margin"] = {"l": 56, "r": 8, "t": 30, "b": 48}
    for axis in ("xaxis", "yaxis"):
        layout[axis] |= {"type": "category", "showgrid": False, "ticks": ""}
    return {"data": [heat], "layout": layout, "steps": steps}


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
    half = stats.t.ppf(0.975, count - 1) * scores.std(ddof=1) / math.sqrt(count) if count > 1 else 0.0
    return float(scores.mean()), float(half), count


def effects_figure(trials: Sequence[Trial], space: SearchSpace, metric: str) -> Spec:
    """Mean score of the candidates that have a choice in a block, with its interval, less the mean of all."""
    done = completed(trials)
    overall = float(np.mean([t.metrics[metric] for t in done]))
    data = []
    num = len(space.choices)
    for c, (size, row) in enumerate(zip(space.choices, effects(done, space, metric), strict=True)):
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
    layout = _layout("block", f"{OBJECTIVES[metric].title} against the mean", 380)
    layout["xaxis"] |= {"dtick": 1 if space.num_blocks <= 12 else 2, "tick0": 1, "showgrid": False}
    layout["xaxis"] |= {"range": [0.4, space.num_blocks + 0.6]}
    layout["yaxis"] |= {"zeroline": True, "zerolinecolor": TEXT, "zerolinewidth": 1}
    return {"data": data, "layout": layout}


def parallel_figure(trials: Sequence[Trial], space: SearchSpace, objectives: Sequence[str]) -> Spec:
    """A line a candidate through the most frequent slice size of each stage and its objectives, the best on top.

    Drawn as plain lines: the library's own parallel coordinates need WebGL and code made at run time, which the page's
    security policy forbids.
    """
    done = completed(trials)
    ranked = sorted(done, key=lambda t: (loss_matrix([t.metrics], objectives)[0].tolist(), t.number), reverse=True)
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
    best = _line(kept[-1], space, objectives, scale)
    data.append(
        {"type": "scatter", "mode": "lines+markers", "x": list(range(len(names))), "y": best, "name": "best",
         "line": {"color": TEXT, "width": 3}, "text": [_hover(kept[-1], objectives)] * len(names), "hoverinfo": "text"}
    )  # fmt: skip
    layout = _layout("", "", 420)
    layout["xaxis"] |= {"tickvals": list(range(len(names))), "ticktext": names}
    layout["xaxis"] |= {"range": [-0.4, len(names) - 0.6]}
    layout["margin"]["b"] = 72
    layout["yaxis"] |= {"tickvals": [(i + 0.5) / len(labels) for i in range(len(labels))], "ticktext": labels}
    layout["yaxis"] |= {"range": [-0.08, 1.08], "showgrid": False}
    note = {"showarrow": False, "font": {"size": 11}}
    layout["annotations"] = [
        {**note, "x": len(stages) + i, "y": y, "text": f"{value:.3g}", "yanchor": anchor}
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


def ranking_figure(retrained: Sequence[Mapping[str, Any]], metric: str) -> Spec:
    """Score of each architecture with the supernet's weights (search split) and with its own (test)."""
    first: dict[str, Mapping[str, Any]] = {}
    for row in retrained:
        if "test" in row and row["supernet"] is not None:
            first.setdefault(row["architecture"], row)
    kinds = {"sampled": (SAMPLED, "circle"), "fixed": (FIXED, "square"), "best": (FRONT, "star")}
    data = []
    for kind, (colour, symbol) in kinds.items():
        rows = [row for row in first.values() if row["roles"][0].split()[0] == kind]
        if rows:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": kind,
                    "x": [row["supernet"] for row in rows],
                    "y": [row["test"]["value"] for row in rows],
                    "error_y": {
                        "type": "data", "symmetric": False, "thickness": 1, "width": 0, "color": colour,
                        "array": [row["test"]["high"] - row["test"]["value"] for row in rows],
                        "arrayminus": [row["test"]["value"] - row["test"]["low"] for row in rows],
                    },
                    "marker": {"color": colour, "symbol": symbol, "size": 13 if kind == "best" else 9},
                    "text": ["<br>".join([", ".join(row["roles"]), *row["architecture"].split("|")]) for row in rows],
                    "hoverinfo": "text+x+y",
                }
            )  # fmt: skip
    title = OBJECTIVES[metric].title
    return {"data": data, "layout": _layout(f"{title}, supernet (search split)", f"{title}, retrained (test)")}


def difference_figure(comparison: Mapping[str, Any], metric: str) -> Spec:
    """The best less each fixed slicing on test, with intervals: one seed each, and all seeds for the rival."""
    rows = [(f"fixed {size}, one seed", one) for size, one in comparison["fixed"].items()]
    if comparison["difference"] is not None:
        label = f"<b>fixed {comparison['rival']}, {comparison['retrain_seeds']} seeds</b>"
        rows.append((label, comparison["difference"]))
    point = {
        "type": "scatter", "mode": "markers", "y": [name for name, _ in rows],
        "x": [one["value"] for _, one in rows], "marker": {"color": FRONT, "size": 9},
        "error_x": {
            "type": "data", "symmetric": False, "color": FRONT, "thickness": 1.6, "width": 4,
            "array": [one["high"] - one["value"] for _, one in rows],
            "arrayminus": [one["value"] - one["low"] for _, one in rows],
        },
        "hovertemplate": "%{x:+.4f}<extra></extra>",
    }  # fmt: skip
    layout = _layout(f"{OBJECTIVES[metric].title} of the best less that of …", "", 130 + 44 * len(rows))
    layout["xaxis"] |= {"zeroline": True, "zerolinecolor": TEXT, "zerolinewidth": 1}
    return {"data": [point], "layout": layout}


def cost_figure(hours: Mapping[str, float]) -> Spec:
    """Device hours of each phase."""
    names = list(hours)[::-1]
    bar = {
        "type": "bar", "orientation": "h", "y": names, "x": [hours[name] for name in names],
        "marker": {"color": [SAMPLED if name.startswith("audit") else TRIALS for name in names]},
        "hovertemplate": "%{x:.3g} h<extra></extra>",
    }  # fmt: skip
    layout = _layout("device hours", "", 110 + 34 * len(names))
    return {"data": [bar], "layout": layout}
