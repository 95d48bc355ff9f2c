"""Pixel counts of each image, kept beside the study: what races, intervals and audits are computed from."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nas.evaluator import CandidateEvaluation


def save_counts(path: Path, evaluation: CandidateEvaluation) -> None:
    """Writes ``counts`` (n, K, 4) uint32 and ``names`` (n,) of the images seen; the file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.npz")
    np.savez_compressed(temporary, counts=evaluation.counts, names=np.array(evaluation.names))
    temporary.replace(path)


def load_counts(path: Path) -> npt.NDArray[np.uint32]:
    """The counts of a trial."""
    with np.load(path, allow_pickle=False) as arrays:
        counts: npt.NDArray[np.uint32] = arrays["counts"]
    return counts
