"""What every searcher must do, and what is particular to the published evolution."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np
import pytest
from search_cases import SEARCHERS, SPACE, config, score

from nas.config import SearchConfig
from nas.searchers import Searcher, baseline_seed, make_searcher
from nas.searchers.base import draw_fresh, first_unknown
from nas.space import SearchSpace
from slicemamba.architecture import Architecture

LARGE = SearchSpace(((2, 2), (2, 4), (4, 2), (4, 4)), (2, 2, 4, 2))
Measure = Callable[[Architecture], dict[str, float] | None]


def drive(
    searcher: Searcher, count: int, measure: Measure = score, *, start: list[Architecture] | None = None
) -> list[Architecture]:
    """Asks, measures and tells one after the other; the fixed architectures are told first."""
    known = list(start or [])
    for architecture in known:
        searcher.tell(architecture, measure(architecture))
    while len(known) < count:
        architecture = searcher.ask(known)
        assert architecture is not None
        known.append(architecture)
        searcher.tell(architecture, measure(architecture))
    return known


def drive_many_at_once(searcher: Searcher, count: int, workers: int, seed: int) -> list[Architecture]:
    """Keeps several architectures under way and ends them in any order."""
    rng = np.random.default_rng(seed)
    known: list[Architecture] = []
    running: list[Architecture] = []
    while len(known) < count or running:
        architecture = searcher.ask(known) if len(running) < workers and len(known) < count else None
        if architecture is not None:
            known.append(architecture)
            running.append(architecture)
        else:
            ended = running.pop(int(rng.integers(len(running))))
            searcher.tell(ended, score(ended))
    return known


@pytest.mark.parametrize("name", SEARCHERS)
@pytest.mark.parametrize("fixed", [True, False])
def test_whole_space_is_proposed_without_repetition(name: str, fixed: bool) -> None:
    proposed = drive(make_searcher(config(name), SPACE), SPACE.size, start=SPACE.fixed() if fixed else None)
    assert len(set(proposed)) == SPACE.size == 64


@pytest.mark.parametrize("name", SEARCHERS)
def test_whole_space_is_proposed_with_several_under_way(name: str) -> None:
    proposed = drive_many_at_once(make_searcher(config(name), SPACE), SPACE.size, workers=4, seed=1)
    assert len(set(proposed)) == SPACE.size


@pytest.mark.parametrize("name", SEARCHERS)
def test_proposals_are_of_the_space(name: str) -> None:
    measure = lambda architecture: score(architecture, LARGE)  # noqa: E731
    for architecture in drive(make_searcher(config(name), LARGE), 40, measure):
        LARGE.check(architecture)


@pytest.mark.parametrize("name", SEARCHERS)
def test_seed_decides(name: str) -> None:
    def proposals(seed: int) -> list[Architecture]:
        return drive_many_at_once(make_searcher(config(name, seed=seed), SPACE), 28, workers=3, seed=9)

    assert proposals(1) == proposals(1)
    assert proposals(1) != proposals(2)


@pytest.mark.parametrize("name", SEARCHERS)
@pytest.mark.parametrize("every", [1, 3])
def test_failing_trials_do_not_stop_a_search(name: str, every: int) -> None:
    calls = iter(range(1000))

    def measure(architecture: Architecture) -> dict[str, float] | None:
        return None if next(calls) % every == 0 else score(architecture)

    assert len(set(drive(make_searcher(config(name), SPACE), SPACE.size, measure))) == SPACE.size


@pytest.mark.parametrize("name", SEARCHERS)
def test_several_objectives_of_both_directions_are_searched(name: str) -> None:
    searcher = make_searcher(config(name, objectives=("dice", "hd95", "latency_ms")), SPACE)
    assert len(set(drive(searcher, SPACE.size))) == SPACE.size


@pytest.mark.parametrize("name", [name for name in SEARCHERS if name != "random"])
def test_searcher_beats_random_search(name: str) -> None:
    """Median of the best score over fixed seeds, 100 of a million architectures each."""

    def best(searcher: str, seed: int) -> float:
        options = config(searcher, seed=seed, objectives=("miou",), population_size=12, num_parents=4, num_mutations=6)
        found = drive(make_searcher(options, LARGE), 100, lambda architecture: score(architecture, LARGE))
        return max(score(architecture, LARGE)["miou"] for architecture in found)

    seeds = range(5)
    learned, drawn = ([best(searcher, seed) for seed in seeds] for searcher in (name, "random"))
    assert statistics.median(learned) > statistics.median(drawn) + 0.05


@pytest.mark.parametrize("name", ["nsga2", "local", "regularized_evolution", "optuna_nsga2", "tpe"])
def test_minimised_objective_is_minimised(name: str) -> None:
    options = config(name, objectives=("hd95",))
    found = drive(make_searcher(options, LARGE), 80, lambda architecture: score(architecture, LARGE))
    values = [score(architecture, LARGE)["hd95"] for architecture in found]
    assert statistics.mean(values[-20:]) < statistics.mean(values[:20]) - 3


def generations(searcher: Searcher, count: int, order: int, start: list[Architecture]) -> list[list[Architecture]]:
    """Several generations, each told in an order of its own; the start is told while the search is under way."""
    rng = np.random.default_rng(order)
    known, running, asked = list(start), list(start), []
    for _ in range(count):
        generation: list[Architecture] = []
        while True:
            architecture = searcher.ask(known)
            if architecture is not None:
                generation.append(architecture)
                known.append(architecture)
                running.append(architecture)
            elif not generation:
                ended = running.pop(int(rng.integers(len(running))))
                searcher.tell(ended, score(ended))
            else:
                break
        asked.append(generation)
    return asked


@pytest.mark.parametrize("fixed", [False, True])
def test_evolution_proposes_the_same_whatever_order_the_tells_arrive_in(fixed: bool) -> None:
    start = SPACE.fixed() if fixed else []
    histories = [generations(make_searcher(config("evolution"), SPACE), 4, order, start) for order in range(4)]
    assert histories[0] == histories[1] == histories[2] == histories[3]
    assert [len(generation) for generation in histories[0]] == [8] * 4


def test_evolution_breaks_ties_without_regard_to_the_order_of_tells() -> None:
    def second_generation(reverse: bool) -> list[Architecture]:
        searcher = make_searcher(config("evolution", num_parents=2), SPACE)
        known: list[Architecture] = []
        while (architecture := searcher.ask(known)) is not None:
            known.append(architecture)
        for architecture in reversed(known) if reverse else known:
            searcher.tell(architecture, {"miou": 0.5, "dice": 0.5})
        return [searcher.ask(known) for _ in range(8)]  # type: ignore[misc]

    assert second_generation(reverse=False) == second_generation(reverse=True)


def evolve(options: SearchConfig, told: dict[Architecture, dict[str, float]]) -> list[Architecture]:
    """The second generation, after a first that failed as a whole and the given scores."""
    searcher = make_searcher(options, LARGE)
    for architecture, metrics in told.items():
        searcher.tell(architecture, metrics)
    known = list(told)
    for architecture in next_generation(searcher, known):
        searcher.tell(architecture, None)
    return next_generation(searcher, known)


def next_generation(searcher: Searcher, known: list[Architecture]) -> list[Architecture]:
    """All that it proposes until it waits to be told; added to ``known``."""
    generation = []
    while (architecture := searcher.ask(known)) is not None:
        generation.append(architecture)
        known.append(architecture)
    return generation


def test_evolution_begins_with_a_random_generation_whatever_was_told() -> None:
    told = {LARGE.decode([0] * 10): {"miou": 0.9, "dice": 0.9}}
    options = config("evolution", num_parents=1, num_mutations=8, num_crossovers=0, mutation_probability=0.0)
    begun, untold = make_searcher(options, LARGE), make_searcher(options, LARGE)
    for architecture, metrics in told.items():
        begun.tell(architecture, metrics)
    generation = next_generation(begun, list(told))
    assert generation == next_generation(untold, [])
    assert len(generation) == 8


def test_evolution_mutates_and_crosses_the_best_alone() -> None:
    rng = np.random.default_rng(0)
    best, second = LARGE.decode([0] * 10), LARGE.decode([1] * 10)
    told = {LARGE.sample(rng): {"miou": 0.1, "dice": 0.9} for _ in range(10)}
    told |= {best: {"miou": 0.9, "dice": 0.5}, second: {"miou": 0.8, "dice": 0.5}}
    crossed = config("evolution", num_parents=2, num_mutations=0, num_crossovers=8)
    for child in evolve(crossed, told):
        assert set(LARGE.encode(child)) == {0, 1}, "children of the two parents"
    mutated = config("evolution", num_parents=1, num_mutations=8, num_crossovers=0, mutation_probability=0.15)
    for child in evolve(mutated, told):
        assert sum(gene != 0 for gene in LARGE.encode(child)) <= 6, "children of the best"


def test_evolution_breaks_ties_by_the_next_objective() -> None:
    zeros, ones = LARGE.decode([0] * 10), LARGE.decode([1] * 10)
    told = {zeros: {"miou": 0.5, "dice": 0.1}, ones: {"miou": 0.5, "dice": 0.2}}
    objectives = ("miou", "dice")
    options = config("evolution", objectives=objectives, num_parents=1, num_mutations=8, num_crossovers=0)
    assert all(sum(gene == 1 for gene in LARGE.encode(child)) >= 5 for child in evolve(options, told))


def test_evolution_fills_up_with_random_ones() -> None:
    told = {LARGE.decode([0] * 10): {"miou": 0.5, "dice": 0.1}}
    options = config("evolution", num_parents=1, num_mutations=0, num_crossovers=0)
    generation = evolve(options, told)
    assert len(set(generation)) == 8
    assert all(sum(gene != 0 for gene in LARGE.encode(child)) >= 3 for child in generation)


def test_first_unknown_counts_on_from_its_start() -> None:
    start = SPACE.decode([1, 1, 0, 0, 0, 0])
    assert first_unknown(start, set(), SPACE) == start
    assert first_unknown(start, {start}, SPACE) == SPACE.decode([0, 0, 1, 0, 0, 0])
    everything = {SPACE.decode([index >> bit & 1 for bit in range(6)]) for index in range(64)}
    for last in (start, SPACE.decode([0] * 6), SPACE.decode([1] * 6)):
        assert first_unknown(start, everything - {last}, SPACE) == last
    with pytest.raises(ValueError, match="all 64 architectures of the space are known"):
        first_unknown(start, everything, SPACE)


def test_fresh_draw_gives_up_after_its_attempts() -> None:
    drawn = iter([SPACE.decode([0] * 6)] * 3 + [SPACE.decode([1] * 6)])
    known = {SPACE.decode([0] * 6)}
    assert draw_fresh(lambda: next(drawn), known, 3) is None
    assert draw_fresh(lambda: next(drawn), known, 1) == SPACE.decode([1] * 6)


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("name", SEARCHERS)
def test_random_baseline_does_not_repeat_what_the_search_draws_first(name: str, seed: int) -> None:
    """With one seed, the first proposals of evolution were those of random search (issue 17)."""

    def in_large(architecture: Architecture) -> dict[str, float]:
        return score(architecture, LARGE)

    of_search = drive(make_searcher(config(name, seed=seed), LARGE), 8, in_large)
    seeds = [baseline_seed(seed, index) for index in range(3)]
    assert len(set(seeds)) == 3
    for own in seeds:
        assert not set(of_search) & set(drive(make_searcher(config("random", seed=own), LARGE), 8, in_large))
