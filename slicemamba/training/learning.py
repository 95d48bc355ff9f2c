"""Whether a training learns at all: its validation beside what needs no network."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from slicemamba.config import ModelConfig, TrainConfig
from slicemamba.data.base import SegmentationData
from slicemamba.data.reading import IGNORED
from slicemamba.evaluation.metrics import constant_counts, summarize
from slicemamba.training.trainer import EpochReport, TrainingDivergedError

SMALL = 0.1
"""Share of the foreground below which a first guess of one half is far off."""


class NotLearningError(TrainingDivergedError):
    """The training is no better than a guess, and was asked to stop then."""


class LearningWatch:
    """Says when a training is no better than a guess: at the first validation from a tenth of it on, and at its end.

    These two epochs follow from the settings, so a resumed training says what an uninterrupted one does.

    Args:
        train, val: the splits. model, settings: what is trained, and how.
        pretrained: whether it started from weights.
    """

    def __init__(
        self,
        train: SegmentationData,
        val: SegmentationData,
        model: ModelConfig,
        settings: TrainConfig,
        pretrained: bool,
    ) -> None:
        background = torch.zeros(val.masks.shape[1:], dtype=torch.uint8)
        self._guesses = {"all background": _dice_of(background, val)}
        self._told = (train, model, settings, pretrained)
        if train.window is None:  # images of many sizes have no places in common
            self._guesses["the most frequent class of each place"] = _dice_of(_most_frequent(train), val)
        self._stops = settings.stop_if_not_learning
        tenth = math.ceil(settings.epochs / 10 / settings.validate_every) * settings.validate_every
        self._looks = {min(tenth, settings.epochs), settings.epochs}

    def check(self, report: EpochReport) -> str | None:
        """As ``look``; raises NotLearningError with the same where ``stop_if_not_learning`` is set."""
        doubt = self.look(report)
        if doubt is not None and self._stops:
            raise NotLearningError(doubt)
        return doubt

    def look(self, report: EpochReport) -> str | None:
        """What a user should know after this epoch, if anything. A diverged training (NaN) is told elsewhere."""
        dice = report.validation.get("dice")
        if report.epoch not in self._looks or dice is None or not dice <= max(self._guesses.values()):
            return None
        guesses = ", ".join(f"{name} {value:.3f}" for name, value in self._guesses.items())
        return (
            f"after {report.epoch} of {report.epochs} epochs the network is no better than a guess: Dice on val "
            f"{dice:.3f}; {guesses}. To check: {'; '.join(_causes(*self._told))}"
        )


def _most_frequent(train: SegmentationData) -> Tensor:
    """(H, W): the class that each place has most often in train."""
    labels = range(max(2, train.num_classes))
    times = np.zeros((len(labels), *train.masks.shape[1:]), dtype=np.int64)
    for mask in train.masks:  # one by one, as a large set is mapped from its file
        for label in labels:
            times[label] += mask == label
    return torch.from_numpy(times.argmax(axis=0).astype(np.uint8))


def _dice_of(guess: Tensor, val: SegmentationData) -> float:
    """Dice of predicting the same (H, W) for every image."""
    return summarize(constant_counts(guess, val.masks, val.num_classes))["dice"]


def _causes(train: SegmentationData, model: ModelConfig, settings: TrainConfig, pretrained: bool) -> list[str]:
    """What can be the reason here, the likeliest first."""
    pixels = np.array([np.bincount(mask.ravel(), minlength=256) for mask in train.masks])  # (N, labels)
    marked = pixels[:, 1:IGNORED].sum(axis=1)
    absent = [label for label in range(1, max(2, train.num_classes)) if not pixels[:, label].any()]
    empty = int((marked == 0).sum())
    causes = [f"no training mask holds class {', '.join(map(str, absent))}"] if absent else []
    causes += [f"{empty} of {len(marked)} training masks are empty"] if 2 * empty > len(marked) else []
    share = float(marked.sum() / pixels.sum())
    if share < SMALL and not settings.prior_bias and not pretrained:
        causes.append(f"{100 * share:.2g} % of the training pixels are foreground, and prior_bias is off: try it")
    if not pretrained and model.skeleton == "published":
        causes.append("no pretrained weights (init), without which skeleton conv learns sooner than published")
    if model.drop_path_rate and settings.epochs <= 100:
        causes.append(f"drop_path_rate {model.drop_path_rate:g}, for which {settings.epochs} epochs are few: try 0")
    smoothing = "" if settings.clip_grad_norm or settings.warmup_epochs else ", warmup_epochs 1 and clip_grad_norm 1"
    causes.append(f"learning_rate {settings.learning_rate:g}: try a third of it{smoothing}")
    return causes
