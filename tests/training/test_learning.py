"""A training that is no better than a guess says so, when it can be told and again at its end, with what to check."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from slicemamba.config import ModelConfig, TrainConfig
from slicemamba.data.base import SegmentationData
from slicemamba.evaluation import metrics
from slicemamba.evaluation.metrics import confusion, constant_counts
from slicemamba.training.learning import LearningWatch, NotLearningError
from slicemamba.training.trainer import EpochReport


def data(masks: Any, num_classes: int = 1) -> SegmentationData:
    masks = np.asarray(masks, dtype=np.uint8)
    images = np.zeros((*masks.shape, 3), dtype=np.uint8)
    names = tuple(map(str, range(len(masks))))
    return SegmentationData(images, masks, names, "train", num_classes=num_classes, intensity="zscore")


def report(epoch: int, dice: float | None, epochs: int = 40) -> EpochReport:
    validation = {} if dice is None else {"dice": dice}
    return EpochReport(epoch, epochs, epoch, 1.0, 1e-3, 1.0, validation=validation)


HALF = np.zeros((4, 8, 8))
HALF[:, :, :4] = 1  # the left half is marked in every image: the most frequent class of each place is a perfect guess


def watch(masks: Any = HALF, **settings: Any) -> LearningWatch:
    config = TrainConfig.model_validate({"epochs": 40, "validate_every": 3, **settings})
    return LearningWatch(data(masks), data(HALF), ModelConfig(), config, pretrained=False)


def test_looks_at_a_tenth_and_at_the_end_alone() -> None:
    seen = watch()
    assert [epoch for epoch in range(1, 41) if seen.look(report(epoch, 0.9)) is not None] == [6, 40]
    assert seen.look(report(6, None)) is None
    assert seen.look(report(6, float("nan"))) is None


def test_says_what_the_network_does_not_beat() -> None:
    message = watch().look(report(40, 0.5))
    assert message is not None
    assert "after 40 of 40 epochs the network is no better than a guess: Dice on val 0.500" in message
    assert "all background 0.000, the most frequent class of each place 1.000" in message
    assert "no pretrained weights" in message
    assert "drop_path_rate 0.2, for which 40 epochs are few" in message
    assert "try a third of it, warmup_epochs 1 and clip_grad_norm 1" in message


def test_network_that_marks_nothing_is_told_of_and_one_that_learns_is_not() -> None:
    nothing_common = np.zeros((4, 8, 8))
    nothing_common[0] = 1  # in one of four images: nothing is most often marked
    assert watch(nothing_common).look(report(6, 0.0)) is not None
    assert watch(nothing_common).look(report(6, 0.01)) is None


@pytest.mark.parametrize(("marked", "said"), [(0, "no training mask holds class 1"), (1, "3 of 4 training masks are")])
def test_masks_that_hold_little_are_named(marked: int, said: str) -> None:
    masks = np.zeros((4, 8, 8))
    masks[:marked] = 1
    message = watch(masks).look(report(6, 0.0))
    assert message is not None
    assert said in message


def test_guesses_and_causes_are_counted_some_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the whole, of any number of images: a large split's counts took many times the memory of its masks."""
    rng = np.random.default_rng(0)
    masks = rng.integers(0, 2, (37, 8, 8), dtype=np.uint8)
    guess = torch.from_numpy(masks[0])
    whole = confusion(guess.expand(37, 8, 8), torch.from_numpy(masks), 1)
    assert torch.equal(constant_counts(guess, masks, 1), whole)
    most: list[int] = []

    def counted(prediction: Tensor, target: Tensor, num_classes: int) -> Tensor:
        most.append(len(target))
        return confusion(prediction, target, num_classes)

    monkeypatch.setattr(metrics, "confusion", counted)
    constant_counts(guess, masks, 1)
    assert sum(most) == 37
    assert max(most) <= 16


def test_training_that_may_not_go_on_without_learning_is_ended() -> None:
    seen = watch(stop_if_not_learning=True)
    assert seen.check(report(5, 0.0)) is None  # not looked at yet
    with pytest.raises(NotLearningError, match="after 6 of 40 epochs the network is no better than a guess"):
        seen.check(report(6, 0.5))
    learns = watch(np.zeros((4, 8, 8)), stop_if_not_learning=True)
    assert learns.check(report(6, 0.2)) is None
    assert watch().check(report(6, 0.5)) is not None  # said, and nothing more


def test_small_foreground_is_told_with_its_share_unless_the_training_began_with_it() -> None:
    small = np.zeros((4, 8, 8))
    small[:, 0, :3] = 1  # 3 of 64 pixels
    message = watch(small).look(report(40, 0.0))
    assert message is not None
    assert "4.7 % of the training pixels are foreground, and prior_bias is off" in message
    for quiet in (watch(small, prior_bias=True), watch(HALF)):
        other = quiet.look(report(40, 0.0))
        assert other is not None
        assert "prior_bias" not in other
