"""Turns at what takes long: a few requests at a time, so that threads are left for all others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from threading import BoundedSemaphore, Lock

from api.problems import ProblemError

RETRY_SECONDS = 5
_LOCKS = 16


class Turns:
    """Turns that requests take.

    Args:
        most: requests at a time. what: goes on, for the answer to those that are too many.
    """

    def __init__(self, most: int, what: str) -> None:
        self._places = BoundedSemaphore(most)
        self._what = what
        self._locks = [Lock() for _ in range(_LOCKS)]

    @contextmanager
    def take(self, name: str) -> Iterator[None]:
        """One turn; those of the same name follow each other, as the first leaves the others nothing to do.

        Raises:
            ProblemError: 503, others have taken all of them.
        """
        if not self._places.acquire(blocking=False):
            raise ProblemError(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"too many {self._what} at the moment; try again in {RETRY_SECONDS} seconds",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
        try:
            with self._locks[hash(name) % _LOCKS]:
                yield
        finally:
            self._places.release()
