"""Searchers propose the next architecture. All are seeded: what they propose follows from what they were told."""

from __future__ import annotations

from collections.abc import Callable

from nas.config import SearchConfig
from nas.searchers.base import Searcher
from nas.searchers.evolution import EvolutionSearcher
from nas.searchers.local import LocalSearcher
from nas.searchers.nsga2 import NSGA2Searcher
from nas.searchers.optuna import OptunaSearcher
from nas.searchers.random import RandomSearcher, baseline_seed
from nas.searchers.regularized_evolution import RegularizedEvolutionSearcher
from nas.space import SearchSpace

_SEARCHERS: dict[str, Callable[[SearchSpace, SearchConfig], Searcher]] = {
    "evolution": EvolutionSearcher,
    "nsga2": NSGA2Searcher,
    "local": LocalSearcher,
    "regularized_evolution": RegularizedEvolutionSearcher,
    "optuna_nsga2": OptunaSearcher,
    "tpe": OptunaSearcher,
    "random": RandomSearcher,
}


def make_searcher(config: SearchConfig, space: SearchSpace) -> Searcher:
    """The searcher that the configuration names."""
    return _SEARCHERS[config.searcher](space, config)


__all__ = ["Searcher", "baseline_seed", "make_searcher"]
