"""What may not be meant in the settings of a search: said before it is started, and in its log."""

from __future__ import annotations

from nas.config import SearchConfig

FIRST_ALONE = ("evolution", "regularized_evolution")
"""Searchers that rank by the first objective and use the others for ties."""

_PUBLISHED_PAIR = {"miou", "dice"}  # ranked by one, ties broken by the other: two forms of one overlap


def advice(config: SearchConfig) -> list[str]:
    """Sentences for whoever starts the search; none where all is as it seems."""
    others = config.objectives[1:]
    if config.searcher not in FIRST_ALONE or not others or set(config.objectives) <= _PUBLISHED_PAIR:
        return []
    return [
        f"searcher {config.searcher} ranks by {config.objectives[0]} alone and looks at {', '.join(others)} only in "
        "ties: with several objectives its frontier falls behind that of random search. For a frontier of all of them "
        "set search.searcher to local or nsga2"
    ]
