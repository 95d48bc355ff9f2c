"""What is particular to local search and to regularized evolution: both go by single blocks."""

from __future__ import annotations

import numpy as np
from search_cases import SPACE, config, score

from nas.searchers import Searcher, make_searcher
from nas.space import SearchSpace
from slicemamba.architecture import Architecture

LARGE = SearchSpace(((2, 2), (2, 4), (4, 2), (4, 4)), (2, 2, 4, 2))


def distance(one: Architecture, other: Architecture) -> int:
    return sum(a != b for a, b in zip(one.blocks(), other.blocks(), strict=True))


def nearest(to: Architecture, among: list[Architecture]) -> Architecture:
    return min(among, key=lambda architecture: distance(architecture, to))


def asked(searcher: Searcher, known: set[Architecture]) -> Architecture:
    architecture = searcher.ask(known)
    assert architecture is not None
    known.add(architecture)
    return architecture


def test_neighbours_are_all_that_differ_in_one_block() -> None:
    rng = np.random.default_rng(0)
    architecture = LARGE.sample(rng)
    neighbours = LARGE.neighbours(architecture)
    assert len(set(neighbours)) == len(neighbours) == 10 * 3
    assert {distance(architecture, near) for near in neighbours} == {1}


def test_climb_goes_on_from_the_best() -> None:
    searcher = make_searcher(config("local"), SPACE)
    best, worse = SPACE.decode([0, 1, 0, 1, 0, 0]), SPACE.decode([1, 0, 1, 0, 1, 1])
    known = {best, worse}
    for architecture in known:
        searcher.tell(architecture, score(architecture))
    for _ in range(6):
        assert distance(asked(searcher, known), best) == 1
    assert distance(asked(searcher, known), best) != 1, "the neighbourhood is spent: another start"


def test_climb_with_two_objectives_goes_on_from_all_of_its_front() -> None:
    searcher = make_searcher(config("local", objectives=("dice", "hd95")), LARGE)
    low, high, beaten = (LARGE.decode([choice] * 10) for choice in (0, 1, 2))
    searcher.tell(low, {"dice": 0.1, "hd95": 1.0})
    searcher.tell(high, {"dice": 0.9, "hd95": 9.0})
    searcher.tell(beaten, {"dice": 0.05, "hd95": 9.0})
    known = {low, high, beaten}
    assert {nearest(asked(searcher, known), [low, high, beaten]) for _ in range(40)} == {low, high}


def test_climb_goes_to_the_top_of_a_separable_landscape() -> None:
    """At most (blocks × other choices) evaluations a block: each step keeps what is right already."""
    searcher = make_searcher(config("local"), LARGE)
    known: set[Architecture] = set()
    best = 0.0
    while best < 1.0:
        architecture = asked(searcher, known)
        metrics = score(architecture, LARGE)
        best = max(best, metrics["miou"])
        searcher.tell(architecture, metrics)
    assert len(known) <= 1 + 10 * 30


def test_last_results_of_a_climb_are_awaited_with_new_starts() -> None:
    """All neighbours under way: further workers get starts of the next climb; a better one among them is climbed."""
    searcher = make_searcher(config("local", objectives=("miou",)), LARGE)
    start = LARGE.decode([0] * 10)
    searcher.tell(start, {"miou": 0.5})
    known = {start}
    under_way = [asked(searcher, known) for _ in range(30)]
    assert all(distance(start, near) == 1 for near in under_way)
    elsewhere = [asked(searcher, known) for _ in range(3)]
    assert all(distance(start, far) > 1 for far in elsewhere)
    for far in elsewhere:
        searcher.tell(far, {"miou": 0.6})
    for near in under_way[:-1]:
        searcher.tell(near, {"miou": 0.1})
    searcher.tell(under_way[-1], {"miou": 0.7})
    step = asked(searcher, known)
    assert distance(step, under_way[-1]) == 1
    assert distance(step, start) == 2


def test_climb_leaves_what_violates_a_constraint() -> None:
    options = config("local", objectives=("miou",), constraints={"hd95": {"max": 5}})
    searcher = make_searcher(options, LARGE)
    within, outside = LARGE.decode([0] * 10), LARGE.decode([3] * 10)
    searcher.tell(outside, {"miou": 0.9, "hd95": 6.0})
    searcher.tell(within, {"miou": 0.1, "hd95": 5.0})
    known = {within, outside}
    for _ in range(30):
        assert distance(asked(searcher, known), within) == 1


def regularized(**options: object) -> Searcher:
    small = config("regularized_evolution", objectives=("miou",), num_mutations=2, num_crossovers=2, **options)
    return make_searcher(small, LARGE)


def test_regularized_evolution_forgets_the_oldest_however_good() -> None:
    searcher = regularized(population_size=4, num_parents=4)
    rng = np.random.default_rng(0)
    champion, *others = (LARGE.sample(rng) for _ in range(5))
    known = {champion, *others}
    searcher.tell(champion, {"miou": 0.9})
    for place, architecture in enumerate(others[:3]):
        searcher.tell(architecture, {"miou": 0.1 * place})
    assert distance(asked(searcher, known), champion) == 1
    searcher.tell(others[3], {"miou": 0.05})
    assert distance(asked(searcher, known), others[2]) == 1, "the champion has died of age"


def test_regularized_evolution_begins_at_random() -> None:
    searcher = regularized(population_size=4, num_parents=4)
    told = LARGE.decode([0] * 10)
    searcher.tell(told, {"miou": 0.9})
    known = {told}
    assert min(distance(asked(searcher, known), told) for _ in range(10)) > 1


def test_small_tournaments_let_others_than_the_best_breed() -> None:
    searcher = regularized(population_size=4, num_parents=1)
    for choice, architecture in enumerate(LARGE.fixed()):
        searcher.tell(architecture, {"miou": 0.1 * choice})
    known = set(LARGE.fixed())
    parents = {nearest(asked(searcher, known), LARGE.fixed()) for _ in range(40)}
    assert parents == set(LARGE.fixed())
