"""A job that asks for more than a machine has is told all that has to change, at once."""

from __future__ import annotations

import pytest

from cluster.capacity import Node, needs_of, num_fitting
from cluster.config import parse_job
from cluster.fit import to_fit
from slicemamba.documents import override, read_yaml
from slicemamba.presets import CONFIGS, list_presets


@pytest.mark.parametrize("preset", list_presets())
@pytest.mark.parametrize("cpus", [1, 2, 3, 64])
def test_every_preset_runs_on_a_machine_without_a_gpu_after_the_changes(preset: str, cpus: int) -> None:
    values = read_yaml(CONFIGS / f"{preset}.yaml")
    changed = parse_job(override(values, to_fit(parse_job(values), cpus, 0)))
    assert to_fit(changed, cpus, 0) == []
    node = Node("127.0.0.1", cpus, 0)
    for need in needs_of(changed.resources, trains=True, searches=True):
        assert num_fitting(need.workers, [node]) >= need.count


def test_what_needs_a_gpu_goes_with_it_and_batches_stay_divisible() -> None:
    job = parse_job(
        {
            "supernet": {"precision": "fp16", "batch_size": 12},
            "retrain": {"batch_size": 12},
            "search": {"objectives": ["dice", "peak_memory_mb"]},
            "resources": {"train": {"num_workers": 6, "gpus": 1}, "search": {"gpus": 1}},
        }
    )
    assert to_fit(job, cpus=4, gpus=0) == [
        "resources.train.gpus=0",
        "resources.train.num_workers=3",
        "resources.search.gpus=0",
        "search.objectives=[dice]",
        "supernet.precision=float32",
    ]
    assert to_fit(job, cpus=8, gpus=8) == []
