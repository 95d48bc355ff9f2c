"""What a network did on each image of a split, kept in a file so that networks can be compared image by image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from slicemamba.data.base import SegmentationData
from slicemamba.errors import InputError
from slicemamba.evaluation.evaluate import Evaluation
from slicemamba.evaluation.metrics import METRICS_VERSION, summarize
from slicemamba.evaluation.statistics import Interval, bootstrap_metrics
from slicemamba.files import writing


def save_arrays(path: Path, **arrays: npt.NDArray[Any]) -> None:
    """Writes an ``.npz`` file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path) as draft:
        np.savez_compressed(draft, **arrays)  # type: ignore[arg-type]  # numpy's own option comes after the arrays


@dataclass(frozen=True, eq=False)
class ImageScores:
    """Counts and distances by image.

    Attributes:
        names: (N,) of the images.
        counts: (N, K, 4) pixel counts, as ``confusion`` gives them.
        hd95: (N,) as ``image_hd95`` gives them, in pixels of the evaluated size.
        patients: (N,) each image's patient, or a name of its own.
        data: the data set's name. split: which of its splits. image_size: (height, width) of the network's input.
        metrics_version: of the contract (docs/metrics.md) they were counted by.
    """

    names: tuple[str, ...]
    counts: npt.NDArray[Any]
    hd95: npt.NDArray[np.float64]
    patients: tuple[str, ...]
    data: str
    split: str
    image_size: tuple[int, int]
    metrics_version: int = METRICS_VERSION

    @classmethod
    def of(cls, data: SegmentationData, scored: Evaluation, name: str) -> ImageScores:
        """Of a split and what ``evaluate`` returned for it, HD95 included. ``name`` is the data set's.

        Raises:
            InputError: logits of the network were not finite, so there is nothing to compare.
        """
        if not scored.is_finite:
            raise InputError(f"the network gives logits that are not finite on the {data.split} split of {name}")
        assert scored.hd95 is not None
        height, width = data.input_size
        patients = data.patients or data.names
        return cls(data.names, scored.counts, scored.hd95, patients, name, data.split, (height, width))

    def metrics(self) -> dict[str, float]:
        """The scores of the contract over all images."""
        return summarize(torch.from_numpy(self.counts.astype(np.int64))) | {"hd95": float(self.hd95.mean())}

    def intervals(self) -> dict[str, Interval]:
        """95 % bootstrap intervals of the same, over patients."""
        return bootstrap_metrics(self.counts, hd95=self.hd95, groups=self.patients)

    def about(self) -> dict[str, Any]:
        """What must be the same for two of them to be compared."""
        return {
            "data": self.data,
            "split": self.split,
            "image_size": list(self.image_size),
            "metrics_version": self.metrics_version,
        }

    def save(self, path: Path) -> None:
        """Writes ``names``, ``patients``, ``counts``, ``hd95`` and, as JSON, ``about``; whole or not at all."""
        save_arrays(
            path,
            names=np.array(self.names),
            counts=self.counts.astype(np.uint32),
            hd95=self.hd95,
            patients=np.array(self.patients),
            about=np.array(json.dumps(self.about())),
        )

    @classmethod
    def load(cls, path: Path) -> ImageScores:
        """Reads what ``save`` has written. Raises InputError for another or a broken file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                return cls(
                    names=tuple(map(str, file["names"])),
                    counts=file["counts"],
                    hd95=file["hd95"],
                    patients=tuple(map(str, file["patients"])),
                    data=about["data"],
                    split=about["split"],
                    image_size=tuple(about["image_size"]),
                    metrics_version=about["metrics_version"],
                )
        except Exception as error:  # numpy, zipfile and zlib raise nearly anything on a broken file
            raise InputError(
                f"{path} is not a valid file of scores per image ({error}); remove it to recreate it"
            ) from None

    @classmethod
    def join(cls, parts: Sequence[ImageScores], split: str) -> ImageScores:
        """Several parts as one, as of the folds of a cross-validation. ``split`` names the whole."""
        first = parts[0]
        return cls(
            names=tuple(name for part in parts for name in part.names),
            counts=np.concatenate([part.counts for part in parts]),
            hd95=np.concatenate([part.hd95 for part in parts]),
            patients=tuple(patient for part in parts for patient in part.patients),
            data=first.data,
            split=split,
            image_size=first.image_size,
            metrics_version=first.metrics_version,
        )


def refuse_other_images(first: ImageScores, other: ImageScores, names: tuple[str, str]) -> None:
    """Raises InputError unless both scored the same images against the same masks by the same contract.

    The masks are compared by their marked pixels, which the counts tell.

    Args:
        names: what to call the two in the error.
    """
    one, two = first.about(), other.about()
    differing = [f"{key}: {one[key]} of {names[0]}, {two[key]} of {names[1]}" for key in one if one[key] != two[key]]
    if not differing and first.names != other.names:
        differing = [f"names of the images: {len(first.names)} and {len(other.names)}, not the same ones in one order"]
    if not differing and first.counts.shape != other.counts.shape:
        differing = [f"classes: {first.counts.shape[1]} and {other.counts.shape[1]}"]
    if not differing and not np.array_equal(_truth(first), _truth(other)):
        differing = ["masks: other pixels were marked"]
    if differing:
        raise InputError(
            f"{names[0]} and {names[1]} were not scored on the same images; evaluate them on one data set and size",
            details=differing,
        )


def _truth(scores: ImageScores) -> npt.NDArray[np.int64]:
    """(N, K, 2) marked and unmarked pixels of the masks."""
    tp, fp, fn, tn = np.moveaxis(scores.counts.astype(np.int64), -1, 0)
    return np.stack([tp + fn, fp + tn], axis=-1)
