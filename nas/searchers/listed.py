"""Given architectures in their order: for evaluations that were planned beforehand."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from nas.searchers.base import Metrics
from slicemamba.architecture import Architecture


class ListedSearcher:
    """Proposes what it was given, one after the other.

    Args:
        architectures: all different, as many as the search has trials.
    """

    def __init__(self, architectures: Sequence[Architecture]) -> None:
        self._architectures = list(architectures)

    def ask(self, known: Collection[Architecture]) -> Architecture | None:
        return next((one for one in self._architectures if one not in known), None)

    def tell(self, architecture: Architecture, metrics: Metrics | None) -> None:
        """What was planned is evaluated, whatever came of the others."""
