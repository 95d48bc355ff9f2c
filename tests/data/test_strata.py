"""Splits and folds that share out classes and marked pixels: in proportion, whole patients, the same for a seed."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from slicemamba.config import DataConfig
from slicemamba.data.catalog import resolve_root
from slicemamba.data.convert import Reading
from slicemamba.data.description import FILE, read_description
from slicemamba.data.folds import assign_folds
from slicemamba.data.prepare import SplitPlan, assign_splits
from slicemamba.data.prepare_pictures import prepare_pictures
from slicemamba.data.splits import SPLITS, hold_out, split_pairs
from slicemamba.data.strata import balance, words_for
from slicemamba.errors import InputError

SHARES = (0.5, 0.15, 0.15, 0.2)


def draw(seed: int, patients: int, largest: int) -> tuple[list[str], list[str]]:
    """Groups and words of images: a common, a rarer and a rare class, and shares of which some are 0."""
    rng = np.random.default_rng(seed)
    groups = [f"p{patient}" for patient in range(patients) for _ in range(rng.integers(1, largest + 1))]
    shares = rng.beta(1, 8, len(groups)) * (rng.random(len(groups)) > 0.15)
    chances = {"common": 0.5, "rarer": 0.2, "rare": 0.06}
    classes = [[name for name, p in chances.items() if share and rng.random() < p] for share in shares]
    return groups, words_for(classes, shares.tolist())


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), patients=st.integers(8, 60), largest=st.integers(1, 6))
def test_each_word_is_shared_out_in_proportion(seed: int, patients: int, largest: int) -> None:
    """No share is further off than the largest patient and an image, and patients are whole."""
    groups, words = draw(seed, patients, largest)
    parts = balance(groups, words, SHARES, seed)
    assert parts == balance(groups, words, SHARES, seed)
    assert set(parts) == set(range(len(SHARES)))
    assert len(set(zip(groups, parts, strict=True))) == len(set(groups))
    for word in {one for text in words for one in text.split()} | {""}:
        holds = [word in text.split() or not word for text in words]
        of_groups = Counter(group for group, held in zip(groups, holds, strict=True) if held)
        found = Counter(part for part, held in zip(parts, holds, strict=True) if held)
        for part, share in enumerate(SHARES):
            assert abs(found[part] - share * sum(holds)) <= max(of_groups.values()) + 1, (word, part)


def test_rare_class_is_nearer_to_its_shares_than_by_chance() -> None:
    def distance(parts: list[int], words: list[str]) -> float:
        holds = np.array(["rare" in text.split() for text in words])
        found = np.bincount(np.array(parts)[holds], minlength=len(SHARES))
        return float(np.abs(found - np.array(SHARES) * holds.sum()).sum())

    stratified, random = [], []
    for seed in range(20):
        groups, words = draw(seed, 60, 4)
        stratified.append(distance(balance(groups, words, SHARES, seed), words))
        splits = assign_splits(groups, SHARES, seed)
        random.append(distance([SPLITS.index(split) for split in splits], words))
    assert np.mean(stratified) < 0.5 * np.mean(random)


def test_seeds_differ() -> None:
    groups, words = draw(0, 40, 3)
    assert len({tuple(balance(groups, words, SHARES, seed)) for seed in range(5)}) == 5


def test_too_few_patients_are_refused_as_without_words() -> None:
    words = ["marked"] * 9
    with pytest.raises(InputError, match="cannot be divided into 4 splits"):
        assign_splits(["a", "b", "c"] * 3, SHARES, 0, words)
    with pytest.raises(InputError, match="3 folds need as many patients"):
        assign_folds(["a", "b", "b"] * 3, 3, 0, words)
    with pytest.raises(InputError, match="none can be held out"):
        hold_out(["a"] * 9, 0.2, 0, words=words)


def prepared(tmp_path: Path, reading: Reading = Reading(), classes: tuple[int, ...] = (255,)) -> Path:
    """70 images of 35 patients; every seventh patient bears the last of the classes, others the first or none."""
    for part in ("images", "masks"):
        (tmp_path / "raw" / part).mkdir(parents=True)
    for index in range(70):
        patient, rng = index // 2, np.random.default_rng(index)
        mask = np.zeros((32, 32), np.uint8)
        if patient % 7 == 0:
            mask[2:20, 2:20] = classes[-1]
        elif patient % 2:
            mask[4 : 6 + patient // 3, 4:12] = classes[0]
        name = f"p{patient:02d}_{index}.png"
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "raw/images" / name)
        Image.fromarray(mask).save(tmp_path / "raw/masks" / name)
    plan = SplitPlan((0.5, 0.2, 0.0, 0.3), patient_pattern=r"^(p\d+)_")
    prepare_pictures("folder", tmp_path / "raw", tmp_path / "set", plan, reading=reading)
    return tmp_path / "set"


def patients(config: DataConfig, split: str) -> set[int]:
    assert config.root is not None
    return {int(pair.name[1:3]) for pair in split_pairs(config.root, config)[split]}


def test_prepare_tells_the_strata_and_folds_and_held_out_splits_keep_to_them(tmp_path: Path) -> None:
    """Five patients of the rare class: each split and each of three folds has one at least."""
    root = prepared(tmp_path, Reading(threshold=False), (1, 2))
    strata = read_description(root).strata
    assert strata["p00_0"] == "class2 most"
    assert strata["p02_4"] == "empty"
    assert strata["p01_2"].split()[0] == "class1"
    config = resolve_root(DataConfig(name="set", root=root, search_fraction=0.3))
    assert config.num_classes == 3
    rare = {patient for patient in range(35) if patient % 7 == 0}
    held = [patients(config, split) for split in SPLITS]
    assert all(not first & second for i, first in enumerate(held) for second in held[i + 1 :])
    assert all(rare & part for part in held)
    folds = [patients(config.model_copy(update={"folds": 3, "fold": fold}), "val") for fold in (1, 2, 3)]
    kept = rare - patients(config, "search") - patients(config, "test")
    assert sorted(len(part & kept) for part in folds)[-1] <= -(-len(kept) // 3)
    assert len(set().union(*folds)) == sum(map(len, folds))


def test_sets_that_were_prepared_before_are_split_as_ever(tmp_path: Path) -> None:
    """Without strata in dataset.yaml the draw is the plain one, by the seed alone."""
    root = prepared(tmp_path)
    assert set(read_description(root).strata["p01_2"].split()) < {"marked", "least", "less", "more", "most"}
    told = (root / FILE).read_text()
    (root / FILE).write_text(re.sub(r"(?s)^strata:.*?(?=^\w|\Z)", "", told, flags=re.M))
    assert not read_description(root).strata
    config = resolve_root(DataConfig(name="set", root=root))
    names = sorted(path.stem for path in (root / "train/images").iterdir())
    _, held = hold_out([name[:3] for name in names], config.search_fraction, config.split_seed)
    assert [pair.name for pair in split_pairs(root, config)["search"]] == [names[index] for index in held]
