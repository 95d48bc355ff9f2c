"""The record beside a journal tells what the study does, whatever has happened to either."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest

from nas.record import RecordReader, record_path
from nas.space import SearchSpace
from nas.study import Study, find_trials, open_storage
from nas.trial import Trial, TrialState

SPACE = SearchSpace(((2, 2), (4, 4)), (1, 1, 1, 1))


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "search.journal"


def study(path: Path, name: str = "search") -> Study:
    return Study(path, name, SPACE, ("dice", "hd95"), "nsga2")


def start(of: Study, number: int) -> Trial:
    return of.start(SPACE.decode([number >> bit & 1 for bit in range(4)]), origin="nsga2", asked_after=number)


def reader(journal: Path, name: str = "search") -> RecordReader:
    return RecordReader(record_path(journal, name))


def in_study(journal: Path, name: str = "search") -> list[Trial]:
    return find_trials(open_storage(journal), name)


def test_everything_that_a_search_writes_is_in_the_record(journal: Path) -> None:
    record, of_random = reader(journal), reader(journal, "random")
    assert record.read() == []
    search, random = study(journal), study(journal, "random")

    def check() -> None:
        assert record.read() == in_study(journal)
        assert of_random.read() == in_study(journal, "random")

    for i in range(4):
        architecture = SPACE.decode([i & 1, i >> 1, 0, 0])
        search.start(architecture, origin="nsga2", asked_after=0, reference=(1, 2), peers=(0,))
        check()
    random.start(SPACE.decode([0, 0, 0, 1]), origin="random", asked_after=0)
    search.complete(2, {"dice": 0.1 + 0.2, "hd95": 1.0}, ended_as=0, seconds=0.25, work={"images": 3})
    check()
    search.prune(0, ended_as=1, seconds=0.1, work={"images": 1})
    search.fail(1, "out of memory – at \udc80", ended_as=2)
    search.complete(3, {"dice": float("nan"), "hd95": 1.0}, ended_as=3, seconds=None)
    random.complete(0, {"dice": 0.25, "hd95": float(2**70)}, ended_as=0, seconds=0.5)
    check()
    states = [trial.state for trial in record.read()]
    assert states == [TrialState.PRUNED, TrialState.FAILED, TrialState.COMPLETED, TrialState.INFEASIBLE]


def test_what_was_read_is_not_read_again_and_the_same_list_is_given(journal: Path) -> None:
    search, record = study(journal), reader(journal)
    start(search, 0)
    first = record.read()
    assert record.bytes_read == record_path(journal, "search").stat().st_size
    assert record.read() is first
    search.complete(0, {"dice": 0.5, "hd95": 1.0}, ended_as=0, seconds=1.0)
    assert record.read()[0].ended
    assert not first[0].ended, "a list that was given does not change"
    assert record.bytes_read == record_path(journal, "search").stat().st_size


def test_study_that_is_handed_to_ray_goes_on_with_the_record(journal: Path) -> None:
    search = deepcopy(study(journal))
    start(search, 0)
    assert reader(journal).read() == in_study(journal)


def test_line_that_is_being_written_waits(journal: Path, tmp_path: Path) -> None:
    start(study(journal), 0)
    whole, record = record_path(journal, "search").read_bytes(), RecordReader(tmp_path / "copy")
    for end in range(len(whole) - 40, len(whole) + 1):
        (tmp_path / "copy").write_bytes(whole[:end])
        assert len(record.read()) == (end == len(whole))


@pytest.mark.parametrize("harm", ["line lost", "cut short", "of before", "more than the study"])
def test_driver_brings_the_record_in_line_with_the_study(journal: Path, harm: str) -> None:
    """After a crash between the two, a full disk, an upgrade, or an older journal from a store or a repair."""
    path, search = record_path(journal, "search"), study(journal)
    for number in range(3):
        start(search, number)
        if harm == "more than the study" and number == 1:
            older = journal.read_bytes()
    record = reader(journal)
    assert len(record.read()) == 3
    lines = path.read_bytes().splitlines(keepends=True)
    if harm == "line lost":
        path.write_bytes(b"".join(lines[:-1]))
    elif harm == "cut short":
        path.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
        search.complete(0, {"dice": 0.5, "hd95": 1.0}, ended_as=0, seconds=1.0)  # lost with the line before
    elif harm == "more than the study":
        journal.write_bytes(older)
    else:
        path.unlink()
    before = record.version
    again = study(journal)
    assert record.read() == in_study(journal) == again.trials()
    if harm != "of before":  # then they are the same
        assert record.version > before, "who has read it finds out that trials may be others"
    again.fail(1, "late", ended_as=1)
    assert record.read() == in_study(journal)
