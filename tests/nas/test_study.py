"""The trial store: states, what survives reopening, and that others can read it while it is written."""

from __future__ import annotations

import multiprocessing
import warnings
from datetime import datetime, timezone
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from search_cases import SPACE, score

from nas.objectives import Bound
from nas.space import SearchSpace
from nas.study import (
    Study,
    Trial,
    TrialState,
    dominating,
    find_trials,
    open_storage,
    pareto_front,
    reference_point,
)
from slicemamba.architecture import Architecture
from slicemamba.errors import InputError

OBJECTIVES = ("miou", "hd95")


def make(location: str | Path, space: SearchSpace = SPACE, objectives: tuple[str, ...] = OBJECTIVES) -> Study:
    return Study(location, "search", space, objectives, "evolution")


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return make(tmp_path / "run" / "search.journal")


def architectures(count: int) -> list[Architecture]:
    return [SPACE.decode([index >> bit & 1 for bit in range(6)]) for index in range(count)]


def test_trial_starts_running(study: Study) -> None:
    before = datetime.now(timezone.utc)
    trial = study.start(architectures(1)[0], origin="fixed", asked_after=0)
    assert study.trials() == [trial]
    assert (trial.number, trial.state, trial.origin, trial.asked_after) == (0, TrialState.RUNNING, "fixed", 0)
    assert trial.architecture == "s1:2x2,2x2|s2:2x2|s3:2x2,2x2,2x2"
    assert not trial.ended
    assert trial.metrics == {}
    assert trial.started_at is not None
    assert before <= trial.started_at <= datetime.now(timezone.utc)
    assert trial.ended_at is None


def test_completed_trial_keeps_all_that_was_measured(study: Study) -> None:
    architecture = architectures(6)[5]
    study.start(architecture, origin="evolution", asked_after=0)
    trial = study.complete(0, score(architecture), ended_as=0, seconds=1.5)
    assert study.trials() == [trial]
    assert trial.state is TrialState.COMPLETED
    assert trial.ended
    assert trial.metrics == score(architecture), "the dice too, which is no objective here"
    assert (trial.ended_as, trial.seconds, trial.error) == (0, 1.5, None)
    assert trial.started_at is not None
    assert trial.ended_at is not None
    assert trial.started_at <= trial.ended_at


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_objective_that_is_not_finite_makes_a_trial_infeasible(study: Study, bad: float) -> None:
    study.start(architectures(1)[0], origin="fixed", asked_after=0)
    trial = study.complete(0, {"miou": 0.5, "hd95": bad}, ended_as=0, seconds=None)
    assert trial.state is TrialState.INFEASIBLE
    assert trial.error == f"not finite: hd95 = {bad}"
    assert trial.metrics == {}
    assert study.trials() == [trial]


def test_failed_trial_keeps_its_reason(study: Study) -> None:
    study.start(architectures(1)[0], origin="fixed", asked_after=0)
    trial = study.fail(0, "RuntimeError: out of memory", ended_as=0)
    assert (trial.state, trial.error) == (TrialState.FAILED, "RuntimeError: out of memory")
    assert study.trials() == [trial]


def test_trial_ends_once(study: Study) -> None:
    study.start(architectures(1)[0], origin="fixed", asked_after=0)
    ended = study.complete(0, score(architectures(1)[0]), ended_as=0, seconds=1.0)
    with pytest.raises(Exception, match="finished"):
        study.fail(0, "too late", ended_as=1)
    assert study.trials() == [ended]


def test_missing_objective_ends_nothing(study: Study) -> None:
    study.start(architectures(1)[0], origin="fixed", asked_after=0)
    with pytest.raises(KeyError, match="hd95"):
        study.complete(0, {"miou": 0.5}, ended_as=0, seconds=1.0)
    assert study.trials()[0].state is TrialState.RUNNING


@pytest.mark.parametrize("kind", ["journal", "sqlite"])
def test_reopened_study_has_the_same_trials(tmp_path: Path, kind: str) -> None:
    location = tmp_path / "search.journal" if kind == "journal" else f"sqlite:///{tmp_path}/study.db"
    study = make(location)
    for number, architecture in enumerate(architectures(4)):
        study.start(architecture, origin="evolution", asked_after=number)
        if number < 2:
            study.complete(number, score(architecture), ended_as=number, seconds=0.5)
        elif number == 2:
            study.fail(number, "broken", ended_as=number)
    again = make(location)
    assert again.trials() == study.trials()
    states = [trial.state for trial in again.trials()]
    assert states == [TrialState.COMPLETED, TrialState.COMPLETED, TrialState.FAILED, TrialState.RUNNING]
    again.complete(3, score(architectures(4)[3]), ended_as=3, seconds=0.5)
    assert study.trials()[3].state is TrialState.COMPLETED


@pytest.mark.parametrize(
    ("space", "objectives", "named"),
    [
        (SearchSpace(((2, 2), (2, 4)), SPACE.depths), OBJECTIVES, "choices: ['2x2', '4x4'] before, ['2x2', '2x4'] now"),
        (SearchSpace(SPACE.choices, (6,)), OBJECTIVES, "depths: [2, 1, 3] before, [6] now"),
        (SPACE, ("hd95", "miou"), "objectives: ['miou', 'hd95'] before, ['hd95', 'miou'] now"),
    ],
)
def test_study_of_another_search_is_refused(
    tmp_path: Path, space: SearchSpace, objectives: tuple[str, ...], named: str
) -> None:
    make(tmp_path / "search.journal")
    with pytest.raises(InputError, match="study 'search' exists with other settings") as caught:
        make(tmp_path / "search.journal", space, objectives)
    assert caught.value.details == [named]


def test_study_of_another_searcher_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "search.journal")
    with pytest.raises(InputError) as caught:
        Study(tmp_path / "search.journal", "search", SPACE, OBJECTIVES, "tpe")
    assert caught.value.details == ["searcher: 'evolution' before, 'tpe' now"]


def test_two_studies_share_a_file(tmp_path: Path) -> None:
    file = tmp_path / "search.journal"
    make(file).start(architectures(1)[0], origin="fixed", asked_after=0)
    other = Study(file, "random", SPACE, ("dice",), "random")
    assert other.trials() == []
    assert len(make(file).trials()) == 1
    storage = open_storage(file)
    assert len(find_trials(storage, "search")) == 1
    assert find_trials(storage, "random") == []
    assert find_trials(storage, "of another name") == []


def test_study_killed_before_its_settings_were_written_is_taken_over(tmp_path: Path) -> None:
    storage = open_storage(tmp_path / "search.journal")
    storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE], "search")
    assert make(tmp_path / "search.journal").trials() == []


def test_trial_killed_while_it_ended_is_still_running(study: Study, tmp_path: Path) -> None:
    """The outcome is written before the state; without the state it does not count."""
    study.start(architectures(1)[0], origin="fixed", asked_after=0)
    storage = open_storage(tmp_path / "run" / "search.journal")
    trial_id = storage.get_all_trials(storage.get_study_id_from_name("search"))[0]._trial_id
    storage.set_trial_user_attr(trial_id, "outcome", {"metrics": {"miou": 1.0, "hd95": 1.0}, "ended_as": 0})
    trial = study.trials()[0]
    assert (trial.state, trial.ended, trial.metrics) == (TrialState.RUNNING, False, {})


def test_optuna_reads_the_journal(study: Study, tmp_path: Path) -> None:
    for number, architecture in enumerate(architectures(8)):
        study.start(architecture, origin="evolution", asked_after=number)
        if number == 7:
            study.fail(number, "broken", ended_as=7)
        elif number < 7:
            study.complete(number, score(architecture), ended_as=number, seconds=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        storage = JournalStorage(JournalFileBackend(str(tmp_path / "run" / "search.journal")))
        loaded = optuna.load_study(study_name="search", storage=storage)
    assert [direction.name for direction in loaded.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert loaded.trials[5].values == [score(architectures(6)[5])[name] for name in OBJECTIVES]
    assert loaded.trials[5].params == {f"block_{i:02d}": "4x4" if i in (1, 3) else "2x2" for i in range(1, 7)}
    assert loaded.trials[7].state is optuna.trial.TrialState.FAIL
    ours = pareto_front(study.trials(), OBJECTIVES)
    assert {trial.number for trial in loaded.best_trials} == {trial.number for trial in ours}


def test_front_is_sorted_best_first_and_leaves_out_what_did_not_complete() -> None:
    def trial(number: int, state: TrialState, miou: float = 0.0, hd95: float = 0.0) -> Trial:
        metrics = {"miou": miou, "hd95": hd95} if state is TrialState.COMPLETED else {}
        return Trial(number=number, state=state, architecture="", origin="", metrics=metrics, asked_after=0)

    done = TrialState.COMPLETED
    trials = [
        trial(0, done, 0.5, 1.0),
        trial(1, TrialState.FAILED),
        trial(2, done, 0.9, 9.0),
        trial(3, TrialState.RUNNING),
        trial(4, done, 0.7, 4.0),
        trial(5, done, 0.7, 5.0),
        trial(6, TrialState.INFEASIBLE),
        trial(7, done, 0.9, 9.0),
    ]
    assert [t.number for t in pareto_front(trials, OBJECTIVES)] == [2, 7, 4, 0]
    assert pareto_front(trials[1:2], OBJECTIVES) == []
    assert pareto_front([], OBJECTIVES) == []


def _write(file: Path, count: int) -> None:
    study = make(file)
    for number, architecture in enumerate(architectures(count)):
        study.start(architecture, origin="evolution", asked_after=number)
        study.complete(number, score(architecture), ended_as=number, seconds=0.5)


def test_reader_sees_whole_trials_while_another_process_writes(tmp_path: Path) -> None:
    file = tmp_path / "search.journal"
    make(file)
    writer = multiprocessing.get_context("spawn").Process(target=_write, args=(file, 40))
    writer.start()
    seen = 0
    try:
        reader = make(file)
        while seen < 40 and (writer.is_alive() or len(reader.trials()) > seen):
            trials = reader.trials()
            ended = [trial for trial in trials if trial.ended]
            assert [trial.number for trial in trials] == list(range(len(trials)))
            assert len(trials) >= seen, "what was seen stays"
            for trial, architecture in zip(ended, architectures(40), strict=False):
                assert trial.metrics == score(architecture)
            seen = len(ended)
        writer.join(60)
    finally:
        writer.kill()
        writer.join()
    assert writer.exitcode == 0
    assert len([trial for trial in reader.trials() if trial.ended]) == 40


LIMITED = {"hd95": Bound(max=3.0), "miou": Bound(min=0.2)}


def test_trial_outside_the_constraints_is_kept_with_its_violation_and_off_the_front(tmp_path: Path) -> None:
    study = Study(tmp_path / "search.journal", "search", SPACE, OBJECTIVES, "nsga2", LIMITED)
    metrics = [{"miou": 0.9, "hd95": 6.0}, {"miou": 0.5, "hd95": 3.0}, {"miou": 0.1, "hd95": 1.0}]
    for number, (architecture, values) in enumerate(zip(architectures(3), metrics, strict=True)):
        study.start(architecture, origin="fixed", asked_after=number)
        study.complete(number, values, ended_as=number, seconds=None)
    trials = study.trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETED] * 3
    assert [trial.violation for trial in trials] == pytest.approx([1.0, 0.0, 0.5])
    assert [trial.eligible for trial in trials] == [False, True, False]
    assert [trial.number for trial in pareto_front(trials, OBJECTIVES)] == [1]
    loaded = optuna.load_study(study_name="search", storage=open_storage(tmp_path / "search.journal"))
    assert [trial.number for trial in loaded.best_trials] == [1]


def test_study_with_other_constraints_is_refused(tmp_path: Path) -> None:
    Study(tmp_path / "search.journal", "search", SPACE, OBJECTIVES, "evolution", LIMITED)
    with pytest.raises(InputError, match="with other settings") as caught:
        make(tmp_path / "search.journal")
    (detail,) = caught.value.details
    assert detail.startswith("constraints: {'hd95'")
    assert detail.endswith("before, None now")


def completed(number: int, miou: float, hd95: float, origin: str = "nsga2", **fields: float) -> Trial:
    metrics = {"miou": miou, "hd95": hd95}
    return Trial(
        number=number,
        state=TrialState.COMPLETED,
        architecture="",
        origin=origin,
        metrics=metrics,
        asked_after=number,
        ended_as=number,
        **fields,  # type: ignore[arg-type]
    )


def test_reference_point_is_a_tenth_worse_than_the_worst_fixed_slicing() -> None:
    trials = [completed(0, 0.5, 10.0, "fixed"), completed(1, 0.6, 12.0, "fixed"), completed(2, 0.1, 99.0)]
    assert reference_point(trials, OBJECTIVES) == pytest.approx((-0.45, 13.2))
    assert reference_point(trials[2:], OBJECTIVES) == pytest.approx((-0.09, 108.9)), "no fixed slicing: the first trial"
    failed = Trial(number=0, state=TrialState.FAILED, architecture="", origin="fixed", asked_after=0, ended_as=0)
    assert reference_point([failed], OBJECTIVES) is None


def test_warm_start_is_chosen_once(tmp_path: Path) -> None:
    study = make(tmp_path / "search.journal")
    assert study.warm_start(lambda: architectures(3)) == architectures(3)
    assert make(tmp_path / "search.journal").warm_start(list) == architectures(3)


def test_what_dominates_a_member_of_a_front() -> None:
    def one(number: int, miou: float, hd95: float, violation: float = 0.0) -> Trial:
        metrics = {"miou": miou, "hd95": hd95}
        values = {"number": number, "state": TrialState.COMPLETED, "architecture": str(number), "origin": "random"}
        return Trial(**values, metrics=metrics, violation=violation, asked_after=0, ended_as=number)

    front = [one(0, 0.9, 5.0), one(1, 0.8, 3.0)]
    others = [one(2, 0.9, 4.9), one(3, 0.8, 3.0), one(4, 0.95, 2.0, violation=0.1), one(5, 0.95, 6.0)]
    assert [trial.number for trial in dominating(others, front, ("miou", "hd95"))] == [2]


def test_optunas_own_tools_see_the_objectives_by_name(tmp_path: Path) -> None:
    make(tmp_path / "search.journal")
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "search.journal")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert optuna.load_study(study_name="search", storage=storage).metric_names == list(OBJECTIVES)
