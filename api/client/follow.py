"""Follows a search, or a job that follows one, in the terminal."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

from api.client.http import Client
from api.client.tables import expected_end
from api.schemas import Job, Search
from cluster.progress import View, progress_view


def watch(
    client: Client,
    search_id: str,
    console: Console | None = None,
    *,
    poll_seconds: float = 0.5,
    check: Callable[[], None] = lambda: None,
) -> Search:
    """Shows a search until it has ended.

    Args:
        client: of its service; the service may be restarted meanwhile.
        search_id: of the search.
        console: where to show it; standard error when None.
        poll_seconds: between two looks.
        check: called with each look; what it raises ends the watching.

    Returns:
        The ended search; its state tells how it went.

    Raises:
        ApiError: there is no such search. ApiUnreachableError: the service stays away.
    """
    with progress_view(console or Console(stderr=True)) as view:
        show = _Show(view, check)
        return client.wait(search_id, show.update, poll_seconds=poll_seconds, on_lost=show.lost)


def watch_job(client: Client, job_id: str, console: Console | None = None, *, poll_seconds: float = 0.5) -> Job:
    """Shows a job until it has ended, as ``watch`` does a search."""
    with progress_view(console or Console(stderr=True)) as view:
        show = _Show(view)
        return client.wait_job(job_id, show.update, poll_seconds=poll_seconds, on_lost=show.lost)


class _Show:
    """Says each new state and draws the progress."""

    def __init__(self, view: View, check: Callable[[], None] = lambda: None) -> None:
        self._view = view
        self._check = check
        self._warning: str | None = None

    def update(self, seen: Search | Job) -> None:
        self._check()
        reason = seen.error or seen.message
        self._view.say(f"{seen.id} [bold]{seen.state.value}[/]" + (f": {escape(reason)}" if reason else ""))
        if seen.warning is not None and seen.warning != self._warning:
            self._warning = seen.warning
            self._view.say(f"[yellow]warning: {escape(seen.warning)}[/]")
        end = expected_end(seen.expected_end_at)
        self._view.show(seen.progress, {seen.phase: f"done {end}"} if end and seen.phase else {})

    def lost(self) -> None:
        self._view.say("[yellow]the service does not answer; trying again[/]")
