"""Searchers on a space whose every score is known: the table of real images in ``tests/assets``."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.testbed import SEARCHERS, Landscape, Losses, draw_landscape, read_table
from nas.config import SearchConfig
from nas.space import SearchSpace

LEARNING = [name for name in SEARCHERS if name != "random"]
BUDGET, SEEDS = 64, 4


def part_of(table: Landscape, first: list[int]) -> Landscape:
    """The slicings whose first blocks have the given choices, as a space of the other blocks."""
    free = table.space.num_blocks - len(first)
    everything = np.array([table.losses([*first, *genes]) for genes in np.ndindex((4,) * free)])
    return Landscape(
        SearchSpace(table.space.choices, (free,)),
        table.objectives,
        lambda genes: table.losses([*first, *genes]),
        float(everything[:, 0].min()),
        everything.max(axis=0),
        0.0,
    )


def search(landscape: Landscape, searcher: str, num_trials: int, seed: int) -> Losses:
    options = {"searcher": searcher, "objectives": landscape.objectives, "num_trials": num_trials, "seed": seed}
    small = {"population_size": 16, "num_parents": 4, "num_mutations": 8, "num_crossovers": 8}
    return landscape.search(SearchConfig.model_validate(options | small))


@pytest.fixture(scope="module")
def table() -> Landscape:
    return read_table(("miou",))


def test_table_holds_what_was_measured(table: Landscape) -> None:
    losses = np.array([table.losses(genes) for genes in np.ndindex((4,) * 6)])
    assert losses.shape == (4096, 1)
    assert 0.4 < -losses.max() < -losses.min() < 0.6
    assert table.best == losses.min()
    assert len(np.unique(losses)) > 2000


@pytest.mark.parametrize("searcher", LEARNING)
def test_searcher_is_better_than_random_search_on_average(table: Landscape, searcher: str) -> None:
    def regret(name: str) -> float:
        return float(np.mean([table.missing(search(table, name, BUDGET, seed))[-1] for seed in range(SEEDS)]))

    assert regret(searcher) < regret("random")


@pytest.mark.parametrize("searcher", [name for name in SEARCHERS if name != "tpe"])
def test_whole_budget_finds_the_best_there_is(table: Landscape, searcher: str) -> None:
    part = part_of(table, first=[3, 1])
    assert part.missing(search(part, searcher, part.space.size, seed=0))[-1] == 0


def test_local_search_covers_more_of_the_front_than_random_search() -> None:
    table = read_table(("sensitivity", "specificity"))

    def missing(name: str) -> float:
        return float(np.mean([table.missing(search(table, name, BUDGET, seed))[-1] for seed in range(SEEDS)]))

    assert missing("local") < missing("nsga2") < missing("random")


@pytest.mark.parametrize("interactions", [0, 1, 3])
def test_least_loss_of_a_large_landscape_is_found_without_enumeration(
    interactions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw() -> Landscape:
        return draw_landscape(("miou",), (2, 3), interactions, np.random.default_rng(interactions))

    enumerated = draw().best
    monkeypatch.setattr("benchmarks.testbed.MODEL_BLOCKS", 0)
    assert draw().best == pytest.approx(enumerated)
