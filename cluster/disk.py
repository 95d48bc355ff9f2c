"""The disk that a run is written to: looked at before a run starts, and told of plainly when it fails in the middle."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from slicemamba.data.cache import default_cache_dir
from slicemamba.errors import InputError, RunFailedError
from slicemamba.files import DISK_FAULTS

MIN_FREE_BYTES = 32 << 20
"""Less than the checkpoints of the smallest network and the records of a search take."""
_RESERVE_BYTES = 64 << 10


def check_disk(run_path: Path) -> None:
    """Raises InputError where a run's folder cannot be written to, or its disk has next to no room."""
    try:
        run_path.mkdir(parents=True, exist_ok=True)
        probe = run_path / f".probe.{uuid.uuid4().hex}"
        try:
            probe.write_bytes(b"writable")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"the run's folder {run_path} cannot be written to ({error.strerror}); make it writable or use another one"
        ) from None
    free = shutil.disk_usage(run_path).free
    if free < MIN_FREE_BYTES:
        raise InputError(
            f"a run needs at least {MIN_FREE_BYTES >> 20} MB; the disk of {run_path} has {free / (1 << 20):.1f} MB left"
        )


def disk_fault(error: BaseException, run_path: Path) -> str | None:
    """What is wrong with the disk of a run, or of another file that it needs, and how to mend it.

    None for an error that is not a disk's.
    """
    fault = DISK_FAULTS.get(error.errno or 0) if isinstance(error, OSError) else None
    if fault is None:
        return None
    assert isinstance(error, OSError)
    place = run_path if error.filename is None else Path(os.fsdecode(error.filename))
    if place.is_relative_to(run_path):
        return f"the disk of {run_path} {fault} and run again; the run continues from here ({error})"
    variable = _moves(place)
    other = f", or set {variable} to a folder on another one," if variable else ""
    return f"the disk of {place} {fault}{other} and run again; the run continues from here ({error})"


def _moves(place: Path) -> str | None:
    """The variable that moves a file elsewhere; None where there is none."""
    if place.is_relative_to(default_cache_dir()):
        return "SLICEMAMBA_CACHE"
    return "HOME" if place.is_relative_to(Path.home()) else None


@contextmanager
def disk_faults(run_path: Path) -> Iterator[None]:
    """Turns the errors of a disk into RunFailedError with the mend; all others pass."""
    try:
        yield
    except OSError as error:
        fault = disk_fault(error, run_path)
        if fault is None:
            raise
        raise RunFailedError(fault) from error


class Reserve:
    """Some room on a run's disk, so that a run that fills it can still say so in its status."""

    def __init__(self, run_path: Path) -> None:
        self._file = run_path / ".reserve"
        with contextlib.suppress(OSError), self._file.open("wb") as file:
            file.write(os.urandom(_RESERVE_BYTES))  # no zeros, which some file systems do not store

    def give_up(self) -> None:
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
