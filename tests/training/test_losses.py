"""Losses against their formulas, written out for a handful of pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from slicemamba.data.reading import IGNORED
from slicemamba.training.losses import bce_dice_loss, ce_dice_loss, distillation_loss, segmentation_loss


def by_hand_binary(logits: Tensor, target: Tensor) -> float:
    """Mean cross-entropy over all pixels; soft Dice an image with smooth 1, averaged over images."""
    entropies, dices = [], []
    for image, truth in zip(logits[:, 0].tolist(), target.tolist(), strict=True):
        pairs = [
            (1 / (1 + math.exp(-x)), t)
            for row, line in zip(image, truth, strict=True)
            for x, t in zip(row, line, strict=True)
        ]
        entropies += [-(t * math.log(p) + (1 - t) * math.log(1 - p)) for p, t in pairs]
        overlap, marked, real = sum(p * t for p, t in pairs), sum(p for p, _ in pairs), sum(t for _, t in pairs)
        dices.append((2 * overlap + 1) / (marked + real + 1))
    return float(np.mean(entropies) + 1 - np.mean(dices))


def by_hand_classes(logits: Tensor, target: Tensor) -> float:
    """Mean cross-entropy; Dice of each class over the whole batch, squared denominators, smooth 1e-5."""
    scores = np.exp(logits.double().numpy())
    p = scores / scores.sum(axis=1, keepdims=True)
    truth = np.stack([target.numpy() == label for label in range(logits.shape[1])], axis=1)
    entropy = -np.log(p[truth]).mean()
    dices = [
        (2 * (p[:, k] * truth[:, k]).sum() + 1e-5) / ((p[:, k] ** 2).sum() + truth[:, k].sum() + 1e-5)
        for k in range(logits.shape[1])
    ]
    return float(entropy + 1 - np.mean(dices))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.bool])
def test_binary_loss_is_cross_entropy_plus_dice(dtype: torch.dtype) -> None:
    logits, target = torch.randn(3, 1, 4, 5) * 3, torch.rand(3, 4, 5) > 0.6
    target[1] = False  # an image without foreground
    expected = by_hand_binary(logits, target.int())
    assert bce_dice_loss(logits, target.to(dtype)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("num_classes", [3, 9])
def test_label_loss_is_cross_entropy_plus_dice(num_classes: int) -> None:
    logits = torch.randn(2, num_classes, 6, 5) * 2
    target = torch.randint(num_classes - 1, (2, 6, 5), dtype=torch.uint8)  # the last class is absent
    expected = by_hand_classes(logits, target)
    assert ce_dice_loss(logits, target).item() == pytest.approx(expected, rel=1e-5)


def test_number_of_channels_chooses_the_loss() -> None:
    target = torch.randint(2, (2, 4, 4), dtype=torch.uint8)
    binary, classes = torch.randn(2, 1, 4, 4), torch.randn(2, 3, 4, 4)
    assert segmentation_loss(binary, target) == bce_dice_loss(binary, target)
    assert segmentation_loss(classes, target) == ce_dice_loss(classes, target)


@pytest.mark.parametrize("channels", [1, 4])
def test_perfect_logits_lose_nothing_and_opposite_ones_much(channels: int) -> None:
    target = torch.randint(max(2, channels), (2, 8, 8))
    sign = torch.nn.functional.one_hot(target, max(2, channels)).permute(0, 3, 1, 2).float() * 2 - 1
    logits = 100 * (sign[:, 1:2] if channels == 1 else sign)
    assert segmentation_loss(logits, target).item() == pytest.approx(0, abs=1e-5)
    assert segmentation_loss(-logits, target).item() > 50


@pytest.mark.parametrize("channels", [1, 4])
def test_loss_is_finite_and_has_gradients_at_extreme_logits(channels: int) -> None:
    logits = torch.full((1, channels, 3, 3), -1e4)
    logits[:, 0] = 1e4
    logits.requires_grad_()
    loss = segmentation_loss(logits, torch.zeros(1, 3, 3, dtype=torch.uint8))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_scored_in_float32(dtype: torch.dtype) -> None:
    logits, target = torch.randn(2, 1, 16, 16).to(dtype), torch.randint(2, (2, 16, 16))
    loss = segmentation_loss(logits, target)
    assert loss.dtype == torch.float32
    assert loss == bce_dice_loss(logits.float(), target)


@pytest.mark.parametrize("channels", [1, 4])
def test_distillation_is_least_where_both_mark_the_same(channels: int) -> None:
    """Descent on the logits ends at the teacher's, soft edges included, and not at masks of 0 and 1."""
    torch.manual_seed(0)
    teacher = torch.randn(2, channels, 6, 6)
    logits, target = torch.zeros_like(teacher, requires_grad=True), torch.zeros(2, 6, 6, dtype=torch.uint8)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        distillation_loss(logits, teacher, target).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        found, wanted = ((x.sigmoid() if channels == 1 else x.softmax(1)) for x in (logits, teacher))
        assert (found - wanted).abs().max() < 0.02
        for _ in range(5):
            other = teacher + 0.3 * torch.randn_like(teacher)
            assert distillation_loss(other, teacher, target) > distillation_loss(teacher, teacher, target)


@pytest.mark.parametrize("channels", [1, 4])
def test_distillation_from_a_sure_teacher_is_the_loss_against_its_mask(channels: int) -> None:
    target = torch.randint(max(2, channels), (2, 8, 8))
    sign = torch.nn.functional.one_hot(target, max(2, channels)).permute(0, 3, 1, 2).float() * 2 - 1
    teacher = 100 * (sign[:, 1:2] if channels == 1 else sign)
    logits = torch.randn_like(teacher)
    target[0, :3] = IGNORED
    expected = segmentation_loss(logits, target).item()
    assert distillation_loss(logits, teacher, target).item() == pytest.approx(expected, rel=1e-5)


def test_distillation_leaves_the_teacher_alone_and_weighs_heads_as_the_loss_does() -> None:
    teacher = torch.randn(3, 2, 1, 8, 8, requires_grad=True)
    logits = torch.randn(3, 2, 1, 8, 8, requires_grad=True)
    target = torch.zeros(2, 8, 8, dtype=torch.uint8)
    loss = distillation_loss(logits, teacher, target)
    loss.backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    heads = [distillation_loss(own, other, target) for own, other in zip(logits, teacher, strict=True)]
    assert loss.item() == pytest.approx((4 * heads[0] + 2 * heads[1] + heads[2]).item() / 7, rel=1e-5)
