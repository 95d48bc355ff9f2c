"""What is particular to the steady-state NSGA-II."""

from __future__ import annotations

import numpy as np
from search_cases import SPACE, config, score

from nas.searchers import Searcher, make_searcher
from nas.space import SearchSpace
from slicemamba.architecture import Architecture

LARGE = SearchSpace(((2, 2), (2, 4), (4, 2), (4, 4)), (2, 2, 4, 2))


def test_it_never_waits_for_a_result() -> None:
    searcher = make_searcher(config("nsga2"), SPACE)
    known: set[Architecture] = set()
    for _ in range(SPACE.size):
        architecture = searcher.ask(known)
        assert architecture is not None
        known.add(architecture)
    assert len(known) == SPACE.size


def test_a_result_counts_at_once() -> None:
    """Two searches that differ in the last thing they were told part ways with the next proposal."""

    def next_after(best: Architecture) -> Architecture | None:
        searcher = make_searcher(config("nsga2", num_parents=3, mutation_probability=0.0), LARGE)
        for architecture in LARGE.fixed():
            searcher.tell(architecture, {"miou": 0.1, "dice": 0.1})
        searcher.tell(best, {"miou": 0.9, "dice": 0.9})
        return searcher.ask({*LARGE.fixed(), best})

    rng = np.random.default_rng(0)
    assert len({next_after(LARGE.sample(rng)) for _ in range(4)}) == 4


def breed(searcher: Searcher, known: set[Architecture], count: int) -> list[Architecture]:
    children = []
    for _ in range(count):
        child = searcher.ask(known)
        assert child is not None
        known.add(child)
        children.append(child)
    return children


def test_population_keeps_its_size_and_its_best() -> None:
    """Of 30 told, the six best are the two unmixed ones and mixtures of them; children mix nothing else."""
    searcher = make_searcher(config("nsga2", population_size=6, num_parents=3, mutation_probability=0.0), LARGE)
    rng = np.random.default_rng(0)
    told = {LARGE.decode(rng.integers(0, 2, 10).tolist()): 0.9 for _ in range(6)}
    told |= {LARGE.sample(rng): 0.1 for _ in range(24)}
    for architecture in sorted(told):
        value = told[architecture]
        searcher.tell(architecture, {"miou": value, "dice": value})
    for child in breed(searcher, set(told), 20):
        assert set(LARGE.encode(child)) <= {0, 1}


def test_ends_of_the_front_outlive_its_middle() -> None:
    """Seven of one front for six places: the most crowded goes."""
    options = config("nsga2", objectives=("dice", "hd95"), population_size=6, num_parents=3)
    searcher = make_searcher(options, SPACE)
    dice = [0.1, 0.2, 0.3, 0.31, 0.5, 0.8, 0.9]
    for i, value in enumerate(dice):
        searcher.tell(SPACE.decode([i >> bit & 1 for bit in range(6)]), {"dice": value, "hd95": 10 * value})
    kept = sorted(-row[1] for row in searcher._scores.tolist())  # type: ignore[attr-defined]
    assert kept == [0.1, 0.2, 0.3, 0.5, 0.8, 0.9] or kept == [0.1, 0.2, 0.31, 0.5, 0.8, 0.9]


def test_children_come_of_what_meets_the_constraints() -> None:
    options = config(
        "nsga2", population_size=8, num_parents=3, mutation_probability=0.0, constraints={"hd95": {"max": 5}}
    )
    searcher = make_searcher(options, LARGE)
    rng = np.random.default_rng(1)
    within = [LARGE.decode(rng.integers(0, 2, 10).tolist()) for _ in range(8)]
    outside = [LARGE.decode(rng.integers(2, 4, 10).tolist()) for _ in range(8)]
    for architecture in within:
        searcher.tell(architecture, {"miou": 0.1, "dice": 0.1, "hd95": 4.0})
    for architecture in outside:
        searcher.tell(architecture, {"miou": 0.9, "dice": 0.9, "hd95": 6.0})
    for child in breed(searcher, {*within, *outside}, 20):
        assert set(LARGE.encode(child)) <= {0, 1}


def test_failed_ones_are_no_parents() -> None:
    searcher = make_searcher(config("nsga2", num_parents=2, mutation_probability=0.0), LARGE)
    known = set(LARGE.fixed())
    for place, architecture in enumerate(LARGE.fixed()):
        searcher.tell(architecture, score(architecture, LARGE) if place < 2 else None)
    for child in breed(searcher, known, 20):
        assert set(LARGE.encode(child)) <= {0, 1}
