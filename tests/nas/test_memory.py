"""A candidate for which the memory does not suffice: smaller batches, the same scores, and at last an error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nas.config import RacingConfig, SearchConfig
from nas.evaluator import Evaluator, out_of_memory
from nas.space import SearchSpace
from slicemamba.config import ModelConfig
from slicemamba.data.base import SegmentationData
from slicemamba.data.synthetic import draw_lesion
from slicemamba.models.supernet import Supernet

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 16.00 GiB"
CPU = "[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."


@pytest.fixture(scope="module")
def data() -> SegmentationData:
    pairs = [draw_lesion(0, "search", index, (32, 32)) for index in range(14)]
    images, masks = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    return SegmentationData(images, masks, tuple(f"lesion_{i}" for i in range(14)), "search", num_classes=1)


@pytest.fixture
def supernet(tiny_model: ModelConfig, tiny_space: SearchSpace) -> Supernet:
    return Supernet(tiny_model, 1, tiny_space.choices, "separate")


class Small:
    """Memory for so many images at a time; notes the batches that were tried."""

    def __init__(self, supernet: Supernet, room: int, error: BaseException) -> None:
        self._embed, self._room, self._error = supernet.embed, room, error
        self.tried: list[int] = []

    def __call__(self, images: Tensor) -> Any:
        self.tried.append(len(images))
        if len(images) > self._room:
            raise self._error
        return self._embed(images)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(CUDA), RuntimeError(CPU), MemoryError()])
def test_batches_are_halved_until_they_fit_and_stay_so(
    supernet: Supernet,
    tiny_space: SearchSpace,
    data: SegmentationData,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    config = SearchConfig(objectives=("dice", "hd95"), batch_size=8)
    first, second = tiny_space.decode([0, 1, 2, 3, 0, 1]), tiny_space.decode([3] * 6)
    expected = [Evaluator(supernet, data, config).score(each) for each in (first, second)]
    small = Small(supernet, 2, error)
    monkeypatch.setattr(supernet, "embed", small)
    evaluator = Evaluator(supernet, data, config)
    for architecture, found in zip((first, second), expected, strict=True):
        scored = evaluator.score(architecture)
        assert scored.metrics == pytest.approx(found.metrics)
        assert np.array_equal(scored.counts, found.counts)
        assert scored.work == found.work
    assert small.tried == [8, 4] + [2] * 7  # the second slicing begins at activations that were kept


def test_races_look_where_they_would_have_looked(
    supernet: Supernet, tiny_space: SearchSpace, data: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    racing = RacingConfig(confidence=0.5, min_images=5)
    config = SearchConfig(objectives=("dice",), batch_size=4, racing=racing)
    architecture = tiny_space.decode([0, 1, 2, 3, 0, 1])
    counts = Evaluator(supernet, data, config).score(architecture).counts
    perfect = counts.copy()
    perfect[..., 0] += perfect[..., 1] + perfect[..., 2] + 100
    perfect[..., 1:3] = 0
    raced = Evaluator(supernet, data, config).score(architecture, references=[perfect])
    assert raced.pruned
    assert raced.work["images"] == 8
    monkeypatch.setattr(supernet, "embed", Small(supernet, 1, torch.OutOfMemoryError(CUDA)))
    again = Evaluator(supernet, data, config).score(architecture, references=[perfect])
    assert (again.pruned, again.work, again.names) == (raced.pruned, raced.work, raced.names)
    assert np.array_equal(again.counts, raced.counts)


def test_too_little_for_one_image_is_an_error(
    supernet: Supernet, tiny_space: SearchSpace, data: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Small(supernet, 0, torch.OutOfMemoryError(CUDA))
    monkeypatch.setattr(supernet, "embed", small)
    with pytest.raises(torch.OutOfMemoryError):
        Evaluator(supernet, data, SearchConfig(batch_size=4)).score(tiny_space.fixed()[0])
    assert small.tried == [4, 2, 1]


def test_other_errors_are_not_taken_for_too_little_memory(
    supernet: Supernet, tiny_space: SearchSpace, data: SegmentationData, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Small(supernet, 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    monkeypatch.setattr(supernet, "embed", small)
    with pytest.raises(RuntimeError, match="mat1"):
        Evaluator(supernet, data, SearchConfig(batch_size=4)).score(tiny_space.fixed()[0])
    assert small.tried == [4]
    assert not out_of_memory(ValueError("no memory of this"))
