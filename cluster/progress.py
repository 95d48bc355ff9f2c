"""A run's progress for people: a bar for each phase in a terminal, lines now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from cluster.run_folder import PHASES
from cluster.run_view import RunStatus
from nas.objectives import format_value

_LINE_SECONDS = 5.0
NO_NOTES: Mapping[str, str] = {}
TITLES = {
    "check": "Check data",
    "pretrain": "Pretrain encoder",
    "supernet": "Train supernet",
    "survey": "Survey",
    "search": "Search",
    "random": "Random baseline",
    "finals": "Finals",
    "retrain": "Retrain",
    "baselines": "Train baselines",
    "evaluate": "Evaluate on test",
    "audit_search": "Random searches",
    "audit_front": "Front's intervals",
    "audit_retrain": "Retrain sample",
    "export": "Export",
    "figures": "Draw predictions",
}


class PhaseProgress(Protocol):
    """What is known of a phase's progress."""

    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def unit(self) -> str: ...
    @property
    def metrics(self) -> Mapping[str, float | None]: ...


class View(Protocol):
    """Shows progress as it comes; repetitions show nothing new."""

    def show(self, progress: Mapping[str, PhaseProgress], notes: Mapping[str, str] = NO_NOTES) -> None:
        """Progress of each phase that has begun, with notes on some of them."""

    def say(self, text: str) -> None:
        """A line, unless it was the last one said. Rich markup is understood."""


@contextmanager
def progress_view(console: Console) -> Iterator[View]:
    """A view for this console, for as long as the run is followed."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description:<17}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[figures]}"),
    )
    with Progress(*columns, console=console) as bars:
        yield _Bars(bars)


def show_status(view: View, status: RunStatus) -> None:
    """Shows what a driver says of itself; not why it failed, which it raises too."""
    view.show(status.progress)
    if status.phase and status.phase not in status.progress:
        view.say(f"[bold]{TITLES.get(status.phase, status.phase)}[/]")
    if status.error and status.state == "CANCELLED":
        view.say(escape(status.error))


def _begun(progress: Mapping[str, PhaseProgress]) -> list[tuple[str, PhaseProgress]]:
    return [(phase, progress[phase]) for phase in PHASES if phase in progress]


def _figures(item: PhaseProgress, note: str) -> str:
    figures = [f"{name} {format_value(name.removeprefix('best_'), value)}" for name, value in item.metrics.items()]
    return "  ".join([*figures, *([note] if note else [])])


class _Bars:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._said: str | None = None

    def show(self, progress: Mapping[str, PhaseProgress], notes: Mapping[str, str] = NO_NOTES) -> None:
        for phase, item in _begun(progress):
            if phase not in self._tasks:
                self._tasks[phase] = self._bars.add_task(TITLES[phase], unit="", figures="")
            figures = _figures(item, notes.get(phase, ""))
            self._bars.update(
                self._tasks[phase], completed=item.done, total=item.total, unit=item.unit, figures=figures
            )

    def say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._bars.console.print(text)


class _Lines:
    """A line for each thing said, and for a phase at its ends and every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: str | None = None
        self._shown: dict[str, int] = {}
        self._shown_at = 0.0

    def show(self, progress: Mapping[str, PhaseProgress], notes: Mapping[str, str] = NO_NOTES) -> None:
        for phase, item in _begun(progress):
            due = time.monotonic() - self._shown_at >= _LINE_SECONDS or item.done >= item.total
            if self._shown.get(phase) != item.done and (due or phase not in self._shown):
                self._shown[phase], self._shown_at = item.done, time.monotonic()
                figures = _figures(item, notes.get(phase, ""))
                line = f"{TITLES[phase]}: {item.done}/{item.total} {item.unit}  {figures}"
                self._console.print(line.rstrip(), highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._console.print(text, highlight=False, soft_wrap=True)
