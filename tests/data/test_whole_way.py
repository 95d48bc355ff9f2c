"""From the raw download to scores by the commands: prepare, check, a short training, evaluate, predict on the download.

Each kind of download is written by the test. Masks that `predict` makes are compared with the truth of the raw files by
NumPy alone, at their own size, so that no fault of reading, turning or resizing cancels itself out.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import tifffile
import torch
import typer
from numpy.typing import NDArray
from PIL import Image
from test_dicom import write_frame, write_series
from test_dicom_seg import write_segmentation
from typer.testing import CliRunner

import cluster.cli
from slicemamba import cli
from slicemamba.config import DataConfig, Fit, ModelConfig, TrainConfig
from slicemamba.data.base import load_split
from slicemamba.data.cache import default_cache_dir
from slicemamba.data.catalog import fit_model, resolve_root
from slicemamba.data.volumes import read_volume
from slicemamba.models.checkpoints import save_network
from slicemamba.models.unet import SliceMambaUNet
from slicemamba.training.trainer import fit

COUNT, CASES, SLICES = 14, 8, 4
"""Pictures of a download; volumes, and slices of each."""
SIZE, RAW = (32, 32), (36, 44)
SMALL = ModelConfig(skeleton="conv", embed_dim=8, levels=3, block_levels=(1,), d_state=4, drop_path_rate=0.0)
TRAINING = TrainConfig(epochs=25, batch_size=8, learning_rate=1e-2, augment=False)
IGNORED = 255

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Raw:
    """A download that was written.

    Attributes:
        truth: name of each file that `predict` is to write → labels (H, W) or (Z, H, W), ``IGNORED`` where none is.
        inputs: what `predict` is given, below the download. prepare: options of `data prepare`.
        kind: its KIND. classes: names of the classes, as they are to be told.
    """

    truth: dict[str, Labels]
    inputs: str | tuple[str, ...]
    prepare: tuple[str, ...] = ()
    kind: str = "folder"
    classes: tuple[str, ...] | None = None


def scene(number: int, classes: int = 2) -> tuple[NDArray[np.uint8], Labels]:
    """Grey noise (H, W) in which each class is brighter than the one before, and its labels."""
    rng = np.random.default_rng(number)
    label = np.zeros(RAW, np.uint8)
    width = RAW[1] // (classes - 1)
    for one in range(1, classes):
        top, left = rng.integers(2, 14), (one - 1) * width + rng.integers(2, 8)
        label[top : top + 18, left : left + width - 10] = one
    grey = rng.integers(0, 40, RAW) + label * (200 // (classes - 1))
    return grey.astype(np.uint8), label


def volume(number: int) -> tuple[NDArray[np.int16], Labels]:
    """(Z, Y, X)."""
    slices = [scene(SLICES * number + z) for z in range(SLICES)]
    return np.stack([grey for grey, _ in slices]).astype(np.int16), np.stack([label for _, label in slices])


def save(path: Path, pixels: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def describe(root: Path, channels: list[str], labels: list[str]) -> None:
    names = {str(number): name for number, name in enumerate(channels)}
    told = {"channel_names": names, "labels": {name: value for value, name in enumerate(labels)}}
    (root / "dataset.json").write_text(json.dumps(told))


def clinicdb(root: Path) -> Raw:
    """TIFF of three samples that are declared as grey."""
    truth = {}
    for number in range(COUNT):
        grey, truth[f"{number}.png"] = scene(number)
        for part, pixels in (("Original", grey), ("Ground Truth", truth[f"{number}.png"] * np.uint8(255))):
            (root / part).mkdir(parents=True, exist_ok=True)
            colours = np.repeat(pixels[..., None], 3, 2)
            tifffile.imwrite(root / part / f"{number}.tif", colours, photometric="minisblack", planarconfig="contig")
    return Raw(truth, "Original", kind="clinicdb")


def nnunet_three_labels(root: Path) -> Raw:
    truth = {}
    for number in range(COUNT):
        grey, label = scene(number, 3)
        truth[f"c_{number:02d}_0000.png"] = label
        save(root / f"imagesTr/c_{number:02d}_0000.png", grey)
        save(root / f"labelsTr/c_{number:02d}.png", label)
    describe(root, ["grey"], ["background", "disc", "cup"])
    return Raw(truth, "imagesTr", classes=("background", "disc", "cup"))


def nnunet_two_channels(root: Path) -> Raw:
    """Only the second channel shows anything."""
    truth = {}
    for number in range(COUNT):
        grey, label = scene(number)
        truth[f"c_{number:02d}.png"] = label
        noise = np.random.default_rng(number).integers(0, 99, RAW, np.uint8)
        save(root / f"imagesTr/c_{number:02d}_0000.png", noise)
        save(root / f"imagesTr/c_{number:02d}_0001.png", grey)
        save(root / f"labelsTr/c_{number:02d}.png", label)
    describe(root, ["noise", "signal"], ["background", "disc"])
    return Raw(truth, "imagesTr", classes=("background", "disc"))


def nnunet_anisotropic(root: Path) -> Raw:
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
    affine, truth = np.diag([0.6, 0.7, 6.0, 1.0]), {}
    for number in range(CASES):
        image, label = volume(number)
        truth[f"c_{number:02d}_0000.nii.gz"] = label
        nib.save(nib.Nifti1Image(image.T, affine), root / f"imagesTr/c_{number:02d}_0000.nii.gz")
        nib.save(nib.Nifti1Image(label.T, affine), root / f"labelsTr/c_{number:02d}.nii.gz")
    describe(root, ["MRI"], ["background", "lesion"])
    return Raw(truth, "imagesTr", classes=("background", "lesion"))


def dicom_series(root: Path) -> Raw:
    """With NIfTI labels whose rows and columns run the other way, as converters write them."""
    (root / "labels").mkdir(parents=True)
    truth = {}
    for number in range(CASES):
        image, truth[f"p{number:02d}.nii.gz"] = volume(number)
        series = write_series(root / f"images/p{number:02d}", image, f"1.2.{number}")
        affine = read_volume(series).affine
        assert affine is not None
        made = nib.Nifti1Image(truth[f"p{number:02d}.nii.gz"].T, affine)
        nib.save(nib.as_closest_canonical(made), root / f"labels/p{number:02d}.nii.gz")
    return Raw(truth, "images")


def palette_with_ignored(root: Path) -> Raw:
    truth = {}
    for number in range(COUNT):
        grey, label = scene(number, 3)
        save(root / f"images/{number}.jpg", grey)
        label[:3] = IGNORED
        truth[f"{number}.png"] = label
        picture = Image.fromarray(label, "P")
        picture.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, *([80] * 759)])
        (root / "masks").mkdir(exist_ok=True)
        picture.save(root / f"masks/{number}.png")
    return Raw(truth, "images", prepare=("--labels",))


def busi(root: Path) -> Raw:
    """Two masks an image, beside it, in folders of classes, with spaces and parentheses in their names."""
    truth = {}
    for number in range(COUNT):
        grey, label = scene(number)
        kind = ("benign", "malignant")[number % 2]
        truth[f"{kind} ({number}).png"] = label
        save(root / kind / f"{kind} ({number}).png", grey)
        left = np.arange(RAW[1]) < 20
        save(root / kind / f"{kind} ({number})_mask.png", (label * left).astype(bool))
        save(root / kind / f"{kind} ({number})_mask_1.png", (label * ~left).astype(bool))
    return Raw(truth, ".")


def objects(root: Path) -> Raw:
    """As the Data Science Bowl has them: a folder an image, a mask an object; here of all formats."""
    truth = {}
    for number in range(COUNT):
        grey, label = scene(number)
        truth[f"{number}.png"] = label
        ending = (".png", ".bmp", ".gif", ".tif", ".JPEG")[number % 5]
        save(root / f"{number}/images/{number}{ending}", np.repeat(grey[..., None], 3, 2))
        for part, rows in enumerate(np.array_split(np.arange(RAW[0]), 3)):
            own = np.isin(np.arange(RAW[0]), rows)[:, None]
            save(root / f"{number}/masks/object {part}.png", label * own * np.uint8(255))
    return Raw(truth, ".")


def colours_of_half_size(root: Path) -> Raw:
    """Masks in colour, compressed as JPEG, of half the size, in a table with names of its own."""
    palette = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255]], np.uint8)
    truth, lines = {}, ["Bild;Maske"]
    for number in range(COUNT):
        grey, label = scene(number, 3)
        label = np.repeat(np.repeat(label[::2, ::2], 2, 0), 2, 1)
        truth[f"Läsion {number}.png"] = label
        save(root / f"Bilder/Läsion {number}.PNG", grey)
        (root / "Masken").mkdir(exist_ok=True)
        Image.fromarray(palette[label[::2, ::2]]).save(root / f"Masken/m{number}.jpg", quality=95, subsampling=0)
        lines.append(f"Bilder/Läsion {number}.PNG;Masken/m{number}.jpg")
    (root / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")
    options = ("--pairs", str(root / "pairs.csv"), "--columns", "Bild,Maske", "--resize-masks")
    colours = ("--colours", "#000000=background,#ff0000=disc,#0000ff=cup")
    return Raw(truth, "Bilder", prepare=(*options, *colours), classes=("background", "disc", "cup"))


def infrared_in_alpha(root: Path) -> Raw:
    truth = {}
    for number in range(COUNT):
        grey, truth[f"{number}.png"] = scene(number)
        noise = np.random.default_rng(number).integers(0, 99, (*RAW, 3), np.uint8)
        save(root / f"images/{number}.png", np.concatenate([noise, grey[..., None]], axis=-1))
        save(root / f"masks/{number}_mask.png", truth[f"{number}.png"] * np.uint8(255))
    return Raw(truth, "images", prepare=("--channels", "4"))


def dicom_segmentations(root: Path) -> Raw:
    truth = {}
    for number in range(CASES):
        image, truth[f"p{number:02d}.nii.gz"] = volume(number)
        write_series(root / f"images/p{number:02d}", image, f"1.2.{number}")
        write_segmentation(root / f"masks/p{number:02d}.dcm", truth[f"p{number:02d}.nii.gz"])
    return Raw(truth, "images")


def dicom_frames(root: Path) -> Raw:
    truth = {}
    for number in range(COUNT):
        grey, truth[f"f{number}.png"] = scene(number)
        dark = (4000 - 16 * grey.astype(np.int32)).astype(np.uint16)
        write_frame(root / f"images/f{number}.dcm", dark, "MONOCHROME1", series=f"1.7.{number}")
        save(root / f"masks/f{number}.png", truth[f"f{number}.png"] * np.uint8(255))
    return Raw(truth, "images")


def nnunet_two_sequences(root: Path) -> Raw:
    """NRRD volumes, of which only the second sequence shows anything, and a test set of its own."""
    truth = {}
    for number in range(CASES):
        image, label = volume(number)
        part = "Ts" if number < 2 else "Tr"
        truth[f"c_{number:02d}.nii.gz"] = label
        noise = np.random.default_rng(number).integers(0, 99, image.shape).astype(np.int16)
        for name, values in (
            (f"images{part}/c_{number:02d}_0000", noise),
            (f"images{part}/c_{number:02d}_0001", image),
        ):
            write_nrrd(root / f"{name}.nrrd", values)
        write_nrrd(root / f"labels{part}/c_{number:02d}.nrrd", label)
    describe(root, ["T1", "FLAIR"], ["background", "lesion"])
    return Raw(truth, ("imagesTr", "imagesTs"), classes=("background", "lesion"))


def write_nrrd(path: Path, values: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image: Any = SimpleITK.GetImageFromArray(values)
    image.SetSpacing((0.6, 0.7, 5.0))
    SimpleITK.WriteImage(image, str(path))


def decathlon(root: Path) -> Raw:
    """NIfTI of four dimensions, of which the last is the sequences."""
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True)
    truth = {}
    for number in range(CASES):
        image, truth[f"case_{number:03d}.nii.gz"] = volume(number)
        label = truth[f"case_{number:03d}.nii.gz"]
        both = np.stack([np.random.default_rng(number).integers(0, 99, image.shape).astype(np.int16), image])
        nib.save(nib.Nifti1Image(both.T, np.diag([1.0, 1.0, 3.0, 1.0])), root / f"imagesTr/case_{number:03d}.nii.gz")
        nib.save(nib.Nifti1Image(label.T, np.diag([1.0, 1.0, 3.0, 1.0])), root / f"labelsTr/case_{number:03d}.nii.gz")
    told = {"modality": {"0": "T1", "1": "FLAIR"}, "labels": {"0": "background", "1": "lesion"}}
    (root / "dataset.json").write_text(json.dumps(told))
    return Raw(truth, "imagesTr", classes=("background", "lesion"))


KINDS = [
    clinicdb,
    nnunet_three_labels,
    nnunet_two_channels,
    nnunet_anisotropic,
    nnunet_two_sequences,
    decathlon,
    dicom_series,
    dicom_segmentations,
    dicom_frames,
    palette_with_ignored,
    busi,
    objects,
    colours_of_half_size,
    infrared_in_alpha,
]


def call(*arguments: object) -> str:
    """What a command prints, of those that need no cluster."""
    app = typer.Typer(pretty_exceptions_enable=False)
    cli.register(app)
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize(
    ("make", "fit"),
    [
        *((make, "stretch") for make in KINDS),
        *((make, fitted) for make in (nnunet_three_labels, nnunet_anisotropic) for fitted in ("pad", "patch")),
    ],
)
def test_from_the_download_to_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Raw], fit: Fit
) -> None:
    """Nothing is told twice: dataset.yaml carries classes, channels and what is ignored from prepare on."""
    monkeypatch.setenv("SLICEMAMBA_CACHE", str(tmp_path / "cache"))
    root, made, network = tmp_path / "raw", tmp_path / "set", tmp_path / "network"
    raw = make(root)
    call("data", "prepare", raw.kind, root, made, "--fractions", "0.5,0.15,0.15,0.2", *raw.prepare)
    checked = json.loads(call("data", "check", made, "--no-sheet", "--json"))
    assert checked["ok"]
    assert tuple(checked["class_names"] or ()) == (raw.classes or ())
    train(made, network, fit)
    scored = json.loads(call("evaluate", network, "--json", "--out", tmp_path / "scores"))
    assert scored["metrics"]["dice"] > 0.7
    told = [*(raw.classes or [f"class {label}" for label in range(label_count(raw))])[1:]]
    assert list(scored["classes"]) == told
    assert all(scores["dice"] > 0.5 for scores in scored["classes"].values())
    of_volumes = next(iter(raw.truth.values())).ndim == 3
    assert ("volumes" in scored) == of_volumes
    if of_volumes:
        assert scored["volumes"]["hd95_unit"] == "mm"
        assert scored["volumes"]["dice"] > 0.7
    inputs = [raw.inputs] if isinstance(raw.inputs, str) else raw.inputs
    call("predict", network, *(root / folder for folder in inputs), "--out", tmp_path / "masks")
    written = {path.name: path for path in (tmp_path / "masks").rglob("*") if path.is_file()}
    compare(raw, written)


def label_count(raw: Raw) -> int:
    return 1 + max(int(label[label != IGNORED].max()) for label in raw.truth.values())


def train(folder: Path, network: Path, fit_: Fit) -> None:
    torch.manual_seed(0)
    config = resolve_root(DataConfig(name="set", root=folder, image_size=SIZE, fit=fit_, intensity="zscore"))
    model = fit_model(SMALL, config)
    made = SliceMambaUNet(model, config.num_classes, model.uniform((2, 2)))
    data = load_split(config, "train", default_cache_dir())
    fit(made, data, TRAINING, validate=lambda: {"dice": 0.0}, on_epoch=lambda report, state: None)
    save_network(network, made.eval(), config)


def compare(raw: Raw, written: dict[str, Path]) -> None:
    """By NumPy alone: Dice of each class over all files, at the size and in the geometry of the raw files."""
    assert set(raw.truth) <= set(written)
    classes = label_count(raw)
    counts = np.zeros((classes, 2))
    for name, truth in raw.truth.items():
        found = read(written[name]) // (255 if classes == 2 and name.endswith(".png") else 1)
        assert found.shape == truth.shape
        for label in range(1, classes):
            both = (found == label) & (truth == label)
            either = (found == label)[truth != IGNORED].sum() + (truth == label).sum()
            counts[label] += 2 * both.sum(), either
    assert (counts[1:, 0] / counts[1:, 1] > 0.7).all(), counts


def read(path: Path) -> NDArray[Any]:
    if path.name.endswith(".nii.gz"):
        return np.asanyarray(nib.load(path).dataobj).T
    return np.asarray(Image.open(path))


JOB = """
kind: search
recipe: scratch
data: {name: set, root: %s, image_size: [32, 32], intensity: zscore, fit: %s}
model: {skeleton: conv, embed_dim: 8, levels: 3, block_levels: [1], d_state: 4}
space: {choices: [2x2, 4x4, c3, "-"], weight_sharing: shared}
supernet: {epochs: 12, batch_size: 4, learning_rate: 0.01, validate_every: 12}
search: {searcher: random, objectives: [dice, flops], num_trials: 4}
retrain: {epochs: 25, batch_size: 8, learning_rate: 0.01, augment: false, validate_every: 25}
resources: {train: {cpus: 1}}
"""


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("make", "fit"), [(nnunet_two_channels, "stretch"), (nnunet_anisotropic, "stretch"), (nnunet_three_labels, "patch")]
)
def test_from_the_download_through_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Raw], fit: Fit
) -> None:
    """The training of the other test is `slicemamba search` here; its run is what `predict` is given."""
    monkeypatch.setenv("SLICEMAMBA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    raw = make(tmp_path / "raw")
    call("data", "prepare", raw.kind, tmp_path / "raw", tmp_path / "set", *raw.prepare)
    (tmp_path / "job.yaml").write_text(JOB % (tmp_path / "set", fit))
    app = typer.Typer(pretty_exceptions_enable=False)
    cluster.cli.register(app)
    command = ["search", str(tmp_path / "job.yaml"), "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    scored = json.loads(call("evaluate", tmp_path / "run", "--json"))
    assert scored["metrics"]["dice"] > 0.7
    call("predict", tmp_path / "run", tmp_path / "raw" / str(raw.inputs), "--out", tmp_path / "masks")
    compare(raw, {path.name: path for path in (tmp_path / "masks").rglob("*") if path.is_file()})
