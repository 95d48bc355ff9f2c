"""The synthetic set: the same pictures for the same seed, at every size, and neither trivial nor hopeless."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from slicemamba.data.synthetic import draw_lesion, draw_mask

SIZE = (96, 96)


def test_deterministic() -> None:
    first, again = draw_lesion(3, "train", 5, SIZE), draw_lesion(3, "train", 5, SIZE)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])


def test_same_pictures_in_another_process() -> None:
    """Nothing depends on hash randomisation or on what was drawn before."""
    code = (
        "from slicemamba.data.synthetic import draw_lesion\n"
        "image, mask = draw_lesion(0, 'val', 2, (40, 48)); print(image.sum(), mask.sum())"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    image, mask = draw_lesion(0, "val", 2, (40, 48))
    assert output.split() == [str(image.sum()), str(mask.sum())]


@pytest.mark.parametrize("other", [(4, "train", 5), (3, "val", 5), (3, "train", 6), (-3, "train", 5)])
def test_seed_split_and_index_matter(other: tuple[int, str, int]) -> None:
    assert (draw_lesion(3, "train", 5, SIZE)[0] != draw_lesion(*other, SIZE)[0]).mean() > 0.5


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (128, 64), (40, 200)])
def test_any_size(size: tuple[int, int]) -> None:
    for index in range(6):
        image, mask = draw_lesion(0, "train", index, size)
        assert image.shape == (*size, 3)
        assert mask.shape == size
        assert image.dtype == mask.dtype == np.uint8
        assert set(np.unique(mask)) == {0, 1}


def test_mask_alone_is_the_same() -> None:
    for index in range(5):
        np.testing.assert_array_equal(draw_mask(1, "test", index, SIZE), draw_lesion(1, "test", index, SIZE)[1])


def test_same_lesion_at_every_size() -> None:
    for index in range(10):
        small = draw_mask(0, "train", index, (64, 64))
        large = draw_mask(0, "train", index, (192, 192))[1::3, 1::3]
        assert (small != large).mean() < 0.01


def test_lesions_vary_and_are_darker_than_skin() -> None:
    pictures = [draw_lesion(0, "train", index, SIZE) for index in range(60)]
    shares = np.array([mask.mean() for _, mask in pictures])
    assert shares.min() > 0.005
    assert shares.max() < 0.8
    assert shares.std() > 0.08
    contrast = np.array([image[mask == 0].mean() - image[mask == 1].mean() for image, mask in pictures])
    assert (contrast > 5).mean() > 0.85
    assert contrast.std() > 15


def test_one_threshold_does_not_solve_it() -> None:
    """The best global threshold on brightness finds the lesions, though far from perfectly."""
    pictures = [draw_lesion(0, "train", index, SIZE) for index in range(60)]
    grey = np.stack([image.mean(axis=2) for image, _ in pictures])
    masks = np.stack([mask for _, mask in pictures]).astype(bool)
    dice = [2 * ((grey < level) & masks).sum() / ((grey < level).sum() + masks.sum()) for level in range(60, 200, 5)]
    assert 0.4 < max(dice) < 0.85
