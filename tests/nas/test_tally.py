"""Figures kept up trial by trial against those of the whole study."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from search_cases import config, end, open_session

from nas.objectives import loss_matrix
from nas.pareto import hypervolume
from nas.study import Trial, TrialState, pareto_front, reference_point
from nas.tally import SearchTally

OBJECTIVES = ("dice", "hd95")


def in_some_order(trials: list[Trial], seed: int) -> list[Trial]:
    """As several workers end them: the fixed ones not always first."""
    mixed = random.Random(seed).sample(trials, len(trials))
    return [trial.model_copy(update={"ended_as": place}) for place, trial in enumerate(mixed)]


@pytest.mark.parametrize("fixed", [True, False])
def test_tally_gives_what_the_whole_study_gives(fixed: bool) -> None:
    session, study = open_session(None, config("random", objectives=OBJECTIVES), fixed=fixed)
    while (trial := session.ask()) is not None:
        end(session, trial)
    for seed in range(10):
        trials = in_some_order(study.trials(), seed)
        tally = SearchTally(OBJECTIVES)
        for trial in trials:
            tally.add(trial)
        by_number = sorted(trials, key=lambda one: one.number)
        reference = reference_point(by_number, OBJECTIVES)
        assert reference is not None
        front = pareto_front(trials, OBJECTIVES)
        volume = hypervolume(loss_matrix([trial.metrics for trial in front], OBJECTIVES), reference)
        assert tally.hypervolume == pytest.approx(volume, rel=1e-12)
        assert tally.hypervolume > 0
        assert tally.front_size == len(front)
        assert tally.best == front[0].metrics["dice"]
        assert tally.states == Counter(trial.state for trial in trials)
        assert tally.states.keys() >= {TrialState.COMPLETED, TrialState.FAILED, TrialState.INFEASIBLE}
        assert tally.num_ended == len(trials)
        assert SearchTally(OBJECTIVES, by_number).hypervolume == pytest.approx(tally.hypervolume, rel=1e-12)


def test_share_of_reused_blocks_is_of_all_trials() -> None:
    tally = SearchTally(OBJECTIVES)
    assert (tally.reused, tally.best, tally.hypervolume) == (None, None, 0.0)
    for number, (computed, reused) in enumerate([(10, 0), (4, 6), (0, 0)]):
        tally.add(pruned(number, {"images": 5, "blocks_computed": computed, "blocks_reused": reused}))
    assert tally.reused == 6 / 20
    assert tally.states == {TrialState.PRUNED: 3}


def pruned(number: int, work: dict[str, int]) -> Trial:
    return Trial(
        number=number, state=TrialState.PRUNED, architecture="", origin="x", asked_after=0, ended_as=number, work=work
    )
