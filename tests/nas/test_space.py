"""The search space: its moves stay inside and follow from the generator alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.space import SearchSpace
from slicemamba.architecture import Architecture
from slicemamba.errors import InputError

SPACE = SearchSpace(((2, 2), (2, 4), (4, 2), (3, 7)), (2, 1, 3))
genes = st.lists(st.integers(0, 3), min_size=6, max_size=6)
seeds = st.integers(0, 2**32 - 1)


def test_published_space_has_4_to_the_22_architectures() -> None:
    space = SearchSpace(((2, 2), (2, 4), (4, 2), (4, 4)), (2, 2, 9, 2, 2, 2, 2, 1))
    assert space.num_blocks == 22
    assert space.size == 4**22


@given(genes)
def test_genes_come_back(indices: list[int]) -> None:
    architecture = SPACE.decode(indices)
    assert SPACE.encode(architecture) == indices
    assert architecture.depths == SPACE.depths


@given(seeds)
def test_moves_stay_inside_and_follow_from_the_seed(seed: int) -> None:
    def moves() -> list[Architecture]:
        rng = np.random.default_rng(seed)
        one, other = SPACE.sample(rng), SPACE.sample(rng)
        return [one, other, SPACE.mutate(one, 0.5, rng), SPACE.crossover(one, other, rng)]

    first = moves()
    for architecture in first:
        SPACE.check(architecture)
    assert moves() == first


@given(genes, genes, seeds)
def test_children_take_each_gene_from_a_parent(one: list[int], other: list[int], seed: int) -> None:
    child = SPACE.crossover(SPACE.decode(one), SPACE.decode(other), np.random.default_rng(seed))
    assert all(gene in pair for gene, *pair in zip(SPACE.encode(child), one, other, strict=True))


def test_crossover_takes_both_parents_alike() -> None:
    rng = np.random.default_rng(0)
    one, other = SPACE.decode([0] * 6), SPACE.decode([1] * 6)
    shares = np.mean([SPACE.encode(SPACE.crossover(one, other, rng)) for _ in range(2000)], axis=0)
    assert shares == pytest.approx([0.5] * 6, abs=0.05)


def test_sampling_is_uniform_in_every_block() -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([SPACE.encode(SPACE.sample(rng)) for _ in range(4000)])
    for block in drawn.T:
        counts = Counter(block.tolist())
        assert [counts[choice] / 4000 for choice in range(4)] == pytest.approx([0.25] * 4, abs=0.03)


def test_mutation_redraws_with_its_probability() -> None:
    rng = np.random.default_rng(0)
    parent = SPACE.decode([0] * 6)
    assert SPACE.mutate(parent, 0.0, rng) == parent
    changed = np.mean([np.array(SPACE.encode(SPACE.mutate(parent, 0.4, rng))) != 0 for _ in range(4000)])
    assert changed == pytest.approx(0.4 * 3 / 4, abs=0.02)


def test_fixed_slicings_have_one_size_in_all_blocks() -> None:
    assert [SPACE.encode(architecture) for architecture in SPACE.fixed()] == [[choice] * 6 for choice in range(4)]


def test_architecture_outside_is_refused_with_the_block() -> None:
    with pytest.raises(InputError, match="block 3 is 4x4, which is not among the choices 2x2, 2x4, 4x2, 3x7"):
        SPACE.encode(Architecture.parse("s1:2x2,2x4|s2:4x4|s3:2x2,2x2,2x2"))
    with pytest.raises(InputError, match=r"depths \(2, 1, 3\), like the network; got \(6,\)"):
        SPACE.check(Architecture.uniform((2, 2), (6,)))
