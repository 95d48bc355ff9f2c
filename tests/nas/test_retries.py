"""Waiting for a study's database: what is waited for, for how long, and that a try which seemed to fail counts once."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage
from search_cases import SPACE
from sqlalchemy.exc import DataError, OperationalError

import nas.retries
from nas.retries import DatabaseRetries, why_away
from nas.study import Study, TrialState
from slicemamba.errors import RunFailedError

AWAY = OperationalError("SELECT 1", {}, ConnectionError("server closed the connection"))


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nas.retries, "_FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(nas.retries, "_LONGEST_PAUSE_SECONDS", 0.05)


def failing(times: int, error: BaseException) -> Callable[[], int]:
    calls = 0

    def call() -> int:
        nonlocal calls
        calls += 1
        if calls <= times:
            raise error
        return calls

    return call


def test_database_that_is_away_is_waited_for_with_one_warning() -> None:
    told: list[str] = []
    assert DatabaseRetries(told.append, 60)(failing(3, AWAY)) == 4
    [warning] = told
    assert warning == (
        "the study's database does not answer (server closed the connection); trying again for up to 60 s"
    )


def test_database_that_stays_away_ends_the_run_resumably() -> None:
    with pytest.raises(RunFailedError, match=r"has not answered for 0.1 s .*; run again when it is back"):
        DatabaseRetries(lambda _: None, 0.1)(failing(1000, AWAY))


def test_other_errors_are_raised_at_once() -> None:
    for error in (ValueError("no"), DataError("INSERT", {}, ValueError("too long")), StorageInternalError("no cause")):
        call = failing(1, error)
        with pytest.raises(type(error)):
            DatabaseRetries(pytest.fail, 60)(call)
        assert call() == 2


def test_cause_is_found_through_optunas_wrapping() -> None:
    wrapped = StorageInternalError("An exception is raised during the commit.")
    wrapped.__cause__ = AWAY
    assert why_away(wrapped) == why_away(AWAY) == "server closed the connection"


class AnswerLost:
    """A storage whose writes take effect, while their answers get lost the first time."""

    def __init__(self, storage: BaseStorage) -> None:
        self._storage = storage
        self._lost: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._storage, name)

        def call(*args: Any, **options: Any) -> Any:
            answer = method(*args, **options)
            if name.startswith(("create_new_trial", "set_trial")) and name not in self._lost:
                self._lost.add(name)
                raise AWAY
            return answer

        return call


def test_write_whose_answer_got_lost_counts_once() -> None:
    study = Study(InMemoryStorage(), "search", SPACE, ("dice",), "random", retries=DatabaseRetries(lambda _: None, 60))
    study._storage = AnswerLost(study._storage)  # type: ignore[assignment]
    architectures = [SPACE.decode([bit] * 6) for bit in (0, 1)]
    for number, architecture in enumerate(architectures):
        assert study.start(architecture, origin="x", asked_after=number).number == number
        study.complete(number, {"dice": 0.5}, ended_as=number, seconds=0.1)
    assert [(t.state, t.architecture, t.ended_as) for t in study.trials()] == [
        (TrialState.COMPLETED, str(architecture), number) for number, architecture in enumerate(architectures)
    ]


def test_locked_sqlite_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "studies.db"
    told: list[str] = []
    study = Study(
        f"sqlite:///{file}?timeout=0.05",
        "search",
        SPACE,
        ("dice",),
        "random",
        retries=DatabaseRetries(told.append, 120),
    )
    lock = sqlite3.connect(file, check_same_thread=False)
    lock.execute("BEGIN EXCLUSIVE")

    def free_when_told() -> None:
        while not told:
            time.sleep(0.01)
        lock.rollback()

    thread = threading.Thread(target=free_when_told)
    thread.start()
    trial = study.start(SPACE.fixed()[0], origin="x", asked_after=0)
    thread.join()
    lock.close()
    assert "database is locked" in told[0]
    assert study.trials() == [trial]
