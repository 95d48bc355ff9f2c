"""Pictures of every kind become RGB images and masks of class indices."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from slicemamba.data.findings import BadFileError
from slicemamba.data.reading import read_image, read_mask, resize_image, resize_mask

GREY = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
RGB = np.stack([GREY, 255 - GREY, GREY // 2], axis=2)
MARKED = (GREY > 100).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif", "tiff", "bmp"])
def test_rgb(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(RGB).save(tmp_path / f"a.{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}"), RGB)


def test_grey_is_repeated(tmp_path: Path) -> None:
    Image.fromarray(GREY).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.repeat(GREY[..., None], 3, axis=2))


def test_alpha_is_dropped(tmp_path: Path) -> None:
    alpha = np.full((4, 6, 1), 7, np.uint8)
    Image.fromarray(np.concatenate([RGB, alpha], axis=2)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), RGB)


def test_palette(tmp_path: Path) -> None:
    Image.fromarray(RGB).quantize(64).save(tmp_path / "a.png")
    assert np.abs(read_image(tmp_path / "a.png").astype(int) - RGB).max() < 20


@pytest.mark.parametrize(("dtype", "suffix"), [(np.uint16, "png"), (np.uint16, "tif"), (np.float32, "tif")])
def test_deep_pictures_are_stretched(tmp_path: Path, dtype: type, suffix: str) -> None:
    deep: NDArray[Any] = (GREY.astype(np.float64) * 12 + 100).astype(dtype)
    Image.fromarray(deep).save(tmp_path / f"a.{suffix}")
    image = read_image(tmp_path / f"a.{suffix}")
    expected = np.rint(GREY / GREY.max() * 255)
    np.testing.assert_allclose(image[..., 0], expected, atol=1)


def test_float_picture_with_nan(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, np.nan]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(BadFileError, match="not finite"):
        read_image(tmp_path / "a.tif")


@pytest.mark.filterwarnings("ignore")  # Pillow warns of odd metadata
@pytest.mark.parametrize("seed", range(3))
def test_damage_is_told_or_gives_a_picture_all_the_same(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random bytes changed in a real file never give another error than the one that names it."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # a spoilt header may announce gigabytes
    rng, told = np.random.default_rng(seed), 0
    for suffix in ("jpg", "png", "tif", "bmp"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(RGB).save(path)
        intact = np.frombuffer(path.read_bytes(), np.uint8)
        for _ in range(100):
            spoilt = intact.copy()
            spoilt[rng.integers(0, len(intact), 4)] = rng.integers(0, 256, 4)
            path.write_bytes(spoilt.tobytes())
            try:
                image = read_image(path)
            except BadFileError:
                told += 1
            else:
                assert (image.dtype, image.ndim, image.shape[2]) == (np.uint8, 3, 3)
            with contextlib.suppress(BadFileError):
                assert read_mask(path, 1).max() <= 1
    assert told


def test_orientation_tag_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° for display
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").shape == (4, 6, 3)


@pytest.mark.parametrize("white", [1, 255])
@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA"])
def test_binary_masks(tmp_path: Path, white: int, mode: str) -> None:
    channels = np.repeat((MARKED * white)[..., None], len(mode), axis=2).astype(np.uint8)
    if mode.endswith("A"):
        channels[..., -1] = 255
    Image.fromarray(channels.squeeze()).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png", 1), MARKED)


def test_one_bit_and_deep_masks(tmp_path: Path) -> None:
    Image.fromarray(MARKED.astype(bool)).save(tmp_path / "bit.png")
    Image.fromarray(MARKED.astype(np.uint16) * np.uint16(65535)).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "bit.png", 1), MARKED)
    np.testing.assert_array_equal(read_mask(tmp_path / "deep.png", 1), MARKED)


def test_palette_masks(tmp_path: Path) -> None:
    """In black and white the colour counts, as the palette's order is arbitrary; otherwise the index is the label."""
    inverse = Image.fromarray(1 - MARKED).convert("P")
    inverse.putpalette([255, 255, 255, 0, 0, 0])
    inverse.save(tmp_path / "inverse.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "inverse.png", 1), MARKED)
    coloured = Image.fromarray(MARKED).convert("P")
    coloured.putpalette([0, 0, 0, 128, 0, 0])
    coloured.save(tmp_path / "coloured.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "coloured.png", 1), MARKED)
    np.testing.assert_array_equal(read_mask(tmp_path / "coloured.png", 3), MARKED)


def test_all_foreground_mask(tmp_path: Path) -> None:
    Image.new("L", (6, 4), 255).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png", 1).all()


def test_two_and_three_is_not_binary(tmp_path: Path) -> None:
    Image.fromarray(MARKED * np.uint8(2)).save(tmp_path / "a.png")
    with pytest.raises(BadFileError, match="values 0, 2"):
        read_mask(tmp_path / "a.png", 1)


def test_image_and_mask_stay_aligned_when_resized() -> None:
    mask = np.zeros((90, 120), np.uint8)
    mask[20:71, 33:88] = 1
    image = np.repeat((mask * 255)[..., None], 3, axis=2).astype(np.uint8)
    for size in ((45, 60), (64, 64), (200, 333)):
        bright = resize_image(image, size)[..., 0] > 127
        small = resize_mask(mask, size)
        assert set(np.unique(small)) == {0, 1}
        assert (bright != small).mean() < 0.02
        rows, columns = np.nonzero(small)
        assert abs(rows.mean() + 0.5 - 45.5 * size[0] / 90) < 0.6
        assert abs(columns.mean() + 0.5 - 60.5 * size[1] / 120) < 1.5
