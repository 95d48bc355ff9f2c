"""Scores of whole volumes: Dice and HD95 of each case and class, as for Synapse (docs/metrics.md, Volumes)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from slicemamba.data.findings import short_path
from slicemamba.data.reading import as_classes
from slicemamba.data.volumes import Volume, write_labels
from slicemamba.errors import InputError
from slicemamba.evaluation.inference import Segmenter
from slicemamba.evaluation.metrics import confusion, foregrounds, hd95
from slicemamba.evaluation.predict import open_volume, segment_volume
from slicemamba.files import file_name

Unit = Literal["mm", "voxels"]


@dataclass(frozen=True, eq=False)
class VolumeScores:
    """Scores of a test set of volumes.

    Attributes:
        cases: M names.
        classes: the K foreground classes.
        dice: (M, K). hd95: (M, K), in ``unit``.
        unit: mm when the spacing of every volume is known, else voxels of size 1 for all.
    """

    cases: tuple[str, ...]
    classes: tuple[int, ...]
    dice: NDArray[np.float64]
    hd95: NDArray[np.float64]
    unit: Unit

    def as_dict(self) -> dict[str, Any]:
        """For JSON: means over cases and classes, over cases for each class, and every case."""
        names = [str(label) for label in self.classes]
        return {
            "dice": float(self.dice.mean()),
            "hd95": float(self.hd95.mean()),
            "hd95_unit": self.unit,
            "classes": {
                name: {"dice": float(self.dice[:, k].mean()), "hd95": float(self.hd95[:, k].mean())}
                for k, name in enumerate(names)
            },
            "cases": {
                case: {
                    name: {"dice": float(self.dice[i, k]), "hd95": float(self.hd95[i, k])}
                    for k, name in enumerate(names)
                }
                for i, case in enumerate(self.cases)
            },
        }


def evaluate_volumes(
    segmenter: Segmenter,
    paths: Sequence[Path],
    *,
    destination: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> VolumeScores:
    """Segments volumes slice by slice and scores each as a whole, at its own size.

    Args:
        segmenter: the network.
        paths: at least one volume, each with its labels, as ``find_volumes`` gives them.
        destination: writes the predictions there, ``<name>.nii.gz`` with the volume's geometry.
        on_progress: called as (volumes done, in all).

    Raises:
        InputError: a volume is broken or has no labels, labels are no classes of the network, or the network gives
            values that are not finite.
    """
    if not paths:
        raise InputError("no volume to evaluate; expected at least one")
    dice, in_mm, in_voxels, names = [], [], [], []
    for done, path in enumerate(paths, 1):
        volume = open_volume((path,), segmenter)
        truth = _truth(volume, path, segmenter)
        predicted, _ = segment_volume(segmenter, volume)
        if destination is not None:
            write_labels(destination / file_name(volume.name, ".nii.gz"), predicted, volume)
        dice.append(volume_dice(predicted, truth, segmenter.config.num_classes))
        in_voxels.append(volume_hd95(predicted, truth, segmenter.config.num_classes, (1.0, 1.0, 1.0)))
        if volume.spacing is not None:
            in_mm.append(volume_hd95(predicted, truth, segmenter.config.num_classes, volume.spacing))
        names.append(volume.name)
        on_progress(done, len(paths))
    known = len(in_mm) == len(paths)  # a mean of mm and voxels would be a number without a unit
    return VolumeScores(
        cases=tuple(names),
        classes=tuple(range(1, max(2, segmenter.config.num_classes))),
        dice=np.array(dice),
        hd95=np.array(in_mm if known else in_voxels),
        unit="mm" if known else "voxels",
    )


def volume_dice(predicted: NDArray[np.uint8], truth: NDArray[np.uint8], num_classes: int) -> NDArray[np.float64]:
    """Dice (K,) of the foreground classes over all voxels of (Z, H, W); 1 where neither holds the class."""
    whole = confusion(torch.from_numpy(predicted), torch.from_numpy(truth), num_classes).sum(dim=0)
    tp, fp, fn, _ = (whole if num_classes == 1 else whole[1:]).numpy().astype(np.float64).T
    everything = 2 * tp + fp + fn
    return np.where(everything > 0, 2 * tp / np.maximum(everything, 1), 1.0)


def volume_hd95(
    predicted: NDArray[np.uint8], truth: NDArray[np.uint8], num_classes: int, spacing: tuple[float, float, float]
) -> NDArray[np.float64]:
    """HD95 (K,) of the foreground classes in 3-D; the rule for empty masks is that of ``hd95``."""
    return np.array([hd95(*pair, spacing) for pair in foregrounds(predicted, truth, num_classes)])


def _truth(volume: Volume, path: Path, segmenter: Segmenter) -> NDArray[np.uint8]:
    if volume.label is None:
        raise InputError(f"{short_path(path)} has no labels to compare with; HDF5 volumes need the data set 'label'")
    config = segmenter.config
    return as_classes(volume.label, short_path(path), config.num_classes, config.label_map, config.ignore_label)
