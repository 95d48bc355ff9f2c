"""Which architectures a supernet is trained on: uniform as published, or every choice equally often."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from nas.sampling import PathSampler, Sampling
from nas.sizes import place_costs
from nas.space import SearchSpace
from slicemamba.architecture import Architecture, format_block, parse_block
from slicemamba.config import ModelConfig
from slicemamba.models.complexity import cost
from slicemamba.training.seeds import generator_for

SPACE = SearchSpace(((2, 2), (2, 4), (4, 2), (4, 4), (8, 8)), (2, 3))


def test_fair_sampling_trains_each_choice_of_each_block_once_a_turn() -> None:
    draw = PathSampler(SPACE, "fair", seed=3)
    for turn in range(6):
        genes = np.array([SPACE.encode(*draw(5 * turn + place)) for place in range(5)])
        assert (np.sort(genes, axis=0) == np.arange(5)[:, None]).all()


def test_fair_orders_differ_between_blocks_turns_and_seeds() -> None:
    def genes(seed: int, first: int) -> list[list[int]]:
        return [SPACE.encode(*PathSampler(SPACE, "fair", seed)(first + i)) for i in range(5)]

    assert genes(0, 0) != genes(0, 5)
    assert genes(0, 0) != genes(1, 0)
    assert len(set(zip(*genes(0, 0), strict=True))) > 1


def test_fair_choices_are_uniform_over_many_turns() -> None:
    """Each pair of choices of two blocks meets about equally often: χ² of 24 degrees, 99.99 % quantile 61."""
    draw = PathSampler(SPACE, "fair", seed=0)
    genes = np.array([SPACE.encode(*draw(step)) for step in range(2000)])
    table = np.zeros((5, 5))
    np.add.at(table, (genes[:, 0], genes[:, 3]), 1)
    assert ((table - 80) ** 2 / 80).sum() < 61


def test_uniform_sampling_draws_from_the_steps_own_generator() -> None:
    draw = PathSampler(SPACE, "uniform", seed=7)
    assert [draw(step) for step in range(20)] == [(SPACE.sample(generator_for(7, "path", step)),) for step in range(20)]


@pytest.mark.parametrize("sampling", ["uniform", "fair"])
def test_updates_are_counted_without_having_been_tracked(sampling: Sampling) -> None:
    draw = PathSampler(SPACE, sampling, seed=1)
    counts = draw.update_counts(23)
    drawn = np.array([SPACE.encode(*draw(step)) for step in range(23)])
    assert counts.tolist() == [[int((drawn[:, block] == c).sum()) for c in range(5)] for block in range(5)]
    assert (counts.sum(axis=1) == 23).all()
    spread = int(counts.max() - counts.min())
    assert spread <= 1 if sampling == "fair" else spread > 1


def sized(*choices: str, model: ModelConfig) -> SearchSpace:
    return SearchSpace(tuple(map(parse_block, choices)), model.depths, model.has_widths)


def names(architecture: Architecture) -> set[str]:
    return {format_block(block) for block in architecture.blocks()}


def test_fair_turns_of_blocks_and_widths_are_drawn_apart_where_they_have_as_many_choices() -> None:
    """Else a block's choice and a width would be locked together, and half of their pairs never trained."""
    model = ModelConfig(skeleton="conv", embed_dim=8, levels=3, block_levels=(1, 2))
    space = sized("2x2", "-", "full", "half", model=model)
    draw = PathSampler(space, "fair", seed=0)
    drawn = np.array([space.encode(*draw(step)) for step in range(200)])
    blocks, widths = ([p for p, of in enumerate(space.options) if of == kind] for kind in dict.fromkeys(space.options))
    for block, width in product(blocks, widths):
        assert len({tuple(pair) for pair in drawn[:, [block, width]].tolist()}) == 4


def test_fair_turns_of_each_kind_hold_every_choice_once_whatever_the_other_has() -> None:
    model = ModelConfig(skeleton="conv", embed_dim=8, levels=3, block_levels=(1, 2))
    space = sized("2x2", "4x4", "-", "full", "half", model=model)
    draw = PathSampler(space, "fair", seed=3)
    drawn = np.array([space.encode(*draw(step)) for step in range(24)])
    for place, options in enumerate(space.options):
        for turn in drawn[:, place].reshape(-1, len(options)):
            assert sorted(turn.tolist()) == sorted(options)


def test_sandwich_has_the_largest_and_the_smallest_network_of_the_space() -> None:
    """Slicings of one size take turns in both places; at random there is anything."""
    model = ModelConfig(encoder_depths=(1, 2), decoder_depths=(2, 1))
    space = sized("2x2n4e1", "4x4", "2x2", "c3e1", model=model)
    draw = PathSampler(space, "sandwich", seed=3, model=model, num_random=3)
    steps = [draw(step) for step in range(40)]
    assert {len(paths) for paths in steps} == {5}
    assert set.union(*(names(paths[0]) for paths in steps)) == {"2x2", "4x4"}
    assert len({paths[0] for paths in steps}) > 10
    assert set.union(*(names(paths[1]) for paths in steps)) == {"c3e1"}
    assert set.union(*(names(path) for paths in steps for path in paths[2:])) == {"2x2n4e1", "4x4", "2x2", "c3e1"}
    costs = [[cost(model, 1, path, (64, 64))["flops"] for path in paths] for paths in steps[:12]]
    assert all(row[0] == max(row) and row[1] == min(row) for row in costs)
    assert steps == [draw(step) for step in range(40)], "a resumed training draws the same"


def test_sandwich_of_the_convolutional_skeleton_has_both_widths() -> None:
    model = ModelConfig(skeleton="conv", embed_dim=8, levels=3, block_levels=(1, 2))
    space = sized("2x2", "c3", "-", "half", "full", model=model)
    largest, smallest = PathSampler(space, "sandwich", seed=0, model=model, num_random=0)(0)
    assert names(largest) == {"full", "2x2"}
    assert names(smallest) == {"half", "-"}


def test_updates_of_a_sandwich_count_all_its_paths() -> None:
    model = ModelConfig(encoder_depths=(1, 2), decoder_depths=(2, 1))
    space = sized("2x2", "-", model=model)
    counts = PathSampler(space, "sandwich", seed=0, model=model, num_random=2).update_counts(6)
    assert (counts.sum(axis=1) == 4 * 6).all()
    assert (counts >= 6).all(), "each end once a step"


@pytest.mark.parametrize("channels", [8, 96])
@pytest.mark.parametrize("choices", [("2x2", "2x2n4", "2x2n4e1", "c7", "c3", "c3e1", "-")])
def test_costs_of_choices_are_those_of_the_counted_networks(channels: int, choices: tuple[str, ...]) -> None:
    model = ModelConfig(embed_dim=channels, encoder_depths=(1, 1), decoder_depths=(1, 1))
    space = sized(*choices, model=model)
    found = place_costs(space, model)
    flops = [cost(model, 1, Architecture.uniform(choice, model.depths), (32, 32))["flops"] for choice in space.choices]
    places = [8 * 8, 4 * 4, 4 * 4, 8 * 8]  # of the map of each block
    closed = [sum(n * place[gene] for n, place in zip(places, found, strict=True)) for gene in range(len(choices))]
    assert [f - flops[-1] for f in flops] == closed, "beyond a network without blocks"
