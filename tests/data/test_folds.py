"""Folds: each image held out once, patients whole, the same from the same seed, and test never touched."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from slicemamba.config import DataConfig
from slicemamba.data.base import load_split
from slicemamba.data.folds import assign_folds
from slicemamba.data.splits import split_pairs
from slicemamba.errors import InputError

FOLDS = 3


def fold(config: DataConfig, number: int, folds: int = FOLDS) -> DataConfig:
    return DataConfig.model_validate(config.model_dump() | {"folds": folds, "fold": number})


@given(sizes=st.lists(st.integers(1, 6), min_size=5, max_size=30), folds=st.integers(2, 5), seed=st.integers(-3, 99))
def test_patients_are_whole_and_no_fold_is_empty(sizes: list[int], folds: int, seed: int) -> None:
    groups = [f"p{patient}" for patient, size in enumerate(sizes) for _ in range(size)]
    found = assign_folds(groups, folds, seed)
    assert set(found) == set(range(folds))
    assert all(len({f for f, g in zip(found, groups, strict=True) if g == group}) == 1 for group in groups)
    held = Counter(found).values()
    assert max(held) - min(held) <= max(sizes), "largest first into the emptiest: no worse than one patient apart"
    assert found == assign_folds(groups, folds, seed)


def test_another_seed_parts_otherwise() -> None:
    groups = [str(i) for i in range(20)]
    assert assign_folds(groups, 4, 0) != assign_folds(groups, 4, 1)
    assert sorted(Counter(assign_folds(groups, 4, 0)).values()) == [5, 5, 5, 5]


def test_more_folds_than_patients_are_refused() -> None:
    with pytest.raises(InputError, match="3 folds need as many patients") as caught:
        assign_folds(["a", "a", "b"], 3, 0)
    assert caught.value.pointer == "/data/folds"


def test_each_image_is_held_out_once(folder: DataConfig) -> None:
    assert folder.root is not None
    whole = split_pairs(folder.root, folder)
    pool = {pair.image for split in ("train", "val") for pair in whole[split]}
    held = []
    for number in range(1, FOLDS + 1):
        parts = split_pairs(folder.root, fold(folder, number))
        assert parts["test"] == whole["test"]
        assert parts["search"] == whole["search"]
        train, val = ({pair.image for pair in parts[split]} for split in ("train", "val"))
        assert train | val == pool
        assert not train & val
        held += sorted(val)
    assert sorted(held) == sorted(pool)


def test_patients_stay_together(folder: DataConfig) -> None:
    """Two patients, the two splits that the names begin with, make two folds."""
    assert folder.root is not None
    patient = folder.model_copy(update={"patient_pattern": r"^([a-z]+)_"})
    names = [{pair.name for pair in split_pairs(folder.root, fold(patient, n, 2))["val"]} for n in (1, 2)]
    assert sorted({name.split("_")[0] for name in part} for part in names) == [{"train"}, {"val"}]


def test_synthetic_images_are_the_same_in_another_split(synthetic: DataConfig, tmp_path: Path) -> None:
    train = load_split(synthetic, "train", tmp_path)
    held = load_split(fold(synthetic, 1), "val", tmp_path)
    kept = load_split(fold(synthetic, 1), "train", tmp_path)
    names = [*train.names, *load_split(synthetic, "val", tmp_path).names]
    assert sorted([*held.names, *kept.names]) == sorted(names)
    for part in (held, kept):
        for i, name in enumerate(part.names):
            if name in train.names:
                assert (part.masks[i] == train.masks[train.names.index(name)]).all()
    assert (
        load_split(fold(synthetic, 2), "test", tmp_path).masks == load_split(synthetic, "test", tmp_path).masks
    ).all()


@pytest.mark.parametrize("values", [{"folds": 3}, {"fold": 1}, {"folds": 3, "fold": 4}, {"folds": 1, "fold": 1}])
def test_half_a_fold_is_refused(values: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="fold"):
        DataConfig.model_validate(values)
