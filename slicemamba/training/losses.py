"""Segmentation losses on logits (METHOD: Training). Pixels whose target is ``IGNORED`` count in none of them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from slicemamba.data.reading import IGNORED


def bce_dice_loss(logits: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """Binary cross-entropy plus soft Dice of each image, both with weight 1 (VM-UNet's loss).

    Args:
        logits: (B, 1, H, W). target: (B, H, W) of 0 and 1.
    """
    known = (target != IGNORED).unsqueeze(1).to(logits.dtype)
    truth = target.unsqueeze(1).to(logits.dtype) * known
    probability = (logits.sigmoid() * known).flatten(1)
    flat = truth.flatten(1)
    overlap = (probability * flat).sum(1)
    dice = (2 * overlap + smooth) / (probability.sum(1) + flat.sum(1) + smooth)
    entropy = F.binary_cross_entropy_with_logits(logits, truth, known, reduction="sum") / known.sum().clamp(min=1)
    return entropy + 1 - dice.mean()


def ce_dice_loss(logits: Tensor, target: Tensor, smooth: float = 1e-5) -> Tensor:
    """Cross-entropy plus soft Dice with squared denominators, averaged over the classes, background included.

    Args:
        logits: (B, classes, H, W). target: (B, H, W) class indices.
    """
    known = target != IGNORED
    index = target.long() * known
    mask = known.unsqueeze(1).to(logits.dtype)
    probability = logits.softmax(1) * mask
    truth = F.one_hot(index, logits.shape[1]).permute(0, 3, 1, 2).to(logits.dtype) * mask
    axes = (0, 2, 3)
    overlap = (probability * truth).sum(axes)
    dice = (2 * overlap + smooth) / (probability.square().sum(axes) + truth.square().sum(axes) + smooth)
    entropy = (F.cross_entropy(logits, index, reduction="none") * known).sum() / known.sum().clamp(min=1)
    return entropy + 1 - dice.mean()


def segmentation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """The loss for the logits' number of channels: BCE+Dice for 1, CE+Dice for more. A scalar, in float32.

    Args:
        logits: (B, K, H, W); or (heads, B, K, H, W) of deep supervision, of which each head weighs half as much as the
            one before (nnU-Net, arXiv 1809.10486).
        target: (B, H, W).
    """
    if logits.ndim == 5:
        weights = [0.5**head for head in range(len(logits))]
        losses = [weight * segmentation_loss(each, target) for weight, each in zip(weights, logits, strict=True)]
        return torch.stack(losses).sum() / sum(weights)
    loss = bce_dice_loss if logits.shape[1] == 1 else ce_dice_loss
    return loss(logits.to(torch.float32) if logits.dtype in (torch.float16, torch.bfloat16) else logits, target)
