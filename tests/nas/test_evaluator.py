"""The evaluator: deterministic, equal to the network taken out, and measuring only what was asked for."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch

from nas.config import SearchConfig
from nas.evaluator import Evaluator, mean_scores
from nas.latency import LatencyTable, shortest_ms
from nas.objectives import OBJECTIVES
from nas.space import SearchSpace
from slicemamba.architecture import format_block
from slicemamba.config import ModelConfig
from slicemamba.data.base import SegmentationData
from slicemamba.data.transforms import to_input
from slicemamba.errors import InputError
from slicemamba.evaluation.evaluate import evaluate
from slicemamba.models.complexity import count_flops, num_parameters
from slicemamba.models.supernet import Supernet

CPU = torch.device("cpu")
ALL = tuple(name for name in OBJECTIVES if name != "peak_memory_mb")  # which needs a CUDA device


@pytest.fixture
def supernet(tiny_model: ModelConfig, tiny_space: SearchSpace, tiny_data: SegmentationData) -> Supernet:
    return supernet_of(tiny_model, tiny_space, tiny_data)


def supernet_of(
    model: ModelConfig, space: SearchSpace, data: SegmentationData, sharing: Literal["separate", "shared"] = "separate"
) -> Supernet:
    """A supernet whose logits have both signs on the tiny set, so that scores are neither 0 nor 1."""
    supernet = Supernet(model, 1, space.choices, sharing)
    with torch.no_grad():
        for module in supernet.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.mul_(10)
        logits = supernet.eval()(to_input(data.images), space.fixed()[0])
        supernet.final_conv.bias.sub_(logits.median())  # type: ignore[union-attr,operator,arg-type]
    return supernet


@pytest.mark.parametrize("sharing", ["separate", "shared"])
def test_same_architecture_measures_the_same_whatever_came_before(
    tiny_model: ModelConfig,
    tiny_space: SearchSpace,
    tiny_data: SegmentationData,
    sharing: Literal["separate", "shared"],
) -> None:
    measure = Evaluator(
        supernet_of(tiny_model, tiny_space, tiny_data, sharing), tiny_data, SearchConfig(objectives=("dice", "hd95"))
    )
    one, other = tiny_space.decode([0, 1, 2, 3, 0, 1]), tiny_space.decode([3] * 6)
    first = measure(one)
    different = measure(other)
    assert measure(one) == first
    assert different != first
    assert 0 < first["dice"] < 1


def test_supernet_measures_what_the_network_taken_out_measures(
    supernet: Supernet, tiny_space: SearchSpace, tiny_data: SegmentationData
) -> None:
    measure = Evaluator(supernet, tiny_data, SearchConfig(objectives=("dice", "hd95"), batch_size=3))
    rng = np.random.default_rng(0)
    for architecture in (tiny_space.sample(rng) for _ in range(3)):
        network = supernet.extract(architecture)
        metrics = measure(architecture)
        expected = evaluate(network, tiny_data, batch_size=3, device=CPU).metrics
        expected |= {"params": num_parameters(network), "flops": count_flops(network, (32, 40))}
        assert metrics == expected


def test_training_mode_of_the_supernet_does_not_matter(
    supernet: Supernet, tiny_space: SearchSpace, tiny_data: SegmentationData
) -> None:
    supernet.train()
    measure = Evaluator(supernet, tiny_data, SearchConfig())
    assert measure(tiny_space.fixed()[0]) == measure(tiny_space.fixed()[0])


def test_batch_size_changes_no_score(supernet: Supernet, tiny_space: SearchSpace, tiny_data: SegmentationData) -> None:
    architecture = tiny_space.fixed()[1]
    one, other = (Evaluator(supernet, tiny_data, SearchConfig(batch_size=size))(architecture) for size in (2, 7))
    assert one == pytest.approx(other, abs=1e-3)


@pytest.mark.parametrize(
    ("objectives", "absent"),
    [
        (("miou", "dice"), {"hd95", "latency_ms"}),
        (("dice", "hd95"), {"latency_ms"}),
        (("dice", "latency_ms"), {"hd95"}),
        (ALL, set()),
    ],
)
def test_costly_objectives_are_measured_only_when_asked_for(
    supernet: Supernet,
    tiny_space: SearchSpace,
    tiny_data: SegmentationData,
    objectives: tuple[str, ...],
    absent: set[str],
) -> None:
    config = SearchConfig.model_validate({"objectives": objectives, "latency_repeats": 1})
    metrics = Evaluator(supernet, tiny_data, config)(tiny_space.fixed()[0])
    assert set(objectives) <= metrics.keys()
    assert metrics.keys().isdisjoint(absent)
    assert all(isinstance(value, float) for value in metrics.values())


def test_constrained_metric_is_measured_like_an_objective(
    supernet: Supernet, tiny_space: SearchSpace, tiny_data: SegmentationData
) -> None:
    limits = {"hd95": {"max": 9}, "latency_ms": {"max": 9}}
    config = SearchConfig.model_validate({"objectives": ["dice"], "constraints": limits, "latency_repeats": 1})
    assert {"hd95", "latency_ms"} <= Evaluator(supernet, tiny_data, config)(tiny_space.fixed()[0]).keys()


def test_latency_is_the_shortest_of_its_repeats_without_the_one_to_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that take 3, 1 and 50 seconds, after one that is not timed."""
    ticks = iter([1, 4, 10, 11, 20, 70])
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    results = iter("abcd")
    assert shortest_ms(lambda: next(results), CPU, 3) == (1000.0, "d")


@pytest.mark.parametrize("batch_size", [1, 3, 9])
def test_latency_is_that_of_the_asked_for_batch(
    supernet: Supernet,
    tiny_space: SearchSpace,
    tiny_data: SegmentationData,
    monkeypatch: pytest.MonkeyPatch,
    batch_size: int,
) -> None:
    seen = []
    monkeypatch.setattr(supernet, "forward", lambda images, architecture: seen.append((images.shape, architecture)))
    config = SearchConfig(latency="measured", latency_batch_size=batch_size, latency_repeats=2)
    assert Evaluator(supernet, tiny_data, config).latency_ms(tiny_space.fixed()[1]) >= 0
    assert seen == [((batch_size, 3, 32, 40), tiny_space.fixed()[1])] * 3


def test_latency_from_the_table_is_the_sum_of_its_blocks(
    supernet: Supernet, tiny_space: SearchSpace, tiny_data: SegmentationData
) -> None:
    names = [format_block(choice) for choice in tiny_space.choices]
    times = tuple({name: 10.0 * block + choice for choice, name in enumerate(names)} for block in range(6))
    table = LatencyTable(device="cpu", batch_size=1, image_size=(32, 40), rest_ms=0.5, blocks_ms=times)
    config = SearchConfig(objectives=("dice", "latency_ms"), latency="table")
    metrics = Evaluator(supernet, tiny_data, config, table)(tiny_space.decode([0, 1, 2, 3, 0, 1]))
    assert metrics["latency_ms"] == 0.5 + (0 + 11 + 22 + 33 + 40 + 51)


def test_measured_table_times_each_size_of_each_block_in_rounds(
    supernet: Supernet, tiny_space: SearchSpace, tiny_data: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that runs ever faster, so that each timing is longer than the one before: of three rounds, the middle
    one has the medians. Slicings of one size share a figure."""
    clock = iter(range(10_000))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock) ** 2))
    config = SearchConfig(objectives=("dice", "latency_ms"), latency="table", latency_repeats=3, latency_batch_size=2)
    table = Evaluator(supernet, tiny_data, config).measure_latencies()
    assert [list(times) for times in table.blocks_ms] == [["2x2", "2x4", "4x2", "4x4"]] * 6
    assert (table.batch_size, table.image_size) == (2, (32, 40))
    calls = 1 + 6  # the whole network, and one size of each of six blocks

    def timed(call: int) -> float:
        """In the second of the timed rounds; two looks at the clock a call, in the round to warm up one."""
        before = calls + 2 * (calls + call)
        return 1000.0 * ((before + 1) ** 2 - before**2)

    assert [times["2x2"] for times in table.blocks_ms] == [timed(1 + block) for block in range(6)]
    assert all(len(set(times.values())) == 1 for times in table.blocks_ms)
    for architecture in (*tiny_space.fixed(), tiny_space.decode([0, 1, 2, 3, 0, 1])):
        assert table.latency_ms(architecture) == pytest.approx(timed(0)), "equal cost, equal latency"
    assert table.resolution_ms > 0
    assert LatencyTable.model_validate_json(table.model_dump_json()) == table


def test_peak_memory_is_refused_where_nothing_counts_it(supernet: Supernet, tiny_data: SegmentationData) -> None:
    with pytest.raises(InputError, match="peak_memory_mb is measured on CUDA devices only; the search runs on cpu"):
        Evaluator(supernet, tiny_data, SearchConfig(objectives=("dice", "peak_memory_mb")))


@pytest.mark.gpu
def test_peak_memory_grows_with_the_batch(
    supernet: Supernet, tiny_space: SearchSpace, tiny_data: SegmentationData
) -> None:
    def peak(batch_size: int) -> float:
        config = SearchConfig(objectives=("dice", "peak_memory_mb"), latency_batch_size=batch_size)
        return Evaluator(supernet.cuda(), tiny_data, config)(tiny_space.fixed()[0])["peak_memory_mb"]

    assert 0 < peak(1) < peak(8)


def test_logits_that_are_not_finite_give_nan(
    supernet: Supernet, tiny_space: SearchSpace, tiny_data: SegmentationData
) -> None:
    with torch.no_grad():
        supernet.final_conv.weight.fill_(float("nan"))  # type: ignore[union-attr]
    metrics = Evaluator(supernet, tiny_data, SearchConfig(objectives=("dice", "hd95")))(tiny_space.fixed()[0])
    assert math.isnan(metrics["dice"])
    assert math.isnan(metrics["hd95"])
    assert metrics["params"] > 0


def test_supernet_is_validated_by_the_mean_over_its_architectures(
    supernet: Supernet, tiny_space: SearchSpace, tiny_data: SegmentationData
) -> None:
    measure = Evaluator(supernet, tiny_data, SearchConfig(batch_size=4))
    each = [measure(architecture) for architecture in tiny_space.fixed()]
    mean = mean_scores(supernet, tiny_space.fixed(), tiny_data, 4)
    assert mean.keys() == {"dice", "miou"}
    for name, value in mean.items():
        assert value == pytest.approx(np.mean([metrics[name] for metrics in each]))


def test_evaluation_changes_no_weight(supernet: Supernet, tiny_space: SearchSpace, tiny_data: SegmentationData) -> None:
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    Evaluator(supernet, tiny_data, SearchConfig())(tiny_space.fixed()[0])
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())
