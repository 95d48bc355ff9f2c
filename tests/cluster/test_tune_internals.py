"""What is used of Tune's inner parts: looked at before anything is changed, and left alone where it is unlike."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Trial as TuneTrial

from cluster.tune_internals import ForgetNumbers, KeepWorkers, missing_in


class Cache:
    """Idle workers, as Tune keeps them."""

    total_max_objects = 1

    def __init__(self) -> None:
        self.idle: list[Any] = []

    @property
    def num_cached_objects(self) -> int:
        return len(self.idle)

    def increase_max(self, resources: Any, number: int) -> None:
        self.total_max_objects = number

    def cache_object(self, resources: Any, worker: Any) -> None:
        self.idle.append(worker)


class Candidate:
    """A candidate that waits, as Tune keeps it."""

    status = TuneTrial.PENDING
    placement_group_factory = 0


class Controller(SimpleNamespace):
    """A controller with two candidates, for which workers are being started."""

    def __init__(self) -> None:
        self.first, self.second = Candidate(), Candidate()
        super().__init__(
            _actor_cache=Cache(),
            _actor_manager=SimpleNamespace(is_actor_started=lambda worker: True),
            _actor_to_trial={},
            _maybe_reuse_cached_actor=self.reuse,
            _resetting_trials=[],
            _staged_trials=[self.first, self.second],
            _started_actors=set(),
            _trial_to_actor={},
        )
        self.given: list[Any] = []

    def reuse(self, trial: Any) -> None:
        self.given.append((trial, self._actor_cache.idle.pop()))


def begin(controller: Controller) -> tuple[KeepWorkers, Any, list[str]]:
    """A scheduler that knows both candidates, what Tune hands to it, and what it has warned of."""
    told: list[str] = []
    scheduler, given = KeepWorkers(told.append), SimpleNamespace(_tune_controller=controller)
    for trial in (controller.first, controller.second):
        scheduler.on_trial_add(given, trial)
    return scheduler, given, told


def test_all_idle_workers_are_kept_and_given_to_whoever_waits_longest() -> None:
    controller = Controller()
    scheduler, given, told = begin(controller)
    assert controller._actor_cache.total_max_objects > 1000
    controller._actor_cache.idle = ["worker"]
    assert scheduler.choose_trial_to_run(given) is None
    assert controller.given == [(controller.first, "worker")]
    assert told == []


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("_tune_controller", "_staged_trials"),
        ("_tune_controller", "_trial_to_actor"),
        ("_actor_cache", "cache_object"),
        ("_actor_manager", "is_actor_started"),
    ],
)
def test_controller_that_is_built_otherwise_is_left_alone_and_told_once(part: str, name: str) -> None:
    controller = Controller()
    if part == "_tune_controller":
        delattr(controller, name)
    else:
        setattr(controller, part, SimpleNamespace(num_cached_objects=1, increase_max=None, total_max_objects=1))
    scheduler, given, told = begin(controller)
    for _ in range(3):
        assert scheduler.choose_trial_to_run(given) is None
    assert controller.given == []
    assert len(told) == 1
    assert name in told[0]
    assert "was tested with" in told[0]
    assert scheduler._waiting == deque([controller.first, controller.second])


def test_scheduler_that_is_given_no_controller_leaves_all_to_tune() -> None:
    told: list[str] = []
    scheduler = KeepWorkers(told.append)
    assert scheduler.choose_trial_to_run(object()) is None
    assert len(told) == 1
    assert missing_in(None)


def test_ended_trials_leave_no_statistics_in_tune() -> None:
    """They are most of what the driver's memory grows by with each candidate."""
    trial = TuneTrial("anything", stub=True)
    trial.update_last_result({"metrics": {"dice": 0.5, "miou": 0.4}, "seconds": 2.0, "trial_id": trial.trial_id})
    assert "metrics/dice" in trial.metric_analysis
    ForgetNumbers().on_trial_complete(1, [trial], trial)
    assert trial.metric_analysis == trial.run_metadata.metric_n_steps == {}
    assert trial.last_result["metrics"]["dice"] == 0.5, "what the searcher is told"


def test_trial_that_keeps_its_numbers_elsewhere_is_left_as_it_is() -> None:
    trial = SimpleNamespace(run_metadata=SimpleNamespace(numbers={"dice": 0.5}))
    ForgetNumbers().on_trial_complete(1, [trial], trial)
    assert trial.run_metadata == SimpleNamespace(numbers={"dice": 0.5})
    ForgetNumbers().on_trial_complete(1, [object()], object())
