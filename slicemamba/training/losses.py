"""Segmentation losses on logits (METHOD: Training). Pixels whose target is ``IGNORED`` count in none of them."""

from __future__ import annotations

from collections.abc import Sequence

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


def soft_bce_dice_loss(logits: Tensor, soft: Tensor, known: Tensor, smooth: float = 1.0) -> Tensor:
    """``bce_dice_loss`` against probabilities in place of a mask; least where the two agree.

    Twice the overlap of p and t is written |p| + |t| − |p − t|, the same for masks of 0 and 1 (Dice semimetric losses,
    arXiv 2303.16296): the product would be largest for p of 0 and 1, whatever t is.

    Args:
        logits: (B, 1, H, W). soft: (B, 1, H, W) in 0…1. known: (B, 1, H, W), 1 for pixels that count, else 0.
    """
    probability, truth = (logits.sigmoid() * known).flatten(1), (soft * known).flatten(1)
    total = probability.sum(1) + truth.sum(1)
    dice = (total - (probability - truth).abs().sum(1) + smooth) / (total + smooth)
    entropy = F.binary_cross_entropy_with_logits(logits, soft, known, reduction="sum") / known.sum().clamp(min=1)
    return entropy + 1 - dice.mean()


def soft_ce_dice_loss(logits: Tensor, soft: Tensor, known: Tensor, smooth: float = 1e-5) -> Tensor:
    """``ce_dice_loss`` against probabilities in place of classes; least where the two agree.

    Args:
        logits: (B, classes, H, W). soft: (B, classes, H, W), sums over the classes 1. known: as above.
    """
    probability, truth = logits.softmax(1) * known, soft * known
    axes = (0, 2, 3)
    overlap = (probability * truth).sum(axes)
    dice = (2 * overlap + smooth) / (probability.square().sum(axes) + truth.square().sum(axes) + smooth)
    entropy = (F.cross_entropy(logits, soft, reduction="none") * known[:, 0]).sum() / known.sum().clamp(min=1)
    return entropy + 1 - dice.mean()


def distillation_loss(logits: Tensor, teacher: Tensor, target: Tensor) -> Tensor:
    """How far a network is from marking what another marks: ``segmentation_loss`` against its soft masks.

    Args:
        logits: (B, K, H, W), or (heads, B, K, H, W) of deep supervision. teacher: logits of the same shape; no gradient
            goes to them. target: (B, H, W), which tells the pixels that count.
    """
    if logits.ndim == 5:
        return _over_heads([distillation_loss(own, other, target) for own, other in zip(logits, teacher, strict=True)])
    given = teacher.detach().to(torch.float32)
    known = (target != IGNORED).unsqueeze(1).to(torch.float32)
    if logits.shape[1] == 1:
        return soft_bce_dice_loss(_in_float32(logits), given.sigmoid(), known)
    return soft_ce_dice_loss(_in_float32(logits), given.softmax(1), known)


def _over_heads(losses: Sequence[Tensor]) -> Tensor:
    """Mean over the heads, of which each weighs half as much as the one before (nnU-Net, arXiv 1809.10486)."""
    weights = [0.5**head for head in range(len(losses))]
    return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum() / sum(weights)


def _in_float32(logits: Tensor) -> Tensor:
    return logits.to(torch.float32) if logits.dtype in (torch.float16, torch.bfloat16) else logits


def segmentation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """The loss for the logits' number of channels: BCE+Dice for 1, CE+Dice for more. A scalar, in float32.

    Args:
        logits: (B, K, H, W); or (heads, B, K, H, W) of deep supervision.
        target: (B, H, W).
    """
    if logits.ndim == 5:
        return _over_heads([segmentation_loss(each, target) for each in logits])
    loss = bce_dice_loss if logits.shape[1] == 1 else ce_dice_loss
    return loss(_in_float32(logits), target)
