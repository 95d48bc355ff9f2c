"""The four splits of a folder, whatever its layout, and how those it lacks are held out of ``train``.

``search`` scores candidates during architecture search. It never takes images from val or test, so that neither
model selection nor the final figures have seen them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from slicemamba.config import DataConfig
from slicemamba.data.findings import Finding, raise_findings
from slicemamba.data.folds import part_anew
from slicemamba.data.pairs import EXPECTED_TREE, Pair, alike, check_layout, has_split, match_folders, match_pairs
from slicemamba.data.patients import groups_of
from slicemamba.data.polyp import is_polyp, polyp_folders
from slicemamba.data.strata import balance, words_of
from slicemamba.data.synapse import is_synapse, match_synapse
from slicemamba.errors import InputError

SPLITS = ("train", "val", "search", "test")
REQUIRED_SPLITS = ("train", "val", "test")
Layout = Literal["folders", "polyp", "synapse"]
LAYOUTS = (
    EXPECTED_TREE,
    "<root>/TrainDataset/{images,masks} and <root>/TestDataset/<name>/{images,masks} (polyp)",
    "<root>/train_npz/*.npz and <root>/test_vol_h5/*.npy.h5 (Synapse)",
)


def check_split_name(split: str) -> None:
    """Raises InputError unless ``split`` is one of ``SPLITS``."""
    if split not in SPLITS:
        raise InputError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")


def detect_layout(root: Path) -> Layout:
    """The layout of a data folder, from the names of the folders in it.

    Raises:
        InputError: it is missing, not a folder, unreadable, or has none of the known layouts, which are listed.
    """
    if not root.exists():
        raise InputError(f"data folder {root} does not exist", pointer="/data/root", details=_accepted())
    if not root.is_dir():
        raise InputError(f"data root {root} is not a folder", pointer="/data/root", details=_accepted())
    if not os.access(root, os.R_OK | os.X_OK):
        raise InputError(
            f"data folder {root} cannot be read; give this user permission to read it", pointer="/data/root"
        )
    if is_synapse(root):
        return "synapse"
    if is_polyp(root):
        return "polyp"
    if any(has_split(root, split) or alike(root, split) for split in SPLITS):
        return "folders"
    above = root.resolve().parent
    if root.resolve().name in SPLITS and has_split(above, root.resolve().name):
        raise InputError(f"{root} is one split of a data set; give its parent, {above}", pointer="/data/root")
    holds = ", ".join(sorted(path.name for path in root.iterdir())[:8]) or "nothing"
    raise InputError(
        f"data folder {root} has none of the known layouts; it holds {holds}",
        pointer="/data/root",
        details=[
            *_accepted(),
            "to split images and masks: slicemamba data prepare folder FOLDER NEW-FOLDER",
        ],
    )


def hold_out(
    groups: Sequence[str], fraction: float, seed: int, *, split: str = "search", words: Sequence[str] | None = None
) -> tuple[list[int], list[int]]:
    """Parts images at random, from the seed alone, into (kept, held out), both as ascending indices.

    About ``fraction`` of all images is held out, whole groups of them, at least one, and at least one is kept. A group
    so large that the share would be further from ``fraction`` with it than without stays where it is.

    Args:
        groups: each image's patient, or a name of its own.
        fraction: share of the images, 0…1.
        seed: any integer.
        split: what they are held out as, for the error.
        words: what each image holds, which both parts are to share in proportion (``strata.balance``).

    Raises:
        InputError: fewer than two groups.
    """
    sizes = Counter(groups)  # in the order of first appearance
    names = list(sizes)
    if len(names) < 2:
        raise InputError(
            f"train holds {len(groups)} image(s) of {len(names)} patient(s), of which none can be held out as {split} "
            f"split; add a {split} split, or at least two images of different patients to train",
            pointer=f"/data/{split}_fraction",
        )
    if words is not None:
        parts = balance(groups, words, (1 - fraction, fraction), seed)
        return [i for i, part in enumerate(parts) if part == 0], [i for i, part in enumerate(parts) if part == 1]
    wanted = max(1, round(len(groups) * fraction))
    drawn = [names[index] for index in np.random.default_rng(seed % 2**64).permutation(len(names))]
    held: set[str] = set()
    for name in drawn[:-1]:
        if sizes[name] < 2 * wanted:
            held.add(name)
            wanted -= sizes[name]
    held = held or {min(drawn, key=sizes.__getitem__)}
    kept = [index for index, group in enumerate(groups) if group not in held]
    return kept, [index for index, group in enumerate(groups) if group in held]


def match_splits(root: Path, config: DataConfig) -> tuple[dict[str, list[Pair]], list[Finding]]:
    """Pairs of all four splits, and what is wrong with their names.

    Raises:
        InputError: the folder is missing or in no known layout, or train is too small to hold out a split.
    """
    pairs, findings = _match(root, config)
    config = config.model_copy(update={"root": root})  # whose dataset.yaml tells the patients
    for split, fraction in (("val", config.val_fraction), ("search", config.search_fraction)):
        if split in pairs:
            continue
        pairs[split] = []
        if not findings:
            names = [pair.name for pair in pairs["train"]]
            groups, words = groups_of(names, config), words_of(names, config)
            kept, held = hold_out(groups, fraction, config.split_seed, split=split, words=words)
            pairs["train"], pairs[split] = ([pairs["train"][index] for index in part] for part in (kept, held))
    if not findings:
        pairs["train"], pairs["val"] = part_anew(pairs["train"], pairs["val"], config, lambda pair: pair.name)
    return pairs, findings


def split_pairs(root: Path, config: DataConfig) -> dict[str, list[Pair]]:
    """Pairs of all four splits, each sorted by name; InputError names every file that does not match."""
    pairs, findings = match_splits(root, config)
    raise_findings(findings, subject=f"data set {config.name!r} in {root}")
    return pairs


def _match(root: Path, config: DataConfig) -> tuple[dict[str, list[Pair]], list[Finding]]:
    """Pairs of the splits that the folder has."""
    layout = detect_layout(root)
    if layout == "synapse":
        return match_synapse(root)
    if layout == "polyp":
        folders = polyp_folders(root, config.test_set)
        matched = {split: match_folders(*parts, split) for split, parts in folders.items()}
    else:
        splits = SPLITS if has_split(root, "search") else REQUIRED_SPLITS
        check_layout(root, splits)
        matched = {split: match_pairs(root, split) for split in splits}
    findings = [finding for _, found in matched.values() for finding in found]
    return {split: pairs for split, (pairs, _) in matched.items()}, findings


def _accepted() -> list[str]:
    return [f"expected {layout}" for layout in LAYOUTS]
