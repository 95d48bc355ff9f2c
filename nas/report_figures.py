"""Interactive figures of the report, as plain Plotly specifications: ``data``, ``layout``, and ``steps`` for a slider.

Colours are written as those of the light theme; the page replaces each by its own variable (``PALETTE``), so one
specification serves both themes. The palette is Okabe and Ito's, told apart by colour-blind readers, and the same as in
``nas.report``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nas.objectives import OBJECTIVES, format_value
from nas.study import Trial, TrialState, pareto_front
from slicemamba.architecture import Architecture

Spec = dict[str, Any]

FRONT, TRIALS, RANDOM, FIXED, SAMPLED = "#d55e00", "#0072b2", "#999999", "#009e73", "#cc79a7"
TEXT, GRID, SURFACE = "#1a1a1b", "#e4e4e7", "#fffffe"
PALETTE = (FRONT, TRIALS, RANDOM, FIXED, SAMPLED, TEXT, GRID, SURFACE, "#e69f00", "#56b4e9")
_BAND = "rgba(153,153,153,0.28)"
_MAX_STEPS = 40
_TIMES = (("seconds", 1), ("minutes", 60), ("hours", 3600))


def completed(trials: Sequence[Trial]) -> list[Trial]:
    """Those with metrics, in the order they ended in."""
    return sorted((t for t in trials if t.state is TrialState.COMPLETED), key=lambda t: (t.ended_as or 0, t.number))


def fixed_label(trial: Trial) -> str:
    """The slice size of a fixed slicing."""
    return Architecture.parse(trial.architecture).fixed_name


def fixed_labels(fixed: Sequence[Trial], xs: Sequence[float], ys: Sequence[float]) -> list[str]:
    """What is written beside the fixed networks where they are drawn; those on one spot share the first one's."""
    near = [0.02 * (max(of) - min(of)) for of in (xs, ys)] if fixed else []
    found: dict[int, list[str]] = {}
    for place, trial in enumerate(fixed):
        at = (one for one in found if abs(xs[one] - xs[place]) <= near[0] and abs(ys[one] - ys[place]) <= near[1])
        found.setdefault(next(at, place), []).append(fixed_label(trial))
    return [", ".join(found.get(place, ())) for place in range(len(fixed))]


def steps_of(count: int, generation: int | None) -> list[int]:
    """Numbers of evaluations at which a slider stops: after each generation, or evenly; the last is ``count``."""
    size = generation or max(1, math.ceil(count / _MAX_STEPS))
    while count / size > _MAX_STEPS:
        size *= 2
    return [*range(size, count, size), count] if count else []


def layout_of(x: str, y: str, height: int = 420, **more: Any) -> Spec:
    """What all figures have in common, with the axes' titles."""
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


def hover_text(trial: Trial, objectives: Sequence[str]) -> str:
    """What is told of a trial under the pointer."""
    values = "<br>".join(f"{OBJECTIVES[name].title} {format_value(name, trial.metrics[name])}" for name in objectives)
    stages = "<br>".join(trial.architecture.split("|"))
    outside = "" if trial.eligible else "<br>outside the constraints"
    return f"<b>trial {trial.number}</b> ({trial.origin}){outside}<br>{values}<br>{stages}"


def front_figure(
    trials: Sequence[Trial],
    random: Sequence[Trial],
    objectives: Sequence[str],
    x: str,
    *,
    intervals: Mapping[int, Mapping[str, Mapping[str, float]]],
    generation: int | None = None,
    front: Sequence[Trial] | None = None,
) -> Spec:
    """All candidates in the plane of the first objective (y) and ``x``, and the front over all objectives.

    Args:
        x: another objective, or ``number``, the place in the search.
        intervals: of the front's members by trial number and metric, from the audit; may be empty.
        generation: evaluations between two stops of the slider.
        front: of the finished search, the best first; of the stops before, what is Pareto-optimal by its figures.
    """
    done, others, y = completed(trials), completed(random), objectives[0]

    def points(of: Sequence[Trial]) -> Spec:
        value = [float(i + 1) for i in range(len(of))] if x == "number" else [t.metrics[x] for t in of]
        return {
            "x": value,
            "y": [t.metrics[y] for t in of],
            "text": [hover_text(t, objectives) for t in of],
            "hoverinfo": "text",
            "type": "scatter",
            "mode": "markers",
        }

    fixed = [t for t in done if t.origin == "fixed"]
    place = {t.number: i + 1.0 for i, t in enumerate(done)}
    blue = {"color": TRIALS, "size": 7, "opacity": 0.55, "symbol": _symbols(done, "circle")}
    grey = {"color": RANDOM, "size": 7, "symbol": _symbols(others, "x-thin-open")}
    name = "search" if all(t.eligible for t in done) else "search (▽ outside the constraints)"
    data = [points(others) | {"name": "random search", "marker": grey}]
    data = data * bool(others) + [points(done) | {"name": name, "marker": blue, "meta": "grows"}]
    if fixed:
        squares: Spec = {
            "mode": "markers+text",
            "texttemplate": "%{customdata}",
            "textposition": "top right",
            "cliponaxis": False,
        }
        spots = points(fixed)
        squares |= {"customdata": fixed_labels(fixed, spots["x"], spots["y"]), "name": "fixed slicing"}
        data.append(spots | squares | {"marker": {"color": FIXED, "size": 10, "symbol": "square"}})
        if x == "number":
            data[-1]["x"] = [place[t.number] for t in fixed]
    steps: list[Spec] = []
    for count in steps_of(len(done), generation):
        at_the_end = front is not None and count == len(done)
        members = list(front or ()) if at_the_end else pareto_front(done[:count], tuple(objectives))
        shown = points(members) | {"x": [place[t.number] for t in members]} if x == "number" else points(members)
        bars = {f"error_{axis}": _bars(members, name, intervals) for axis, name in (("x", x), ("y", y))}
        fields = {key: shown[key] for key in ("x", "y", "text")} | bars | {"marker": _rings(len(members))}
        steps.append({"label": f"{count} evaluations", "count": count, "fields": fields})
    if steps:
        ringed: Spec = {
            "name": "Pareto-optimal",
            "type": "scatter",
            "mode": "markers",
            "hoverinfo": "text",
        }
        data.append({**ringed, **steps[-1]["fields"], "meta": "stepped"})
    labels = ("evaluation", OBJECTIVES[y].heading) if x == "number" else (OBJECTIVES[x].heading, OBJECTIVES[y].heading)
    return {"data": data, "layout": layout_of(*labels), "steps": steps}


def _symbols(trials: Sequence[Trial], usual: str) -> list[str]:
    """Open triangles for what breaks a constraint, and so can be on no front."""
    return [usual if trial.eligible else "triangle-down-open" for trial in trials]


def _rings(count: int) -> Spec:
    """A star for the best, which comes first, and rings for the others."""
    rest = count - 1
    return {
        "color": [FRONT, *[SURFACE] * rest][:count],
        "symbol": ["star", *["circle"] * rest][:count],
        "size": [15, *[10] * rest][:count],
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
    return {"data": data, "layout": layout_of("evaluations", "hypervolume (share of the box)")}


def time_figure(trials: Sequence[Trial], curve: Sequence[float]) -> Spec | None:
    """Hypervolume against wall time since the first candidate, None where times are not known."""
    ended = sorted((t for t in trials if t.ended), key=lambda t: t.ended_as or 0)
    starts = [t.started_at for t in ended if t.started_at]
    ends = [t.ended_at for t in ended if t.ended_at]
    if not starts or len(ends) != len(ended) or len(ended) != len(curve):
        return None
    seconds = [(end - min(starts)).total_seconds() for end in ends]
    unit, size = _unit(max(seconds))
    line = {"color": TRIALS, "width": 2.5, "shape": "hv"}
    x, y = [0.0, *(value / size for value in seconds)], [0.0, *curve]
    data = [{"type": "scatter", "mode": "lines", "x": x, "y": y, "name": "search", "line": line}]
    layout = layout_of(f"{unit} since the first candidate", "hypervolume", 300)
    layout["xaxis"] |= {"rangemode": "tozero"}
    return {"data": data, "layout": layout}


def _unit(longest: float) -> tuple[str, int]:
    """(name, seconds) of the unit that seconds up to ``longest`` are told in."""
    return next((one for one in _TIMES if longest < 120 * one[1]), _TIMES[-1])


_STATES = {
    TrialState.COMPLETED: TRIALS,
    TrialState.PRUNED: RANDOM,
    TrialState.INFEASIBLE: SAMPLED,
    TrialState.FAILED: FRONT,
}


def _begun(trial: Trial) -> float | None:
    """When its evaluation began in the worker or, where that is not known, when it was handed out."""
    if trial.seconds is not None and trial.ended_at is not None:
        return trial.ended_at.timestamp() - trial.seconds
    return trial.started_at.timestamp() if trial.started_at else None


def workers_figure(trials: Sequence[Trial]) -> Spec | None:
    """When each evaluation ran: a bar each, in as few rows as ran at once; None where no times are known."""
    ran = [
        (begun, trial.ended_at.timestamp(), trial)
        for trial in trials
        if trial.state in _STATES and trial.ended_at is not None and (begun := _begun(trial)) is not None
    ]
    if not ran:
        return None
    ran.sort(key=lambda one: one[:2])
    first, last = ran[0][0], max(end for _, end, _ in ran)
    unit, size = _unit(last - first)
    rows: list[float] = []  # when the last evaluation of each ended
    bars: dict[TrialState, list[tuple[int, float, float, str]]] = {state: [] for state in _STATES}
    for start, end, trial in ran:
        # The driver notes the end a little after the worker's, which may have begun the next by then.
        latest = start + 0.1 * (end - start)
        row = next((i for i, free in enumerate(rows) if free <= latest), len(rows))
        rows[row:] = [end, *rows[row + 1 :]]
        text = f"trial {trial.number} ({trial.origin}), {end - start:.2f} s"
        bars[trial.state].append((row, (start - first) / size, (end - start) / size, text))
    data = []
    for state, found in bars.items():
        if found:
            data.append(
                {"type": "bar", "orientation": "h", "name": state.value.lower(), "y": [one[0] for one in found],
                 "base": [one[1] for one in found], "x": [one[2] for one in found], "width": 0.8,
                 "hovertext": [one[3] for one in found], "hoverinfo": "text",
                 "marker": {"color": _STATES[state], "line": {"color": SURFACE, "width": 0.5}}}
            )  # fmt: skip
    layout = layout_of(f"{unit} since the first evaluation began", "", 130 + 16 * min(len(rows), 40))
    layout |= {"barmode": "overlay", "showlegend": True}
    layout["yaxis"] |= {"showticklabels": False, "ticks": "", "showgrid": False, "range": [-0.6, len(rows) - 0.4]}
    return {"data": data, "layout": layout}


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
    return {"data": data, "layout": layout_of(f"{title}, supernet (search split)", f"{title}, retrained (test)")}


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
    layout = layout_of(f"{OBJECTIVES[metric].title} of the best less that of …", "", 130 + 44 * len(rows))
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
    layout = layout_of("device hours", "", 110 + 34 * len(names))
    return {"data": [bar], "layout": layout}
