"""Pictures of what the service has answered: the report's figures on its trials, and a plot in characters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from api import schemas
from nas.objectives import OBJECTIVES, format_value
from nas.report_figures import front_figure
from nas.study import Trial, TrialState
from slicemamba.errors import InputError
from slicemamba.files import writing

WIDTH, HEIGHT = 72, 18  # of the plot in characters
PAGE = {"displaylogo": False, "modeBarButtonsToRemove": ["sendChartToCloud"]}
"""Of a plot as a page: without the button that uploads it to servers of plotly.js's maker."""


def measured_trials(trials: Iterable[schemas.Trial], objectives: Sequence[str]) -> list[Trial]:
    """The completed trials that have all these figures, as the figures of a report take them."""
    done = [
        trial
        for trial in trials
        if trial.state is TrialState.COMPLETED and all(trial.metrics.get(name) is not None for name in objectives)
    ]
    done.sort(key=lambda trial: (trial.ended_at is None, trial.ended_at, trial.number))
    return [
        Trial(
            **trial.model_dump(exclude={"metrics"}),
            metrics={name: value for name, value in trial.metrics.items() if value is not None},
            asked_after=place,
            ended_as=place,
        )
        for place, trial in enumerate(done)
    ]


def pareto_spec(
    trials: Iterable[schemas.Trial], random: Iterable[schemas.Trial], objectives: Sequence[str]
) -> dict[str, Any]:
    """The report's figure of the frontier: ``data`` and ``layout`` for Plotly.

    Args:
        objectives: the first is drawn upwards and the second across; with one alone, against the place in the search.

    Raises:
        InputError: an objective is none.
    """
    check_objectives(objectives)
    across = objectives[1] if len(objectives) > 1 else "number"
    found, others = measured_trials(trials, objectives), measured_trials(random, objectives)
    spec = front_figure(found, others, objectives, across, intervals={})
    return {"data": spec["data"], "layout": spec["layout"]}


def save_pareto(
    path: Path, trials: Iterable[schemas.Trial], random: Iterable[schemas.Trial], objectives: Sequence[str]
) -> None:
    """Writes the frontier as a picture (PNG, PDF, SVG), or as a page that needs nothing else (HTML).

    Raises:
        InputError: the file's name ends otherwise, an objective is none, or no trial is completed.
    """
    check_objectives(objectives)
    trials, random = list(trials), list(random)
    done = measured_trials(trials, objectives)
    if not done:
        raise InputError("no trial is completed yet, so there is nothing to plot")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".html", ".htm"):
        from plotly.graph_objects import Figure

        with writing(path) as draft:
            Figure(pareto_spec(trials, random, objectives)).write_html(draft, include_plotlyjs=True, config=PAGE)
    elif path.suffix in (".png", ".pdf", ".svg"):
        from nas.report import plot_pareto

        plot_pareto(path, done, objectives, random=measured_trials(random, objectives))
    else:
        raise InputError(f"a plot's name must end in .png, .pdf, .svg or .html; got {str(path)!r}")


def check_objectives(names: Sequence[str]) -> None:
    """Raises InputError for a name that is none."""
    unknown = [name for name in names if name not in OBJECTIVES]
    if unknown or not names:
        raise InputError(f"objectives must be some of {', '.join(OBJECTIVES)}; got {', '.join(unknown) or 'none'}")


def draw_pareto(
    trials: Iterable[schemas.Trial], front: Sequence[int], objectives: Sequence[str], *, width: int = WIDTH
) -> str:
    """The plane of the first objective (upwards) and the second (across) in characters; ``O`` are on the front.

    Args:
        trials: of the search. front: numbers of the Pareto-optimal ones. width: of the plot, in characters.
    """
    shown = measured_trials(trials, objectives)
    if not shown:
        return "no trial is completed yet"
    y = [trial.metrics[objectives[0]] for trial in shown]
    second = objectives[1] if len(objectives) > 1 else None
    x = [trial.metrics[second] if second else float(trial.number) for trial in shown]
    rows = [[" "] * width for _ in range(HEIGHT)]
    for trial, across, up in sorted(zip(shown, x, y, strict=True), key=lambda item: item[0].number in front):
        row = HEIGHT - 1 - _place(up, min(y), max(y), HEIGHT)
        sign = "O" if trial.number in front else "v" if not trial.eligible else "x" if trial.origin == "fixed" else "·"
        rows[row][_place(across, min(x), max(x), width)] = sign
    ticks = [format_value(objectives[0], max(y)), *[""] * (HEIGHT - 2), format_value(objectives[0], min(y))]
    margin = max(map(len, ticks))
    body = [f"{tick:>{margin}} │{''.join(row).rstrip()}" for tick, row in zip(ticks, rows, strict=True)]
    low, high = (format_value(second or "trial", edge) for edge in (min(x), max(x)))
    under = f"{low}{' ' * max(1, width - len(low) - len(high))}{high}"
    across_title = OBJECTIVES[second].heading if second else "trial"
    lines = [OBJECTIVES[objectives[0]].heading, *body, f"{' ' * margin} └{'─' * width}", f"{' ' * margin}  {under}"]
    signs = "O Pareto-optimal  · search  x fixed slicing" + "  v outside the constraints" * any(
        not trial.eligible for trial in shown
    )
    return "\n".join([*lines, f"{' ' * margin}  {across_title}    {signs}"])


def _place(value: float, low: float, high: float, cells: int) -> int:
    return 0 if high == low else round((value - low) / (high - low) * (cells - 1))
