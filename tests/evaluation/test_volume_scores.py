"""Scores of whole volumes: against medpy and counts by hand, with and without spacing, and where masks are empty."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from medpy.metric.binary import dc
from medpy.metric.binary import hd95 as medpy_hd95
from segmenter_cases import Brightness, save_hdf5, save_nifti, segmenter

from slicemamba.config import DataConfig
from slicemamba.errors import InputError
from slicemamba.evaluation.volumes import evaluate_volumes, volume_dice, volume_hd95

SHAPE = (5, 32, 48)
CONFIG = DataConfig(name="organs", image_size=SHAPE[1:], num_classes=4, intensity="unit")


def cubes(shift: int) -> np.ndarray:
    """Classes 1 and 2 as cubes; class 3 nowhere."""
    label = np.zeros(SHAPE, np.uint8)
    label[1:4, 4:14, 5 + shift : 15 + shift] = 1
    label[0:3, 16:28, 20 : 34 - shift] = 2
    return label


def image_of(label: np.ndarray) -> np.ndarray:
    """What ``Brightness`` takes for these classes."""
    return ((label + 0.5) / 4).astype(np.float32)


def test_scores_are_those_of_medpy(tmp_path: Path) -> None:
    truths = {"one": cubes(0), "two": cubes(2)}
    predictions = {"one": cubes(3), "two": cubes(2)}
    spacing = (3.0, 0.7, 0.6)
    paths = [
        save_hdf5(tmp_path / f"{name}.npy.h5", image_of(predictions[name]), truths[name], spacing=spacing)
        for name in truths
    ]
    scores = evaluate_volumes(segmenter(Brightness(4, full=1.0), CONFIG), paths, destination=tmp_path / "out")
    assert scores.cases == ("one", "two")
    assert scores.classes == (1, 2, 3)
    assert scores.unit == "mm"
    for k in (1, 2):
        assert scores.dice[0, k - 1] == pytest.approx(dc(predictions["one"] == k, truths["one"] == k))
        expected = medpy_hd95(predictions["one"] == k, truths["one"] == k, voxelspacing=spacing)
        assert scores.hd95[0, k - 1] == pytest.approx(expected)
    np.testing.assert_array_equal(scores.dice[1], 1)
    np.testing.assert_array_equal(scores.hd95[1], 0)
    assert (scores.dice[0, 2], scores.hd95[0, 2]) == (1, 0), "a class that neither holds is agreement"
    written = nib.load(tmp_path / "out" / "one.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj).T, predictions["one"])
    assert written.header.get_zooms() == pytest.approx(spacing[::-1])


def test_as_dict_holds_means_and_every_case(tmp_path: Path) -> None:
    path = save_hdf5(tmp_path / "one.h5", image_of(cubes(3)), cubes(0))
    scores = evaluate_volumes(segmenter(Brightness(4, full=1.0), CONFIG), [path])
    found = json.loads(json.dumps(scores.as_dict()))
    assert found["dice"] == pytest.approx(scores.dice.mean())
    assert found["hd95_unit"] == "voxels"
    assert found["classes"]["2"]["hd95"] == pytest.approx(scores.hd95[0, 1])
    assert found["cases"]["one"]["1"]["dice"] == pytest.approx(scores.dice[0, 0])


def test_one_volume_without_spacing_makes_all_distances_voxels(tmp_path: Path) -> None:
    spaced = save_hdf5(tmp_path / "a.h5", image_of(cubes(3)), cubes(0), spacing=(3.0, 0.7, 0.6))
    plain = save_hdf5(tmp_path / "b.h5", image_of(cubes(3)), cubes(0))
    scores = evaluate_volumes(segmenter(Brightness(4, full=1.0), CONFIG), [spaced, plain])
    assert scores.unit == "voxels"
    np.testing.assert_array_equal(scores.hd95[0], scores.hd95[1])


@pytest.mark.parametrize(("predicted", "truth"), [(0, 1), (1, 0), (0, 0), (1, 1)])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_empty_masks(predicted: int, truth: int, num_classes: int) -> None:
    masks = np.zeros((2, 3, 4, 5), np.uint8)
    masks[0, :2, :2, :2], masks[1, :2, :2, :2] = predicted, truth
    spacing = (3.0, 0.5, 0.5)
    dice = volume_dice(masks[0], masks[1], num_classes)[0]
    distance = volume_hd95(masks[0], masks[1], num_classes, spacing)[0]
    if predicted == truth:
        assert (dice, distance) == (1, 0)
    else:
        assert dice == 0
        assert distance == pytest.approx(np.linalg.norm([9, 2, 2.5]))


def test_label_map_and_window_of_the_data_hold_for_volumes(tmp_path: Path) -> None:
    stored = np.array([0, 7, 11, 4], np.uint8)[cubes(0)]
    path = save_hdf5(tmp_path / "a.h5", image_of(cubes(0)) * 400 - 125, stored)
    config = CONFIG.model_copy(update={"label_map": {0: 0, 7: 1, 11: 2, 4: 3}, "window": (-125.0, 275.0)})
    scores = evaluate_volumes(segmenter(Brightness(4, full=1.0), config), [path])
    np.testing.assert_array_equal(scores.dice, 1)


def test_what_cannot_be_scored_is_refused(tmp_path: Path) -> None:
    made = segmenter(Brightness(4, full=1.0), CONFIG)
    with pytest.raises(InputError, match="at least one"):
        evaluate_volumes(made, [])
    with pytest.raises(InputError, match=r"a\.nii has no labels"):
        evaluate_volumes(made, [save_nifti(tmp_path / "a.nii", image_of(cubes(0)).T)])
    strange = save_hdf5(tmp_path / "b.h5", image_of(cubes(0)), cubes(0) * 9)
    with pytest.raises(InputError, match=r"labels out of range: .*b\.h5"):
        evaluate_volumes(made, [strange])
    raw = save_hdf5(tmp_path / "c.h5", image_of(cubes(0)) * 1000, cubes(0))
    with pytest.raises(InputError, match="--window"):
        evaluate_volumes(made, [raw])
