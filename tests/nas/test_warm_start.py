"""A warm start takes the best architectures of an earlier study that fit, and says clearly when it cannot."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from search_cases import SPACE

from nas.objectives import Bound
from nas.pareto import crowded_order, pareto_mask
from nas.space import SearchSpace
from nas.study import Study
from nas.warm_start import _ranked, best_architectures
from slicemamba.architecture import Architecture
from slicemamba.errors import InputError

METRICS = [  # the front of the first three, then one behind them
    {"miou": 0.9, "hd95": 9.0},
    {"miou": 0.5, "hd95": 4.0},
    {"miou": 0.1, "hd95": 1.0},
    {"miou": 0.4, "hd95": 5.0},
]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "earlier" / "search.journal"


def earlier(journal: Path, metrics: list[dict[str, float]], **options: object) -> list[Architecture]:
    """A study in which the i-th of the architectures returned has scored the i-th metrics."""
    study = Study(journal, "search", SPACE, ("miou", "hd95"), "nsga2", **options)  # type: ignore[arg-type]
    architectures = [SPACE.decode([number >> bit & 1 for bit in range(6)]) for number in range(len(metrics))]
    for number, (architecture, values) in enumerate(zip(architectures, metrics, strict=True)):
        study.start(architecture, origin="nsga2", asked_after=number)
        study.complete(number, values, ended_as=number, seconds=None)
    return architectures


def test_front_comes_first_its_ends_before_its_middle(journal: Path) -> None:
    tried = earlier(journal, METRICS)
    found = best_architectures(journal, "search", SPACE, 10)
    assert set(found[:2]) == {tried[0], tried[2]}
    assert found[2:] == [tried[1], tried[3]]
    assert best_architectures(journal, "search", SPACE, 2) == found[:2]


def test_order_is_that_of_all_pairs_compared() -> None:
    losses = np.random.default_rng(0).integers(0, 6, (60, 3)).astype(float)
    assert list(_ranked(losses)) == crowded_order(losses).tolist()


def test_order_of_a_large_search_needs_no_matrix_of_pairs() -> None:
    """Of 50,000 trials that would be several gigabytes."""
    losses = np.random.default_rng(0).random((50_000, 2))
    tracemalloc.start()
    best = list(itertools.islice(_ranked(losses), 20))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pareto_mask(losses)[best[0]]
    assert peak < 50e6


def test_only_what_fits_the_space_is_taken(journal: Path) -> None:
    tried = earlier(journal, METRICS)
    smaller = SearchSpace(((2, 2), (2, 4)), SPACE.depths)
    assert best_architectures(journal, "search", smaller, 10) == [tried[0]]


def test_what_violated_a_constraint_is_left_out(journal: Path) -> None:
    tried = earlier(journal, METRICS, constraints={"hd95": Bound(max=4.5)})
    assert set(best_architectures(journal, "search", SPACE, 10)) == {tried[1], tried[2]}


def test_other_spaces_are_refused_with_what_differs(journal: Path) -> None:
    earlier(journal, METRICS)
    with pytest.raises(InputError, match=r"none of the architectures of study 'search'.*depths \(6,\).*\(2, 1, 3\)"):
        best_architectures(journal, "search", SearchSpace(SPACE.choices, (6,)), 10)
    with pytest.raises(InputError, match="block 1 is 2x2, which is not among the choices 8x8, 2x4") as caught:
        best_architectures(journal, "search", SearchSpace(((8, 8), (2, 4)), SPACE.depths), 10)
    assert caught.value.pointer == "/search/warm_start/study"


def test_study_that_is_not_there_is_told_so(journal: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"it holds no search\.journal"):
        best_architectures(journal, "search", SPACE, 10)
    assert not journal.exists(), "nothing is made by looking"
    with pytest.raises(InputError, match="there is no study 'mine' in the storage"):
        best_architectures(f"sqlite:///{tmp_path}/study.db", "mine", SPACE, 10)


def test_study_without_a_result_is_told_so(journal: Path) -> None:
    earlier(journal, [])
    with pytest.raises(InputError, match="no completed trial to start from"):
        best_architectures(journal, "search", SPACE, 10)
