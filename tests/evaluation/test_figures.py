"""Pictures of predictions: they are written, have the right size and order, and show the right colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from slicemamba.data.base import SegmentationData
from slicemamba.evaluation.evaluate import Evaluation, evaluate
from slicemamba.evaluation.figures import PREDICTION_COLOUR, TRUTH_COLOUR, comparison, save_predictions


def darkness(image: Tensor) -> Tensor:
    return 110 - image.mean(dim=1, keepdim=True)


@pytest.fixture
def scored(tiny_data: SegmentationData) -> Evaluation:
    return evaluate(darkness, tiny_data, batch_size=4, device=torch.device("cpu"))


def dice_of(scored: Evaluation, data: SegmentationData) -> list[float]:
    pairs = zip(scored.labels > 0, data.masks > 0, strict=True)
    return [2 * (p & t).sum() / max(1, p.sum() + t.sum()) for p, t in pairs]


def read(file: Path) -> NDArray[np.uint8]:
    with Image.open(file) as picture:
        picture.load()
        return np.asarray(picture)


def test_one_picture_an_image_worst_first_and_an_overview(
    tmp_path: Path, tiny_data: SegmentationData, scored: Evaluation
) -> None:
    files = save_predictions(tmp_path / "new" / "predictions", tiny_data, scored)
    *pictures, overview = files
    assert all(file.is_file() for file in files)
    assert sorted((tmp_path / "new" / "predictions").iterdir()) == sorted(files)
    dice = dice_of(scored, tiny_data)
    worst_first = np.argsort(dice, kind="stable")
    expected = [f"{rank:02d}_lesion_{i}_dice{dice[i]:.3f}.png" for rank, i in enumerate(worst_first)]
    assert [file.name for file in pictures] == expected
    height, width = 32 * 8, 3 * 40 * 8 + 2 * 4  # enlarged eightfold to 256 rows; two gaps of 4
    assert {read(file).shape for file in pictures} == {(height, width, 3)}
    assert overview.name == "predictions.png"
    assert read(overview).shape == (4 * height + 3 * 8, 2 * width + 24, 3)


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_limit_keeps_the_worst_and_the_best(
    tmp_path: Path, tiny_data: SegmentationData, scored: Evaluation, limit: int
) -> None:
    names = [file.name for file in save_predictions(tmp_path, tiny_data, scored, limit=limit)[:-1]]
    order = [f"lesion_{i}" for i in np.argsort(dice_of(scored, tiny_data), kind="stable")]
    worst = limit - limit // 2
    assert [name.split("_dice")[0][3:] for name in names] == order[:worst] + order[7 - limit // 2 :]


def test_empty_prediction_of_an_empty_mask_counts_as_right(tmp_path: Path, tiny_data: SegmentationData) -> None:
    data = SegmentationData(tiny_data.images, np.zeros_like(tiny_data.masks), tiny_data.names, "test", 1)
    scored = evaluate(lambda x: x[:, :1] * 0 - 1, data, batch_size=7, device=torch.device("cpu"))
    assert all("dice1.000" in file.name for file in save_predictions(tmp_path, data, scored)[:-1])


def test_dice_of_label_masks_leaves_the_background_out(tmp_path: Path, tiny_data: SegmentationData) -> None:
    data = SegmentationData(tiny_data.images, tiny_data.masks * 2, tiny_data.names, "test", 3)
    background = torch.tensor([1.0, 0.0, 0.0])[None, :, None, None]
    scored = evaluate(lambda x: background.expand(len(x), 3, 32, 40), data, batch_size=7, device=torch.device("cpu"))
    assert all("dice0.000" in file.name for file in save_predictions(tmp_path, data, scored)[:-1])


def test_comparison_shows_outlines_and_both_masks() -> None:
    truth, prediction = np.zeros((2, 300, 260), dtype=np.uint8)
    truth[50:100, 50:100] = 1
    prediction[150:200, 150:200] = 1
    image = np.full((300, 260, 3), 77, dtype=np.uint8)
    picture = comparison(image, truth, prediction)
    assert picture.shape == (300, 3 * 260 + 8, 3)
    drawn, shown_truth, shown_prediction = picture[:, :260], picture[:, 264:524], picture[:, 528:]
    assert tuple(drawn[50, 75]) == TRUTH_COLOUR
    assert tuple(drawn[150, 175]) == PREDICTION_COLOUR
    assert tuple(drawn[75, 75]) == (77, 77, 77), "the inside stays visible"
    assert np.array_equal(shown_truth[..., 0], truth * 255)
    assert np.array_equal(shown_prediction[..., 0], prediction * 255)
    assert (image == 77).all(), "the given image is not drawn on"
    assert (picture[:, 260:264] == 255).all()


def test_labels_are_told_apart_by_their_grey() -> None:
    truth = np.zeros((256, 256), dtype=np.uint8)
    truth[:64], truth[64:128] = 1, 4
    picture = comparison(np.zeros((256, 256, 3), dtype=np.uint8), truth, np.zeros_like(truth))
    assert set(np.unique(picture[:, 260:516])) == {0, 255 // 4, 255}
