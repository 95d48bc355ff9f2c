"""The files with a run's events: one for each process that writes any, so that none is written to from two nodes.

``<run>/attempts/<n>/events.jsonl`` is the driver's, ``events-1.jsonl``, … are its workers'. Before attempts were
numbered there was ``<run>/events.jsonl`` alone: the attempt 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from heapq import merge
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from slicemamba.files import open_inside

Place = tuple[int, ...]
"""How far events were read: an attempt, and of each of its files how many bytes."""
START: Place = (0,)
ATTEMPTS = "attempts"


class Writer(Protocol):
    """A driver's attempt, or that of a worker's driver."""

    @property
    def number(self) -> int: ...
    @property
    def is_driver(self) -> bool: ...


def event_file(run_path: Path, writer: Writer | None) -> Path:
    """The file that this process alone appends events to; the run's only one where there are no attempts."""
    folder = _folder(run_path, 0 if writer is None else writer.number)
    folder.mkdir(parents=True, exist_ok=True)
    if writer is None or writer.is_driver:
        return folder / "events.jsonl"
    for number in count(1):
        file = folder / f"events-{number}.jsonl"
        try:
            file.touch(exist_ok=False)
        except FileExistsError:
            continue
        return file
    raise AssertionError  # it counts without an end


def read_events(run_path: Path, place: Place = START) -> Iterator[tuple[Place, dict[str, Any]]]:
    """(place after it, event) of each complete line after a place; of an attempt in the order of their time.

    A line that is no event, as one that a full disk cut short and the next was appended to, is passed over.
    """
    for attempt in range(place[0], latest_attempt(run_path) + 1):
        files = _files(run_path, attempt)
        offsets = list(place[1:]) if attempt == place[0] else []
        offsets += [0] * (len(files) - len(offsets))
        lines = [_lines(run_path, file, index, offsets[index]) for index, file in enumerate(files)]
        for _, index, offset, event in merge(*lines, key=lambda line: line[0]):
            offsets[index] = offset
            yield (attempt, *offsets), event


def end_of(run_path: Path, attempt: int) -> Place:
    """The place behind all that has been written of an attempt."""
    return (attempt, *(file.stat().st_size if file.exists() else 0 for file in _files(run_path, attempt)))


def is_place(run_path: Path, place: Place) -> bool:
    """Whether it lies between two events: half an event would follow anywhere else."""
    attempt, *offsets = place
    files = _files(run_path, attempt)
    return len(offsets) <= len(files) and all(map(partial(_ends_line, run_path), files, offsets))


def latest_attempt(run_path: Path) -> int:
    """The highest number of an attempt that has written events; 0 where there is none."""
    return max((int(file.parent.name) for file in (run_path / ATTEMPTS).glob("*/events*.jsonl")), default=0)


def _folder(run_path: Path, attempt: int) -> Path:
    return run_path / ATTEMPTS / str(attempt) if attempt else run_path


def _files(run_path: Path, attempt: int) -> list[Path]:
    """The driver's first, whether it is there or not, then those of workers in the order in which they began."""
    folder = _folder(run_path, attempt)
    workers = folder.glob("events-*.jsonl") if attempt else []
    return [folder / "events.jsonl", *sorted(workers, key=lambda file: int(file.stem.partition("-")[2]))]


def _lines(run_path: Path, path: Path, index: int, offset: int) -> Iterator[tuple[str, int, int, dict[str, Any]]]:
    """(time, index, offset after it, event) of each complete line."""
    try:
        with open_inside(run_path, path) as file:
            file.seek(offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                offset += len(line)
                try:
                    event: dict[str, Any] = json.loads(line)
                except ValueError:
                    continue
                yield str(event.get("time")), index, offset, event
    except FileNotFoundError:
        return


def _ends_line(run_path: Path, path: Path, offset: int) -> bool:
    try:
        with open_inside(run_path, path) as file:
            file.seek(max(0, offset - 1))
            return offset == 0 or file.read(1) == b"\n"
    except FileNotFoundError:
        return offset == 0
