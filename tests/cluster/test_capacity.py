"""How many workers fit a cluster's nodes, what is told where they do not, and waiting for nodes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from cluster import capacity as room
from cluster import driver
from cluster.capacity import Need, Node, live_nodes, needs_of, num_fitting, wait_for_room, waits_for
from cluster.config import parse_job
from cluster.run_folder import RunFolder
from slicemamba.errors import InputError


def needs(**resources: Any) -> list[Need]:
    return needs_of(parse_job({"resources": resources, "retrain": None}).resources, trains=True, searches=True)


@pytest.mark.parametrize(
    ("workers", "nodes", "fitting"),
    [
        ({"cpus": 1}, [(4, 0)], 4),
        ({"cpus": 2}, [(3, 0), (3, 0)], 2),  # not three: no worker lies on two nodes
        ({"cpus": 0.1}, [(0.3, 0)], 3),
        ({"cpus": 1, "gpus": 1}, [(8, 2), (8, 0)], 2),
        ({"cpus": 1, "gpus": 0.25}, [(8, 2)], 8),
        ({"cpus": 1, "gpus": 0.4}, [(8, 2)], 4),  # not five: a share is of one GPU
        ({"cpus": 1, "gpus": 2}, [(8, 3)], 1),
        ({"cpus": 1, "gpus": 1}, [(8, 0)], 0),
        ({"cpus": 1}, [], 0),
    ],
)
def test_workers_fit_by_node(workers: dict[str, Any], nodes: list[tuple[float, float]], fitting: int) -> None:
    job = parse_job({"resources": {"search": workers}, "retrain": None})
    there = [Node(f"n{i}", cpus, gpus) for i, (cpus, gpus) in enumerate(nodes)]
    assert num_fitting(job.resources.search, there) == fitting


def test_what_is_missing_is_told_with_what_there_is() -> None:
    train, search = needs(train={"num_workers": 4, "cpus": 2, "gpus": 1}, search={"cpus": 2})
    nodes = [Node("10.0.0.1", 4, 0), Node("10.0.0.2", 8, 2)]
    assert train.shortage(nodes) == (
        "resources.train needs 4 workers at once with 2 CPUs and 1 GPUs each; there is room for 2, "
        "on 10.0.0.1 with 4 CPUs and 0 GPUs, 10.0.0.2 with 8 CPUs and 2 GPUs"
    )
    assert search.shortage(nodes) is None
    # Candidates come and go one by one: room for one is enough.
    assert needs(search={"num_workers": 64, "cpus": 2})[1].shortage(nodes) is None


def test_what_is_done_already_needs_no_room(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    search, retrains = parse_job({"retrain": None}), parse_job({})
    single = parse_job({"kind": "retrain", "network": "unet"})
    fields = lambda job: [need.field for need in driver._needs(job, run)]  # noqa: E731
    assert fields(search) == ["resources.train", "resources.search"]
    assert fields(single) == ["resources.train"]
    run.write_json("supernet/config.json", {})
    assert fields(search) == ["resources.search"]
    assert fields(retrains) == ["resources.train", "resources.search"]


def test_too_little_on_ones_own_machine_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "live_nodes", lambda: [Node("here", 2, 0)])
    with pytest.raises(InputError, match="this machine has too few CPUs or GPUs for the job; request fewer") as caught:
        wait_for_room(needs(train={"gpus": 1}), 3600, True, lambda sentence: None)
    assert caught.value.details == [
        "resources.train needs a worker with 1 CPUs and 1 GPUs; there is room for 0, on here with 2 CPUs and 0 GPUs"
    ]
    wait_for_room(needs(train={"num_workers": 2}), 0, True, pytest.fail)


def test_who_is_about_to_submit_is_told_what_there_is_no_room_for() -> None:
    nodes = [Node("here", 2, 0)]
    assert waits_for(needs(train={"cpus": 2}), nodes) is None
    assert str(waits_for(needs(train={"gpus": 1}), nodes)).startswith("no node of the cluster has a GPU; the search")
    assert waits_for(needs(train={"cpus": 4}), nodes) == (
        "the search would wait for the cluster to grow: resources.train needs a worker with 4 CPUs and 0 GPUs; "
        "there is room for 0, on here with 2 CPUs and 0 GPUs"
    )


@pytest.mark.ray
def test_cluster_that_grows_is_waited_for_and_one_that_does_not_is_told(small_cluster: Cluster) -> None:
    told: list[str] = []
    with pytest.raises(InputError, match="has not grown in 1 s; lower resources or add nodes") as caught:
        wait_for_room(needs(train={"num_workers": 2, "cpus": 2}), 1, False, told.append)
    assert "resources.train needs 2 workers at once with 2 CPUs" in caught.value.details[0]
    assert len(told) == 1
    assert told[0].startswith("the cluster is too small; waiting up to 1 s for it to grow: resources.train needs")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait_for_room, needs(train={"num_workers": 2, "cpus": 2}), 120, False, told.append)
        small_cluster.add_node(num_cpus=4)
        waiting.result()
    assert told[2:] == ["the cluster has grown enough; going on"]
    assert sorted(node.cpus for node in live_nodes()) == [1, 4]
    # What was asked of Ray while waiting is given back.
    assert all(group["state"] == "REMOVED" for group in ray.util.placement_group_table().values())
