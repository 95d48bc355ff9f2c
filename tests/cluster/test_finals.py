"""Finals: who takes part, for how long, who goes on; and that a stopped one ends as if it had not stopped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.config import SearchJob, parse_job
from cluster.finals import choose_finalists, survivors
from cluster.rounds import finals_epochs, finals_training, round_epochs, round_sizes
from nas.front import MeasuredFront, Member
from nas.study import Trial, TrialState, delete_studies, find_trials, open_storage
from slicemamba.errors import InputError
from slicemamba.models.checkpoints import read_state

SIZES: dict[str, Any] = {"space": {"choices": ["2x2", "-"]}}


def trial(number: int, dice: float = 0.5, flops: float = 1.0, origin: str = "nsga2", violation: float = 0.0) -> Trial:
    return Trial(
        number=number,
        state=TrialState.COMPLETED,
        architecture=f"a{number}",
        origin=origin,
        metrics={"dice": dice, "flops": flops},
        violation=violation,
        asked_after=0,
        ended_as=number,
    )


def front_of(trials: list[Trial], numbers: list[int]) -> MeasuredFront:
    members = tuple(Member(number=n, architecture=f"a{n}", metrics=trials[n].metrics) for n in numbers)
    return MeasuredFront(
        objectives=("dice", "flops"),
        num_images=0,
        num_patients=0,
        num_optimal=len(members),
        num_compared=len(trials),
        resolution={},
        members=members,
        sentence="",
    )


def job(**values: Any) -> SearchJob:
    spec = parse_job(SIZES | values)
    assert isinstance(spec, SearchJob)
    return spec


def test_finals_are_held_by_default_where_networks_differ_in_size() -> None:
    assert job().finals_settings is not None
    assert job(space={"choices": ["2x2", "4x4"]}).finals_settings is None
    assert job(finals=None).finals_settings is None
    forced = job(space={"choices": ["2x2", "4x4"]}, finals={"max_candidates": 3}).finals_settings
    assert forced is not None
    assert forced.max_candidates == 3


@pytest.mark.parametrize("count", [1, 0])
def test_finals_of_fewer_than_two_are_refused(count: int) -> None:
    with pytest.raises(InputError) as caught:
        job(finals={"max_candidates": count})
    assert f"max_candidates must be at least 2; got {count}" in str(caught.value)
    assert "set finals to null for none" in str(caught.value)


def test_finalists_are_the_fronts_ends_and_the_best_fixed_networks() -> None:
    trials = [trial(n, origin="fixed", dice=n / 10) for n in range(4)] + [trial(n) for n in range(4, 16)]
    chosen = choose_finalists(front_of(trials, list(range(4, 16))), trials, 6, "dice")
    assert [one.number for one in chosen] == [4, 10, 15, 3, 2, 1]
    few = choose_finalists(front_of(trials, [4, 3]), trials, 6, "dice")
    assert [one.number for one in few] == [4, 3, 2, 1, 0], "a fixed one that is on the front counts once"
    outside = [one.model_copy(update={"violation": 0.1}) if one.number == 2 else one for one in trials]
    assert 2 not in {one.number for one in choose_finalists(front_of(trials, [4]), outside, 6, "dice")}


def test_the_better_half_goes_on_and_the_best_fixed_network_with_it() -> None:
    running = [trial(0, origin="fixed"), trial(1, origin="fixed"), *(trial(n) for n in range(2, 8))]
    scores = {
        0: (0.60, 9.0),
        1: (0.61, 9.0),
        2: (0.9, 5.0),
        3: (0.8, 3.0),
        4: (0.7, 1.0),
        5: (0.65, 4.0),
        6: (0.5, 8.0),
    }
    results = {n: trial(n, dice, flops) for n, (dice, flops) in scores.items()}  # the seventh failed
    kept = [one.number for one in survivors(running, results, ("dice", "flops"), 4)]
    assert set(kept) == {2, 3, 4, 1}, "the three of the front, and the better one of the fixed"
    assert [one.number for one in survivors(running, results, ("dice",), 2)] == [2, 1]


@pytest.mark.parametrize(
    ("count", "rounds", "sizes"), [(8, 2, [8, 4]), (8, 4, [8, 4, 2, 2]), (5, 2, [5, 3]), (2, 3, [2, 2, 2])]
)
def test_sizes_of_rounds(count: int, rounds: int, sizes: list[int]) -> None:
    assert round_sizes(count, rounds) == sizes


@pytest.mark.parametrize(
    ("epochs", "rounds", "after"), [(20, 2, [10, 20]), (21, 3, [6, 11, 21]), (1, 3, [1, 2, 4]), (7, 1, [7])]
)
def test_each_round_trains_longer(epochs: int, rounds: int, after: list[int]) -> None:
    assert round_epochs(epochs, rounds) == after


def test_training_is_a_quarter_of_the_winners_and_all_of_it_is_counted() -> None:
    spec = job(retrain={"epochs": 80, "learning_rate": 2e-3, "warmup_epochs": 5}, finals={"max_candidates": 8})
    settings = spec.finals_settings
    assert settings is not None
    training = finals_training(spec, settings)
    assert (training.epochs, training.t_max, training.warmup_epochs, training.learning_rate) == (20, 20, 0, 2e-3)
    assert finals_epochs(spec, settings) == 8 * 10 + 4 * 10
    alone = job(retrain=None, supernet={"epochs": 40}, baselines=[])
    assert finals_training(alone, settings).epochs == 10


SMALL: dict[str, Any] = {
    "kind": "search",
    "data": {
        "name": "synthetic",
        "image_size": [32, 32],
        "intensity": "zscore",
        "synthetic": {"num_train": 8, "num_val": 4, "num_search": 6, "num_test": 4},
    },
    "model": {"embed_dim": 8, "encoder_depths": [1, 1], "decoder_depths": [1, 1], "drop_path_rate": 0.1},
    "space": {"choices": ["2x2", "4x4", "-"], "weight_sharing": "shared"},
    "supernet": {"epochs": 1, "batch_size": 4, "sampling": "sandwich"},
    "search": {"searcher": "nsga2", "objectives": ["dice", "flops"], "num_trials": 8, "population_size": 6,
               "num_parents": 3, "num_mutations": 3, "num_crossovers": 3},
    "finals": {"max_candidates": 3, "epochs": 2},
    "retrain": None,
    "baselines": [],
    "resources": {"search": {"num_workers": 1}},
}  # fmt: skip


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_finals_stopped_in_their_last_round_end_as_if_they_had_not(tmp_path: Path) -> None:
    """And on Ray as in one process: the second half is done there."""
    config = tmp_path / "job.json"
    config.write_text(json.dumps(SMALL))

    def run(folder: Path, address: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "cluster.entrypoint", "--config", str(config), "--run-dir", str(folder)]
        command += ["--address", address]
        mine = {"SLICEMAMBA_CACHE": str(tmp_path / "cache"), "RAY_AUTH_MODE": "disabled"}
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | mine
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        result: dict[str, Any] = json.loads((folder / "result.json").read_text())
        return result

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    result = run(whole, "none")
    # Whatever the frontier, the three fixed networks are there to take part.
    assert sorted(len(row["rounds"]) for row in result["finals"]) == [1, 2, 2]
    assert all(set(member["supernet"]) == {"dice", "flops"} for member in result["pareto"])

    # As a driver leaves it that is killed in the second round: the first one's states, nothing of the last.
    shutil.copytree(whole, stopped)
    for name in ("result.json", "front.json", "report.html"):
        (stopped / name).unlink()
    networks = [path for path in (stopped / "finals").iterdir() if len(path.name) == 5]
    assert len(networks) == 2
    for path in networks:
        shutil.rmtree(path)
    delete_studies(stopped / "search.journal", ["finals-2"])
    again = run(stopped, "local")
    assert [row["rounds"] for row in again["finals"]] == [row["rounds"] for row in result["finals"]]
    assert again["pareto"] == result["pareto"]
    trials = {kind: find_trials(open_storage(stopped / "search.journal"), kind) for kind in ("finals-1", "finals-2")}
    assert [len(found) for found in trials.values()] == [3, 2]
    for path in networks:
        before, after = (read_state(of / "finals" / path.name / "weights.safetensors") for of in (whole, stopped))
        assert all(torch.equal(before[name], after[name]) for name in before)
