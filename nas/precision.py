"""Whether a faster arithmetic ranks slicings as float32 does; only then may a search use it."""

from __future__ import annotations

import math

import numpy as np
import scipy

from nas.config import SearchConfig
from nas.evaluator import Evaluator
from nas.objectives import primary_metric
from nas.space import SearchSpace
from slicemamba.architecture import Architecture
from slicemamba.data.base import SegmentationData
from slicemamba.models.supernet import Supernet

REQUIRED_TAU = 0.98
NUM_SLICINGS = 32


def ranking_agreement(
    supernet: Supernet,
    data: SegmentationData,
    config: SearchConfig,
    space: SearchSpace,
    num_slicings: int = NUM_SLICINGS,
) -> float:
    """Kendall's τ-b between the scores of sampled slicings in float32 and in ``config.precision``.

    Args:
        supernet, data: as of the evaluator. config: the first of its objectives that is a score is compared.
        space: sampled uniformly from ``config.seed``, as many as ``num_slicings`` or the space holds.

    Returns:
        -1…1; 0 where all slicings score the same, as nothing is shown then.
    """
    objective = primary_metric(config.objectives)
    slicings = _sample(space, min(num_slicings, space.size), config.seed)
    scores = []
    for precision in ("float32", config.precision):
        options = config.model_copy(update={"precision": precision, "racing": None, "objectives": (objective,)})
        evaluate = Evaluator(supernet, data, options)
        scores.append([evaluate(slicing)[objective] for slicing in slicings])
    tau = float(scipy.stats.kendalltau(*scores).statistic)
    return tau if math.isfinite(tau) else 0.0


def _sample(space: SearchSpace, count: int, seed: int) -> list[Architecture]:
    rng = np.random.default_rng(seed)
    drawn: dict[Architecture, None] = {}
    while len(drawn) < count:
        drawn[space.sample(rng)] = None
    return list(drawn)
