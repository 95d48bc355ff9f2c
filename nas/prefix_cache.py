"""Activations of earlier candidates, so that a slicing starts where it first differs from one already evaluated.

With fixed images, two slicings that agree up to a block share every activation up to it. What is kept makes a tree:
each slicing a path from the embedding down, shared as far as slicings agree.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from slicemamba.architecture import Block
from slicemamba.models.conv_skeleton import Features

Prefix = tuple[Block, ...]


class PrefixCache:
    """Features of one batch of images by the slice sizes of the blocks behind them; the least recently used go first.

    A path is used from its end to its start, so whatever stands further down the tree is older than what it hangs from,
    and only ends of the tree are ever dropped. The skips that features hold are maps further up, which are there
    anyway; so the maps alone make up the memory.

    Args:
        max_bytes: of all maps together. Between two calls it is not exceeded; while a batch runs, the path of the
            slicing under way comes on top.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._kept: OrderedDict[Prefix, Features] = OrderedDict()

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def longest(self, blocks: Prefix) -> tuple[int, Features | None]:
        """How many of the first blocks need not run, and what they made; (0, None) where nothing is known."""
        for length in range(len(blocks) - 1, -1, -1):
            features = self._kept.get(blocks[:length])
            if features is not None:
                return length, features
        return 0, None

    def keep(self, blocks: Prefix, path: Sequence[Features]) -> None:
        """Takes in what a slicing made anew, and marks all of its path as just used.

        Args:
            blocks: of the slicing. path: features from the first that was not known to those before the last block.
        """
        first = len(blocks) - len(path)
        for length, features in enumerate(path, first):
            self._kept[blocks[:length]] = features
            self._num_bytes += _num_bytes(features)
        for length in range(len(blocks) - 1, -1, -1):
            self._kept.move_to_end(blocks[:length])
        while self._num_bytes > self._max_bytes:
            self._num_bytes -= _num_bytes(self._kept.popitem(last=False)[1])


def _num_bytes(features: Features) -> int:
    return features.x.numel() * features.x.element_size()
