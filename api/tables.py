"""How the command line shows the service's answers: tables for people, JSON for scripts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.table import Table

    from api import models, schemas


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


def searches(page: schemas.SearchPage) -> Table:
    rows = [[s.id, s.name, s.state.value, s.phase or "", _progress(s), _time(s.created_at)] for s in page.searches]
    more = "there are more; see --limit" if page.next_page_token else None
    return _table(["id", "name", "state", "phase", "progress", "created"], rows, caption=more)


def tokens(rows: Sequence[models.Token]) -> Table:
    lines = [
        [row.id, row.name, row.scope, _time(row.created_at), _time(row.used_at), _time(row.revoked_at)] for row in rows
    ]
    return _table(["id", "name", "scope", "created", "last used", "revoked"], lines)


def search(found: schemas.Search) -> Table:
    labels = ", ".join(f"{key}={value}" for key, value in found.labels.items())
    rows = [
        ["id", found.id],
        ["name", found.name],
        ["labels", labels],
        ["state", found.state.value],
        ["phase", found.phase or ""],
        ["progress", _progress(found)],
        ["message", found.message or ""],
        ["error", found.error or ""],
        ["created", _time(found.created_at)],
        ["started", _time(found.started_at)],
        ["ended", _time(found.ended_at)],
        ["Ray job", f"{found.job_id} {found.job_status or ''}"],
    ]
    return _table(["", ""], [row for row in rows if row[1].strip()], header=False)


def trials(page: schemas.TrialPage) -> Table:
    names = sorted({name for trial in page.trials for name in trial.metrics})
    rows = [
        [str(trial.number), trial.state.value, trial.origin, *_values(trial, names), trial.error or trial.architecture]
        for trial in page.trials
    ]
    caption = f"{page.total} trials" + (", the first of them shown; see --limit" if page.next_page_token else "")
    return _table(["trial", "state", "origin", *names, "architecture"], rows, caption=caption)


def pareto(front: schemas.Pareto) -> Table:
    names = [objective.name for objective in front.objectives]
    titles = [f"{objective.title} ({objective.unit}, {objective.direction})" for objective in front.objectives]
    rows = [[str(t.number), *_values(t, names), t.origin, t.architecture] for t in front.trials]
    caption = f"{len(front.trials)} of {front.num_completed} completed trials; measured: {', '.join(front.measured)}"
    return _table(["trial", *titles, "origin", "architecture"], rows, caption=caption)


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str | None = None, header: bool = True
) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(
        caption=caption, show_header=header, box=None, pad_edge=False, padding=(0, 2, 0, 0), caption_justify="left"
    )
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _values(trial: schemas.Trial, names: Sequence[str]) -> list[str]:
    values = [trial.metrics.get(name) for name in names]
    return ["–" if value is None else f"{value:.5g}" for value in values]


def _progress(found: schemas.SearchSummary) -> str:
    item = found.progress.get(found.phase or "")
    return f"{item.done}/{item.total} {item.unit}" if item else ""


def _time(moment: datetime | None) -> str:
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S") if moment else ""
