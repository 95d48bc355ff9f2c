"""Pixel counts of each image, kept beside the study: what races, intervals and audits are computed from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from nas.evaluator import CandidateEvaluation
from slicemamba.evaluation.scores import save_arrays


class ScoredImages(NamedTuple):
    """What a trial scored on each image.

    Attributes:
        names: N. counts: (N, K, 4). hd95: (N,) in pixels; None where it was not measured.
    """

    names: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    hd95: npt.NDArray[np.float64] | None


def save_counts(path: Path, scored: CandidateEvaluation | ScoredImages) -> None:
    """Writes ``counts`` (n, K, 4) uint32, ``names`` (n,) and, where measured, ``hd95`` (n,) of the images seen.

    The file comes whole or not at all.
    """
    distances = {} if scored.hd95 is None else {"hd95": scored.hd95}
    save_arrays(path, counts=scored.counts.astype(np.uint32), names=np.array(scored.names), **distances)


def load_counts(path: Path) -> npt.NDArray[np.uint32]:
    """The counts of a trial."""
    with np.load(path, allow_pickle=False) as arrays:
        counts: npt.NDArray[np.uint32] = arrays["counts"]
    return counts


def load_scored(path: Path) -> ScoredImages:
    """The scores of a trial, the images in the order of their names: a race may have seen them in another.

    Raises FileNotFoundError where there are none.
    """
    with np.load(path, allow_pickle=False) as arrays:
        order = np.argsort(arrays["names"])
        names = tuple(map(str, arrays["names"][order]))
        distances = arrays["hd95"][order] if "hd95" in arrays else None
        return ScoredImages(names, arrays["counts"][order].astype(np.int64), distances)
