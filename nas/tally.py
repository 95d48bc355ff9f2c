"""Figures of a search while it runs, kept up trial by trial: the cost of a trial does not grow with their number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from nas.objectives import OBJECTIVES, losses
from nas.pareto import ParetoFront
from nas.study import Trial, TrialState, reference_point, reference_trials


class SearchTally:
    """Counts ended trials and keeps their frontier.

    Args:
        objectives: of the search. trials: that ended before, by number.

    Attributes:
        states: how many trials ended in each state.
        best: the best value of the first objective among those that may be on the frontier; None without any.
    """

    def __init__(self, objectives: tuple[str, ...], trials: Iterable[Trial] = ()) -> None:
        self._objectives = objectives
        self._anchors: list[Trial] = []
        self._front = ParetoFront(len(objectives))
        self._blocks = Counter[str]()
        self.states = Counter[TrialState]()
        self.best: float | None = None
        for trial in trials:
            self.add(trial)

    @property
    def num_ended(self) -> int:
        return self.states.total()

    @property
    def front_size(self) -> int:
        return len(self._front)

    @property
    def hypervolume(self) -> float:
        """Of the frontier, from the study's ``reference_point``; losses worse than it add nothing."""
        return self._front.hypervolume

    @property
    def reused(self) -> float | None:
        """Share of the blocks that were taken from earlier candidates; None before any was needed."""
        blocks = self._blocks["reused"] + self._blocks["computed"]
        return self._blocks["reused"] / blocks if blocks else None

    def add(self, trial: Trial) -> None:
        """Takes in a trial that has ended."""
        self.states[trial.state] += 1
        for kind in ("computed", "reused"):
            self._blocks[kind] += trial.work.get(f"blocks_{kind}", 0)
        if trial.state is TrialState.COMPLETED:
            self._anchor(trial)
        if trial.eligible:
            self._front.add(losses(trial.metrics, self._objectives))
            self._note_best(trial.metrics[self._objectives[0]])

    def _anchor(self, trial: Trial) -> None:
        """Measures the hypervolume anew where the trial moves the reference point, as the few fixed ones do."""
        anchors = reference_trials([*self._anchors, trial])
        if anchors == self._anchors:
            return
        self._anchors = anchors
        rows, reference = self._front.losses, reference_point(anchors, self._objectives)
        self._front = ParetoFront(len(self._objectives), reference)
        for row in rows:
            self._front.add(row)

    def _note_best(self, value: float) -> None:
        better = max if OBJECTIVES[self._objectives[0]].direction == "maximize" else min
        self.best = value if self.best is None else better(self.best, value)
