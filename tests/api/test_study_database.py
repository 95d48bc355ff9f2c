"""A study in PostgreSQL: one writer, and a server that is stopped and started again in the middle of a search."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from postgres import PostgresServer, create_database, restartable_server

from nas.config import SearchConfig
from nas.retries import DatabaseRetries
from nas.search import SearchSession
from nas.searchers import make_searcher
from nas.space import SearchSpace
from nas.study import Study, TrialState, find_trials, open_storage
from slicemamba.architecture import Architecture
from slicemamba.errors import RunFailedError

SPACE = SearchSpace(((2, 2), (4, 4)), (2, 1, 3))
CONFIG = SearchConfig(objectives=("dice",), searcher="random", num_trials=12)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with restartable_server() as running:
        yield running


def test_search_outlives_a_server_that_is_stopped_and_started_again(server: PostgresServer) -> None:
    url = create_database(server.url, "studies")
    told: list[str] = []
    back = threading.Event()

    def wait_for(message: str) -> None:
        told.append(message)
        threading.Thread(target=lambda: (server.start(), back.set())).start()

    study = Study(url, "search", SPACE, CONFIG.objectives, "random", retries=DatabaseRetries(wait_for, 300))
    study.claim("me")
    session = SearchSession(study, make_searcher(CONFIG, SPACE), origin="random", num_trials=12)
    while (trial := session.ask()) is not None:
        if trial.number == 5:
            server.stop()
        session.tell(trial.number, {"dice": len(set(trial.architecture)) / 100}, 0.1)
    assert len(told) == 1
    assert back.wait(120)
    trials = find_trials(open_storage(url), "search")
    assert [(trial.number, trial.state) for trial in trials] == [(i, TrialState.COMPLETED) for i in range(12)]
    assert len({Architecture.parse(trial.architecture) for trial in trials}) == 12


def test_whoever_claims_a_study_last_is_its_only_writer(server: PostgresServer) -> None:
    url = create_database(server.url, "claimed")
    former, latter = (Study(url, "search", SPACE, ("dice",), "random") for _ in range(2))
    former.claim("a driver on one host")
    former.start(SPACE.fixed()[0], origin="x", asked_after=0)
    latter.claim("a driver on another")
    with pytest.raises(RunFailedError, match="another driver has taken over the study"):
        former.complete(0, {"dice": 0.1}, ended_as=0, seconds=None)
    ended = latter.complete(0, {"dice": 0.9}, ended_as=0, seconds=None)
    assert former.trials() == [ended]
