"""Two readers of one journal see the same: Optuna's, and the one that goes by its lines."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState as OptunaState

from nas import journal
from nas.journal import JournalReader
from nas.space import SearchSpace
from nas.study import Study, TrialReader, TrialState, open_storage
from slicemamba.errors import InputError

SPACE = SearchSpace(((2, 2), (4, 4)), (1, 1, 1, 1))
NAMES = ("search", "random", "audit")


def study(path: Path, name: str = "search") -> Study:
    return Study(path, name, SPACE, ("dice", "hd95"), "nsga2")


def both(path: Path, reader: JournalReader) -> None:
    storage = open_storage(path)
    for name in NAMES:
        assert reader.read(name) == TrialReader(storage, name).read()


def test_everything_that_a_search_writes_is_read_alike(tmp_path: Path) -> None:
    path = tmp_path / "search.journal"
    reader = JournalReader(path)
    assert reader.read("search") == []
    search, random = study(path), study(path, "random")
    both(path, reader)
    search.claim("driver-1")
    search.warm_start(lambda: [SPACE.decode([1, 1, 1, 1])])
    for i in range(4):
        search.start(SPACE.decode([i & 1, i >> 1, 0, 0]), origin="nsga2", asked_after=0, reference=(1, 2), peers=(0,))
        both(path, reader)
    random.start(SPACE.decode([0, 0, 0, 1]), origin="random", asked_after=0)
    search.complete(2, {"dice": 0.5, "hd95": 1.0}, ended_as=0, seconds=0.25, work={"images": 3})
    both(path, reader)
    search.prune(0, ended_as=1, seconds=0.1, work={"images": 1})
    search.fail(1, "out of memory – at \udc80", ended_as=2)
    search.complete(3, {"dice": float("nan"), "hd95": 1.0}, ended_as=3, seconds=None)
    both(path, reader)
    random.complete(0, {"dice": 0.25, "hd95": float(2**70)}, ended_as=0, seconds=0.5)
    both(path, reader)
    states = [trial.state for trial in reader.read("search")]
    assert states == [TrialState.PRUNED, TrialState.FAILED, TrialState.COMPLETED, TrialState.INFEASIBLE]


def test_constraints_and_foreign_tools_records_are_read_alike(tmp_path: Path) -> None:
    from nas.objectives import Bound

    path = tmp_path / "search.journal"
    bounded = Study(path, "search", SPACE, ("dice", "hd95"), "nsga2", {"params": Bound(max=10.0)})
    number = bounded.start(SPACE.decode([0] * 4), origin="fixed", asked_after=0).number
    bounded.complete(number, {"dice": 0.5, "hd95": 1.0, "params": 15.0}, ended_as=0, seconds=1.0)
    storage = open_storage(path)
    study_id = storage.get_study_id_from_name("search")
    storage.set_study_system_attr(study_id, "seen", True)
    bounded.start(SPACE.decode([1] * 4), origin="nsga2", asked_after=1)
    storage.set_trial_system_attr(1, "note", "x")
    storage.set_trial_intermediate_value(1, 3, 0.5)
    reader = JournalReader(path)
    both(path, reader)
    assert reader.read("search")[0].violation == 0.5


def test_what_was_read_is_not_read_again_and_the_same_list_is_given(tmp_path: Path) -> None:
    path = tmp_path / "search.journal"
    search = study(path)
    search.start(SPACE.decode([0] * 4), origin="nsga2", asked_after=0)
    reader = JournalReader(path)
    first = reader.read("search")
    assert reader.bytes_read == path.stat().st_size
    assert reader.read("search") is first
    study(path, "random")
    assert reader.read("search") is first
    search.complete(0, {"dice": 0.5, "hd95": 1.0}, ended_as=0, seconds=1.0)
    assert reader.read("search")[0].ended
    assert not first[0].ended, "a list that was given does not change"
    assert reader.bytes_read == path.stat().st_size


def test_line_that_is_being_written_waits(tmp_path: Path) -> None:
    path = tmp_path / "search.journal"
    study(path).start(SPACE.decode([0] * 4), origin="nsga2", asked_after=0)
    whole = path.read_bytes()
    reader = JournalReader(tmp_path / "copy")
    for end in range(len(whole) - 40, len(whole) + 1):
        (tmp_path / "copy").write_bytes(whole[:end])
        assert len(reader.read("search")) == (end == len(whole))


def test_line_that_is_no_record_ends_what_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "search.journal"
    study(path)
    reader, damaged = JournalReader(path), path.read_bytes().count(b"\n") + 1
    with path.open("a") as file:
        file.write('{"op_code": 4, "stu\n')
    assert reader.read("search") == []  # a writer may yet mend it
    with path.open("a") as file:
        file.write('{"op_code": 2, "worker_id": "w", "study_id": 0, "user_attr": {"a": 1}}\n')
    assert reader.read("search") == []
    with pytest.raises(InputError, match=rf"search\.journal is damaged in line {damaged};"):
        open_storage(path)


def test_record_of_an_unknown_kind_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "search.journal"
    path.write_text('{"op_code": 77, "worker_id": "w"}\n')
    with pytest.raises(ValueError, match="record of kind 77, which this version does not know"):
        JournalReader(path).read("search")


@pytest.mark.parametrize("shorter", [True, False])
def test_file_that_was_replaced_is_read_from_its_start(tmp_path: Path, shorter: bool) -> None:
    """As when an older copy is brought back from a store."""
    path, other = tmp_path / "search.journal", tmp_path / "other"
    for place, count in ((path, 3), (other, 2 if shorter else 4)):
        made = study(place)
        for i in range(count):
            made.start(SPACE.decode([i & 1, i >> 1, int(place is other), 0]), origin="nsga2", asked_after=0)
    reader = JournalReader(path)
    assert len(reader.read("search")) == 3
    other.replace(path)
    both(path, reader)
    path.unlink()
    assert reader.read("search") == []


ATTRS = {"architecture": "s1:2x2", "origin": "nsga2", "asked_after": 0}
IDS = st.integers(0, 4)
MOMENT = st.integers(0, 59).map(lambda second: f"2024-01-01T00:00:{second:02d}.000000+00:00")
OUTCOME = st.fixed_dictionaries(
    {"ended_as": st.integers(0, 9), "metrics": st.just({"dice": 0.5}), "seconds": st.none() | st.just(0.5)},
    optional={"state": st.sampled_from(["FAILED", "INFEASIBLE"]), "error": st.text(max_size=3)},
)
CREATED = st.fixed_dictionaries(
    {"op_code": st.just(4), "study_id": IDS, "datetime_start": MOMENT | st.none(), "user_attrs": st.just(ATTRS)},
    optional={"state": st.sampled_from([int(state) for state in OptunaState if state != OptunaState.COMPLETE])},
)
MOVED = st.fixed_dictionaries(
    {"op_code": st.just(6), "trial_id": IDS, "values": st.none()}
    | {"state": st.sampled_from([0, 2, 3, 4]), "datetime_start": MOMENT, "datetime_complete": MOMENT}
)
ADDED = st.fixed_dictionaries(
    {"op_code": st.just(8), "trial_id": IDS, "user_attr": OUTCOME.map(lambda outcome: {"outcome": outcome})}
)
NAMED = st.fixed_dictionaries({"op_code": st.just(0), "study_name": st.sampled_from(NAMES), "directions": st.just([1])})
REMOVED = st.fixed_dictionaries({"op_code": st.just(1), "study_id": IDS})


@pytest.fixture
def _asked_anew() -> Iterator[None]:
    journal.is_understood.cache_clear()
    yield
    journal.is_understood.cache_clear()


@pytest.mark.usefixtures("_asked_anew")
def test_journal_of_this_optuna_is_understood() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert journal.is_understood()


@pytest.mark.usefixtures("_asked_anew")
@pytest.mark.parametrize(("name", "value"), [("_SET_STATE", 12), ("_CREATE_TRIAL", 14), ("_SET_USER_ATTR", 3)])
def test_optuna_that_writes_otherwise_is_told_once_and_read_by_itself(
    name: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, name, value)
    with pytest.warns(RuntimeWarning, match="its journal has another format") as caught:
        assert [journal.is_understood() for _ in range(3)] == [False] * 3
    assert len(caught) == 1


RECORD = st.one_of(CREATED, CREATED, MOVED, MOVED, ADDED, NAMED, REMOVED)


@settings(max_examples=150)
@given(records=st.lists(RECORD, max_size=25), cuts=st.sets(st.integers(0, 25)))
def test_any_order_of_records_is_read_alike(
    records: list[dict[str, Any]], cuts: set[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Of several writers, each with a view of its own: what refers to nothing, or comes too late, is passed over."""
    path = tmp_path_factory.mktemp("journal") / "search.journal"
    path.touch()
    reader = JournalReader(path)
    for name in ("search", "random"):
        records = [{"op_code": 0, "study_name": name, "directions": [1]}, *records]
    for place, record in enumerate(records):
        with path.open("a") as file:
            file.write(json.dumps({"worker_id": "somebody else", **record}) + "\n")
        if place in cuts:
            reader.read("search")
    storage = JournalStorage(JournalFileBackend(str(path)))
    for name in NAMES:
        assert reader.read(name) == TrialReader(storage, name).read()
