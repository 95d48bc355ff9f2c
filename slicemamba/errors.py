"""Errors that are told to users: bad input with what was expected, what came and the mend; and runs that failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Crossing = tuple[Any, tuple[type[BaseException], tuple[Any, ...], dict[str, Any]]]


class InputError(ValueError):
    """Bad input from a user (a config, a data set, a file). The CLI prints it and exits 2, the API answers 422.

    Args:
        message: one sentence that says what was expected, what came and how to mend it.
        pointer: JSON pointer to the offending field, where there is one (``/data/name``).
        details: further findings, one a line (for example the names of the offending files).
    """

    def __init__(self, message: str, *, pointer: str | None = None, details: list[str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.pointer = pointer
        self.details = details or []

    def __str__(self) -> str:
        return "\n  - ".join([self.message, *self.details])

    def __reduce__(self) -> Crossing:
        return crossing(self)


class RunFailedError(RuntimeError):
    """A run failed for a reason that its message tells; a traceback would add nothing. The CLI exits 1."""


def crossing(error: BaseException) -> Crossing:
    """The ``__reduce__`` of an error whose class takes other arguments than its message, so that it crosses processes.

    Python itself would call the class with ``args``, which is the message alone.
    """
    return _rebuild, (type(error), error.args, error.__dict__)


def _rebuild(kind: type[BaseException], args: tuple[Any, ...], state: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


def name_some(items: list[str] | list[Path], limit: int = 5) -> str:
    """``a, b, c and 7 more``: names enough to find the fault, without pages of them."""
    shown = ", ".join(str(item) for item in items[:limit])
    more = len(items) - limit
    return f"{shown} and {more} more" if more > 0 else shown
