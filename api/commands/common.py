"""What the service's commands have in common: options, the client, and how a search or job is followed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from api.client.http import Client
    from api.schemas import StudyName
    from api.states import SearchState

SearchId = Annotated[
    str, typer.Argument(metavar="ID", help="The search's id or its first characters, its name, or `latest`.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Watch = Annotated[bool, typer.Option("--watch", "-w", help="Follow until it has ended; exit code 1 if it fails.")]
Url = Annotated[str | None, typer.Option(help="Address of the service.", envvar="SLICEMAMBA_URL", show_default=False)]
Baseline = Annotated[bool, typer.Option("--random", help="Use the random baseline instead of the search.")]
Tail = Annotated[int, typer.Option(min=1, max=100_000, help="Number of last lines.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Follow new lines until it has ended.")]
INTERRUPTED = 130  # exit code


def connect(url: str | None) -> Client:
    """A client of the service, to be closed. Its token comes from SLICEMAMBA_TOKEN."""
    from api.client.http import Client

    return Client(url)


def study_of(baseline: bool) -> StudyName:
    return "random" if baseline else "search"


def follow(
    what: str, again: str, stop: str, then: str | None, watch: Callable[[], SearchState], at_end: Callable[[], None]
) -> None:
    """Runs ``watch``; exit code 1 when what it follows does not succeed. An interrupt leaves that running.

    Args:
        what: is followed. again, stop: commands that follow it again, and that stop it. then: what to do when it has
            succeeded. at_end: called before the exit code tells how it has ended.
    """
    from api.states import SearchState

    try:
        state = watch()
    except KeyboardInterrupt:
        print(
            f"the {what} continues; `slicemamba {again}` follows it again, `slicemamba {stop}` stops it",
            file=sys.stderr,
        )
        raise typer.Exit(INTERRUPTED) from None
    at_end()
    if state is not SearchState.SUCCEEDED:
        raise typer.Exit(1)
    if then is not None:
        print(f"next: {then}", file=sys.stderr)


def follow_search(client: Client, search_id: str, at_end: Callable[[], None] = lambda: None) -> None:
    """Shows a search until it has ended, and exits with 1 unless it has succeeded."""
    from api.client.follow import watch

    follow(
        "search",
        f"status {search_id} --watch",
        f"cancel {search_id}",
        f"`slicemamba pareto {search_id}` shows the result, `slicemamba download {search_id} -o FOLDER` downloads it",
        lambda: watch(client, search_id).state,
        at_end,
    )


def follow_job(
    client: Client, job_id: str, *, with_files: bool = True, at_end: Callable[[], None] = lambda: None
) -> None:
    """Shows a job until it has ended, and exits with 1 unless it has succeeded.

    Args:
        with_files: it leaves some that nobody fetches as yet.
    """
    from api.client.follow import watch_job

    then = f"`slicemamba job download {job_id} -o FOLDER` downloads its files" if with_files else None
    follow(
        "job",
        f"job show {job_id} --watch",
        f"job cancel {job_id}",
        then,
        lambda: watch_job(client, job_id).state,
        at_end,
    )


def show_logs(client: Client, search_or_job_id: str, tail: int, following: bool) -> None:
    """Prints the log of a search or job. An interrupt ends the following, and nothing else."""
    if not following:
        print(client.logs(search_or_job_id, tail=tail), end="")
        return
    try:
        for line in client.follow_logs(search_or_job_id, tail=tail, on_lost=tell_lost):
            print(line, flush=True)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def tell_lost() -> None:
    print("the service does not answer; trying again", file=sys.stderr)


def fetch(client: Client, search_id: str, out: Path, folder: str = "") -> list[Path]:
    """Fetches files of a run with a bar in a terminal. Returns their paths."""
    with _bar() as on_progress:
        return list(client.download(search_id, out, folder=folder, on_progress=on_progress))


@contextmanager
def _bar() -> Iterator[Callable[[int, int], None] | None]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns: tuple[Any, ...] = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
