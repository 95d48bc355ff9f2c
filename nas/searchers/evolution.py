"""The published evolution, generation by generation (SliceMamba, section III; SPOS, arXiv 1904.00420, algorithm 1).

A generation is drawn as a whole from the best of all architectures so far, so its content does not depend on the order
in which all before it were evaluated: on any number of workers, a search with one seed proposes the same architectures.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Collection

import numpy as np

from nas.config import SearchConfig
from nas.searchers.base import Metrics, draw_fresh, first_unknown, fitness
from nas.space import SearchSpace
from slicemamba.architecture import Architecture

_ATTEMPTS_PER_PLACE = 10


class EvolutionSearcher:
    """Parents are the best by the first objective, ties broken by the next; offspring by mutation and crossover.

    What violates a constraint ranks behind all that meets them.
    """

    def __init__(self, space: SearchSpace, config: SearchConfig) -> None:
        self._space = space
        self._config = config
        self._rng = np.random.default_rng(config.seed)
        # The best so far with what orders them. The text form breaks ties, so that the order of evaluation cannot.
        self._best: list[tuple[tuple[float, ...], str, Architecture]] = []
        self._queue: list[Architecture] = []
        self._heard: set[Architecture] = set()
        self._has_begun = False

    def ask(self, known: Collection[Architecture]) -> Architecture | None:
        if not self._queue:
            # Idle workers ask again and again, so the many architectures are looked at only where it may be answered.
            if len(self._heard) < len(known) or not self._heard.issuperset(known):
                return None
            self._queue = self._next_generation(set(known))
        return self._queue.pop(0)

    def tell(self, architecture: Architecture, metrics: Metrics | None) -> None:
        self._heard.add(architecture)
        if metrics is not None:
            insort(self._best, (fitness(metrics, self._config), str(architecture), architecture))
            del self._best[self._config.num_parents :]

    def _next_generation(self, known: set[Architecture]) -> list[Architecture]:
        config, space, rng = self._config, self._space, self._rng
        # The first generation is random, as published, whatever fixed slicings were told before it.
        parents = [architecture for _, _, architecture in self._best] if self._has_begun else []
        self._has_begun = True
        generation: list[Architecture] = []

        def breed(count: int, draw: Callable[[], Architecture]) -> None:
            for _ in range(count):
                child = draw_fresh(draw, known, _ATTEMPTS_PER_PLACE)
                if child is not None:
                    known.add(child)
                    generation.append(child)

        def pick() -> Architecture:
            return parents[int(rng.integers(len(parents)))]

        if parents:
            breed(config.num_mutations, lambda: space.mutate(pick(), config.mutation_probability, rng))
            breed(config.num_crossovers, lambda: space.crossover(pick(), pick(), rng))
        breed(config.population_size - len(generation), lambda: space.sample(rng))
        return generation or [first_unknown(space.sample(rng), known, space)]
