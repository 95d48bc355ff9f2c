"""Pixels that bear no label: they count in no loss and no score."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from slicemamba.config import DataConfig, validate
from slicemamba.data.base import SegmentationData, load_split
from slicemamba.data.catalog import resolve_root
from slicemamba.data.checks import check_dataset
from slicemamba.data.convert import Reading
from slicemamba.data.prepare import SplitPlan
from slicemamba.data.prepare_pictures import label_options, prepare_pictures
from slicemamba.data.reading import IGNORED, as_classes
from slicemamba.errors import InputError
from slicemamba.evaluation.boundaries import boundary_scores
from slicemamba.evaluation.evaluate import evaluate
from slicemamba.evaluation.figures import comparison
from slicemamba.evaluation.metrics import confusion, image_hd95
from slicemamba.evaluation.volumes import volume_dice, volume_hd95
from slicemamba.training.losses import segmentation_loss

RNG = np.random.default_rng(8)


def with_ignored(num_classes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, a target of which the right half is ignored, and the same target's left half."""
    logits = torch.randn(3, num_classes, 12, 16)
    target = torch.randint(0, max(2, num_classes), (3, 12, 16), dtype=torch.uint8)
    left = target[..., :8].clone()
    target[..., 8:] = IGNORED
    return logits, target, left


@pytest.mark.parametrize("num_classes", [1, 4])
def test_ignored_pixels_change_neither_loss_nor_gradient_nor_scores(num_classes: int) -> None:
    logits, target, left = with_ignored(num_classes)
    logits.requires_grad_()
    loss = segmentation_loss(logits, target)
    torch.testing.assert_close(loss, segmentation_loss(logits[..., :8], left))
    loss.backward()
    assert logits.grad is not None
    assert (logits.grad[..., 8:] == 0).all()
    assert (logits.grad[..., :8] != 0).any()
    counts = confusion(logits.detach(), target, num_classes)
    assert torch.equal(counts, confusion(logits.detach()[..., :8], left, num_classes))
    assert counts[:, 0].sum() == left.numel()
    nothing = segmentation_loss(logits, torch.full_like(target, IGNORED))
    assert torch.isfinite(nothing)


def test_distances_do_not_see_what_is_ignored() -> None:
    truth = np.zeros((1, 30, 30), np.uint8)
    truth[0, 5:15, 5:15] = 1
    predicted = truth.copy()
    predicted[0, 24:28, 24:28] = 1  # far away
    assert image_hd95(predicted, truth, 1)[0] > 5
    truth[0, 20:, 20:] = IGNORED
    assert image_hd95(predicted, truth, 1)[0] == 0
    assert boundary_scores(predicted, truth, 1, 1.0)["lesions_made_up"] == 0
    assert volume_dice(predicted, truth, 1)[0] == 1
    assert volume_hd95(predicted, truth, 1, (1.0, 1.0, 1.0))[0] == 0


def test_stored_values_become_ignored() -> None:
    stored = np.array([[0, 255, 7]])
    np.testing.assert_array_equal(as_classes(stored, "a.png", 3, {0: 0, 7: 2}, 255), [[0, IGNORED, 2]])
    np.testing.assert_array_equal(as_classes(np.array([[0, 128, 255]]), "a.png", 1, None, 128), [[0, IGNORED, 1]])
    with pytest.raises(InputError, match="ignore_label must be no value of a class; got 2"):
        validate(DataConfig, {"num_classes": 3, "ignore_label": 2}, source="x")


def test_voc_border_is_proposed_as_ignored(tmp_path: Path) -> None:
    assert label_options([0, 1, 2, 255]) == {"ignore_label": 255, "num_classes": 3, "label_map": None}
    assert label_options([0, 1, 9, 255], 9) == {"ignore_label": 9, "num_classes": 3, "label_map": {0: 0, 1: 1, 255: 2}}
    for part in ("images", "masks"):
        (tmp_path / "raw" / part).mkdir(parents=True)
    for index in range(12):
        labels = RNG.integers(0, 3, (20, 24)).astype(np.uint8)
        labels[:, 18:] = 255
        Image.fromarray(RNG.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(tmp_path / f"raw/images/{index}.png")
        Image.fromarray(labels).save(tmp_path / f"raw/masks/{index}.png")
    prepare_pictures("folder", tmp_path / "raw", tmp_path / "set", SplitPlan(), reading=Reading(threshold=False))
    config = resolve_root(DataConfig(name="set", root=tmp_path / "set", image_size=(32, 32)))
    assert (config.num_classes, config.ignore_label) == (3, 255)
    report = check_dataset(config)
    assert sum(report.class_share["train"]) == pytest.approx(1)
    data = load_split(config, "test", tmp_path / "cache")
    assert (np.asarray(data.masks) == IGNORED).mean() == pytest.approx(0.25, abs=0.02)
    scored = evaluate(perfect(data), data, batch_size=4, device=torch.device("cpu"))
    assert scored.metrics["dice"] == 1
    assert scored.metrics["hd95"] == 0


def perfect(data: SegmentationData):  # type: ignore[no-untyped-def]
    """A network that is right wherever there is a label, and says class 1 elsewhere."""
    masks = torch.from_numpy(np.where(data.masks == IGNORED, 1, data.masks)).long()
    given = iter(masks.split(4))
    return lambda images: torch.nn.functional.one_hot(next(given), 3).permute(0, 3, 1, 2).float()


def test_binary_set_with_a_value_to_be_ignored(tmp_path: Path) -> None:
    for part in ("images", "masks"):
        (tmp_path / "raw" / part).mkdir(parents=True)
    values = np.array([0, 1, 255], np.uint8)[np.arange(24) // 8][None].repeat(20, axis=0)
    for index in range(12):
        Image.fromarray(RNG.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(tmp_path / f"raw/images/{index}.png")
        Image.fromarray(values).save(tmp_path / f"raw/masks/{index}.png")
    prepare_pictures("folder", tmp_path / "raw", tmp_path / "set", SplitPlan(), reading=Reading(ignore_label=255))
    config = resolve_root(DataConfig(name="set", root=tmp_path / "set", image_size=(32, 32)))
    assert config.num_classes == 1
    assert check_dataset(config).foreground_share["train"] == pytest.approx(0.5)
    masks = np.asarray(load_split(config, "train", tmp_path / "cache").masks)
    assert set(np.unique(masks)) == {0, 1, IGNORED}


@pytest.mark.parametrize("num_classes", [1, 3])
def test_figures_show_what_is_not_scored_in_grey(num_classes: int) -> None:
    truth = np.zeros((256, 256), np.uint8)
    truth[:100, :100], truth[200:] = 1, IGNORED
    prediction = np.ones((256, 256), np.uint8)
    _, shown, predicted = comparison(np.zeros((256, 256, 3), np.uint8), truth, prediction, num_classes)
    assert (shown[210:] == 110).all()
    assert (predicted[210:] == 0).all()
