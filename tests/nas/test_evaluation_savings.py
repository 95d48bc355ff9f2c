"""What the evaluator saves changes no score: activations reused, images kept, and racing where it does not stop."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from test_evaluator import CPU, supernet_of

from nas.config import RacingConfig, SearchConfig
from nas.counts import load_counts, save_counts
from nas.evaluator import Evaluator
from nas.precision import ranking_agreement
from nas.space import SearchSpace
from slicemamba.architecture import Architecture
from slicemamba.config import ModelConfig
from slicemamba.data.base import SegmentationData
from slicemamba.evaluation.evaluate import evaluate
from slicemamba.models.supernet import Supernet

COUNTS = SearchConfig(objectives=("miou", "dice"), batch_size=3)


@pytest.fixture
def supernet(tiny_model: ModelConfig, tiny_space: SearchSpace, tiny_data: SegmentationData) -> Supernet:
    return supernet_of(tiny_model, tiny_space, tiny_data)


def offspring(space: SearchSpace, count: int) -> list[Architecture]:
    """Random slicings and mutants of them, as an evolution makes."""
    rng = np.random.default_rng(0)
    parents = [space.sample(rng) for _ in range(3)]
    children = [space.mutate(parents[i % 3], 0.3, rng) for i in range(count)]
    return parents + children


@pytest.mark.parametrize("sharing", ["separate", "shared"])
@pytest.mark.parametrize("cache_bytes", [0, 20_000, 200_000, 1 << 30])
def test_reused_activations_give_the_same_logits_to_the_last_bit(
    tiny_model: ModelConfig,
    tiny_space: SearchSpace,
    tiny_data: SegmentationData,
    sharing: Literal["separate", "shared"],
    cache_bytes: int,
) -> None:
    supernet = supernet_of(tiny_model, tiny_space, tiny_data, sharing)
    evaluator = Evaluator(supernet, tiny_data, COUNTS)
    for cache in evaluator._caches:
        cache._max_bytes = cache_bytes
    reused = 0
    for architecture in offspring(tiny_space, 12):
        for batch in range(len(evaluator._batches)):
            with torch.inference_mode():
                logits, _, known = evaluator._forward(batch, architecture)
                plain = supernet(evaluator._batches[batch][0], architecture)
            assert torch.equal(logits, plain)
            reused += known
    assert (reused > 0) == (cache_bytes > 0)


def test_counts_are_those_of_a_plain_evaluation(
    supernet: Supernet, tiny_space: SearchSpace, tiny_data: SegmentationData
) -> None:
    evaluator = Evaluator(supernet, tiny_data, COUNTS)
    for architecture in offspring(tiny_space, 6):
        found = evaluator.score(architecture)
        plain = evaluate(lambda x, a=architecture: supernet(x, a), tiny_data, batch_size=3, device=CPU, with_hd95=False)  # type: ignore[misc]
        assert (found.counts == plain.counts).all()
        assert found.counts.dtype == np.uint32
        assert found.names == tiny_data.names
        assert found.metrics.items() >= plain.metrics.items()
        assert not found.pruned


def test_work_tells_how_many_blocks_ran(
    supernet: Supernet, tiny_space: SearchSpace, tiny_data: SegmentationData
) -> None:
    evaluator = Evaluator(supernet, tiny_data, COUNTS)
    first = evaluator.score(tiny_space.decode([0, 1, 2, 3, 0, 1]))
    assert first.work == {"images": 7, "blocks_computed": 42, "blocks_reused": 0}
    second = evaluator.score(tiny_space.decode([0, 1, 2, 0, 0, 1]))
    assert second.work == {"images": 7, "blocks_computed": 21, "blocks_reused": 21}
    none = Evaluator(supernet, tiny_data, COUNTS.model_copy(update={"activation_cache_mb": 0}))
    for architecture in (tiny_space.decode([0, 1, 2, 3, 0, 1]), tiny_space.decode([0, 1, 2, 0, 0, 1])):
        assert none.score(architecture).work["blocks_reused"] == 0


def test_images_over_the_budget_are_made_ready_anew(
    supernet: Supernet, tiny_space: SearchSpace, tiny_data: SegmentationData
) -> None:
    kept = Evaluator(supernet, tiny_data, COUNTS)
    anew = Evaluator(supernet, tiny_data, COUNTS.model_copy(update={"image_cache_mb": 0}))
    assert kept._batches._ready is not None
    assert anew._batches._ready is None
    architecture = tiny_space.fixed()[2]
    assert (kept.score(architecture).counts == anew.score(architecture).counts).all()


def test_flips_add_the_counts_of_mirrored_images(
    supernet: Supernet, tiny_space: SearchSpace, tiny_data: SegmentationData
) -> None:
    config = SearchConfig(objectives=("dice", "hd95"), batch_size=3, flips=("horizontal", "both"))
    architecture = tiny_space.sample(np.random.default_rng(1))
    found = Evaluator(supernet, tiny_data, config).score(architecture)
    expected, distances = np.zeros_like(found.counts, dtype=np.int64), []
    for rows, columns in ((1, 1), (1, -1), (-1, -1)):
        mirrored = SegmentationData(
            tiny_data.images[:, ::rows, ::columns], tiny_data.masks[:, ::rows, ::columns], tiny_data.names, "search", 1
        )
        plain = evaluate(lambda x: supernet(x, architecture), mirrored, batch_size=3, device=CPU)
        expected += plain.counts
        distances.append(plain.metrics["hd95"])
    # Another batch size may move a logit that is close to 0.
    assert np.abs(found.counts.astype(np.int64) - expected).max() <= 1
    assert found.metrics["hd95"] == pytest.approx(np.mean(distances), abs=0.05)


def racing(batch_size: int = 1) -> SearchConfig:
    return COUNTS.model_copy(update={"batch_size": batch_size, "racing": RacingConfig(min_images=5)})


def test_candidate_far_behind_is_given_up_and_keeps_the_counts_of_what_it_saw(
    supernet: Supernet, tiny_space: SearchSpace, tiny_data: SegmentationData
) -> None:
    evaluator = Evaluator(supernet, tiny_data, racing())
    architecture = tiny_space.fixed()[0]
    whole = evaluator.score(architecture)
    perfect = whole.counts.copy()
    perfect[..., 0] += perfect[..., 2]  # all that was missed is found, and nothing else is marked
    perfect[..., 3] += perfect[..., 1]
    perfect[..., 1:3] = 0
    stopped = evaluator.score(architecture, [perfect])
    assert stopped.pruned
    assert stopped.metrics == {}
    assert 5 <= stopped.work["images"] == len(stopped.counts) < 7
    seen = [tiny_data.names.index(name) for name in stopped.names]
    assert seen == sorted(seen)
    assert (stopped.counts == whole.counts[seen]).all()


def test_candidate_as_good_as_its_reference_is_scored_in_full(
    supernet: Supernet, tiny_space: SearchSpace, tiny_data: SegmentationData
) -> None:
    evaluator = Evaluator(supernet, tiny_data, racing())
    for architecture in offspring(tiny_space, 4):
        whole = evaluator.score(architecture)
        again = evaluator.score(architecture, [whole.counts])
        assert not again.pruned
        assert (again.counts == whole.counts).all()
        assert again.names == whole.names == tiny_data.names
        assert again.metrics == whole.metrics


def test_order_of_the_race_changes_no_count(
    supernet: Supernet, tiny_space: SearchSpace, tiny_data: SegmentationData
) -> None:
    architecture = tiny_space.fixed()[1]
    raced = Evaluator(supernet, tiny_data, racing()).score(architecture)
    plain = Evaluator(supernet, tiny_data, COUNTS.model_copy(update={"batch_size": 1})).score(architecture)
    assert (raced.counts == plain.counts).all()


def test_counts_come_back_from_their_file(
    supernet: Supernet, tiny_space: SearchSpace, tiny_data: SegmentationData, tmp_path: Path
) -> None:
    path = tmp_path / "scores" / "search" / "00003.npz"
    found = Evaluator(supernet, tiny_data, COUNTS).score(tiny_space.fixed()[0])
    save_counts(path, found)
    assert (load_counts(path) == found.counts).all()
    with np.load(path) as arrays:
        assert tuple(arrays["names"]) == tiny_data.names
    assert [file.name for file in path.parent.iterdir()] == ["00003.npz"]


def test_bf16_is_measured_against_float32(
    supernet: Supernet, tiny_space: SearchSpace, tiny_data: SegmentationData
) -> None:
    same = ranking_agreement(supernet, tiny_data, COUNTS, tiny_space, num_slicings=8)
    assert same == pytest.approx(1)
    bf16 = COUNTS.model_copy(update={"precision": "bf16"})
    tau = ranking_agreement(supernet, tiny_data, bf16, tiny_space, num_slicings=8)
    assert -1 <= tau < 1  # untrained slicings lie closer together than bf16 resolves
    costs_first = bf16.model_copy(update={"objectives": ("params", "dice")})  # which are the same in any format
    assert ranking_agreement(supernet, tiny_data, costs_first, tiny_space, num_slicings=8) == tau
    with torch.inference_mode():
        exact, rough = (
            Evaluator(supernet, tiny_data, config)._forward(0, tiny_space.fixed()[0])[0] for config in (COUNTS, bf16)
        )
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    assert (exact - rough).abs().mean() < 0.1 * exact.std()


def test_slicings_that_all_score_the_same_show_nothing(
    supernet: Supernet, tiny_space: SearchSpace, tiny_data: SegmentationData
) -> None:
    with torch.no_grad():
        supernet.final_conv.weight.zero_()  # type: ignore[union-attr,operator]
    assert ranking_agreement(supernet, tiny_data, COUNTS, tiny_space, num_slicings=4) == 0
