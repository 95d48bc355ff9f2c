"""The result of a run on a set with test volumes carries their scores, and the run's folder their predictions."""

from __future__ import annotations

from pathlib import Path

import h5py
import nibabel as nib
import numpy as np

from cluster.config import TrainWorkers
from cluster.results import _evaluate_network
from cluster.run_folder import RunFolder
from slicemamba.architecture import Architecture
from slicemamba.config import DataConfig, ModelConfig
from slicemamba.models.checkpoints import save_network
from slicemamba.models.unet import SliceMambaUNet


def write_set(root: Path) -> DataConfig:
    """Five training slices and two test volumes of two organs."""
    rng = np.random.default_rng(0)
    (root / "train_npz").mkdir(parents=True)
    (root / "test_vol_h5").mkdir()
    for case in range(1, 8):
        label = np.zeros((3, 40, 36), np.uint8)
        label[:, 5:15, 6:18], label[:, 20:33, 15:30] = 1, 2
        image = (label / 2 * 0.8 + rng.random(label.shape) * 0.2).astype(np.float32)
        if case <= 5:
            np.savez(root / "train_npz" / f"case{case:04d}_slice000.npz", image=image[0], label=label[0])
            continue
        with h5py.File(root / "test_vol_h5" / f"case{case:04d}.npy.h5", "w") as file:
            file["image"], file["label"] = image, label
    return DataConfig(name="organs", root=root, image_size=(32, 32), num_classes=3, intensity="unit")


def test_volumes_are_scored_beside_the_slices(tmp_path: Path) -> None:
    config = write_set(tmp_path / "organs")
    model = ModelConfig(embed_dim=8, encoder_depths=(1,), decoder_depths=(1,), d_state=2)
    save_network(tmp_path / "network", SliceMambaUNet(model, 3, Architecture.parse("s1:2x2|s2:2x4")), config)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    result = _evaluate_network(TrainWorkers(), config, tmp_path / "network", run, tmp_path / "cache", 2, ("test",))
    assert set(result["volumes"]["cases"]) == {"case0006", "case0007"}
    assert set(result["volumes"]["classes"]) == {"1", "2"}
    assert 0 <= result["volumes"]["dice"] <= 1
    assert result["volumes"]["hd95_unit"] == "voxels"
    for case in ("case0006", "case0007"):
        written = nib.load(run.path / "predictions" / "volumes" / f"{case}.nii.gz")
        assert written.shape == (36, 40, 3)
    assert result["scores"]["test"].keys() >= {"dice", "hd95"}
