"""The search that tests disturb, and what must be true of it afterwards."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from cluster.run_folder import RunFolder
from nas.study import TrialState, find_trials, open_storage

_FINISHED = 6  # what Optuna's journal calls the record that ends a trial

NUM_TRIALS = 48
JOB: dict[str, Any] = {
    "data": {
        "name": "synthetic",
        "image_size": [64, 64],
        "intensity": "zscore",
        "synthetic": {"num_train": 16, "num_val": 2, "num_search": 160, "num_test": 2},
    },
    "model": {"embed_dim": 8, "encoder_depths": [1, 1, 2], "decoder_depths": [1, 1, 1]},
    # Learns enough for slicings to differ in their Dice: else all would be equal, whatever went wrong.
    "supernet": {"epochs": 12, "batch_size": 4, "t_max": 12, "learning_rate": 5e-3, "num_val_architectures": 0},
    "search": {
        "objectives": ["dice", "miou"],
        "num_trials": NUM_TRIALS,
        "population_size": 12,
        "num_parents": 3,
        "num_mutations": 6,
        "num_crossovers": 4,
    },
    # One at a time: then the order of the trials is that of the undisturbed search too.
    "resources": {"search": {"num_workers": 1}},
    "retrain": None,
}


def _story(run: RunFolder) -> list[tuple[object, ...]]:
    """All that its trials say but times."""
    trials = find_trials(open_storage(run.study_location), "search")
    return [(t.number, t.state, t.architecture, t.origin, t.metrics, t.asked_after, t.ended_as) for t in trials]


def _losses(run: RunFolder) -> set[tuple[int, float]]:
    """(epoch, loss) of the supernet's training; an epoch that was trained again has to come out the same."""
    return {(event["epoch"], event["loss"]) for _, event in run.events() if event["event"] == "epoch"}


def check_nothing_lost_or_twice(run: RunFolder, num_trials: int = NUM_TRIALS) -> None:
    trials = find_trials(open_storage(run.study_location), "search")
    assert [trial.number for trial in trials] == list(range(num_trials))
    assert [trial.state for trial in trials] == [TrialState.COMPLETED] * num_trials
    assert len({trial.architecture for trial in trials}) == num_trials
    # Once ended, no trial is written again, and its worker's counts are not either.
    records = [json.loads(line) for line in Path(run.study_location).read_text().splitlines()]
    endings = Counter(each["trial_id"] for each in records if each["op_code"] == _FINISHED)
    assert set(endings.values()) == {1}
    for trial in trials:
        assert trial.ended_at is not None
        assert run.counts_path("search", trial.number).stat().st_mtime <= trial.ended_at.timestamp()
    told = Counter(event["number"] for _, event in run.events() if event["event"] == "trial")
    assert max(told.values()) == 1


def check_same(run: RunFolder, expected: RunFolder) -> None:
    """A search came out as another one did, to the last bit."""
    found, result = run.read_json("result.json"), expected.read_json("result.json")
    assert found is not None
    assert result is not None
    scores = {trial.metrics["dice"] for trial in find_trials(open_storage(expected.study_location), "search")}
    assert len(scores) > NUM_TRIALS // 2  # else scores could not tell one search from another
    assert _losses(run) == _losses(expected)
    assert _story(run) == _story(expected)
    assert found["best"] == result["best"]
    assert found["pareto"] == result["pareto"]
