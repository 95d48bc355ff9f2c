"""The search itself: ask → evaluate → tell, on a study that survives whoever runs it.

``SearchSession`` is all a runner needs; ``cluster.ray_tune`` runs it on Ray workers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from nas.racing import Leaders
from nas.searchers import Searcher
from nas.study import Study, Trial, TrialState
from slicemamba.architecture import Architecture
from slicemamba.errors import InputError

Evaluate = Callable[[Architecture], Mapping[str, float]]


class SearchSession:
    """One search: fixed slicings and a warm start first, then what the searcher proposes, until the budget is spent.

    Opened on a study that already has trials, it brings the searcher to the state it had by telling it all that
    happened, in the order it happened, and hands out first what was running when its process died. So a resumed search
    evaluates nothing twice and goes on as if it had not stopped.

    Args:
        study: the trial store.
        searcher: fresh, made with the settings of the search.
        origin: the searcher's name, for the trials' records.
        num_trials: budget; trials that failed count.
        enqueue: architectures to evaluate first, the fixed slicings.
        warm: architectures to evaluate after those, the best of an earlier search.
        leaders: with racing, names the trials that each candidate is given as reference; without, None.

    Raises:
        InputError: the study's trials are not what this searcher proposes (other seed, settings or version).
    """

    def __init__(
        self,
        study: Study,
        searcher: Searcher,
        *,
        origin: str,
        num_trials: int,
        enqueue: Sequence[Architecture] = (),
        warm: Sequence[Architecture] = (),
        leaders: Leaders | None = None,
    ) -> None:
        self._study = study
        self._searcher = searcher
        self._origin = origin
        self._num_trials = num_trials
        origins = dict.fromkeys(warm, "warm") | dict.fromkeys(enqueue, "fixed")
        self._enqueue = [(a, origins[a]) for a in dict.fromkeys([*enqueue, *warm])][:num_trials]
        self._leaders = leaders
        self._known: set[Architecture] = set()
        self._running: dict[int, Architecture] = {}
        self._num_ended = 0
        self._interrupted = self._replay(study.trials())

    @property
    def num_ended(self) -> int:
        return self._num_ended

    @property
    def finished(self) -> bool:
        return self._num_ended >= self._num_trials

    def ask(self) -> Trial | None:
        """The next trial to evaluate, written to the study as RUNNING.

        None when there is none now: the budget is handed out, or the searcher awaits running trials.
        """
        if self._interrupted:
            return self._interrupted.pop(0)
        if len(self._known) >= self._num_trials:
            return None
        architecture, origin = self._next()
        if architecture is None:
            return None
        # Kept with the trial, so that it ends the same way whenever and wherever it is evaluated. The fixed slicings
        # are what a search is compared with, so they are scored in full.
        leaders = self._leaders if origin != "fixed" else None
        trial = self._study.start(
            architecture,
            origin=origin,
            asked_after=self._num_ended,
            reference=leaders.references() if leaders else (),
            peers=leaders.peers() if leaders else (),
        )
        self._remember(trial.number, architecture)
        return trial

    def _next(self) -> tuple[Architecture | None, str]:
        position = len(self._known)
        if position < len(self._enqueue):
            return self._enqueue[position]
        return self._searcher.ask(self._known), self._origin

    def _remember(self, number: int, architecture: Architecture) -> None:
        self._known.add(architecture)
        self._running[number] = architecture

    def tell(
        self,
        number: int,
        metrics: Mapping[str, float],
        seconds: float | None = None,
        work: Mapping[str, int] | None = None,
    ) -> Trial:
        """Ends a trial with what was measured."""
        trial = self._study.complete(number, metrics, ended_as=self._num_ended, seconds=seconds, work=work)
        self._hear(trial)
        return trial

    def prune(self, number: int, seconds: float | None, work: Mapping[str, int]) -> Trial:
        """Ends a trial that racing has given up. The searcher hears of it as of one that failed: it has no score."""
        trial = self._study.prune(number, ended_as=self._num_ended, seconds=seconds, work=work)
        self._hear(trial)
        return trial

    def fail(self, number: int, reason: str) -> Trial:
        """Ends a trial that could not be evaluated; the search goes on without it."""
        trial = self._study.fail(number, reason, ended_as=self._num_ended)
        self._hear(trial)
        return trial

    def _hear(self, trial: Trial) -> None:
        architecture = self._running.pop(trial.number)
        self._num_ended += 1
        if self._leaders is not None and trial.eligible:
            self._leaders.add(trial.number, trial.metrics)
        self._searcher.tell(architecture, trial.metrics if trial.state is TrialState.COMPLETED else None)

    def _replay(self, trials: list[Trial]) -> list[Trial]:
        """Repeats the asks and tells of the study's trials; returns those still running."""
        ended = sorted((t for t in trials if t.ended_as is not None), key=lambda t: t.ended_as or 0)
        for trial in trials:
            while self._num_ended < trial.asked_after:
                self._hear(ended[self._num_ended])
            architecture, origin = self._next()
            if architecture is None or str(architecture) != trial.architecture or origin != trial.origin:
                raise InputError(
                    f"trial {trial.number} of the study is {trial.architecture}, but the search as configured would "
                    f"have proposed {architecture}; resume with the settings and the version it was started with, "
                    "or use a new folder"
                )
            self._remember(trial.number, architecture)
        for trial in ended[self._num_ended :]:
            self._hear(trial)
        return [trial for trial in trials if not trial.ended]
