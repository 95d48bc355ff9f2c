"""Local search: climbs by single blocks, and starts anew from a random architecture at the top.

With one objective it is the hill climbing that is hard to beat on architecture benchmarks (White et al. 2021, arXiv
2005.02960); with several, the frontier of the climb takes the best one's place (Pareto local search, Paquete et al.
2004).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

import numpy as np

from nas.config import SearchConfig
from nas.pareto import nondominated_ranks
from nas.searchers.base import Metrics, fitness, fresh_sample
from nas.space import SearchSpace
from slicemamba.architecture import Architecture

_Front = dict[Architecture, tuple[float, ...]]


class LocalSearcher:
    """Proposes unknown neighbours, one block away, of the best architectures of the climb under way.

    While the last of a climb are still evaluated, random starts of the next one keep further workers busy.
    """

    def __init__(self, space: SearchSpace, config: SearchConfig) -> None:
        self._space = space
        self._config = config
        self._rng = np.random.default_rng(config.seed)
        self._climb = 0
        self._fronts: defaultdict[int, _Front] = defaultdict(dict)
        self._climb_of: dict[Architecture, int] = {}  # of what is under way
        self._exhausted: set[Architecture] = set()

    def ask(self, known: Collection[Architecture]) -> Architecture | None:
        climb, architecture = self._climb, self._unknown_neighbour(known)
        while architecture is None and self._fronts[self._climb + 1] and self._climb not in self._climb_of.values():
            del self._fronts[self._climb]
            self._climb = climb = self._climb + 1
            architecture = self._unknown_neighbour(known)
        if architecture is None:
            climb, architecture = self._climb + 1, fresh_sample(self._space, known, self._rng)
        self._climb_of[architecture] = climb
        return architecture

    def _unknown_neighbour(self, known: Collection[Architecture]) -> Architecture | None:
        members = [member for member in self._fronts[self._climb] if member not in self._exhausted]
        for place in self._rng.permutation(len(members)):
            fresh = [near for near in self._space.neighbours(members[place]) if near not in known]
            if fresh:
                return fresh[int(self._rng.integers(len(fresh)))]
            self._exhausted.add(members[place])
        return None

    def tell(self, architecture: Architecture, metrics: Metrics | None) -> None:
        climb = self._climb_of.pop(architecture, self._climb)
        if metrics is None:
            return
        front = self._fronts[climb] | {architecture: fitness(metrics, self._config)}
        scores = np.array(list(front.values()))
        ranks = nondominated_ranks(scores[:, 1:], scores[:, 0])
        self._fronts[climb] = {a: score for (a, score), rank in zip(front.items(), ranks, strict=True) if rank == 0}
