"""What a candidate costs the driver does not grow with the number of trials: counts of operations, never times."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from optuna.storages import InMemoryStorage
from search_cases import config, score

from nas.racing import Leaders
from nas.search import SearchSession
from nas.searchers import make_searcher
from nas.searchers.evolution import EvolutionSearcher
from nas.space import SearchSpace
from nas.study import Study
from slicemamba.architecture import Architecture

SPACE = SearchSpace(((2, 2), (2, 4), (4, 2), (4, 4)), (2, 2, 4, 2))
FLAT = ("evolution", "nsga2", "local", "regularized_evolution", "random")
"""Optuna's own samplers look at all their trials for each proposal (docs/scaling.md)."""


def calls_of(action: Callable[[], Any]) -> Counter[str]:
    """How often each Python function is entered while ``action`` runs."""
    calls: Counter[str] = Counter()

    def count(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            calls[f"{frame.f_code.co_filename}:{frame.f_code.co_name}"] += 1

    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("name", FLAT)
def test_calls_of_a_candidate_do_not_grow_with_the_trials(name: str) -> None:
    """Two stretches of forty candidates, after 100 and after 1,000 trials; racing's leaders are kept up too.

    Much is mutated, as children that are known already are drawn again, up to a limit.
    """
    options = config(name, num_trials=1100, objectives=("miou", "dice"), mutation_probability=0.5)
    study = Study(InMemoryStorage(), "search", SPACE, options.objectives, name)
    session = SearchSession(
        study, make_searcher(options, SPACE), origin=name, num_trials=1100, leaders=Leaders(options)
    )

    def until(count: int) -> None:
        while session.num_ended < count:
            trial = session.ask()
            assert trial is not None
            session.tell(trial.number, score(Architecture.parse(trial.architecture), SPACE))

    until(100)
    early = calls_of(lambda: until(140))
    until(1000)
    late = calls_of(lambda: until(1040))
    assert late.total() < 2 * early.total()


def test_waiting_at_the_barrier_looks_at_no_architecture() -> None:
    """Idle workers ask at every turn of the driver until the last of a generation is told."""
    searcher = EvolutionSearcher(SPACE, config("evolution"))
    known = [searcher.ask([]) for _ in range(8)]
    for architecture in known[:-1]:
        assert architecture is not None
        searcher.tell(architecture, score(architecture, SPACE))
    asked = calls_of(lambda: [searcher.ask(known) for _ in range(100)])  # type: ignore[arg-type]
    assert [name.rpartition(":")[2] for name in asked if asked[name] >= 100] == ["ask"]


def test_evolution_keeps_no_more_than_its_parents() -> None:
    searcher = EvolutionSearcher(SPACE, config("evolution"))
    for genes in range(64):
        architecture = SPACE.decode([genes >> bit & 1 for bit in range(10)])
        searcher.tell(architecture, score(architecture, SPACE))
    assert len(searcher._best) == 3


def test_one_neighbour_is_that_of_the_list() -> None:
    architecture = SPACE.decode([0, 1, 2, 3, 3, 2, 1, 0, 0, 1])
    neighbours = SPACE.neighbours(architecture)
    assert len(neighbours) == SPACE.num_neighbours == 30
    assert [SPACE.neighbour(architecture, place) for place in range(30)] == neighbours
    assert neighbours[:4] == [
        SPACE.decode([first, *rest])
        for first, rest in [
            (1, [1, 2, 3, 3, 2, 1, 0, 0, 1]),
            (2, [1, 2, 3, 3, 2, 1, 0, 0, 1]),
            (3, [1, 2, 3, 3, 2, 1, 0, 0, 1]),
            (0, [0, 2, 3, 3, 2, 1, 0, 0, 1]),
        ]
    ]
