"""What this project uses of Ray Tune that Tune does not promise: how its controller keeps workers and trials.

All of it is here. Whether Tune is built as this expects is looked at once, when a search begins and before anything is
changed; where it is not, Tune goes its own way, which is slower, and a warning says so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import ray
from ray.tune import Callback
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler

_MOST_WORKERS = 1_000_000  # of any cluster
_OF_CONTROLLER = (
    "_actor_cache",
    "_actor_manager",
    "_actor_to_trial",
    "_maybe_reuse_cached_actor",
    "_resetting_trials",
    "_staged_trials",
    "_started_actors",
    "_trial_to_actor",
)
_OF_CACHE = ("cache_object", "increase_max", "num_cached_objects", "total_max_objects")


def missing_in(controller: Any) -> list[str]:
    """What of a controller of Tune's is not as it is in the Ray that this was written for; empty where all is there."""
    missing = [name for name in _OF_CONTROLLER if not hasattr(controller, name)]
    cache = getattr(controller, "_actor_cache", None)
    missing += [f"_actor_cache.{name}" for name in _OF_CACHE if not hasattr(cache, name)]
    if not hasattr(getattr(controller, "_actor_manager", None), "is_actor_started"):
        missing.append("_actor_manager.is_actor_started")
    try:
        from ray.air.execution._internal.tracked_actor import TrackedActor
    except ImportError:
        return [*missing, "TrackedActor"]
    return missing + [
        f"TrackedActor.{name}" for name in ("set_on_error", "set_on_start") if not hasattr(TrackedActor, name)
    ]


class KeepWorkers(FIFOScheduler):  # type: ignore[misc]
    """Has Tune start all workers at once, keep each until the search is over, and give the next free one to whoever has
    waited longest.

    By itself Tune ends the worker that is being started for a candidate as soon as it gives the candidate another, so
    that starts which take longer than evaluations never come to an end; keeps one idle worker of all that wait for a
    generation's last; and looks through all candidates ever evaluated whenever it turns its loop. The first two cannot
    be changed in a public way.

    Args:
        warn: told once where this Tune's controller is built otherwise; Tune then goes its own way.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._warn = warn
        self._is_known: bool | None = None
        self._waiting: deque[Any] = deque()

    def choose_trial_to_run(self, tune_controller: Any) -> Any:
        """None in particular: what waits after this Tune starts in its order, on a free worker or a new one."""
        while self._waiting and self._waiting[0].status != TuneTrial.PENDING:
            self._waiting.popleft()
        controller = self._controller(tune_controller)
        if controller is not None:
            self._give_idle_workers(controller)
        return None

    def _give_idle_workers(self, controller: Any) -> None:
        for trial in self._waiting:
            if not controller._actor_cache.num_cached_objects:
                break
            if trial in controller._staged_trials and trial not in controller._resetting_trials:
                _let_start_go_on(controller, trial)
                controller._maybe_reuse_cached_actor(trial)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Raises the number of idle workers to keep."""
        self._waiting.append(trial)
        controller = self._controller(tune_controller)
        if controller is not None and controller._actor_cache.total_max_objects < _MOST_WORKERS:
            controller._actor_cache.increase_max(trial.placement_group_factory, _MOST_WORKERS)

    def _controller(self, given: Any) -> Any | None:
        """The controller behind what Tune hands to its schedulers; None where it is not to be touched."""
        controller = getattr(given, "_tune_controller", None)
        if self._is_known is None:
            missing = missing_in(controller)
            self._is_known = not missing
            if missing:
                self._warn(
                    f"Ray {ray.__version__} is not the one this version was tested with (its Tune lacks "
                    f"{', '.join(missing)}): the search starts workers more often than needed, and is slower; install "
                    "a Ray of the range in pyproject.toml"
                )
        return controller if self._is_known else None


def _let_start_go_on(controller: Any, trial: Any) -> None:
    """Makes the worker that is being started for a candidate an idle one of Tune's, for whoever is next by then."""
    worker = controller._trial_to_actor.get(trial)
    if worker is None or not controller._actor_manager.is_actor_started(worker):  # not even placed yet
        return

    def keep(worker: Any) -> None:
        controller._started_actors.add(worker)
        controller._actor_cache.cache_object(trial.placement_group_factory, worker)

    del controller._trial_to_actor[trial], controller._actor_to_trial[worker]
    worker.set_on_start(keep)
    worker.set_on_error(None)


class ForgetNumbers(Callback):  # type: ignore[misc]
    """Drops what Tune keeps of each ended trial's numbers (their averages and last values), most of its memory: the
    study holds the numbers. Where Tune keeps them elsewhere, they stay.
    """

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        kept = getattr(trial, "run_metadata", None)
        for name in ("metric_analysis", "metric_n_steps"):
            if hasattr(kept, name):
                setattr(kept, name, {})
