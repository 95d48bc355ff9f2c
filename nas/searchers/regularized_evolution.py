"""Regularized evolution: the oldest of the population dies, not the worst (Real et al. 2019, arXiv 1802.01548)."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection

import numpy as np

from nas.config import SearchConfig
from nas.searchers.base import Metrics, draw_fresh, fitness, fresh_sample
from nas.space import SearchSpace
from slicemamba.architecture import Architecture

_ATTEMPTS = 20


class RegularizedEvolutionSearcher:
    """Changes one block of the best of ``num_parents`` members drawn from the last ``population_size`` told.

    The best is that of the first objective, ties broken by the next. The first population is random.
    """

    def __init__(self, space: SearchSpace, config: SearchConfig) -> None:
        self._space = space
        self._config = config
        self._rng = np.random.default_rng(config.seed)
        self._population: deque[tuple[tuple[float, ...], Architecture]] = deque(maxlen=config.population_size)

    def ask(self, known: Collection[Architecture]) -> Architecture | None:
        if len(self._population) == self._population.maxlen:
            child = draw_fresh(self._mutant, known, _ATTEMPTS)
            if child is not None:
                return child
        return fresh_sample(self._space, known, self._rng)

    def _mutant(self) -> Architecture:
        count = min(self._config.num_parents, len(self._population))
        drawn = self._rng.choice(len(self._population), size=count, replace=False)
        _, parent = min(self._population[i] for i in drawn)
        return self._space.neighbour(parent, int(self._rng.integers(self._space.num_neighbours)))

    def tell(self, architecture: Architecture, metrics: Metrics | None) -> None:
        if metrics is not None:
            self._population.append((fitness(metrics, self._config), architecture))
