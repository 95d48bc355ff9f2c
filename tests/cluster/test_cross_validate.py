"""Cross-validation: what each fold trains on, and all of it for real with a baseline (slow)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console

from cluster.config import RetrainJob, parse_job
from cluster.cross_validate import conclude, fold_jobs
from cluster.run_folder import RunFolder
from cluster.summary import print_scores
from slicemamba.config import DataConfig, ModelConfig
from slicemamba.errors import InputError, RunFailedError
from slicemamba.evaluation.scores import ImageScores
from slicemamba.models.checkpoints import load_network, read_card, save_network
from slicemamba.models.ensemble import Ensemble
from slicemamba.models.supernet import Supernet

JOB = {
    "kind": "retrain",
    "network": "unet",
    "data": {
        "name": "synthetic",
        "image_size": [32, 32],
        "synthetic": {"num_train": 7, "num_val": 3, "num_search": 2, "num_test": 4},
    },
    "model": {"embed_dim": 8, "encoder_depths": [1, 1], "decoder_depths": [1, 1]},
    "retrain": {"epochs": 2, "batch_size": 4, "t_max": 2},
}


def test_each_fold_is_a_run_of_its_own(tmp_path: Path) -> None:
    job = parse_job(JOB)
    assert isinstance(job, RetrainJob)
    found = fold_jobs(job, 3, RunFolder(tmp_path))
    assert [folder.path.name for _, folder in found] == ["fold-1", "fold-2", "fold-3"]
    for number, (part, _) in enumerate(found, 1):
        assert (part.data.folds, part.data.fold) == (3, number)
        assert part.model_copy(update={"data": job.data}) == job


def test_network_that_has_seen_the_held_out_images_is_no_start(tmp_path: Path) -> None:
    model = ModelConfig(embed_dim=8, encoder_depths=(1, 1), decoder_depths=(1, 1))
    seen, fresh = tmp_path / "seen", tmp_path / "fresh"
    for folder, name in ((seen, "lesions"), (fresh, "polyps")):
        save_network(folder, Supernet(model, 1, [(2, 2)]), DataConfig(name=name))
    values = JOB | {"network": "vm_unet", "data": {"name": "lesions"}}
    for init, refused in ((seen, True), (fresh, False), (tmp_path / "vmamba.pth", False)):
        job = parse_job(values | {"init": str(init)})
        assert isinstance(job, RetrainJob)
        if refused:
            with pytest.raises(InputError, match="has seen the images that the folds hold out"):
                fold_jobs(job, 3, RunFolder(tmp_path))
        else:
            assert len(fold_jobs(job, 3, RunFolder(tmp_path))) == 3


def test_fold_that_gave_no_scores_is_told(tmp_path: Path) -> None:
    job = parse_job(JOB)
    assert isinstance(job, RetrainJob)
    with pytest.raises(RunFailedError, match="fold-1, fold-2"):
        conclude(job, 2, RunFolder(tmp_path))


def test_summary_shows_intervals_where_there_are_some() -> None:
    scores = {"dice": 0.5, "miou": 0.4, "hd95": 12.0, "sensitivity": 0.7, "specificity": 0.9}
    result = {"retrained": {"scores": {"test": scores}}, "trivial": {"test": {"all background": scores}}}
    texts = []
    for intervals in ({}, {name: [value * 0.9, value * 1.1] for name, value in scores.items()}):
        result["retrained"]["intervals"] = {"test": intervals}
        console = Console(width=120, record=True, quiet=False, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
        print_scores(console, result)
        texts.append(console.export_text())
    assert "0.5000" in texts[0]
    assert "–" not in texts[0]
    assert "0.4500–0.5500" in texts[1]
    assert "10.8–13.2" in texts[1]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
def test_cross_validation_and_comparison_from_the_command_line(tmp_path: Path) -> None:
    config, run = tmp_path / "job.yaml", tmp_path / "cv"
    config.write_text(yaml.safe_dump(JOB))
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"SLICEMAMBA_CACHE": str(tmp_path / "cache"), "RAY_AUTH_MODE": "disabled"}

    def command(*arguments: str) -> str:
        line = [sys.executable, "-m", "api.cli", *arguments]
        done = subprocess.run(line, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    folds = ["cross-validate", str(config), "--folds", "2", "--last-epoch", "--out", str(run)]
    assert "ensemble" in command(*folds)
    result = json.loads((run / "result.json").read_text())
    assert result["network"] == "U-Net"
    assert result["out_of_fold"]["images"] == 10
    assert [fold["best_epoch"] for fold in result["folds"]] == [2, 2]
    low, high = result["ensemble"]["intervals"]["test"]["accuracy"]
    assert low <= result["ensemble"]["scores"]["test"]["accuracy"] <= high

    parts = [ImageScores.load(run / f"fold-{fold}" / "scores" / "val.npz") for fold in (1, 2)]
    pooled = ImageScores.load(run / "scores" / "folds.npz")
    assert sorted(pooled.names) == [f"train_{i:05d}" for i in range(7)] + [f"val_{i:05d}" for i in range(3)]
    assert np.array_equal(pooled.counts, np.concatenate([part.counts for part in parts]))
    ensemble = load_network(run / "ensemble")
    assert isinstance(ensemble, Ensemble)
    assert read_card(run / "ensemble").kind == "ensemble"

    before = (run / "fold-1" / "retrained" / "weights.safetensors").stat().st_mtime_ns
    (run / "result.json").unlink()
    command(*folds)
    assert (run / "fold-1" / "retrained" / "weights.safetensors").stat().st_mtime_ns == before, "not trained again"
    assert json.loads((run / "result.json").read_text())["out_of_fold"] == result["out_of_fold"]

    command("compare", str(run), str(run / "fold-1"), str(run / "fold-2"), "--out", str(tmp_path / "table"))
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert "| cv | Ensemble of 2 (U-Net) |" in text
    assert "| fold-2 | U-Net |" in text
    masks = tmp_path / "masks"
    image = next((run / "predictions").glob("00_*.png"))
    command("predict", str(run / "ensemble"), str(image), "--out", str(masks))
    assert len(list(masks.glob("*.png"))) == 1


def test_more_folds_than_images_are_told_before_training(tmp_path: Path) -> None:
    job = parse_job(JOB)
    assert isinstance(job, RetrainJob)
    part, _ = fold_jobs(job, 11, RunFolder(tmp_path))[0]
    from slicemamba.data.base import load_split

    with pytest.raises(InputError, match="11 folds need as many patients"):
        load_split(part.data, "train", tmp_path / "cache")
