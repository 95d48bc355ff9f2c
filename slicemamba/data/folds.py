"""Folds of a cross-validation: train and val parted anew, whole patients together; search and test stay apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from slicemamba.config import DataConfig
from slicemamba.data.patients import groups_of
from slicemamba.data.strata import balance, words_of
from slicemamba.errors import InputError

T = TypeVar("T")


def assign_folds(groups: Sequence[str], folds: int, seed: int, words: Sequence[str] | None = None) -> list[int]:
    """The fold, 0 … folds − 1, of each image.

    Groups are shuffled by the seed and, the largest first, each put into the fold that holds the fewest images, so that
    folds of images that stand alone differ by one image at most.

    Args:
        groups: each image's patient, or a name of its own.
        words: what each image holds, which the folds are to share in proportion (``strata.balance``).

    Raises:
        InputError: fewer groups than folds.
    """
    sizes = Counter(groups)
    if len(sizes) < folds:
        raise InputError(
            f"{folds} folds need as many patients (or images without a patient); train and val hold {len(sizes)}; "
            "lower the number of folds",
            pointer="/data/folds",
        )
    if words is not None:
        return balance(groups, words, [1 / folds] * folds, seed)
    names = sorted(sizes)
    shuffled = [names[i] for i in np.random.default_rng(seed % 2**64).permutation(len(names))]
    held = [0] * folds
    fold_of = {}
    for name in sorted(shuffled, key=lambda name: -sizes[name]):
        fold_of[name] = int(np.argmin(held))
        held[fold_of[name]] += sizes[name]
    return [fold_of[group] for group in groups]


def part_anew(
    train: Sequence[T], val: Sequence[T], config: DataConfig, name_of: Callable[[T], str]
) -> tuple[list[T], list[T]]:
    """(train, val) of the configured fold: val is that fold, train all others; as they are without folds."""
    if config.folds is None or config.fold is None:
        return list(train), list(val)
    pool = sorted([*train, *val], key=name_of)
    names = [name_of(item) for item in pool]
    folds = assign_folds(groups_of(names, config), config.folds, config.split_seed, words_of(names, config))
    parts: tuple[list[T], list[T]] = ([], [])
    for item, fold in zip(pool, folds, strict=True):
        parts[fold == config.fold - 1].append(item)
    return parts
