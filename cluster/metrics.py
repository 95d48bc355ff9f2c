"""What a run tells Ray's metrics endpoint, for Prometheus and the dashboards on it.

Every metric has the labels ``run``, the name of the run's folder with percent-encoding of what is not ASCII, and
``phase``; Ray puts ``ray_`` before its name and the counter's ``_total`` behind. Gauges are of the run as a whole, so
they go on where they were when it is resumed; the counter and the histogram are of what this driver has seen. The
driver sets those of a search, the first worker those of a training.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from ray.util.metrics import Counter, Gauge, Histogram, Metric

from nas.study import Trial, TrialState
from nas.tally import SearchTally
from slicemamba.text import ascii_name

_SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0]
_LABELS = ("run", "phase")
M = TypeVar("M", bound=Metric)


class SearchMetrics:
    """Metrics of one search.

    Args:
        run: name of the run's folder. phase: ``search`` or ``random``.
    """

    def __init__(self, run: str, phase: str) -> None:
        def labelled(metric: M) -> M:
            metric.set_default_tags({"run": ascii_name(run), "phase": phase})
            return metric

        self._ended = labelled(Gauge("slicemamba_candidates", "Candidates that ended, by state.", (*_LABELS, "state")))
        self._running = labelled(Gauge("slicemamba_candidates_running", "Candidates being evaluated.", _LABELS))
        self._front = labelled(Gauge("slicemamba_front_size", "Candidates on the Pareto frontier.", _LABELS))
        self._hypervolume = labelled(Gauge("slicemamba_hypervolume", "Hypervolume of the frontier.", _LABELS))
        self._best = labelled(Gauge("slicemamba_best", "Best value of the first objective.", _LABELS))
        self._seconds = labelled(
            Histogram("slicemamba_candidate_seconds", "Time to evaluate a candidate.", _SECONDS, _LABELS)
        )
        self._blocks = labelled(
            Counter("slicemamba_blocks", "Blocks computed, or reused from earlier candidates.", (*_LABELS, "source"))
        )

    def show(self, tally: SearchTally) -> None:
        """Sets the gauges of what has ended."""
        for state in (TrialState.COMPLETED, TrialState.PRUNED, TrialState.INFEASIBLE, TrialState.FAILED):
            self._ended.set(tally.states[state], {"state": state.value})
        self._front.set(tally.front_size)
        self._hypervolume.set(tally.hypervolume)
        if tally.best is not None:
            self._best.set(tally.best)

    def running(self, number: int) -> None:
        """How many candidates are being evaluated now."""
        self._running.set(number)

    def ended(self, trial: Trial) -> None:
        """Counts what a trial took."""
        if trial.seconds is not None:
            self._seconds.observe(trial.seconds)
        for source in ("computed", "reused"):
            if blocks := trial.work.get(f"blocks_{source}", 0):
                self._blocks.inc(blocks, {"source": source})


class TrainingMetrics:
    """Metrics of one training.

    Args:
        run: name of the run's folder. phase: ``supernet``, ``retrain`` or ``pretrain``.
    """

    def __init__(self, run: str, phase: str) -> None:
        self._tags = {"run": ascii_name(run), "phase": phase}
        self._done = Gauge("slicemamba_training_steps", "Optimiser steps done.", _LABELS)
        self._planned = Gauge("slicemamba_training_steps_planned", "Optimiser steps in all.", _LABELS)
        self._figures = Gauge("slicemamba_training", "Latest figures of the training.", (*_LABELS, "figure"))

    def show(self, done: int, total: int, figures: Mapping[str, float]) -> None:
        """Sets how far the training is; ``figures`` are the latest loss and validation scores."""
        self._done.set(done, self._tags)
        self._planned.set(total, self._tags)
        for name, value in figures.items():
            self._figures.set(value, {**self._tags, "figure": name})
