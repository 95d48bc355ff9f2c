"""The benchmark on data sets, with a budget of two epochs on a few synthetic lesions (slow: four trainings on Ray)."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.datasets import BUDGET, NETWORKS, main, tables_of, train
from cluster.config import parse_job
from cluster.run_folder import RunFolder
from slicemamba.errors import InputError

TINY = BUDGET | {
    "data": {"image_size": [32, 32]},
    "model": {"embed_dim": 8, "encoder_depths": [1, 1], "decoder_depths": [1, 1]},
    "retrain": {"epochs": 2, "batch_size": 4, "t_max": 2},
}
LESIONS = {"name": "synthetic", "synthetic": {"num_train": 4, "num_val": 2, "num_search": 2, "num_test": 3}}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_every_network_has_its_row_and_no_training_is_done_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLICEMAMBA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    runs = train(LESIONS, tmp_path / "out", TINY)
    assert [run.name for run in runs] == list(NETWORKS)
    text = tables_of(runs)
    for row in ("SliceMamba, fixed 2x2", "VM-UNet", "U-Net", "Attention U-Net", "all background", "all foreground"):
        assert text.count(f"| {row} |") in (1, 2)
    assert "Differences from slicemamba-2x2" in text
    assert "Training: slicemamba-2x2 " in text
    jobs = [parse_job(RunFolder(run).read_json("config.json") or {}) for run in runs]
    assert len({job.model_dump_json(exclude={"name", "network", "architecture"}) for job in jobs}) == 1, "one budget"
    before = [(run / "result.json").stat().st_mtime_ns for run in runs]
    train(LESIONS, tmp_path / "out", TINY)
    assert [(run / "result.json").stat().st_mtime_ns for run in runs] == before


def test_unknown_sets_are_refused_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLICEMAMBA_DATA", str(tmp_path))
    with pytest.raises(InputError, match="no data set kvasir"):
        main(["--out", str(tmp_path / "out"), "--sets", "kvasir"])
    assert not (tmp_path / "out").exists()
