"""A search session: its budget, and that a killed search goes on as if it had not been."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from search_cases import SEARCHERS, SPACE, config, end, open_session, score, story

from nas.config import SearchConfig
from nas.search import SearchSession
from nas.searchers import make_searcher
from nas.study import Study, Trial, TrialState
from slicemamba.architecture import Architecture
from slicemamba.errors import InputError

BUDGET = 30


class Workers:
    """Runs a session with several trials under way, which end in an order of their own that outlives the process."""

    def __init__(self, workers: int, seed: int) -> None:
        self.workers = workers
        self.rng = np.random.default_rng(seed)
        self.running: list[Trial] = []

    def run(self, session: SearchSession, until: int) -> None:
        """Ends trials until so many have ended."""
        while session.num_ended < until:
            while len(self.running) < self.workers and (trial := session.ask()) is not None:
                self.running.append(trial)
            end(session, self.running.pop(int(self.rng.integers(len(self.running)))))

    def die(self, reopen: Callable[[], SearchSession]) -> SearchSession:
        """The process is killed and another takes its place: what was under way is handed out again."""
        session = reopen()
        again = [session.ask() for _ in self.running]
        assert all(trial is not None and trial.state is TrialState.RUNNING for trial in again)
        numbers = [trial.number for trial in again if trial is not None]
        assert sorted(numbers) == sorted(trial.number for trial in self.running)
        assert {t.number: t.architecture for t in self.running} == {t.number: t.architecture for t in again if t}
        return session


@pytest.mark.parametrize("name", SEARCHERS)
@pytest.mark.parametrize("workers", [1, 3])
def test_interrupted_search_goes_on_as_if_it_had_not_stopped(storage: BaseStorage, name: str, workers: int) -> None:
    options = config(name, seed=3)
    session, uninterrupted = open_session(None, options)
    Workers(workers, seed=6).run(session, BUDGET)

    pool = Workers(workers, seed=6)
    session, study = open_session(storage, options)
    for stop in (1, 5, 6, 13, 22, BUDGET):
        pool.run(session, stop)
        session = pool.die(lambda: open_session(storage, options)[0])
    assert session.finished
    assert session.ask() is None
    assert story(study) == story(uninterrupted)
    states = {trial.state for trial in study.trials()}
    assert states == {TrialState.COMPLETED, TrialState.FAILED, TrialState.INFEASIBLE}


@pytest.mark.parametrize("name", ["evolution", "tpe"])
def test_search_in_a_file_goes_on_after_any_trial(tmp_path: Path, name: str) -> None:
    def reopen(file: str) -> tuple[SearchSession, Study]:
        study = Study(tmp_path / file, "search", SPACE, options.objectives, name)
        searcher = make_searcher(options, SPACE)
        return SearchSession(study, searcher, origin=name, num_trials=14, enqueue=SPACE.fixed()), study

    options = config(name, population_size=6, num_trials=14)
    session, whole = reopen("whole")
    while (trial := session.ask()) is not None:
        end(session, trial)
    for _ in range(14):
        session, study = reopen("pieces")
        asked = session.ask()
        assert asked is not None
        session, study = reopen("pieces")  # killed while it was evaluated
        again = session.ask()
        assert again == asked
        end(session, again)
    assert story(study) == story(whole)


@pytest.mark.parametrize("name", SEARCHERS)
def test_no_architecture_is_evaluated_twice(storage: BaseStorage, name: str) -> None:
    session, study = open_session(storage, config(name, num_trials=64))
    Workers(4, seed=0).run(session, 64)
    assert len({trial.architecture for trial in study.trials()}) == 64


@pytest.mark.parametrize("budget", [1, 2, 5, 30])
def test_budget_counts_every_trial(storage: BaseStorage, budget: int) -> None:
    session, study = open_session(storage, config("evolution", num_trials=budget))
    evaluated: list[Architecture] = []

    def evaluate(architecture: Architecture) -> dict[str, float]:
        evaluated.append(architecture)
        if len(evaluated) % 3 == 0:
            raise RuntimeError("out of memory")
        return score(architecture)

    run_search(session, evaluate)
    assert session.finished
    assert session.num_ended == budget == len(study.trials()) == len(evaluated)
    assert [trial.origin for trial in study.trials()] == (["fixed"] * 2 + ["evolution"] * budget)[:budget]


def run_search(session: SearchSession, evaluate: Callable[[Architecture], dict[str, float]]) -> None:
    """To its end, one candidate after the other; one that raises has failed."""
    while (trial := session.ask()) is not None:
        try:
            session.tell(trial.number, evaluate(Architecture.parse(trial.architecture)))
        except RuntimeError as error:
            session.fail(trial.number, str(error))


def test_no_more_than_the_budget_is_handed_out(storage: BaseStorage) -> None:
    session, _ = open_session(storage, config("random", num_trials=5))
    asked = [session.ask() for _ in range(8)]
    assert [trial is None for trial in asked] == [False] * 5 + [True] * 3
    assert not session.finished


def test_fixed_slicings_come_first_and_may_be_left_out(storage: BaseStorage) -> None:
    session, study = open_session(storage, config("random", num_trials=6), fixed=False)
    run_search(session, score)
    assert {trial.origin for trial in study.trials()} == {"random"}


def test_evolution_awaits_what_is_under_way(storage: BaseStorage) -> None:
    session, _ = open_session(storage, config("evolution"))
    first = [session.ask() for _ in range(2)]
    assert session.ask() is None, "both fixed slicings may become parents"
    for trial in first:
        assert trial is not None
        session.tell(trial.number, score(Architecture.parse(trial.architecture)))
    assert session.ask() is not None


def test_search_on_any_number_of_workers_evaluates_the_same_with_evolution(storage: BaseStorage) -> None:
    def evaluated(workers: int, order: int) -> list[str]:
        session, study = open_session(None, config("evolution"))
        pool = Workers(workers, order)
        while session.num_ended < BUDGET:
            while len(pool.running) < workers and (trial := session.ask()) is not None:
                pool.running.append(trial)
            trial = pool.running.pop(int(pool.rng.integers(len(pool.running))))
            session.tell(trial.number, score(Architecture.parse(trial.architecture)))
        return [trial.architecture for trial in study.trials()]

    assert evaluated(1, 0) == evaluated(2, 1) == evaluated(4, 2) == evaluated(16, 3)


def test_infeasible_and_failed_trials_are_told_apart(storage: BaseStorage) -> None:
    session, _ = open_session(storage, config("evolution"))
    one, other = session.ask(), session.ask()
    assert one is not None
    assert other is not None
    assert session.tell(one.number, {"miou": math.nan, "dice": 0.5}).state is TrialState.INFEASIBLE
    failed = session.fail(other.number, "ValueError: no")
    assert (failed.state, failed.error) == (TrialState.FAILED, "ValueError: no")


@pytest.mark.parametrize("name", SEARCHERS)
def test_other_seed_is_refused(storage: BaseStorage, name: str) -> None:
    session, _ = open_session(storage, config(name, seed=1))
    for _ in range(6):
        trial = session.ask()
        if trial is not None:
            end(session, trial)
    with pytest.raises(InputError, match=r"trial 2 of the study is s1:.* would have proposed s1:.*use a new folder"):
        open_session(storage, config(name, seed=2))


@pytest.mark.parametrize(
    "other", [config("evolution", seed=1, num_parents=1), config("evolution", seed=1, mutation_probability=0.9)]
)
def test_other_settings_of_the_searcher_are_refused(storage: BaseStorage, other: SearchConfig) -> None:
    session, _ = open_session(storage, config("evolution", seed=1))
    Workers(1, seed=0).run(session, 20)
    with pytest.raises(InputError, match="resume with the settings and the version it was started with"):
        open_session(storage, other)


def test_search_without_the_fixed_slicings_is_another_search(storage: BaseStorage) -> None:
    session, _ = open_session(storage, config("evolution"))
    Workers(1, seed=0).run(session, 3)
    with pytest.raises(InputError, match="trial 0 of the study"):
        open_session(storage, config("evolution"), fixed=False)


def test_larger_budget_extends_a_finished_search(storage: BaseStorage) -> None:
    session, _ = open_session(None, config("evolution", num_trials=20))
    longer, whole = open_session(None, config("evolution", num_trials=30))
    Workers(1, seed=0).run(longer, 30)
    session, study = open_session(storage, config("evolution", num_trials=20))
    Workers(1, seed=0).run(session, 20)
    assert session.finished
    session, study = open_session(storage, config("evolution", num_trials=30))
    assert not session.finished
    Workers(1, seed=0).run(session, 30)
    assert story(study) == story(whole)


def open_warm(storage: BaseStorage, warm: list[Architecture], budget: int = 12) -> tuple[SearchSession, Study]:
    options = config("nsga2", num_trials=budget)
    study = Study(storage, "search", SPACE, options.objectives, "nsga2")  # type: ignore[arg-type]
    searcher = make_searcher(options, SPACE)
    session = SearchSession(
        study, searcher, origin="nsga2", num_trials=budget, enqueue=SPACE.fixed(), warm=study.warm_start(lambda: warm)
    )
    return session, study


def test_warm_start_comes_after_the_fixed_slicings_and_repeats_none(storage: BaseStorage) -> None:
    one, other = SPACE.decode([0, 1, 0, 1, 0, 1]), SPACE.decode([1, 1, 0, 1, 0, 1])
    session, study = open_warm(storage, [one, SPACE.fixed()[1], other, one])
    Workers(1, seed=0).run(session, 12)
    trials = study.trials()
    assert [trial.origin for trial in trials] == ["fixed"] * 2 + ["warm"] * 2 + ["nsga2"] * 8
    assert [trial.architecture for trial in trials[2:4]] == [str(one), str(other)]
    assert len({trial.architecture for trial in trials}) == 12


def test_budget_may_end_within_a_warm_start(storage: BaseStorage) -> None:
    session, study = open_warm(storage, SPACE.neighbours(SPACE.fixed()[0]), budget=4)
    Workers(1, seed=0).run(session, 4)
    assert [trial.origin for trial in study.trials()] == ["fixed", "fixed", "warm", "warm"]
    assert session.ask() is None


def test_resumed_search_keeps_its_warm_start_whatever_became_of_the_earlier_one(storage: BaseStorage) -> None:
    warm = SPACE.neighbours(SPACE.fixed()[0])[:3]
    whole, uninterrupted = open_warm(InMemoryStorage(), warm)
    Workers(1, seed=0).run(whole, 12)
    pool = Workers(1, seed=0)
    for stop in (3, 4, 12):
        session, study = open_warm(storage, warm if stop == 3 else [])
        pool.run(session, stop)
    assert story(study) == story(uninterrupted)


@pytest.mark.parametrize("name", SEARCHERS)
def test_search_within_constraints_goes_on_as_if_it_had_not_stopped(storage: BaseStorage, name: str) -> None:
    options = config(name, seed=3, constraints={"hd95": {"max": 4}})
    session, uninterrupted = open_session(None, options)
    Workers(2, seed=6).run(session, BUDGET)
    pool = Workers(2, seed=6)
    session, study = open_session(storage, options)
    for stop in (7, 15, BUDGET):
        pool.run(session, stop)
        session = pool.die(lambda: open_session(storage, options)[0])
    assert story(study) == story(uninterrupted)
    assert any(trial.violation > 0 for trial in study.trials())
