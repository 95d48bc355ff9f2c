"""Damage in the middle of a journal file, as a failing disk or a loss of power leaves it: found, told and cut off.

What a search asks for next follows from all that came before, so nothing behind the damage can be taken up again: the
records before it are kept, and the search evaluates the rest anew.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileSymlinkLock
from pydantic_core import from_json

from nas.record import RECORDS
from slicemamba.errors import InputError
from slicemamba.files import writing

_CREATE_TRIAL = 4


@dataclass(frozen=True)
class Damage:
    """The first line of a journal that is no record.

    Attributes:
        line: its number, from 1. offset: bytes before it. lost: readable records behind it.
        first_trial, lost_trials: number of trials begun before it, and behind it as far as can be read.
    """

    path: Path
    line: int
    offset: int
    lost: int
    first_trial: int
    lost_trials: int

    def __str__(self) -> str:
        return (
            f"{self.path} is damaged in line {self.line}; the {self.first_trial} trials begun before it are whole, "
            f"and {self.lost_trials} or more behind it are lost"
        )


def parse_record(line: bytes) -> dict[str, Any]:
    """A line of a journal. Raises ValueError where it is no record."""
    try:
        record = from_json(line)
    except ValueError:  # half of a surrogate pair, as in the name of a file, which only Python's parser takes
        record = json.loads(line)
    if not isinstance(record, dict):
        raise ValueError("it is no record of a journal")  # noqa: TRY004  # as for all lines that cannot be read
    return record


def find_damage(path: Path) -> Damage | None:
    """The damage of a journal file; None where it is whole, but for a last line that may be in the making."""
    offset = line_number = lost = first_trial = lost_trials = 0
    bad: tuple[int, int] | None = None
    behind = 0
    with path.open("rb") as file:
        for line in file:
            line_number += 1
            try:
                begins = parse_record(line).get("op_code") == _CREATE_TRIAL
            except ValueError:
                if bad is None:
                    bad = (line_number, offset)
                else:
                    behind += 1
            else:
                if bad is None:
                    first_trial += begins
                else:
                    behind += 1
                    lost += 1
                    lost_trials += begins
            offset += len(line)
    if bad is None or not behind:
        return None
    return Damage(path, *bad, lost, first_trial, lost_trials)


def check_journal(path: Path) -> None:
    """Raises InputError where a journal is damaged: what is lost, and how to go on."""
    damage = find_damage(path) if path.is_file() else None
    if damage is not None:
        raise InputError(
            f"{damage}; `slicemamba repair {path.parent}` keeps what is whole and sets the damaged file aside, then "
            "repeat the command that made the run to evaluate the rest anew"
        )


def cut_damage(path: Path) -> tuple[Damage, Path] | None:
    """Keeps the records before the damage; the file as it was is set aside.

    Returns:
        What was lost, and the place of the damaged file; None where nothing was damaged.
    """
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        damage = find_damage(path)
        if damage is None:
            return None
        number = 1
        while (aside := path.with_name(f"{path.name}.damaged-{number}")).exists():
            number += 1
        with writing(aside, lasting=True) as draft:
            shutil.copyfile(path, draft)
        with writing(path, lasting=True) as draft:
            draft.write_bytes(path.read_bytes()[: damage.offset])
        shutil.rmtree(path.parent / RECORDS, ignore_errors=True)  # of trials that are lost, too
        return damage, aside
    finally:
        lock.release()
