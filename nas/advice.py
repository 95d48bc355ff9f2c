"""What may not be meant in the settings of a search: said before it is started, and in its log."""

from __future__ import annotations

from collections.abc import Sequence

from nas.config import SearchConfig

FIRST_ALONE = ("evolution", "regularized_evolution")
"""Searchers that rank by the first objective and use the others for ties."""

RANDOM_AT_FIRST = ("evolution", "regularized_evolution", "optuna_nsga2")
"""Searchers that draw a whole population at random before they learn from any candidate."""

_ONE_OVERLAP = ("dice", "miou", "worst_class_dice")
"""Of one foreground class and pooled pixels, each is a function of the others: IoU = Dice / (2 − Dice)."""
_PUBLISHED_PAIR = {"miou", "dice"}  # of several classes ranked by one, ties broken by the other


def advice(config: SearchConfig, num_classes: int = 1) -> list[str]:
    """Sentences for whoever starts the search; none where all is as it seems.

    Args:
        num_classes: as in ``DataConfig``: 1 for binary masks.
    """
    alike = [name for name in config.objectives if name in _ONE_OVERLAP] if num_classes == 1 else []
    told = [] if len(alike) < 2 else [_same_order(alike)]
    others = [name for name in config.objectives[1:] if name not in alike[1:]]
    if config.searcher in FIRST_ALONE and others and not set(config.objectives) <= _PUBLISHED_PAIR:
        told.append(
            f"searcher {config.searcher} ranks by {config.objectives[0]} alone and looks at {', '.join(others)} only "
            "in ties: with several objectives its frontier falls behind that of random search. For a frontier of all "
            "of them set search.searcher to local or nsga2"
        )
    if config.searcher in RANDOM_AT_FIRST and config.num_trials <= config.population_size:
        told.append(
            f"searcher {config.searcher} draws its first {config.population_size} candidates at random "
            f"(search.population_size), and there are {config.num_trials} trials: this is random search. Set a "
            "population of a sixth of the trials, or search.searcher to local or nsga2, which learn from the first "
            "candidates on"
        )
    return told


def _same_order(alike: Sequence[str]) -> str:
    return (
        f"objectives {' and '.join(alike)} are functions of one another for binary masks: they order architectures "
        f"alike, and between them there is nothing to trade. Keep {alike[0]} alone, and add a cost such as flops"
    )
