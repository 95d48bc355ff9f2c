"""Random search: uniform draws without repetition."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from nas.searchers.base import Metrics, draw_fresh, first_unknown
from nas.space import SearchSpace
from slicemamba.architecture import Architecture

_ATTEMPTS = 100


class RandomSearcher:
    """Proposes uniformly drawn architectures, whatever the others scored."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self._space = space
        self._rng = np.random.default_rng(seed)

    def ask(self, known: Collection[Architecture]) -> Architecture | None:
        drawn = draw_fresh(lambda: self._space.sample(self._rng), known, _ATTEMPTS)
        return drawn or first_unknown(self._space.sample(self._rng), known, self._space)

    def tell(self, architecture: Architecture, metrics: Metrics | None) -> None:
        """Random search learns nothing."""
