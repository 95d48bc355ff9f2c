"""The report of a search as one page: self-contained, readable offline, in a light and a dark theme.

Plotly's library is embedded once, from the installed package. A content security policy keeps the page from loading
anything and from running anything but what stands in it; whatever a user wrote is escaped by the template engine.
"""

from __future__ import annotations

import base64
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from nas import report_choices as choices
from nas import report_figures as figures
from nas.objectives import OBJECTIVES, format_value, loss_matrix, primary_metric
from nas.report_drawn import Figure, choice_figures, course_figures, measured_curves
from nas.report_figures import completed
from nas.space import SearchSpace
from nas.study import Trial, TrialState, pareto_front

_TEMPLATE = "report.html.j2"
_SCORES = ("dice", "miou", "hd95", "sensitivity", "specificity", "accuracy")
_GENERATIONS = ("evolution", "nsga2")


@dataclass(frozen=True)
class Picture:
    """A picture of the report, as PNG, with what it shows in words."""

    png: bytes
    alt: str

    @property
    def url(self) -> str:
        return "data:image/png;base64," + base64.b64encode(self.png).decode()


@dataclass(frozen=True)
class ReportInput:
    """All that a report is made of. What a run does not have is empty, and its part of the page says so.

    Attributes:
        job, result: ``config.json`` and ``result.json``. space: of the search.
        trials, random: of the search and of random search, in any state.
        audit: ``audit.json``. costs: from ``cluster.costs.search_costs``.
        pictures: predictions on test, the worst first.
        written_at: when, for people.
    """

    job: Mapping[str, Any]
    result: Mapping[str, Any]
    space: SearchSpace
    trials: Sequence[Trial]
    random: Sequence[Trial] = ()
    audit: Mapping[str, Any] | None = None
    costs: Mapping[str, Any] = field(default_factory=dict)
    pictures: Sequence[Picture] = ()
    written_at: str = ""


def render_report(source: ReportInput) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "metric": _metric, "end": _end, "signed": _signed}
    environment.filters |= {"stages": lambda text: text.split("|")}
    template = environment.get_template(_TEMPLATE)
    return template.render(
        **_context(source),
        plotly=Markup(get_plotlyjs()),
        palette=figures.PALETTE,
        nonce=secrets.token_urlsafe(16),
    )


def _context(source: ReportInput) -> dict[str, Any]:
    objectives = tuple(source.job["search"]["objectives"])
    front = front_members(source)
    metric = primary_metric(objectives)
    return {
        "name": source.job["name"],
        "job": source.job,
        "result": source.result,
        "audit": source.audit,
        "objectives": [OBJECTIVES[name] for name in objectives],
        "metric": OBJECTIVES[metric],
        "tiles": _tiles(source, front, objectives),
        "front": _front_rows(source, front),
        "failures": [t for t in source.trials if t.ended and t.state is not TrialState.COMPLETED],
        "states": Counter(trial.state.value for trial in source.trials),
        "figures": {figure.key: figure for figure in _figures(source, front, objectives, metric)},
        "scores": _test_scores(source),
        "pictures": source.pictures,
        "costs": source.costs,
        "settings": _flatten(source.job),
        "environment": _flatten(source.result.get("environment", {})),
        "written_at": source.written_at,
        "num_trials": len(source.trials),
    }


def front_members(source: ReportInput) -> list[Trial]:
    """Trials of the frontier that the run has measured, the best first; those Pareto-optimal by figures without one.

    Their metrics are those the frontier was made from: of the finals, where there were any.
    """
    rows = source.result.get("pareto", ()) if "front" in source.result else ()
    by_number = {trial.number: trial for trial in source.trials}
    found = [
        trial.model_copy(update={"metrics": trial.metrics | row["metrics"]})
        for row in rows
        if (trial := by_number.get(row["number"])) is not None
    ]
    return found or pareto_front(list(source.trials), tuple(source.job["search"]["objectives"]))


def _tiles(source: ReportInput, front: list[Trial], objectives: Sequence[str]) -> list[tuple[str, str, str]]:
    """(title, figure, note) of what a reader looks for first."""
    first = objectives[0]
    title = OBJECTIVES[first].title
    done = completed(source.trials)

    def best(of: Sequence[Trial]) -> Trial | None:
        return min(of, key=lambda t: loss_matrix([t.metrics], [first])[0, 0], default=None)

    tiles = [("evaluated", str(len(source.trials)), f"{len(done)} completed, {len(front)} Pareto-optimal")]
    if front:
        weights = "after the finals" if source.result.get("finals") else "supernet weights"
        tiles.append((f"{title}, best found", format_value(first, front[0].metrics[first]), f"{weights}, search split"))
    for name, of in (("fixed", [t for t in done if t.origin == "fixed"]), ("random", completed(source.random))):
        found = best([t for t in of if t.eligible])
        if found is not None:
            note = figures.fixed_label(found) if name == "fixed" else f"of {len(of)} candidates"
            tiles.append((f"{title}, best {name}", format_value(first, found.metrics[first]), note))
    test = source.result.get("retrained", {}).get("scores", {}).get("test")
    if test:
        interval = source.result["retrained"].get("intervals", {}).get("test", {}).get("dice")
        note = "retrained" + (f", 95 % interval {interval[0]:.3f}–{interval[1]:.3f}" if interval else "")
        tiles.append(("Dice on test", _number(test["dice"]), note))
    for other in source.result.get("baselines", {}).values():
        if "test" in other.get("scores", {}):
            dice = _number(other["scores"]["test"]["dice"])
            tiles.append((f"Dice on test, {other['title']}", dice, "trained for as long"))
    hours = source.costs.get("device_hours")
    if hours:
        tiles.append(("device hours", f"{sum(hours.values()):.2g}", "training and evaluation"))
    return tiles


def _front_rows(source: ReportInput, front: list[Trial]) -> list[dict[str, Any]]:
    members = {row["number"]: row for row in (source.audit or {}).get("front", {}).get("members", [])}
    told = {row["number"]: row for row in source.result.get("pareto", ())}
    return [
        {
            "trial": t,
            "metrics": told.get(t.number, {}).get("metrics", t.metrics),
            "audit": members.get(t.number),
            "ties": told.get(t.number, {}).get("tied_with", ()),
        }
        for t in front
    ]


def _figures(source: ReportInput, front: list[Trial], objectives: Sequence[str], metric: str) -> list[Figure]:
    found: list[Figure] = []
    if front:
        found += _search_figures(source, front, objectives, metric)
    audit = source.audit
    if audit is not None:
        found += _audit_figures(audit)
    hours = {**source.costs.get("device_hours", {}), **((audit or {}).get("device_hours", {}))}
    if any(hours.values()):
        found.append(
            Figure(
                "cost",
                figures.cost_figure(hours),
                "Cost of the run.",
                "Hours of worker time by phase; training counts wall time times workers.",
                "Bars: " + ", ".join(f"{name} {value:.2g} hours" for name, value in hours.items()),
            )
        )
    return found


def _search_figures(source: ReportInput, front: list[Trial], objectives: Sequence[str], metric: str) -> list[Figure]:
    search = source.job["search"]
    generation = search["population_size"] if search["searcher"] in _GENERATIONS else None
    done, random = completed(source.trials), completed(source.random)
    members = (source.audit or {}).get("front", {}).get("members", [])
    intervals = {row["number"]: row.get("intervals", {}) for row in [*source.result.get("pareto", ()), *members]}
    best, first = front[0], OBJECTIVES[objectives[0]].title
    found = []
    for other in list(objectives[1:]) or ["number"]:
        against = "the course of the search" if other == "number" else OBJECTIVES[other].title
        bars = " Bars: 95 % intervals over images or patients." if intervals else ""
        after = ", both at what they scored after the finals" if source.result.get("finals") else ""
        found.append(
            Figure(
                f"front-{other}",
                figures.front_figure(
                    source.trials,
                    source.random,
                    objectives,
                    other,
                    intervals=intervals,
                    generation=generation,
                    front=front,
                ),
                f"{first} and {against}.",
                "Each mark is a slicing, scored with the supernet's weights on the search split; "
                "ringed are those of the frontier, which no other measurably beats at their cost, and the best has a "
                f"star{after}.{bars} The slider goes back in the search.",
                f"Scatter plot of {len(done)} slicings, {len(front)} of them Pareto-optimal; the best, trial "
                f"{best.number}, has {first} {format_value(objectives[0], best.metrics[objectives[0]])}.",
            )
        )
    found += course_figures(source.trials, hypervolume_of(source, objectives))
    found.append(
        Figure(
            "slicing",
            choices.slicing_figure(source.trials, best, source.space, generation),
            "Which slice sizes were proposed.",
            "Share of each slice size in each block among the candidates of a generation; framed, the best slicing. "
            "Where a row darkens from one generation to the next, the search has settled.",
            "Heat map of blocks and slice sizes; the best slicing is " + best.architecture,
        )
    )
    scans = (source.result.get("scan_use") or {}).get("sentence", "")
    return found + choice_figures(done, random, front, source.space, objectives, scans=scans)


def hypervolume_of(source: ReportInput, objectives: Sequence[str]) -> dict[str, list[float]]:
    """The audit's curves, or those that the run itself has."""
    if source.audit is not None:
        audited: dict[str, list[float]] = source.audit["random"]["hypervolume"]
        return audited
    return measured_curves(source.trials, source.random, objectives)


def _audit_figures(audit: Mapping[str, Any]) -> list[Figure]:
    tau = audit["ranking"]["test"]["kendall"]
    count = audit["ranking"]["test"]["num_architectures"]
    found = [
        Figure(
            "ranking",
            figures.ranking_figure(audit["retrained"], audit["metric"]),
            "Does the supernet rank as training from scratch does?",
            f"Each mark is a slicing trained from scratch by one recipe. Over these {count}, Kendall's τ is "
            f"{_interval(tau)}. Bars: 95 % intervals over test images or patients.",
            f"Scatter plot of {count} slicings; Kendall's tau {_interval(tau)}.",
        )
    ]
    if audit["comparison"]["fixed"]:
        words = [f"{size} {_interval(one)}" for size, one in audit["comparison"]["fixed"].items()]
        found.append(
            Figure(
                "difference",
                figures.difference_figure(audit["comparison"], audit["metric"]),
                "The best against fixed slicing, on test.",
                f"Difference in {OBJECTIVES[audit['metric']].title} on the same images, both trained from scratch; "
                "95 % intervals over images or patients, and over seeds where there are several. Right of 0: the best "
                "is better.",
                "Dot plot; the best less fixed " + ", ".join(words),
            )
        )
    return found


def _interval(one: Mapping[str, float | None]) -> str:
    if one["value"] is None:
        return "not available"
    ends = "" if one["low"] is None else f" ({_signed(one['low'])} to {_signed(one['high'])})"
    return f"{_signed(one['value'])}{ends}"


def _test_scores(source: ReportInput) -> dict[str, Any] | None:
    """Header and rows of the table of test scores; None where no network was retrained."""
    retrained = source.result.get("retrained")
    if not retrained or "test" not in retrained.get("scores", {}):
        return None
    names = [name for name in _SCORES if name in retrained["scores"]["test"]]
    intervals = retrained.get("intervals", {}).get("test", {})
    best = [(retrained["scores"]["test"][name], intervals.get(name)) for name in names]
    rows = [("Best slicing, retrained", best)]
    for found in source.result.get("baselines", {}).values():
        scores, ends = (found.get(part, {}).get("test", {}) for part in ("scores", "intervals"))
        title = f"{found['title']}, trained for as long"
        rows.append((title, [(scores.get(metric), ends.get(metric)) for metric in names]))
    for name, scores in source.result.get("trivial", {}).get("test", {}).items():
        rows.append((name, [(scores.get(metric), None) for metric in names]))
    return {"names": [_score_title(name) for name in names], "rows": rows}


def _score_title(name: str) -> str:
    return OBJECTIVES[name].heading if name in OBJECTIVES else f"{name.replace('_', ' ').capitalize()} ↑"


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """(dotted name, value) of nested settings."""
    rows = []
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            rows += _flatten(value, f"{prefix}{key}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            rows.append((f"{prefix}{key}", "none" if value is None else text))
    return rows


def _number(value: float | None) -> str:
    """Four digits after the point for scores, four in all for larger figures."""
    if value is None or not np.isfinite(value):
        return "–"
    return f"{value:.4f}" if abs(value) < 2 else f"{value:.4g}"


def _end(value: float) -> str:
    """Of an interval, a figure shorter than what it is of, so that a table of scores has room for all columns."""
    return f"{value:.3f}" if abs(value) < 2 else f"{value:.3g}"


def _metric(value: float | None, name: str) -> str:
    return format_value(name, value)


def _signed(value: float | None) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{value:+.3f}".replace("-", "−")
