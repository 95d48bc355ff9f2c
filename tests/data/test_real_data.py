"""Real public sets, where they are at hand: they must pass the checks and load."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from slicemamba.config import DataConfig
from slicemamba.data.base import load_split
from slicemamba.data.checks import check_dataset
from slicemamba.data.splits import SPLITS
from slicemamba.data.transforms import to_input

ROOT = Path(os.environ.get("SLICEMAMBA_DATA") or Path(__file__).parents[2].parent / "shared" / "data")


@pytest.mark.parametrize("name", ["isic", "isic2018", "kvasir", "clinicdb", "retina"])
def test_real_set(name: str, tmp_path: Path) -> None:
    root = ROOT / name
    if not root.is_dir():
        pytest.skip(f"no data set in {root}; set SLICEMAMBA_DATA to a folder of data sets")
    config = DataConfig(name=name, root=root, image_size=(64, 80))
    report = check_dataset(config)
    # Tiles of one retina resemble those of another.
    assert [told for told in report.warnings if "look alike" not in told] == []
    seen: set[str] = set()
    for split in SPLITS:
        data = load_split(config, split, tmp_path)
        assert len(data) == report.num_images[split] > 0
        assert seen.isdisjoint(data.names)
        seen.update(data.names)
        assert set(np.unique(data.masks)) == {0, 1}
        # Resizing keeps the marked share, which would not hold if masks were shifted, cut or blurred.
        assert data.masks.mean() == pytest.approx(report.foreground_share[split], abs=0.003)
        pixels = to_input(data.images)
        assert pixels.isfinite().all()
        assert pixels.amax() == 255
