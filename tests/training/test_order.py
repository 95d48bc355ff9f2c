"""Images of rare classes come more often, in an epoch of the same length, and reproducibly."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from training_cases import blobs, train

from slicemamba.config import PretrainConfig, TrainConfig
from slicemamba.data.base import SegmentationData
from slicemamba.data.reading import IGNORED
from slicemamba.training.order import epoch_order, repeat_factors
from slicemamba.training.task import segmentation


def classes(*shown: tuple[int, ...]) -> SegmentationData:
    """Images that show these classes, a pixel each, of four with background."""
    masks = np.zeros((len(shown), 32, 32), np.uint8)
    for mask, found in zip(masks, shown, strict=True):
        mask[0, : len(found)] = found
    return replace(blobs(len(shown)), masks=masks, num_classes=4)


def test_repeat_factors_are_those_of_lvis() -> None:
    data = classes((1,), (1, 2), (1, IGNORED), (1,), (), (1,), (1,), (1,))
    found = repeat_factors(data, 0.5)
    assert found is not None
    assert found == pytest.approx([1, 2, 1, 1, 1, 1, 1, 1])  # √(0.5 / (1/8)); class 3 is nowhere
    assert repeat_factors(data, 0.125) is None


def test_binary_sets_of_few_lesions_show_them_more_often() -> None:
    data = blobs(10)
    data.masks[3:] = 0
    assert repeat_factors(data, 0.5) == pytest.approx([(0.5 / 0.3) ** 0.5] * 3 + [1] * 7)


def test_what_lies_outside_of_an_image_of_its_own_size_does_not_count() -> None:
    data = replace(blobs(2), window=(32, 32), sizes=np.array([[32, 32], [4, 4]]))
    data.masks[:] = 0
    data.masks[0, 0, 0] = data.masks[1, 8, 8] = 1
    assert repeat_factors(data, 1.0) == pytest.approx([2**0.5, 1])


def test_over_epochs_each_sample_comes_as_often_as_it_should() -> None:
    repeats = np.array([1.0, 3.0, 1.0, 2.0, 1.0])
    drawn: Counter[int] = Counter()
    for epoch in range(400):
        order = epoch_order(5, 7, epoch, repeats)
        assert len(order) == 5
        assert (np.bincount(order, minlength=5) <= np.ceil(5 * repeats / 8)).all()
        drawn.update(order.tolist())
    assert [drawn[i] / 2000 for i in range(5)] == pytest.approx(repeats / 8, abs=0.02)
    assert epoch_order(5, 7, 3, repeats).tolist() == epoch_order(5, 7, 3, repeats).tolist()


def test_windows_take_the_factor_of_their_image() -> None:
    data = replace(blobs(2), window=(16, 16), sizes=np.array([[32, 32], [16, 16]]))
    data.masks[0] = 0
    task = segmentation(data, TrainConfig(rare_class_threshold=1.0, augment=False))
    order = [task.order(epoch) for epoch in range(200)]
    assert {len(one) for one in order} == {5}
    share = np.mean([(one == 4).sum() for one in order]) / 5
    assert share == pytest.approx(2**0.5 / (4 + 2**0.5), abs=0.03)


def test_training_by_it_resumes_to_the_same_weights() -> None:
    data = classes(*[(1,)] * 7, (1, 3))
    config = TrainConfig(epochs=2, batch_size=4, rare_class_threshold=0.9)

    torch.manual_seed(0)
    network = nn.Conv2d(3, 4, 1)
    whole = train(network, data, config)
    resumed = train(network, data, config, state=whole.states[0])
    assert [one.step for one in whole.reports] == [2, 4]
    assert resumed.reports[-1].loss == whole.reports[-1].loss


def test_pretraining_has_no_such_classes() -> None:
    with pytest.raises(ValueError, match="rare_class_threshold is for segmentation"):
        PretrainConfig(rare_class_threshold=0.5)
