"""Keeps a run's status.json up to date from its events, wherever in the cluster these were written."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from datetime import datetime, timezone
from types import TracebackType

from cluster.attempts import Attempt, FencedError
from cluster.connect import submission_id
from cluster.disk import Reserve, disk_fault
from cluster.event_files import end_of
from cluster.run_folder import RunFolder
from cluster.run_view import RunState, RunStatus, RunView

_POLL_SECONDS = 0.5


class StatusWriter:
    """Tells start and end of a driver in the run's events, and follows them in a thread to show what they come to.

    Used as a context manager around the run. The status serves as a sign of life, too. While the disk is full it goes
    on trying, and what it has set aside from the start is given up for the last word.

    Args:
        run: the run's folder.
        on_change: called in that thread with each new status.
    """

    def __init__(self, run: RunFolder, on_change: Callable[[RunStatus], None] | None = None) -> None:
        self._run = run
        self._on_change = on_change
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="status", daemon=True)
        self._number = 0 if run.attempt is None else run.attempt.number
        self._place = end_of(run.path, self._number)
        before = run.read_status()
        self._view = RunView(before.progress if before is not None else {})
        self._told: set[str] = set()

    def __enter__(self) -> StatusWriter:
        self._reserve = Reserve(self._run.path)
        self._run.emit("started", attempt=self._number, pid=os.getpid(), job_id=submission_id())
        attempt = self._run.attempt
        if isinstance(attempt, Attempt) and attempt.run_path == self._run.path and attempt.lost_by is not None:
            self._run.warn(
                f"the previous driver ({attempt.lost_by}) ended without reporting an error, for instance because it, "
                "its node or Ray's head was killed; this one continues where it left off"
            )
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._reserve.give_up()
        if error is None:
            self._end("SUCCEEDED", None)
        elif isinstance(error, (KeyboardInterrupt, SystemExit)):
            self._end("CANCELLED", "stopped; run it again to continue from here")
        else:
            with contextlib.suppress(OSError):  # a read-only disk: the error under way says so
                self._end("FAILED", disk_fault(error, self._run.path) or str(error) or type(error).__name__)

    def _end(self, state: RunState, error: str | None) -> None:
        self._run.emit("ended", state=state, error=error)
        self._look()

    def _follow(self) -> None:
        while not self._stop.wait(_POLL_SECONDS):
            try:
                self._look()
            except (OSError, FencedError):  # the driver itself finds out too, and ends
                pass
            except Exception as error:  # a thread that ended would be taken for a dead driver
                self._tell(error)

    def _look(self) -> None:
        for place, event in self._run.events(self._place):
            self._place = place
            try:
                self._view.see(event)
            except Exception as error:  # this event is not shown, those after it are
                self._tell(error)
        status = self._view.status(datetime.now(timezone.utc))
        self._run.write_status(status)
        if self._on_change is not None:
            self._on_change(status)

    def _tell(self, error: Exception) -> None:
        """Once each, as what fails may fail twice a second."""
        if repr(error) not in self._told:
            self._told.add(repr(error))
            with contextlib.suppress(OSError, FencedError):
                self._run.warn(f"the status cannot show all of the run: {error!r}")
