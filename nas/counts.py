"""Pixel counts of each image, kept beside the study: what races, intervals and audits are computed from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from nas.evaluator import CandidateEvaluation
from slicemamba.evaluation.scores import save_arrays


def save_counts(path: Path, evaluation: CandidateEvaluation) -> None:
    """Writes ``counts`` (n, K, 4) uint32 and ``names`` (n,) of the images seen; the file whole or not at all."""
    save_arrays(path, counts=evaluation.counts, names=np.array(evaluation.names))


def load_counts(path: Path) -> npt.NDArray[np.uint32]:
    """The counts of a trial."""
    with np.load(path, allow_pickle=False) as arrays:
        counts: npt.NDArray[np.uint32] = arrays["counts"]
    return counts
