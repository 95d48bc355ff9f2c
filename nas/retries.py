"""Waiting for a study's database: a call that fails because it is locked or away is repeated for a while."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from optuna.exceptions import StorageInternalError

from slicemamba.errors import RunFailedError

WAIT_SECONDS = 120.0
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0
# By name, as nothing in here needs SQLAlchemy but where a database is used.
_AWAY = ("OperationalError", "InterfaceError", "TimeoutError")

Result = TypeVar("Result")


class DatabaseRetries:
    """Calls something, again and again while the database does not answer.

    Args:
        on_wait: told once in each wait what is waited for. wait_seconds: how long at the most.
    """

    def __init__(self, on_wait: Callable[[str], None], wait_seconds: float = WAIT_SECONDS) -> None:
        self._on_wait = on_wait
        self._wait_seconds = wait_seconds

    def __call__(self, call: Callable[[], Result]) -> Result:
        """What ``call`` returns; it may have taken effect in a try that seemed to fail, and must allow for that.

        Raises:
            RunFailedError: the database did not come back in time.
        """
        started, pause = None, _FIRST_PAUSE_SECONDS
        while True:
            try:
                return call()
            except Exception as error:
                reason = why_away(error)
                if reason is None:
                    raise
                now = time.monotonic()
                if started is None:
                    started = now
                    self._on_wait(
                        f"the study's database does not answer ({reason}); trying again for up to "
                        f"{self._wait_seconds:g} s"
                    )
                if now + pause - started > self._wait_seconds:
                    raise RunFailedError(
                        f"the study's database has not answered for {self._wait_seconds:g} s ({reason}); run again "
                        "when it is back; the search continues from here"
                    ) from error
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def why_away(error: BaseException) -> str | None:
    """The first line of what a database that is locked or away says; None for any other error."""
    if isinstance(error, StorageInternalError):  # Optuna's wrapping
        return None if error.__cause__ is None else why_away(error.__cause__)
    if not (type(error).__module__.startswith("sqlalchemy.") and type(error).__name__ in _AWAY):
        return None
    return str(getattr(error, "orig", None) or error).strip().split("\n")[0]
