"""Images at their own aspect: where they lie, that nothing around them counts, and that masks come back."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

from slicemamba.config import DataConfig, Fit, TrainConfig
from slicemamba.data.base import load_split
from slicemamba.data.catalog import resolve_root
from slicemamba.data.fit import box_in, pad
from slicemamba.data.reading import IGNORED, resize_pair
from slicemamba.evaluation.evaluate import evaluate, trivial_baselines
from slicemamba.evaluation.inference import InferenceOptions, Segmenter
from slicemamba.evaluation.predict import Outputs, predict_files
from slicemamba.training.task import Segmentation

SIZE = (32, 48)
SIDES = st.integers(1, 300)


class Bright(nn.Module):
    """Marks what is bright, in the image and around it."""

    def forward(self, image: Tensor) -> Tensor:
        return image.mean(dim=1, keepdim=True) - 127.5


def write_set(root: Path, sizes: list[tuple[int, int]]) -> DataConfig:
    """A bright bar along the left edge of dark noise, which an edge that is continued makes wider."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for part in ("images", "masks"):
            (root / split / part).mkdir(parents=True)
        for number, (height, width) in enumerate(sizes):
            mask = np.zeros((height, width), np.uint8)
            mask[:, : width // 3] = 255
            image = np.where(mask > 0, 250, rng.integers(0, 20, mask.shape)).astype(np.uint8)
            Image.fromarray(image).save(root / split / "images" / f"{split}{number}.png")
            Image.fromarray(mask).save(root / split / "masks" / f"{split}{number}.png")
    return resolve_root(DataConfig(name="set", root=root, image_size=SIZE, fit="pad"))


@given(height=SIDES, width=SIDES, size=st.tuples(st.integers(32, 96), st.integers(32, 96)))
def test_an_image_lies_whole_and_centred_at_its_aspect(height: int, width: int, size: tuple[int, int]) -> None:
    box = box_in((height, width), size, "pad")
    below, right = size[0] - box.top - box.height, size[1] - box.left - box.width
    assert 0 <= below - box.top <= 1
    assert 0 <= right - box.left <= 1
    assert min(below + box.top, right + box.left) == 0
    scale = min(size[0] / height, size[1] / width)
    assert abs(box.height - height * scale) <= 1
    assert abs(box.width - width * scale) <= 1
    assert box_in((height, width), size, "stretch") == (0, 0, *size)
    inner = np.random.default_rng(0).integers(0, 99, (*box.size, 2), dtype=np.uint8)
    whole = pad(inner, size, box)
    assert whole.shape == (*size, 2)
    np.testing.assert_array_equal(whole[box.inside[1:]], inner)
    assert (whole.min(), whole.max()) == (inner.min(), inner.max())


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_masks_are_ignored_around_the_image(kind: type) -> None:
    image, mask = np.full((40, 20, 3), 7, kind), np.ones((40, 20), np.uint8)
    resized, labels = resize_pair(image, mask, SIZE, "pad")
    assert (resized.shape, resized.dtype) == ((*SIZE, 3), kind)
    assert (labels[:, 16:32] == 1).all()
    assert (np.delete(labels, range(16, 32), axis=1) == IGNORED).all()


def test_pixels_around_an_image_count_in_no_loss_and_no_score(tmp_path: Path) -> None:
    """The bar is continued to the left, where the network marks it, too; it is right all the same."""
    config = write_set(tmp_path / "set", [(60, 30), (64, 32)])
    data = load_split(config, "test", tmp_path / "cache")
    scored = evaluate(Bright(), data, batch_size=2, device=torch.device("cpu"))
    assert scored.labels[:, :, :10].all()
    assert scored.metrics["dice"] > 0.97
    assert scored.metrics["hd95"] < 2
    assert int(scored.counts[0].sum()) == 32 * 16
    assert trivial_baselines(data)["all foreground"]["accuracy"] == pytest.approx(1 / 3, abs=0.05)
    task = Segmentation(data, TrainConfig(augment=False))
    images, masks = task.load(np.array([0, 1]), 0, 0, torch.device("cpu"))
    logits = torch.randn(2, 1, *SIZE, requires_grad=True)
    task.loss(logits, masks).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 0][masks == IGNORED] == 0).all()
    assert (logits.grad[:, 0][masks != IGNORED] != 0).all()
    assert images.shape == (2, 3, *SIZE)


def test_each_way_has_its_own_cache(tmp_path: Path) -> None:
    config = write_set(tmp_path / "set", [(60, 30), (64, 32)])
    padded = load_split(config, "test", tmp_path / "cache")
    stretched = load_split(config.model_copy(update={"fit": "stretch"}), "test", tmp_path / "cache")
    assert (padded.masks[0] == IGNORED).mean() > 0.6
    assert not (stretched.masks[0] == IGNORED).any()
    assert len(list((tmp_path / "cache").iterdir())) == 2


@pytest.mark.parametrize("fit", ["stretch", "pad"])
def test_masks_come_back_to_the_grid_of_their_image(tmp_path: Path, fit: Fit) -> None:
    sizes = [(90, 41), (33, 200), (500, 400), (32, 48), (7, 9)]
    write_set(tmp_path / "set", sizes)
    config = DataConfig(name="x", image_size=SIZE, fit=fit)
    segmenter = Segmenter(Bright(), config, torch.device("cpu"), InferenceOptions(batch_size=3))
    files = sorted((tmp_path / "set/test/images").iterdir())
    done = predict_files(segmenter, files, Outputs(tmp_path / "out", probabilities=True))
    for path, (height, width) in zip(sorted(done.masks), sizes, strict=True):
        found = np.asarray(Image.open(path))
        truth = np.arange(width) < width // 3
        assert found.shape == (height, width)
        wrong = ((found > 0) != truth).mean()
        assert wrong <= 1.5 * max(1, width / 48, height / 32) / width, (path, wrong)


def test_volumes_come_back_to_their_grid(tmp_path: Path) -> None:
    values = np.zeros((3, 70, 25), np.int16)  # (Z, Y, X)
    values[:, 20:50, :12] = 900
    nib.save(nib.Nifti1Image(values.T, np.diag([0.5, 0.5, 3, 1])), tmp_path / "v.nii.gz")
    config = DataConfig(name="x", image_size=SIZE, fit="pad", channels=1)
    segmenter = Segmenter(Bright(), config, torch.device("cpu"), InferenceOptions())
    done = predict_files(segmenter, [tmp_path / "v.nii.gz"], Outputs(tmp_path / "out", probabilities=True))
    found = np.asarray(nib.load(done.masks[0]).dataobj).T
    assert found.shape == values.shape
    assert ((found > 0) != (values > 0)).mean() < 0.06
    probabilities = np.asarray(nib.load(tmp_path / "out/probabilities/v.nii.gz").dataobj).T
    assert ((probabilities > 0.5) != (values > 0)).mean() < 0.06
