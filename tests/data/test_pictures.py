"""Pictures in class folders: what is found, what is refused, and crops that show what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slicemamba.config import PicturesConfig
from slicemamba.data.findings import BadFileError
from slicemamba.data.pictures import find_pictures, read_centre, read_crop
from slicemamba.data.reading import read_image
from slicemamba.errors import InputError

WHOLE = (1.0, 1.0)


def write(path: Path, pixels: np.ndarray) -> Path:  # type: ignore[type-arg]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def gradient(height: int, width: int) -> np.ndarray:  # type: ignore[type-arg]
    """Red tells the column, green the row, both from 0 to 255."""
    y, x = np.mgrid[:height, :width]
    red, green = (np.rint(255 * a / max(1, n - 1)) for a, n in ((x, width), (y, height)))
    return np.stack([red, green, np.zeros_like(red)], axis=2).astype(np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split, count in (("train", 3), ("val", 2)):
        for name in ("dog", "cat"):
            for i in range(count):
                write(tmp_path / split / name / f"{i}.png", gradient(8, 8))
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no picture")
    return tmp_path


def test_classes_are_folders_in_order_of_their_names(root: Path) -> None:
    train, val = find_pictures(PicturesConfig(root=root))
    assert train.classes == val.classes == ("cat", "dog")
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert [path.relative_to(root).as_posix() for path in val.files] == [
        "val/cat/0.png", "val/cat/1.png", "val/dog/0.png", "val/dog/1.png",
    ]  # fmt: skip


def test_name_is_looked_up_in_the_folder_of_data_sets(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLICEMAMBA_DATA", str(root.parent))
    train, _ = find_pictures(PicturesConfig(name=root.name))
    assert len(train) == 6
    monkeypatch.delenv("SLICEMAMBA_DATA")
    with pytest.raises(InputError, match=r"data\.root is needed"):
        find_pictures(PicturesConfig(name=root.name))


def test_faults_of_the_tree_are_named(root: Path) -> None:
    (root / "val" / "bird").mkdir()
    with pytest.raises(InputError, match="same classes; only one of them has bird"):
        find_pictures(PicturesConfig(root=root))
    (root / "train" / "bird").mkdir()
    with pytest.raises(InputError, match="classes without pictures: train/bird"):
        find_pictures(PicturesConfig(root=root))
    with pytest.raises(InputError, match="does not exist; expected <root>/train/<class>"):
        find_pictures(PicturesConfig(root=root / "train"))


def test_set_of_one_class_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train" / "a" / "0.png", gradient(4, 4))
    with pytest.raises(InputError, match="holds 1 classes; at least two are needed"):
        find_pictures(PicturesConfig(root=tmp_path))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_centre_is_the_middle_of_the_shorter_side(tmp_path: Path, suffix: str) -> None:
    pixels = read_centre(write(tmp_path / f"a.{suffix}", gradient(128, 256)), (32, 32))
    assert pixels.shape == (32, 32, 3)
    # Seven eighths of 128 rows and as many columns: rows 8 … 120, columns 72 … 184.
    assert pixels[0, 0, 1] == pytest.approx(255 * 8 / 127, abs=6)
    assert pixels[-1, -1, 1] == pytest.approx(255 * 119 / 127, abs=6)
    assert pixels[0, 0, 0] == pytest.approx(255 * 72 / 255, abs=6)
    assert pixels[-1, -1, 0] == pytest.approx(255 * 183 / 255, abs=6)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("size", [(96, 128), (512, 40), (300, 900)])
def test_random_crop_is_a_connected_part_of_the_picture(tmp_path: Path, suffix: str, size: tuple[int, int]) -> None:
    """Its corners, read from the gradient, lie in the picture and span the share and the aspect asked for."""
    file = write(tmp_path / f"a.{suffix}", gradient(*size))
    height, width = size
    for seed in range(20):
        crop = read_crop(file, (32, 32), np.random.default_rng(seed), (0.25, 0.5), 0.0).astype(float)
        assert crop.shape == (32, 32, 3)
        red, green = crop[..., 0].mean(axis=0), crop[..., 1].mean(axis=1)
        assert (np.diff(red) > -2).all(), "columns in their order"
        assert (np.diff(green) > -2).all()
        wide, high = (np.ptp(values) / 255 * 32 / 31 for values in (red, green))
        if size == (96, 128):
            assert 0.22 < wide * high < 0.54
            assert 0.7 < wide * width / (high * height) < 1.42


def test_flip_mirrors_left_and_right_only(tmp_path: Path) -> None:
    file = write(tmp_path / "a.png", gradient(32, 32))
    plain, flipped = (read_crop(file, (16, 16), np.random.default_rng(1), WHOLE, p) for p in (0.0, 1.0))
    assert (plain[:, ::-1] == flipped).all()


def test_same_generator_gives_the_same_crop_and_another_another(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jpg", gradient(200, 200))
    one, same, other = (read_crop(file, (32, 32), np.random.default_rng(s), (0.1, 0.9), 0.5) for s in (1, 1, 2))
    assert (one == same).all()
    assert (one != other).any()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK"])
def test_pictures_of_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    file = tmp_path / "a.tif"
    Image.fromarray(gradient(16, 16)).convert(mode).save(file)
    assert read_centre(file, (8, 8)).shape == (8, 8, 3)


@pytest.mark.parametrize(("dtype", "highest"), [(np.uint16, 60_000), (np.float32, 0.7)])
def test_pictures_of_more_than_8_bits_are_stretched_as_those_of_segmentation(
    tmp_path: Path, dtype: type, highest: float
) -> None:
    """Radiographs of 16 bits came out white throughout, and the encoder learned from nothing."""
    values = np.linspace(0, highest, 16 * 16).reshape(16, 16).astype(dtype)
    file = write(tmp_path / "a.tif", values)
    whole = read_crop(file, (16, 16), np.random.default_rng(0), WHOLE, 0.0)
    assert (whole.min(), whole.max()) == (0, 255)
    assert len(np.unique(read_centre(file, (8, 8)))) > 30
    np.testing.assert_array_equal(read_image(file)[8], whole[8])


@pytest.mark.parametrize("content", [b"", b"no picture", b"\xff\xd8\xff\xe0 cut"])
def test_broken_picture_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "train" / "cat" / "bad.jpg"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    with pytest.raises(BadFileError, match=r"train/cat/bad\.jpg"):
        read_centre(file, (8, 8))


def test_picture_cut_short_is_named(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    file = write(tmp_path / "a.png", noise)
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(BadFileError, match=r"a\.png"):
        read_crop(file, (8, 8), np.random.default_rng(0), WHOLE, 0.0)
