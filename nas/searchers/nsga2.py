"""NSGA-II without generations: each result changes the population at once, so that no worker ever waits.

Ranks, crowding and constrained domination are those of NSGA-II (Deb et al. 2002); a child takes the worst member's
place as soon as it is told (steady state, Nebro and Durillo 2009).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from nas.config import SearchConfig
from nas.pareto import Losses, crowded_order
from nas.searchers.base import Metrics, draw_fresh, fitness, fresh_sample
from nas.space import SearchSpace
from slicemamba.architecture import Architecture

_ATTEMPTS = 20


class NSGA2Searcher:
    """Breeds once ``num_parents`` architectures were told; the population grows from there to its full size."""

    def __init__(self, space: SearchSpace, config: SearchConfig) -> None:
        self._space = space
        self._config = config
        self._rng = np.random.default_rng(config.seed)
        self._population: list[Architecture] = []
        self._scores: Losses = np.empty((0, 1 + len(config.objectives)))  # violation, then losses
        self._order: list[int] = []  # members' places by rank and crowding, the best is 0

    def ask(self, known: Collection[Architecture]) -> Architecture | None:
        if len(self._population) >= min(self._config.num_parents, self._config.population_size):
            child = draw_fresh(self._breed, known, _ATTEMPTS) or self._unknown_neighbour(known)
            if child is not None:
                return child
        return fresh_sample(self._space, known, self._rng)

    def _breed(self) -> Architecture:
        child = self._space.crossover(self._select(), self._select(), self._rng)
        return self._space.mutate(child, self._config.mutation_probability, self._rng)

    def _select(self) -> Architecture:
        """The better of two drawn members."""
        pair: list[int] = self._rng.integers(len(self._population), size=2).tolist()
        return self._population[min(pair, key=lambda member: self._order[member])]

    def _unknown_neighbour(self, known: Collection[Architecture]) -> Architecture | None:
        """Children keep coming out as known ones: a step away from a good member instead."""
        fresh = [near for near in self._space.neighbours(self._select()) if near not in known]
        return fresh[int(self._rng.integers(len(fresh)))] if fresh else None

    def tell(self, architecture: Architecture, metrics: Metrics | None) -> None:
        if metrics is None:
            return
        self._population.append(architecture)
        self._scores = np.vstack([self._scores, fitness(metrics, self._config)])
        ranked = crowded_order(self._scores[:, 1:], self._scores[:, 0])
        if len(self._population) > self._config.population_size:
            worst = int(ranked[-1])
            del self._population[worst]
            self._scores = np.delete(self._scores, worst, axis=0)
            ranked = ranked[:-1] - (ranked[:-1] > worst)
        self._order = np.argsort(ranked).tolist()
