"""Random search: uniform draws without repetition."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from nas.config import SearchConfig
from nas.searchers.base import Metrics, fresh_sample
from nas.space import SearchSpace
from slicemamba.architecture import Architecture

_STREAM = 1  # of random searches that others are compared with, apart from what the searchers draw themselves


def baseline_seed(seed: int, index: int = 0) -> int:
    """The seed of a random search that another is compared with, drawn from that one's.

    With the same seed, the searchers' first random draws would be the random search's first candidates, and both would
    tie by construction.

    Args:
        seed: ``search.seed`` of the search. index: of the random search; 0 is the run's own baseline.
    """
    return int(np.random.SeedSequence([seed, _STREAM, index]).generate_state(1)[0])


class RandomSearcher:
    """Proposes uniformly drawn architectures, whatever the others scored."""

    def __init__(self, space: SearchSpace, config: SearchConfig) -> None:
        self._space = space
        self._rng = np.random.default_rng(config.seed)

    def ask(self, known: Collection[Architecture]) -> Architecture | None:
        return fresh_sample(self._space, known, self._rng)

    def tell(self, architecture: Architecture, metrics: Metrics | None) -> None:
        """Random search learns nothing."""
