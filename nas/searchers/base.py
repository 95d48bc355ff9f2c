"""The contract of searchers, and what they share: how architectures compare, and draws of fresh ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import numpy as np

from nas.config import SearchConfig
from nas.objectives import losses, violation
from nas.space import SearchSpace
from slicemamba.architecture import Architecture

Metrics = Mapping[str, float]
_ATTEMPTS = 100


class Searcher(Protocol):
    """Proposes architectures and learns from their metrics.

    The same sequence of calls gives the same proposals; that is how an interrupted search gets its searcher back.
    """

    def ask(self, known: Collection[Architecture]) -> Architecture | None:
        """An architecture that is not in ``known``, or None when the searcher first must hear of running ones.

        A call that returns None changes nothing. There is an architecture outside ``known``: the caller sees to that.
        """

    def tell(self, architecture: Architecture, metrics: Metrics | None) -> None:
        """What an architecture scored; None when its evaluation failed. It need not come from ``ask``."""


def fitness(metrics: Metrics, config: SearchConfig) -> tuple[float, ...]:
    """The violation of the constraints, then the objectives' losses. As tuples, the smaller the better: what meets all
    constraints comes before what does not (Deb 2000), then the first objective decides, then the next.
    """
    return violation(metrics, config.constraints), *losses(metrics, config.objectives)


def draw_fresh(draw: Callable[[], Architecture], known: Collection[Architecture], attempts: int) -> Architecture | None:
    """The first of ``attempts`` draws that is not in ``known``."""
    for _ in range(attempts):
        architecture = draw()
        if architecture not in known:
            return architecture
    return None


def first_unknown(start: Architecture, known: Collection[Architecture], space: SearchSpace) -> Architecture:
    """The next architecture outside ``known`` when counting up from ``start``: ends even when hardly any is left."""
    genes = space.encode(start)
    for _ in range(len(known) + 1):
        architecture = space.decode(genes)
        if architecture not in known:
            return architecture
        for i, options in enumerate(space.options):
            place = (options.index(genes[i]) + 1) % len(options)
            genes[i] = options[place]
            if place:
                break
    raise ValueError(f"all {space.size} architectures of the space are known")


def fresh_sample(space: SearchSpace, known: Collection[Architecture], rng: np.random.Generator) -> Architecture:
    """A uniformly drawn architecture outside ``known``; the next one after a draw where hardly any is left."""
    drawn = draw_fresh(lambda: space.sample(rng), known, _ATTEMPTS)
    return drawn or first_unknown(space.sample(rng), known, space)
