"""The four splits, and how ``search`` is held out of ``train`` when a folder has none.

``search`` scores candidates during architecture search. It never takes images from val or test, so that neither
model selection nor the final figures have seen them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from slicemamba.config import DataConfig
from slicemamba.data.findings import Finding, raise_findings
from slicemamba.data.isic import Pair, check_layout, has_split, match_pairs
from slicemamba.errors import InputError

SPLITS = ("train", "val", "search", "test")
REQUIRED_SPLITS = ("train", "val", "test")


def check_split_name(split: str) -> None:
    """Raises InputError unless ``split`` is one of ``SPLITS``."""
    if split not in SPLITS:
        raise InputError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")


def hold_out(count: int, fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Parts ``range(count)`` at random, from the seed alone, into (kept, held out), both in ascending order.

    About ``fraction`` of all is held out, at least one, and at least one is kept.

    Raises:
        InputError: fewer than two images.
    """
    if count < 2:
        raise InputError(
            f"train holds {count} image(s), of which none can be held out as search split; "
            "add a search folder, or at least two images to train",
            pointer="/data/search_fraction",
        )
    held = min(max(1, round(count * fraction)), count - 1)
    order = np.random.default_rng(seed % 2**64).permutation(count).tolist()
    return sorted(order[held:]), sorted(order[:held])


def match_splits(root: Path, config: DataConfig) -> tuple[dict[str, list[Pair]], list[Finding]]:
    """Pairs of all four splits, and what is wrong with their names.

    Raises:
        InputError: the folder is missing or laid out otherwise, or train is too small to hold out a search split.
    """
    own_search = has_split(root, "search")
    folders = SPLITS if own_search else REQUIRED_SPLITS
    check_layout(root, folders)
    pairs: dict[str, list[Pair]] = {}
    findings: list[Finding] = []
    for split in folders:
        pairs[split], faults = match_pairs(root, split)
        findings += faults
    if not own_search:
        pairs["train"], pairs["search"] = _part(pairs["train"], config) if not findings else (pairs["train"], [])
    return pairs, findings


def split_pairs(root: Path, config: DataConfig) -> dict[str, list[Pair]]:
    """Pairs of all four splits, each sorted by name; InputError names every file that does not match."""
    pairs, findings = match_splits(root, config)
    raise_findings(findings, subject=f"data set {config.name!r} in {root}")
    return pairs


def _part(train: list[Pair], config: DataConfig) -> tuple[list[Pair], list[Pair]]:
    kept, held = hold_out(len(train), config.search_fraction, config.split_seed)
    return [train[index] for index in kept], [train[index] for index in held]
