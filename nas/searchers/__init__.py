"""Searchers propose the next architecture. All are seeded: what they propose follows from what they were told."""

from __future__ import annotations

from nas.config import SearchConfig
from nas.searchers.base import Searcher
from nas.searchers.evolution import EvolutionSearcher
from nas.searchers.optuna import OptunaSearcher
from nas.searchers.random import RandomSearcher
from nas.space import SearchSpace


def make_searcher(config: SearchConfig, space: SearchSpace) -> Searcher:
    """The searcher that the configuration names."""
    if config.searcher == "evolution":
        return EvolutionSearcher(space, config)
    if config.searcher == "random":
        return RandomSearcher(space, config.seed)
    return OptunaSearcher(space, config)


__all__ = ["EvolutionSearcher", "OptunaSearcher", "RandomSearcher", "Searcher", "make_searcher"]
