"""The cache of activations: within its memory, always a whole tree, and never wrong about what a prefix made."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nas.prefix_cache import PrefixCache
from slicemamba.architecture import SliceSize
from slicemamba.models.conv_skeleton import Features

SIZES: list[SliceSize] = [(2, 2), (2, 4), (4, 4)]
NUM_BLOCKS = 6


def made_by(prefix: tuple[SliceSize, ...]) -> Features:
    """Features that tell which blocks made them; maps get smaller, as in an encoder."""
    return Features(torch.full((max(1, 16 >> len(prefix)),), float(hash(prefix) % 1000)))


def use(cache: PrefixCache, blocks: tuple[SliceSize, ...]) -> int:
    """What the evaluator does: goes on from the longest prefix known; how many blocks were known."""
    known, features = cache.longest(blocks)
    if features is not None:
        assert torch.equal(features.x, made_by(blocks[:known]).x)
    first = known + 1 if features is not None else 0
    cache.keep(blocks, [made_by(blocks[:length]) for length in range(first, len(blocks))])
    return known


def slicings(count: int, seed: int = 0) -> list[tuple[SliceSize, ...]]:
    rng = np.random.default_rng(seed)
    return [tuple(SIZES[i] for i in rng.integers(len(SIZES), size=NUM_BLOCKS)) for _ in range(count)]


def test_longest_prefix_of_all_that_went_before_is_found() -> None:
    cache, before = PrefixCache(1 << 20), list[tuple[SliceSize, ...]]()
    for blocks in slicings(60):
        shared = [
            next((i for i, (a, b) in enumerate(zip(blocks, other, strict=True)) if a != b), NUM_BLOCKS - 1)
            for other in before
        ]
        assert use(cache, blocks) == max(shared, default=0)
        before.append(blocks)


@pytest.mark.parametrize("max_bytes", [0, 50, 200, 500])
def test_memory_is_bounded_and_only_ends_of_the_tree_are_dropped(max_bytes: int) -> None:
    cache = PrefixCache(max_bytes)
    for blocks in slicings(60):
        use(cache, blocks)
        kept = cache._kept
        assert cache.num_bytes == sum(features.x.nbytes for features in kept.values()) <= max_bytes
        assert all(prefix[:-1] in kept for prefix in kept if prefix)


def test_what_was_used_last_is_kept() -> None:
    one, other = slicings(2)
    cache = PrefixCache(sum(made_by(one[:length]).x.nbytes for length in range(NUM_BLOCKS)))
    use(cache, one)
    use(cache, other)
    assert cache.longest(other)[0] == NUM_BLOCKS - 1
    assert cache.longest(one)[0] < NUM_BLOCKS - 1
