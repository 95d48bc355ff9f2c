"""A journal damaged in the middle: told with file and line, read up to there, and cut off there on request."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nas.damage import check_journal, cut_damage, find_damage
from nas.space import SearchSpace
from nas.study import Study, find_trials, open_storage
from slicemamba.errors import InputError

SPACE = SearchSpace(((2, 2), (4, 4)), (1, 1, 1, 1))
TRIALS = 4


def study(path: Path) -> Study:
    return Study(path, "search", SPACE, ("dice",), "random")


def evaluate(of: Study, number: int) -> None:
    of.start(SPACE.decode([number >> bit & 1 for bit in range(4)]), origin="random", asked_after=number)
    of.complete(number, {"dice": 0.5 + number / 100}, ended_as=number, seconds=0.1)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "search.journal"
    of = study(path)
    for number in range(TRIALS):
        evaluate(of, number)
    return path


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda line: line[: len(line) // 2] + b"\n",
    "zeroed": lambda line: bytes(len(line) - 1) + b"\n",
    "joined": lambda line: line[: len(line) // 2],
    "other": lambda line: b"null\n",
    "noise": lambda line: b"\xff\xfe{" + line,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("place", [3, 4, 6, 8, 11])
def test_damage_is_told_and_what_is_before_it_is_kept(
    journal: Path, damage: Callable[[bytes], bytes], place: int
) -> None:
    whole = find_trials(open_storage(journal), "search")
    lines = journal.read_bytes().splitlines(keepends=True)
    kept = b"".join(lines[:place])
    before = journal.parent / "before"
    before.write_bytes(kept)
    expected = find_trials(open_storage(before), "search")
    journal.write_bytes(kept + damage(lines[place]) + b"".join(lines[place + 1 :]))
    with pytest.raises(InputError, match=rf"search\.journal is damaged in line {place + 1};.*slicemamba repair"):
        check_journal(journal)
    damaged = journal.read_bytes()
    cut = cut_damage(journal)
    assert cut is not None
    found, aside = cut
    assert (found.line, found.first_trial) == (place + 1, len(expected))
    assert aside.read_bytes() == damaged
    assert find_trials(open_storage(journal), "search") == expected
    of = study(journal)  # and the search goes on
    for trial in expected:
        if not trial.ended:
            of.complete(trial.number, {"dice": 0.5 + trial.number / 100}, ended_as=trial.number, seconds=0.1)
    for number in range(len(expected), TRIALS):
        evaluate(of, number)
    again = find_trials(open_storage(journal), "search")
    assert [trial.architecture for trial in again] == [trial.architecture for trial in whole]


def test_whole_journals_and_those_in_the_making_have_no_damage(journal: Path) -> None:
    assert find_damage(journal) is None
    assert cut_damage(journal) is None
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "stu')
    assert find_damage(journal) is None
    check_journal(journal.parent / "absent")
