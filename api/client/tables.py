"""How the command line shows the service's answers: tables for people, JSON for scripts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from cluster.slicing_text import SlicingText

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.table import Table

    from api import schemas

Cell = str | SlicingText


def show(answer: BaseModel, table: Table, *, as_json: bool) -> None:
    """Prints the answer to standard output."""
    if as_json:
        sys.stdout.write(answer.model_dump_json(indent=2) + "\n")
        return
    from rich.console import Console

    console = Console()
    if not console.is_terminal:  # then nothing is gained by folding lines at 80 characters
        console = Console(width=240)
    console.print(table)


def show_state(found: schemas.Search | schemas.Job, *, as_json: bool) -> None:
    """Prints what has become of a search or job after a change."""
    sys.stdout.write((found.model_dump_json(indent=2) if as_json else found.state.value) + "\n")
    sys.stdout.flush()


def searches(page: schemas.SearchPage) -> Table:
    rows = [
        [s.id, s.name, s.state.value, "" if s.ended_at else _under_way(s), format_time(s.created_at)[:-3]]
        for s in page.searches
    ]
    more = "there are more; see --limit" if page.next_page_token else None
    return make_table(["id", "name", "state", "progress", "created"], rows, caption=more)


def _under_way(found: schemas.SearchSummary) -> str:
    left = time_left(found.expected_end_at)
    lines = [f"{found.phase or ''} {_progress(found)}".strip(), f"{left} left" if left else "", found.warning or ""]
    return "\n".join(line for line in lines if line)


def search(found: schemas.Search) -> Table:
    labels = ", ".join(f"{key}={value}" for key, value in found.labels.items())
    rows = [
        ["id", found.id],
        ["name", found.name],
        ["labels", labels],
        ["submitted by", found.submitted_by or ""],
        ["state", found.state.value],
        ["place in the queue", str(found.queue_position or "")],
        ["phase", found.phase or ""],
        ["progress", _progress(found)],
        ["expected end", expected_end(found.expected_end_at)],
        ["message", found.message or ""],
        ["warning", found.warning or ""],
        ["error", found.error or ""],
        ["created", format_time(found.created_at)],
        ["started", format_time(found.started_at)],
        ["ended", format_time(found.ended_at)],
        ["Ray job", f"{found.job_id} {found.job_status or ''}"],
    ]
    return make_table(["", ""], [row for row in rows if row[1].strip()], header=False)


def validation(checked: schemas.Validation) -> Table:
    images = ", ".join(f"{count} {split}" for split, count in checked.data.get("num_images", {}).items())
    rows = [
        ["evaluations", f"{checked.evaluations:,} of {checked.space_size:,} slicings"],
        ["images", images],
        ["through training", f"{checked.images_trained:,} images"],
        ["through evaluation", f"{checked.images_evaluated:,} images at most"],
        ["cost", _hours(checked.estimate)],
        ["memory", f"{checked.estimate.memory_mb:,.0f} MiB per training worker"],
        ["basis", checked.estimate.basis],
        *(["advice", sentence] for sentence in checked.advice),
    ]
    return make_table(["", ""], rows, caption="It can run. Nothing was started.", header=False)


def cost(checked: schemas.Validation) -> str:
    """What a search will take, in a line, and what to think over before, in a line each."""
    took = f"{checked.estimate.num_evaluations:,} evaluations, {_hours(checked.estimate)} ({checked.estimate.basis})"
    return "\n".join([took, *(f"note: {sentence}" for sentence in checked.advice)])


def _hours(estimate: schemas.Estimate) -> str:
    unit, factor = ("hours", 1) if estimate.device_hours_high >= 2 else ("minutes", 60)
    most, low, high = (
        f"{factor * hours:.2g}"
        for hours in (estimate.device_hours, estimate.device_hours_low, estimate.device_hours_high)
    )
    return f"about {most} {unit} of device time ({low} … {high})"


def trial(found: schemas.Trial) -> Table:
    names = list(found.metrics)
    figures: list[list[Cell]] = [[name, value] for name, value in zip(names, _values(found, names), strict=True)]
    rows: list[list[Cell]] = [
        ["trial", str(found.number)],
        ["state", found.state.value],
        ["origin", found.origin],
        ["error", found.error or ""],
        ["seconds", "" if found.seconds is None else f"{found.seconds:.4g}"],
        *figures,
        ["violation", f"{found.violation:.4g}" if found.violation else ""],
        ["architecture", SlicingText(found.architecture)],
    ]
    return make_table(["", ""], [row for row in rows if row[1]], header=False)


def images(found: schemas.TrialImages, limit: int) -> Table:
    rows = [[image.name, f"{image.dice:.4f}", f"{image.iou:.4f}"] for image in found.images[:limit]]
    more = len(found.images) - limit
    return make_table(
        ["image", "Dice", "IoU"], rows, caption=f"and {more} better ones; see --limit" if more > 0 else None
    )


def jobs(found: schemas.JobList) -> Table:
    rows = [
        [job.id, job.kind, _trial_of(job), job.state.value, _progress(job), format_time(job.created_at)]
        for job in found.jobs
    ]
    return make_table(["job", "kind", "trial", "state", "progress", "created"], rows)


def job(found: schemas.Job) -> Table:
    rows = [
        ["job", found.id],
        ["kind", found.kind],
        ["search", found.search_id],
        ["trial", _trial_of(found)],
        ["state", found.state.value],
        ["progress", _progress(found)],
        ["expected end", expected_end(found.expected_end_at)],
        ["message", found.message or ""],
        ["warning", found.warning or ""],
        ["error", found.error or ""],
        ["folder", found.folder],
        ["created", format_time(found.created_at)],
        ["ended", format_time(found.ended_at)],
    ]
    return make_table(["", ""], [row for row in rows if row[1]], header=False)


def _trial_of(job: schemas.JobSummary) -> str:
    return "" if job.trial is None else f"{job.trial}{' (random)' if job.study == 'random' else ''}"


def trials(page: schemas.TrialPage, names: Sequence[str]) -> Table:
    """The trials with these of their figures: all would fill the screen; and by how much they break constraints."""
    outside = any(trial.violation for trial in page.trials)
    rows: list[list[Cell]] = [
        [
            str(trial.number),
            trial.state.value,
            trial.origin,
            *_values(trial, names),
            *([f"{trial.violation:.3g}"] if outside else []),
            trial.error if trial.error else SlicingText(trial.architecture),
        ]
        for trial in page.trials
    ]
    caption = f"{page.total} trials" + (", only the first shown; see --limit" if page.next_page_token else "")
    caption += "; all metrics with --csv"
    return make_table(
        ["trial", "state", "origin", *names, *["violation"][: int(outside)], "architecture"], rows, caption=caption
    )


def pareto(front: schemas.Pareto) -> Table:
    from nas.objectives import OBJECTIVES

    names = [objective.name for objective in front.objectives]
    titles = [OBJECTIVES[name].heading for name in names]
    rows: list[list[Cell]] = [
        [str(t.number), *_values(t, names), _ties(t), t.origin, SlicingText(t.architecture)] for t in front.trials
    ]
    caption = f"{len(front.trials)} of {front.num_completed} completed trials; measured: {', '.join(front.measured)}"
    caption += f"\n{front.sentence}" if front.sentence else ""
    return make_table(["trial", *titles, "ties", "origin", "architecture"], rows, caption=caption)


def _ties(trial: schemas.FrontTrial) -> str:
    """How many others differ from it measurably in no objective; nothing where that is not known yet."""
    return "" if trial.tied_with is None else str(len(trial.tied_with))


def make_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    caption: str | None = None,
    header: bool = True,
) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(
        caption=caption, show_header=header, box=None, pad_edge=False, padding=(0, 2, 0, 0), caption_justify="left"
    )
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in ("id", "job", "state"))
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def _values(trial: schemas.Trial, names: Sequence[str]) -> list[str]:
    from nas.objectives import format_value

    return [format_value(name, trial.metrics.get(name)) for name in names]


def _progress(found: schemas.SearchSummary | schemas.JobSummary) -> str:
    item = found.progress.get(found.phase or "")
    return f"{item.done}/{item.total} {item.unit}" if item else ""


def time_left(moment: datetime | None) -> str:
    """As ``about 12 min``; nothing where no moment is known."""
    if moment is None:
        return ""
    minutes = max(0.0, (moment - datetime.now(timezone.utc)).total_seconds()) / 60
    if minutes < 1:
        return "less than a minute"
    if minutes < 100:
        return f"about {minutes:.0f} min"
    return f"about {minutes / 60:.1f} h" if minutes < 48 * 60 else f"about {minutes / 1440:.1f} days"


def expected_end(moment: datetime | None) -> str:
    """As ``in about 12 min, at 14:35``; nothing where no moment is known."""
    if moment is None:
        return ""
    at, now = moment.astimezone(), datetime.now().astimezone()
    return f"in {time_left(moment)}, at {at.strftime('%H:%M' if at.date() == now.date() else '%Y-%m-%d %H:%M')}"


def format_time(moment: datetime | None) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else ""
