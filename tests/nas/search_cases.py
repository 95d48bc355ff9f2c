"""What the search tests share: a space of 64 architectures with a synthetic score, and studies held in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from optuna.storages import BaseStorage, InMemoryStorage

from nas.config import SearchConfig, SearcherName
from nas.search import SearchSession
from nas.searchers import make_searcher
from nas.space import SearchSpace
from nas.study import Study, Trial
from slicemamba.architecture import Architecture

SPACE = SearchSpace(((2, 2), (4, 4)), (2, 1, 3))
SEARCHERS: tuple[str, ...] = get_args(SearcherName)


def config(searcher: str, **options: Any) -> SearchConfig:
    """A search with generations of eight."""
    small = {"population_size": 8, "num_parents": 3, "num_mutations": 3, "num_crossovers": 3, "num_trials": 30}
    return SearchConfig.model_validate({"searcher": searcher, **small, **options})


def score(architecture: Architecture, space: SearchSpace = SPACE) -> dict[str, float]:
    """The more blocks have the choice that suits them, the better; weights make most scores differ."""
    genes = space.encode(architecture)
    weights = [1 + 0.1 * block for block in range(len(genes))]
    hits = sum(w for block, (g, w) in enumerate(zip(genes, weights, strict=True)) if g == block % len(space.choices))
    return {"miou": hits / sum(weights), "dice": hits / sum(weights), "hd95": 1.0 + sum(genes), "latency_ms": 2.0}


def open_session(
    storage: BaseStorage | None, options: SearchConfig, space: SearchSpace = SPACE, *, fixed: bool = True
) -> tuple[SearchSession, Study]:
    """A session on a study in the given storage, as a fresh process opens it."""
    study = Study(
        storage or InMemoryStorage(),
        "search",
        space,
        options.objectives,
        options.searcher,
        options.constraints,
    )
    session = SearchSession(
        study,
        make_searcher(options, space),
        origin=options.searcher,
        num_trials=options.num_trials,
        enqueue=space.fixed() if fixed else (),
    )
    return session, study


def end(session: SearchSession, trial: Trial, space: SearchSpace = SPACE) -> Trial:
    """Ends a trial as an evaluator would: every seventh cannot be evaluated, every eleventh gives NaN."""
    if trial.number % 7 == 5:
        return session.fail(trial.number, "RuntimeError: out of memory")
    metrics: Mapping[str, float] = score(Architecture.parse(trial.architecture), space)
    if trial.number % 11 == 9:
        metrics = dict.fromkeys(metrics, float("nan"))
    return session.tell(trial.number, metrics, 0.25)


def story(study: Study) -> list[tuple[object, ...]]:
    """All that a trial says but times."""
    return [
        (t.number, t.state, t.architecture, t.origin, tuple(t.metrics.items()), t.error, t.asked_after, t.ended_as)
        for t in study.trials()
    ]
