"""What a search says of its progress, and that saying it does not take longer the more trials there are."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage

from cluster.driver import _SearchProgress
from cluster.run_folder import RunFolder
from nas.config import SearchConfig
from nas.space import SearchSpace
from nas.study import Study, Trial, pareto_front

SPACE = SearchSpace(((2, 2), (4, 4)), (2, 1, 3))
CONFIG = SearchConfig(objectives=("miou", "hd95"), num_trials=60)


def study_of(count: int) -> tuple[Study, list[Trial]]:
    """Trials of which none dominates another, and every fifth given up."""
    study = Study(InMemoryStorage(), "search", SPACE, CONFIG.objectives, "nsga2")
    ended = []
    for number in range(count):
        architecture = SPACE.decode([number >> bit & 1 for bit in range(6)])
        study.start(architecture, origin="nsga2", asked_after=number)
        work = {"blocks_reused": number, "blocks_computed": 6}
        if number % 5 == 4:
            ended.append(study.prune(number, ended_as=number, seconds=1.0, work=work))
        else:
            metrics = {"miou": 0.01 * number, "hd95": float(number)}
            ended.append(study.complete(number, metrics, ended_as=number, seconds=1.0, work=work))
    return study, ended


def last_figures(run: RunFolder) -> tuple[int, dict[str, float]]:
    *_, (_, event) = run.events()
    return event["done"], event["metrics"]


def test_resumed_search_shows_the_same_figures_as_one_that_was_not_stopped(tmp_path: Path) -> None:
    """One is told of each trial, the other finds them in the study."""
    run, resumed = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "resumed")
    told = _SearchProgress(run, "search", study_of(0)[0], CONFIG)
    study, ended = study_of(30)
    for trial in ended:
        told(trial)
    _SearchProgress(resumed, "search", study, CONFIG)
    done, figures = last_figures(run)
    assert (done, figures) == last_figures(resumed)
    assert done == 30
    assert figures["front"] == len(pareto_front(ended, CONFIG.objectives)) > 1
    assert figures["pruned"] == 6
    assert figures["reused"] == sum(range(30)) / (sum(range(30)) + 6 * 30)


def test_the_study_is_read_once_however_many_trials_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    real_trials = Study.trials

    def reading(study: Study) -> list[Trial]:
        read.append(1)
        return real_trials(study)

    monkeypatch.setattr(Study, "trials", reading)
    study, ended = study_of(60)
    progress = _SearchProgress(RunFolder(tmp_path), "search", study, CONFIG)
    for trial in ended:
        progress(trial)
    assert len(read) == 1
