"""Which architectures a supernet is trained on: uniform as published, or every choice equally often."""

from __future__ import annotations

import numpy as np
import pytest

from nas.sampling import PathSampler, Sampling
from nas.space import SearchSpace
from slicemamba.training.trainer import generator_for

SPACE = SearchSpace(((2, 2), (2, 4), (4, 2), (4, 4), (8, 8)), (2, 3))


def test_fair_sampling_trains_each_choice_of_each_block_once_a_turn() -> None:
    draw = PathSampler(SPACE, "fair", seed=3)
    for turn in range(6):
        genes = np.array([SPACE.encode(draw(5 * turn + place)) for place in range(5)])
        assert (np.sort(genes, axis=0) == np.arange(5)[:, None]).all()


def test_fair_orders_differ_between_blocks_turns_and_seeds() -> None:
    def genes(seed: int, first: int) -> list[list[int]]:
        return [SPACE.encode(PathSampler(SPACE, "fair", seed)(first + i)) for i in range(5)]

    assert genes(0, 0) != genes(0, 5)
    assert genes(0, 0) != genes(1, 0)
    assert len(set(zip(*genes(0, 0), strict=True))) > 1


def test_fair_choices_are_uniform_over_many_turns() -> None:
    """Each pair of choices of two blocks meets about equally often: χ² of 24 degrees, 99.99 % quantile 61."""
    draw = PathSampler(SPACE, "fair", seed=0)
    genes = np.array([SPACE.encode(draw(step)) for step in range(2000)])
    table = np.zeros((5, 5))
    np.add.at(table, (genes[:, 0], genes[:, 3]), 1)
    assert ((table - 80) ** 2 / 80).sum() < 61


def test_uniform_sampling_draws_from_the_steps_own_generator() -> None:
    draw = PathSampler(SPACE, "uniform", seed=7)
    assert [draw(step) for step in range(20)] == [SPACE.sample(generator_for(7, "path", step)) for step in range(20)]


@pytest.mark.parametrize("sampling", ["uniform", "fair"])
def test_updates_are_counted_without_having_been_tracked(sampling: Sampling) -> None:
    draw = PathSampler(SPACE, sampling, seed=1)
    counts = draw.update_counts(23)
    drawn = np.array([SPACE.encode(draw(step)) for step in range(23)])
    assert counts.tolist() == [[int((drawn[:, block] == c).sum()) for c in range(5)] for block in range(5)]
    assert (counts.sum(axis=1) == 23).all()
    spread = int(counts.max() - counts.min())
    assert spread <= 1 if sampling == "fair" else spread > 1
