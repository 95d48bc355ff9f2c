"""Optuna's NSGA-II and TPE as searchers.

The sampler works on a study in memory. Optuna does not keep a sampler from proposing the same point twice; here a
repetition is told again with the values it had, and never leaves this class.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import Trial, TrialState, create_trial

from nas.config import SearchConfig
from nas.objectives import losses, violation
from nas.searchers.base import Metrics, first_unknown, fitness
from nas.space import SearchSpace
from slicemamba.architecture import Architecture

_ATTEMPTS = 20

optuna.logging.set_verbosity(optuna.logging.WARNING)


class OptunaSearcher:
    """``config.searcher`` is ``optuna_nsga2`` or ``tpe``; all objectives are optimised at once."""

    def __init__(self, space: SearchSpace, config: SearchConfig) -> None:
        self._space = space
        self._config = config
        self._study = optuna.create_study(
            sampler=_make_sampler(config), directions=["minimize"] * len(config.objectives)
        )
        self._distributions = {
            f"block_{i:02d}": CategoricalDistribution(list(options)) for i, options in enumerate(space.options)
        }
        self._rng = np.random.default_rng(config.seed)
        self._running: dict[Architecture, Trial] = {}
        self._told: dict[Architecture, Metrics] = {}

    def ask(self, known: Collection[Architecture]) -> Architecture | None:
        for _ in range(_ATTEMPTS):
            trial = self._study.ask(dict(self._distributions))
            architecture = self._space.decode([trial.params[name] for name in self._distributions])
            if architecture not in known:
                self._running[architecture] = trial
                return architecture
            self._end(trial, self._told.get(architecture))
        return self._unknown_near_the_best(known)

    def _unknown_near_the_best(self, known: Collection[Architecture]) -> Architecture:
        """The sampler has settled: its neighbours' turn."""
        best = min(self._told, key=lambda a: (fitness(self._told[a], self._config), str(a)), default=None)
        start = self._space.sample(self._rng) if best is None else self._space.mutate(best, 0.1, self._rng)
        architecture = first_unknown(start, known, self._space)
        self._study.enqueue_trial(self._params(architecture))
        self._running[architecture] = self._study.ask(dict(self._distributions))
        return architecture

    def tell(self, architecture: Architecture, metrics: Metrics | None) -> None:
        trial = self._running.pop(architecture, None)
        if metrics is not None:
            self._told[architecture] = metrics
        if trial is not None:
            self._end(trial, metrics)
        elif metrics is not None:
            self._study.add_trial(
                create_trial(
                    params=self._params(architecture),
                    distributions=dict(self._distributions),
                    values=list(losses(metrics, self._config.objectives)),
                    constraints=self._constraints(metrics) or None,
                )
            )

    def _end(self, trial: Trial, metrics: Metrics | None) -> None:
        if metrics is None:
            self._study.tell(trial, state=TrialState.FAIL)
            return
        for name, value in self._constraints(metrics).items():
            trial.set_constraint(name, value)
        self._study.tell(trial, losses(metrics, self._config.objectives))

    def _constraints(self, metrics: Metrics) -> dict[str, float]:
        """As Optuna takes them: 0 or less is feasible."""
        constraints = self._config.constraints
        return {"violation": violation(metrics, constraints)} if constraints else {}

    def _params(self, architecture: Architecture) -> dict[str, int]:
        return dict(zip(self._distributions, self._space.encode(architecture), strict=True))


def _make_sampler(config: SearchConfig) -> BaseSampler:
    if config.searcher == "optuna_nsga2":
        return NSGAIISampler(population_size=config.population_size, seed=config.seed)
    return TPESampler(seed=config.seed, multivariate=True, constant_liar=True)
