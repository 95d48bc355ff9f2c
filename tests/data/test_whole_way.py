"""From the raw download to scores: prepare, check, a short training, predict, evaluate, for each kind of download."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from test_dicom import write_series

from slicemamba.config import DataConfig, ModelConfig, TrainConfig
from slicemamba.data.base import load_split
from slicemamba.data.catalog import fit_model, resolve_root
from slicemamba.data.checks import check_dataset
from slicemamba.data.convert import Reading
from slicemamba.data.prepare import Kind, SplitPlan
from slicemamba.data.prepare_pictures import prepare_pictures
from slicemamba.data.splits import split_pairs
from slicemamba.data.volumes import find_volumes, read_volume
from slicemamba.evaluation.evaluate import evaluate
from slicemamba.evaluation.inference import InferenceOptions, Segmenter
from slicemamba.evaluation.inputs import find_inputs
from slicemamba.evaluation.per_image import class_scores
from slicemamba.evaluation.predict import Outputs, predict_files
from slicemamba.evaluation.volumes import evaluate_volumes
from slicemamba.models.unet import SliceMambaUNet
from slicemamba.training.trainer import fit

COUNT = 14
SIZE = (32, 32)
SMALL = ModelConfig(skeleton="conv", embed_dim=8, levels=3, block_levels=(1,), d_state=4, drop_path_rate=0.0)
TRAINING = TrainConfig(epochs=25, batch_size=8, learning_rate=1e-2, augment=False)
PLAN = SplitPlan((0.55, 0.15, 0.0, 0.3))


def scene(number: int, classes: int, size: tuple[int, int] = (36, 40)) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Grey noise (H, W) in which each class is brighter than the one before, and its labels."""
    rng = np.random.default_rng(number)
    label = np.zeros(size, np.uint8)
    for one in range(1, classes):
        top, left = rng.integers(2, 12), 2 + (one - 1) * (size[1] // (classes - 1))
        label[top : top + 18, left : left + size[1] // (classes - 1) - 4] = one
    grey = rng.integers(0, 40, size) + label * (200 // (classes - 1))
    return grey.astype(np.uint8), label


def save(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def dataset_json(root: Path, channels: list[str], labels: list[str]) -> None:
    told = {
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": {n: i for i, n in enumerate(labels)},
    }
    (root / "dataset.json").write_text(json.dumps(told))


def clinicdb(root: Path) -> tuple[Kind, Reading]:
    for number in range(COUNT):
        grey, label = scene(number, 2)
        for part, pixels in (("Original", grey), ("Ground Truth", label * np.uint8(255))):
            (root / part).mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(
                root / part / f"{number}.tif",
                np.repeat(pixels[..., None], 3, 2),
                photometric="minisblack",
                planarconfig="contig",
            )
    return "clinicdb", Reading()


def nnunet_three_labels(root: Path) -> tuple[Kind, Reading]:
    for number in range(COUNT):
        grey, label = scene(number, 3)
        save(root / f"imagesTr/c_{number:02d}_0000.png", grey)
        save(root / f"labelsTr/c_{number:02d}.png", label)
    dataset_json(root, ["grey"], ["background", "disc", "cup"])
    return "folder", Reading()


def nnunet_two_channels(root: Path) -> tuple[Kind, Reading]:
    for number in range(COUNT):
        grey, label = scene(number, 2)
        save(
            root / f"imagesTr/c_{number:02d}_0000.png",
            np.random.default_rng(number).integers(0, 99, grey.shape, np.uint8),
        )
        save(root / f"imagesTr/c_{number:02d}_0001.png", grey)
        save(root / f"labelsTr/c_{number:02d}.png", label)
    dataset_json(root, ["noise", "signal"], ["background", "disc"])
    return "folder", Reading()


def volume(number: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """(Z, Y, X)."""
    slices = [scene(10 * number + z, 2) for z in range(4)]
    return np.stack([grey for grey, _ in slices]).astype(np.int16), np.stack([label for _, label in slices])


def nnunet_anisotropic(root: Path) -> tuple[Kind, Reading]:
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
    affine = np.diag([0.6, 0.7, 6.0, 1.0])
    for number in range(COUNT):
        image, label = volume(number)
        nib.save(nib.Nifti1Image(image.T, affine), root / f"imagesTr/c_{number:02d}_0000.nii.gz")
        nib.save(nib.Nifti1Image(label.T, affine), root / f"labelsTr/c_{number:02d}.nii.gz")
    dataset_json(root, ["MRI"], ["background", "lesion"])
    return "folder", Reading()


def dicom(root: Path) -> tuple[Kind, Reading]:
    (root / "labels").mkdir(parents=True)
    for number in range(COUNT):
        image, label = volume(number)
        series = write_series(root / f"images/p{number:02d}", image, f"1.2.{number}")
        nib.save(nib.Nifti1Image(label.T, read_volume(series).affine), root / f"labels/p{number:02d}.nii.gz")
    return "folder", Reading()


def palette_with_ignored(root: Path) -> tuple[Kind, Reading]:
    for number in range(COUNT):
        grey, label = scene(number, 3)
        save(root / f"images/{number}.jpg", grey)
        label[:3] = 255
        picture = Image.fromarray(label, "P")
        picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, *([80] * 759)])
        (root / "masks").mkdir(exist_ok=True)
        picture.save(root / f"masks/{number}.png")
    return "folder", Reading(threshold=False)


def busi(root: Path) -> tuple[Kind, Reading]:
    for number in range(COUNT):
        grey, label = scene(number, 2)
        kind = ("benign", "malignant")[number % 2]
        save(root / kind / f"{kind} ({number}).png", grey)
        left = np.arange(label.shape[1]) < 20
        save(root / kind / f"{kind} ({number})_mask.png", (label * left).astype(bool))
        save(root / kind / f"{kind} ({number})_mask_1.png", (label * ~left).astype(bool))
    return "folder", Reading()


KINDS = [clinicdb, nnunet_three_labels, nnunet_two_channels, nnunet_anisotropic, dicom, palette_with_ignored, busi]


@pytest.mark.parametrize("make", KINDS)
def test_from_the_download_to_scores(tmp_path: Path, make: Callable[[Path], tuple[Kind, Reading]]) -> None:
    """Nothing is told but the folder: dataset.yaml carries classes, channels and what is ignored."""
    kind, reading = make(tmp_path / "raw")
    prepare_pictures(kind, tmp_path / "raw", tmp_path / "set", PLAN, reading=reading)
    config = resolve_root(DataConfig(name="set", root=tmp_path / "set", image_size=SIZE, intensity="zscore"))
    check_dataset(config)
    network = train(config, tmp_path)
    test = load_split(config, "test", tmp_path / "cache")
    scored = evaluate(network, test, batch_size=8, device=torch.device("cpu"), with_hd95=False)
    scores = class_scores(scored.counts, config.class_names)
    assert scored.metrics["dice"] > 0.6, scores
    assert len(scores) >= max(1, config.num_classes - 1)
    segmenter = Segmenter(network, config, torch.device("cpu"), InferenceOptions())
    files = find_volumes(config) or [pair.image for pair in split_pairs(tmp_path / "set", config)["test"]]
    done = predict_files(segmenter, files, Outputs(tmp_path / "out"))
    assert len(done.masks) == len(files) > 0
    if find_volumes(config):
        volumes = evaluate_volumes(segmenter, files)
        assert volumes.unit == "mm"
        assert volumes.dice.mean() > 0.6
    if make is dicom:
        raw, _ = find_inputs([tmp_path / "raw/images"])
        again = predict_files(segmenter, raw[:2], Outputs(tmp_path / "raw out"))
        assert [path.name for path in again.masks] == ["p00.nii.gz", "p01.nii.gz"]


def train(config: DataConfig, folder: Path) -> SliceMambaUNet:
    torch.manual_seed(0)
    model = fit_model(SMALL, config)
    network = SliceMambaUNet(model, config.num_classes, model.uniform((2, 2)))
    data = load_split(config, "train", folder / "cache")
    fit(network, data, TRAINING, validate=lambda: {"dice": 0.0}, on_epoch=lambda report, state: None)
    return network.eval()
