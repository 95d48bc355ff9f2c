"""Several networks as one: the mean of their probabilities."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slicemamba.errors import InputError
from slicemamba.models.baselines import ConvUNet
from slicemamba.models.unet import SliceMambaUNet

SingleNetwork = SliceMambaUNet | ConvUNet


class Ensemble(nn.Module):
    """Networks of the same task, such as those of the folds of a cross-validation.

    Its logits are those of the mean probability, so that it can stand wherever a single network does.

    Args:
        members: at least one; all with the same number of classes.

    Raises:
        InputError: no member, or members of different tasks.
    """

    def __init__(self, members: Sequence[SingleNetwork]) -> None:
        super().__init__()
        classes = {member.num_classes for member in members}
        if len(classes) != 1:
            raise InputError(f"an ensemble needs members, all with one number of classes; got {sorted(classes)}")
        self.members = nn.ModuleList(members)
        self.num_classes = classes.pop()

    def networks(self) -> Iterator[SingleNetwork]:
        for member in self.members:
            assert isinstance(member, (SliceMambaUNet, ConvUNet))
            yield member

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) → logits (B, num_classes, H, W): log-odds for one class, else log-probabilities."""
        logits = torch.stack([member(image) for member in self.members])
        if self.num_classes > 1:
            return logits.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(self.members))
        # log p and log (1 − p) each by logsumexp, so that confident members give no infinity.
        return F.logsigmoid(logits).logsumexp(dim=0) - F.logsigmoid(-logits).logsumexp(dim=0)


SegmentationNetwork = SliceMambaUNet | ConvUNet | Ensemble
"""What ``evaluate`` and ``predict`` work with: has ``num_classes``, and maps images to logits."""
