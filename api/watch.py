"""Follows a search in the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from api.client import Client
from api.schemas import Search
from cluster.progress import progress_view


def watch(client: Client, search_id: str, console: Console | None = None, *, poll_seconds: float = 0.5) -> Search:
    """Shows a search until it has ended.

    Args:
        client: of its service; the service may be restarted meanwhile.
        search_id: of the search.
        console: where to show it; standard error when None.
        poll_seconds: between two looks.

    Returns:
        The ended search; its state tells how it went.

    Raises:
        ApiError: there is no such search. ApiUnreachableError: the service stays away.
    """
    with progress_view(console or Console(stderr=True)) as view:

        def show(search: Search) -> None:
            view.say(_headline(search))
            view.show(search.progress)

        def lost() -> None:
            view.say("[yellow]the service does not answer; trying again[/]")

        return client.wait(search_id, show, poll_seconds=poll_seconds, on_lost=lost)


def _headline(search: Search) -> str:
    reason = search.error or search.message
    return f"{search.id} [bold]{search.state.value}[/]" + (f": {escape(reason)}" if reason else "")
