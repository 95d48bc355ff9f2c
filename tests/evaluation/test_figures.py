"""Pictures of predictions: they are written, have the right size and order, and show the right colours."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from slicemamba.data.base import SegmentationData
from slicemamba.errors import InputError
from slicemamba.evaluation.drawing import (
    AGREEMENT_COLOUR,
    PREDICTION_COLOUR,
    TRUTH_COLOUR,
    class_colour,
    draw_outlines,
    paint,
    tile,
)
from slicemamba.evaluation.evaluate import Evaluation, evaluate
from slicemamba.evaluation.figures import comparison, panels, save_figures, save_predictions
from slicemamba.evaluation.per_image import image_rows, write_csv


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


def test_pictures_of_another_network_do_not_stay(
    tmp_path: Path, tiny_data: SegmentationData, scored: Evaluation
) -> None:
    """As when a search is extended and its winner is another one: the report shows what lies there."""
    own = tmp_path / "notes_dice.png"
    own.touch()
    save_predictions(tmp_path, tiny_data, scored)
    inverted = evaluate(lambda image: -darkness(image), tiny_data, batch_size=4, device=torch.device("cpu"))
    files = save_predictions(tmp_path, tiny_data, inverted)
    assert sorted(tmp_path.iterdir()) == sorted([*files, own])


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
    assert read(overview).ndim == 3


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


def test_binary_comparison_shows_outlines_truth_and_errors() -> None:
    truth, prediction = np.zeros((2, 300, 260), dtype=np.uint8)
    truth[50:100, 50:100] = 1
    prediction[70:150, 70:150] = 1
    image = np.full((300, 260, 3), 77, dtype=np.uint8)
    drawn, shown_truth, shown_prediction = comparison(image, truth, prediction, num_classes=1)
    assert tuple(drawn[50, 75]) == TRUTH_COLOUR
    assert tuple(drawn[149, 100]) == PREDICTION_COLOUR
    assert tuple(drawn[60, 60]) == (77, 77, 77), "the inside stays visible"
    assert (image == 77).all(), "the given image is not drawn on"
    assert np.array_equal(shown_truth, np.repeat(truth[..., None] * np.uint8(255), 3, axis=2))
    for (y, x), colour in {
        (60, 60): TRUTH_COLOUR,
        (80, 80): AGREEMENT_COLOUR,
        (120, 120): PREDICTION_COLOUR,
        (200, 200): (0, 0, 0),
    }.items():
        assert tuple(shown_prediction[y, x]) == colour


def test_small_images_are_enlarged_by_a_whole_factor() -> None:
    truth = np.zeros((32, 40), dtype=np.uint8)
    pictures = comparison(np.zeros((32, 40, 3), np.uint8), truth, truth, num_classes=1)
    assert {picture.shape for picture in pictures} == {(256, 320, 3)}


def test_classes_have_their_colours_and_errors_a_white_line() -> None:
    truth = np.zeros((256, 256), dtype=np.uint8)
    truth[:64], truth[64:128] = 1, 4
    prediction = truth.copy()
    prediction[200:220, 100:140] = 2
    image = np.zeros((256, 256, 3), dtype=np.uint8)
    drawn, shown_truth, shown_prediction = comparison(image, truth, prediction, num_classes=5)
    assert tuple(drawn[0, 100]) == class_colour(1)
    assert np.array_equal(shown_truth, paint(truth))
    assert tuple(shown_truth[100, 100]) == class_colour(4)
    assert tuple(shown_prediction[210, 120]) == class_colour(2)
    assert tuple(shown_prediction[200, 120]) == (255, 255, 255)
    assert tuple(shown_prediction[100, 100]) == class_colour(4)


def test_class_colours_differ() -> None:
    colours = [class_colour(label) for label in range(40)]
    assert len(set(colours)) == 40
    assert colours[0] == (0, 0, 0)


def test_outlines_get_wider_with_the_picture() -> None:
    labels = np.zeros((1200, 1300), dtype=np.uint8)
    labels[200:900, 200:900] = 1
    drawn = draw_outlines(np.zeros((1200, 1300, 3), np.uint8), labels, (255, 0, 0))
    assert (drawn[500, :, 0] > 0).sum() == 2 * 10


def test_tiles_lie_in_rows_on_white() -> None:
    pictures = [np.full((4, 6, 3), i, dtype=np.uint8) for i in range(5)]
    sheet = tile(pictures, columns=3, gap=2)
    assert sheet.shape == (4 + 2 + 4, 3 * 6 + 2 * 2, 3)
    assert (sheet[:4, 8:14] == 1).all()
    assert (sheet[6:, 8:14] == 4).all()
    assert (sheet[6:, 16:] == 255).all()


@pytest.mark.parametrize("num_classes", [1, 3])
def test_figures_of_a_split(tmp_path: Path, tiny_data: SegmentationData, num_classes: int) -> None:
    data = replace(tiny_data, num_classes=num_classes)
    network = darkness if num_classes == 1 else lambda x: torch.cat([x.mean(1, True) - 110, darkness(x), x[:, :1]], 1)
    scored = evaluate(network, data, batch_size=4, device=torch.device("cpu"))
    files = save_figures(tmp_path, data, scored, limit=2)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in files if path.parent == tmp_path) == [
        "grid.pdf",
        "grid.png",
        "scores.pdf",
        "scores.png",
    ]
    assert len(list((tmp_path / "cases").iterdir())) == 3
    grid = read(tmp_path / "grid.png")
    colours = {tuple(colour) for colour in grid.reshape(-1, grid.shape[2])[:, :3].tolist()}
    assert (TRUTH_COLOUR if num_classes == 1 else class_colour(1)) in colours
    one = save_figures(tmp_path, data, scored, cases=["lesion_3"], limit=2)
    assert read(tmp_path / "grid.png").shape[0] < grid.shape[0]
    assert one == files
    with pytest.raises(InputError, match="the split train has no image named lesion_9; it has lesion_0, "):
        save_figures(tmp_path, data, scored, cases=["lesion_9"])


def test_rows_of_images_hold_their_scores(tmp_path: Path, tiny_data: SegmentationData, scored: Evaluation) -> None:
    rows = image_rows(tiny_data.names, scored)
    assert [row["name"] for row in rows] == list(tiny_data.names)
    assert [row["dice"] for row in rows] == pytest.approx(dice_of(scored, tiny_data))
    for column, metric in (("dice", "dice_per_image"), ("miou", "miou_per_image"), ("hd95", "hd95")):
        assert np.mean([row[column] for row in rows]) == pytest.approx(scored.metrics[metric])
    write_csv(tmp_path / "a.csv", rows)
    with (tmp_path / "a.csv").open(newline="") as file:
        read_back = list(csv.DictReader(file))
    assert [float(row["hd95"]) for row in read_back] == [row["hd95"] for row in rows]


def test_rows_of_label_tasks_hold_the_dice_of_each_class(tiny_data: SegmentationData) -> None:
    data = replace(tiny_data, num_classes=3)
    left = torch.tensor([0.0, 1.0, 0.0])[None, :, None, None]
    scored = evaluate(lambda x: left.expand(len(x), 3, 32, 40), data, batch_size=7, device=torch.device("cpu"))
    for row, mask in zip(image_rows(data.names, scored), data.masks, strict=True):
        assert row["dice_class1"] == pytest.approx(2 * (mask == 1).sum() / (mask.size + (mask == 1).sum()))
        assert row["dice_class2"] == 1.0, "neither holds it"
        assert row["dice_foreground"] == row["dice_class1"]
        assert row["dice"] == pytest.approx((row["dice_class1"] + 1) / 2)


def test_pictures_have_the_proportions_of_their_files(
    tmp_path: Path, tiny_data: SegmentationData, scored: Evaluation
) -> None:
    sizes = [(60, 30), (30, 90), (50, 50)]
    files = []
    for number in range(len(tiny_data)):
        files.append(tmp_path / f"{number}.png")
        Image.new("RGB", sizes[number % 3]).save(files[-1])
    files[4] = tmp_path / "gone.png"
    stretched = replace(tiny_data, stretched=tuple(files))
    height, width = tiny_data.masks.shape[1:]
    assert [stretched.proportion(i) for i in range(5)] == pytest.approx([2, 1 / 3, 1, 2, width / height])
    assert stretched.take(slice(1, 3)).proportion(0) == pytest.approx(1 / 3)
    for index in range(3):
        plain, shown = (panels(data, scored, index) for data in (tiny_data, stretched))
        for before, after in zip(plain, shown, strict=True):
            assert after.shape[1] / after.shape[0] == pytest.approx(stretched.proportion(index), rel=0.01)
            assert after.shape[0] >= before.shape[0]
            assert after.shape[1] >= before.shape[1]
            colours = {tuple(colour) for colour in after.reshape(-1, 3).tolist()}
            assert colours <= {tuple(colour) for colour in before.reshape(-1, 3).tolist()}, "none is mixed"
    save_predictions(tmp_path / "pictures", stretched, scored)


ODD_NAMES = ("x$y^$", "n" * 245, "ü" * 120, "$\\frac{", "[bold]a[red", "a\nb", "{0}", "图像", "undecodable\udcff")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_every_name_that_a_file_system_allows_can_be_shown(tmp_path: Path, name: str) -> None:
    image, mask = (np.zeros((2, 32, 32, 3), np.uint8), np.zeros((2, 32, 32), np.uint8))
    data = SegmentationData(image, mask, (name, "plain"), "test", 1)
    scored = evaluate(darkness, data, batch_size=2, device=torch.device("cpu"))
    files = save_figures(tmp_path, data, scored, cases=[name])
    assert all(file.is_file() for file in files)
    write_csv(tmp_path / "per_image.csv", image_rows(data.names, scored))
    with (tmp_path / "per_image.csv").open(newline="", encoding="utf-8") as file:
        [first, _] = csv.DictReader(file)
    assert first["name"] == name.replace("\udcff", r"\udcff")
