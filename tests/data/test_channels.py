"""Images with more or fewer than three channels, from the file to the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

from slicemamba.config import DataConfig, ModelConfig, TrainConfig
from slicemamba.data.base import load_split
from slicemamba.data.catalog import fit_model, resolve_root
from slicemamba.data.checks import check_dataset
from slicemamba.data.convert import Reading
from slicemamba.data.findings import BadFileError
from slicemamba.data.prepare import SplitPlan
from slicemamba.data.prepare_pictures import prepare_pictures
from slicemamba.data.reading import as_picture, read_image, read_pair
from slicemamba.data.splits import split_pairs
from slicemamba.data.transforms import inputs_of, to_input
from slicemamba.errors import InputError
from slicemamba.evaluation.bundle import describe_preprocessing
from slicemamba.evaluation.inference import InferenceOptions, Segmenter
from slicemamba.evaluation.predict import Outputs, predict_files
from slicemamba.models.initialise import adapt_channels
from slicemamba.models.unet import SliceMambaUNet
from slicemamba.training.trainer import fit

RNG = np.random.default_rng(4)
FIVE = RNG.integers(0, 4096, (36, 40, 5)).astype(np.uint16)
SMALL = ModelConfig(skeleton="conv", embed_dim=8, levels=3, block_levels=(1,), d_state=4, drop_path_rate=0.0)


def save(path: Path, pixels: NDArray[Any], arrangement: str) -> None:
    """A multi-channel TIFF in one of the forms that microscopes and tools write."""
    if arrangement == "samples":
        tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig")
    elif arrangement == "planes":
        tifffile.imwrite(path, np.moveaxis(pixels, -1, 0), photometric="rgb", planarconfig="separate")
    elif arrangement == "imagej":
        tifffile.imwrite(path, np.moveaxis(pixels, -1, 0), imagej=True, metadata={"axes": "CYX"})
    else:
        tifffile.imwrite(path, np.moveaxis(pixels, -1, 0), photometric="minisblack")


@pytest.mark.parametrize("arrangement", ["samples", "planes", "imagej", "pages"])
def test_channels_of_tiff_are_stretched_each_on_its_own(tmp_path: Path, arrangement: str) -> None:
    save(tmp_path / "a.tif", FIVE, arrangement)
    read = read_image(tmp_path / "a.tif", channels=5, per_channel=True)
    low, high = FIVE.min(axis=(0, 1)), FIVE.max(axis=(0, 1))
    np.testing.assert_array_equal(read, np.rint((FIVE - low.astype(float)) * 255 / (high - low)).astype(np.uint8))
    with pytest.raises(BadFileError, match=r"data.channels"):
        read_image(tmp_path / "a.tif")


def test_pages_are_channels_only_where_that_is_told(tmp_path: Path) -> None:
    save(tmp_path / "a.tif", FIVE[..., :3], "pages")
    with pytest.raises(BadFileError, match=r"set data.channels: 3 and data.per_channel: true if they are the channels"):
        read_image(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif", channels=3, per_channel=True).shape == (36, 40, 3)


def test_alpha_is_a_channel_where_it_is_chosen_and_else_dropped_or_refused(tmp_path: Path) -> None:
    infrared = RNG.integers(0, 256, (20, 24, 4), dtype=np.uint8)
    Image.fromarray(infrared).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png", channels=4, per_channel=True), infrared)
    with pytest.raises(BadFileError, match=r"alpha channel is not the same everywhere.*data.channels 4"):
        read_image(tmp_path / "a.png")
    infrared[..., 3] = 255
    Image.fromarray(infrared).save(tmp_path / "b.png")
    np.testing.assert_array_equal(read_image(tmp_path / "b.png"), infrared[..., :3])
    assert read_image(tmp_path / "b.png", channels=1).shape == (20, 24, 1)
    with pytest.raises(BadFileError, match=r"b.png has 4, not 5"):
        read_image(tmp_path / "b.png", channels=5, per_channel=True)


def test_each_channel_is_scaled_on_its_own_unless_they_are_colours() -> None:
    images = np.stack([np.full((4, 6), 10), np.full((4, 6), 200)], axis=-1)[None].astype(np.uint8)
    images[0, 0, 0] = (20, 100)
    each = to_input(images, "minmax", channels=2, per_channel=True)
    assert each[0, 0].max() == each[0, 1].max() == 255
    assert each[0, 0].min() == each[0, 1].min() == 0
    together = to_input(images, "minmax", channels=2)
    assert together[0, 0].max() < 20
    standard = to_input(images, "zscore", channels=2, per_channel=True)
    torch.testing.assert_close(standard.mean(dim=(2, 3)), torch.zeros(1, 2), atol=1e-5, rtol=0)
    assert DataConfig(channels=4).scales_each
    assert not DataConfig().scales_each
    assert DataConfig(per_channel=True).scales_each


def test_network_takes_the_channels_of_the_data() -> None:
    data = DataConfig(name="set", channels=5)
    assert fit_model(ModelConfig(), data).in_channels == 5
    assert fit_model(ModelConfig(in_channels=5), data).in_channels == 5
    with pytest.raises(InputError, match=r"model.in_channels is 4, but the images have 5 channels"):
        fit_model(ModelConfig(in_channels=4), data)
    with pytest.raises(InputError, match="synthetic set has images of 3 channels"):
        resolve_root(DataConfig(channels=4))


def test_stem_of_three_channels_serves_others() -> None:
    weight = torch.randn(8, 3, 4, 4)
    image = torch.randn(2, 1, 16, 16)
    expected = torch.nn.functional.conv2d(image.expand(-1, 3, -1, -1), weight, stride=4)
    for channels in (1, 6):
        given = torch.nn.functional.conv2d(
            image.expand(-1, channels, -1, -1), adapt_channels(weight, channels), stride=4
        )
        torch.testing.assert_close(given, expected, atol=1e-4, rtol=1e-4)


def test_pictures_of_other_channels_in_false_colour() -> None:
    pixels = RNG.integers(0, 256, (5, 6, 5), dtype=np.uint8)
    np.testing.assert_array_equal(as_picture(pixels), pixels[..., :3])
    np.testing.assert_array_equal(as_picture(pixels[..., :2]), np.repeat(pixels[..., :1], 3, axis=2))
    raw = as_picture(np.linspace(0, 900, 30, dtype=np.float32).reshape(5, 6, 1))
    assert (raw.min(), raw.max()) == (0, 255)


def test_set_of_five_channels_from_the_download_to_masks(tmp_path: Path) -> None:
    """prepare, check, a short training and predict; dataset.yaml tells the channels, so nothing is repeated."""
    for part in ("images", "masks"):
        (tmp_path / "raw" / part).mkdir(parents=True)
    for index in range(14):
        marked = np.zeros((36, 40), bool)
        marked[8 + index % 5 : 26, 6 : 20 + index] = True
        pixels = RNG.integers(0, 900, (36, 40, 5)).astype(np.uint16)
        pixels[marked, 4] += 3000  # what the first three channels do not show
        save(tmp_path / "raw/images" / f"{index}.tif", pixels, ("samples", "planes", "imagej", "pages")[index % 4])
        Image.fromarray(marked.astype(np.uint8) * np.uint8(255)).save(tmp_path / "raw/masks" / f"{index}.png")
    with pytest.raises(InputError, match="another number of channels"):
        prepare_pictures("folder", tmp_path / "raw", tmp_path / "none", SplitPlan())
    plan = SplitPlan((0.6, 0.15, 0.0, 0.25))
    prepare_pictures("folder", tmp_path / "raw", tmp_path / "set", plan, reading=Reading(channels=5))
    config = resolve_root(DataConfig(name="set", root=tmp_path / "set", image_size=(32, 32), intensity="zscore"))
    assert config.channels == 5
    check_dataset(config)
    image, _ = read_pair(split_pairs(tmp_path / "set", config)["train"][0], config)
    assert image.shape == (36, 40, 5)
    data = load_split(config, "train", tmp_path / "cache")
    assert inputs_of(data, slice(0, 2)).shape == (2, 5, 32, 32)
    model = fit_model(SMALL, config)
    network = SliceMambaUNet(model, 1, model.uniform((2, 2)))
    reports: list[float] = []
    fit(
        network,
        data,
        TrainConfig(epochs=12, batch_size=4, learning_rate=1e-2, augment=False),
        validate=lambda: {"dice": 0.0},
        on_epoch=lambda report, state: reports.append(report.loss),
    )
    assert reports[-1] < 0.7 * reports[0]
    segmenter = Segmenter(network.eval(), config, torch.device("cpu"), InferenceOptions())
    files = sorted((tmp_path / "set/test/images").iterdir())
    done = predict_files(segmenter, files, Outputs(tmp_path / "out", overlays=True))
    assert len(done.masks) == len(files) > 0
    Image.fromarray(FIVE[..., :3].astype(np.uint8)).save(tmp_path / "rgb.png")
    refused = predict_files(segmenter, [tmp_path / "rgb.png"], Outputs(tmp_path / "out"))
    assert "rgb.png has 3, not 5" in refused.failed[tmp_path / "rgb.png"]
    described = describe_preprocessing(config)
    assert described["input"]["shape"] == ["batch", 5, 32, 32]
    assert described["per_channel"]
