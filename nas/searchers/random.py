"""Random search: uniform draws without repetition."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from nas.config import SearchConfig
from nas.searchers.base import Metrics, fresh_sample
from nas.space import SearchSpace
from slicemamba.architecture import Architecture


class RandomSearcher:
    """Proposes uniformly drawn architectures, whatever the others scored."""

    def __init__(self, space: SearchSpace, config: SearchConfig) -> None:
        self._space = space
        self._rng = np.random.default_rng(config.seed)

    def ask(self, known: Collection[Architecture]) -> Architecture | None:
        return fresh_sample(self._space, known, self._rng)

    def tell(self, architecture: Architecture, metrics: Metrics | None) -> None:
        """Random search learns nothing."""
