"""A small folder of real picture files, which tests then damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from slicemamba.config import DataConfig, SyntheticConfig
from slicemamba.data.synthetic import write_isic_folder

SMALL = SyntheticConfig(num_train=6, num_val=2, num_search=2, num_test=3, seed=7)


@pytest.fixture
def synthetic() -> DataConfig:
    return DataConfig(image_size=(48, 64), synthetic=SMALL)


@pytest.fixture
def folder(tmp_path: Path, synthetic: DataConfig) -> DataConfig:
    """The synthetic set as files in the ISIC layout, with all four splits."""
    return DataConfig(name="lesions", root=write_isic_folder(synthetic, tmp_path / "lesions"), image_size=(40, 56))


@pytest.fixture(autouse=True)
def _size_is_no_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets of the tests are tiny, which only the tests of that warning are about."""
    monkeypatch.setattr("slicemamba.data.checks._FEW", 0)
