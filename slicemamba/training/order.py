"""In what order an epoch goes through the training samples, and which of them it shows more than once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from slicemamba.data.base import SegmentationData
from slicemamba.training.seeds import generator_for

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


def epoch_order(num_samples: int, seed: int, epoch: int, repeats: Floats | None = None) -> Indices:
    """(num_samples,) indices, drawn for the epoch; every sample once, or as often as ``repeats`` asks.

    Args:
        repeats: (num_samples,) how often each is to be seen beside the others, above 0. The epoch stays as long; each
            sample comes as often as its share of it says, rounded up or down at random (systematic sampling).
    """
    rng = generator_for(seed, "order", epoch)
    if repeats is None:
        return rng.permutation(num_samples)
    ends = np.concatenate(([0.0], np.cumsum(repeats / repeats.sum()))) * num_samples
    ends[-1] = num_samples  # not a rounding error less
    times: Indices = np.diff(np.floor(ends + rng.random())).astype(np.int64)
    return rng.permutation(np.repeat(np.arange(num_samples), times))


def repeat_factors(train: SegmentationData, threshold: float) -> Floats | None:
    """(N,) the repeat factor of each image; None where no class is rare, so that all are 1.

    A class in a share f of the images has √(threshold / f), at least 1; an image the highest of its classes (repeat
    factor sampling: LVIS, arXiv 1908.03195, appendix B). Background counts for nothing.
    """
    shown = np.zeros((len(train), max(2, train.num_classes) - 1), bool)
    for index in range(len(train)):  # one by one, as a large set is mapped from its file
        found = np.unique(train.masks[index][train.inside(index)])
        shown[index, found[(found > 0) & (found <= shown.shape[1])] - 1] = True
    shares = shown.mean(0)
    factors = np.sqrt(threshold / np.where(shares > 0, shares, 1.0)).clip(min=1.0)
    of_images = np.where(shown, factors, 1.0).max(1)
    return of_images if of_images.max() > 1 else None
