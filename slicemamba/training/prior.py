"""A network's first guess: each class as often as it is in train."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from slicemamba.data.base import SegmentationData
from slicemamba.models.baselines import ConvUNet
from slicemamba.models.unet import SliceUNet

Floats = NDArray[np.float64]

_LEAST = 1e-3
"""A share below this counts as this: the gradient of a logit is its probability at most."""


@torch.no_grad()
def start_at_prior(network: ConvUNet | SliceUNet, train: SegmentationData) -> None:
    """Sets the biases of the network's heads to the logits of the classes' shares of the training pixels.

    Where lesions are small, a fresh network spends its first steps on learning to mark less everywhere; a head that
    begins there saves them (focal loss, arXiv 1708.02002, section 3.3). It is no cure for every training that marks
    nothing: see docs/training.md.

    Args:
        network: before it was trained; weights stay as they are. train: ignored pixels of its masks do not count.
    """
    bias = torch.from_numpy(_logits(_shares(train))).float()
    for head in network.heads():
        assert head.bias is not None
        head.bias.copy_(bias)


def _shares(train: SegmentationData) -> Floats:
    """(classes,): each class's share of the known pixels, background first; (2,) where masks are binary."""
    counts = np.zeros(256)
    for mask in train.masks:  # one by one, as a large set is mapped from its file
        counts += np.bincount(np.asarray(mask).reshape(-1), minlength=256)
    counts = counts[: max(2, train.num_classes)]
    shares = np.maximum(counts / max(1, counts.sum()), _LEAST)
    return np.asarray(shares / shares.sum())


def _logits(shares: Floats) -> Floats:
    """(num_classes,): log-odds of the foreground where masks are binary, else what softmax gives the shares of."""
    return np.log(shares[1:] / shares[:1]) if len(shares) == 2 else np.log(shares)
