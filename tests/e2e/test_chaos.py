"""Fifty SIGKILLs and more over everything that takes part in a search: nothing lost, nothing twice, the same result."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest
from chaos import NUM_TRIALS, Disturbed, Kill, Target, chaos_place, undisturbed

from cluster.run_folder import RunFolder
from nas.study import Trial, TrialState, find_trials, open_storage

pytestmark = [pytest.mark.ray, pytest.mark.e2e, pytest.mark.slow]

KILLS = int(os.environ.get("SLICEMAMBA_CHAOS_KILLS", "50"))
SEED = int(os.environ.get("SLICEMAMBA_CHAOS_SEED", "0"))
PACE = float(os.environ.get("SLICEMAMBA_CHAOS_PACE", "1"))
_FINISHED = 6  # what Optuna's journal calls the record that ends a trial


def shares(kills: int) -> Counter[Target]:
    """How often each is killed: what a search has most of is killed most."""
    budget: Counter[Target] = Counter({"api": kills * 3 // 10, "driver": kills // 5, "training worker": kills // 10})
    budget["evaluating worker"] = kills - budget.total()
    return budget


def story(trials: list[Trial]) -> list[tuple[object, ...]]:
    """All that a trial says but times."""
    return [(t.number, t.state, t.architecture, t.origin, t.metrics, t.asked_after, t.ended_as) for t in trials]


def losses(run: RunFolder) -> set[tuple[int, float]]:
    """(epoch, loss) of the supernet's training; an epoch that was trained again has to come out the same."""
    return {(event["epoch"], event["loss"]) for _, event in run.events() if event["event"] == "epoch"}


def check_nothing_lost_or_twice(run: RunFolder) -> None:
    trials = find_trials(open_storage(run.study_location), "search")
    assert [trial.state for trial in trials] == [TrialState.COMPLETED] * NUM_TRIALS
    assert len({trial.architecture for trial in trials}) == NUM_TRIALS
    # Once ended, no trial is written again, and its worker's counts are not either.
    records = [json.loads(line) for line in Path(run.study_location).read_text().splitlines()]
    endings = Counter(each["trial_id"] for each in records if each["op_code"] == _FINISHED)
    assert set(endings.values()) == {1}
    for trial in trials:
        assert trial.ended_at is not None
        assert run.counts_path("search", trial.number).stat().st_mtime <= trial.ended_at.timestamp()
    told = Counter(event["number"] for _, event in run.events() if event["event"] == "trial")
    assert max(told.values()) == 1


@pytest.mark.timeout(6 * 3600)
def test_search_disturbed_by_kills_gives_what_an_undisturbed_one_gives(tmp_path: Path) -> None:
    rng, budget = random.Random(SEED), shares(KILLS)
    kills: list[Kill] = []
    with chaos_place(tmp_path) as place:
        runs, resumed = [], 0
        while budget.total() > 0:
            disturbed = Disturbed(place, rng, budget, PACE)
            disturbed.to_the_end()
            check_nothing_lost_or_twice(disturbed.run)
            runs.append(disturbed.run)
            kills += disturbed.kills
            resumed += disturbed.num_resumed
        expected = undisturbed(place)
    print(Counter((kill.target, kill.phase) for kill in kills), f"{len(runs)} runs, {resumed} resumed by hand")
    assert len(kills) >= KILLS
    result = expected.read_json("result.json")
    assert result is not None
    scores = {trial.metrics["dice"] for trial in find_trials(open_storage(expected.study_location), "search")}
    assert len(scores) > NUM_TRIALS // 2  # else scores could not tell one search from another
    for run in runs:
        found = run.read_json("result.json")
        assert found is not None
        assert losses(run) == losses(expected)
        assert story(find_trials(open_storage(run.study_location), "search")) == story(
            find_trials(open_storage(expected.study_location), "search")
        )
        assert found["best"] == result["best"]
        assert found["pareto"] == result["pareto"]
