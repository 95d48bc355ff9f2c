"""Every fault of a data set is found in real files and told with the file's name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from slicemamba.config import DataConfig
from slicemamba.data import checks, reports
from slicemamba.data.checks import DatasetReport, check_dataset, check_listing
from slicemamba.data.splits import hold_out
from slicemamba.errors import InputError


def fault(config: DataConfig) -> str:
    with pytest.raises(InputError) as caught:
        check_dataset(config)
    return str(caught.value)


def path_of(config: DataConfig, name: str) -> Path:
    assert config.root is not None
    return config.root / name


def save(config: DataConfig, name: str, array: Any) -> None:
    Image.fromarray(np.asarray(array)).save(path_of(config, name))


IMAGE, MASK = "train/images/train_00000.jpg", "train/masks/train_00000_segmentation.png"


def test_sound_folder(folder: DataConfig) -> None:
    seen: list[tuple[int, int]] = []
    report = check_dataset(folder, on_progress=lambda done, total: seen.append((done, total)))
    assert report.num_images == {"train": 6, "val": 2, "search": 2, "test": 3}
    assert report.smallest_size == report.largest_size == (48, 64)
    assert all(0 < share < 1 for share in report.foreground_share.values())
    assert report.warnings == ()
    assert seen == [(done, 13) for done in range(1, 14)]
    assert DatasetReport.model_validate_json(report.model_dump_json()) == report


def test_synthetic(synthetic: DataConfig) -> None:
    report = check_dataset(synthetic)
    assert report.num_images == {"train": 6, "val": 2, "search": 2, "test": 3}
    assert report.fingerprint == check_dataset(synthetic).fingerprint
    other = synthetic.model_copy(update={"synthetic": synthetic.synthetic.model_copy(update={"seed": 8})})
    assert report.fingerprint != check_dataset(other).fingerprint


def test_missing_root(folder: DataConfig, tmp_path: Path) -> None:
    text = fault(folder.model_copy(update={"root": tmp_path / "nowhere"}))
    assert "nowhere does not exist" in text
    assert "{train,val,test}/{images,masks}" in text


def test_root_is_a_file(folder: DataConfig) -> None:
    assert "is not a folder" in fault(folder.model_copy(update={"root": path_of(folder, IMAGE)}))


def test_other_layout(folder: DataConfig) -> None:
    path_of(folder, "val/masks").rename(path_of(folder, "val/labels"))
    shutil.rmtree(path_of(folder, "test"))
    text = fault(folder)
    assert "missing: val/masks" in text
    assert "missing: test/images" in text
    assert "it holds search, train, val" in text


def test_empty_split(folder: DataConfig) -> None:
    for part in ("images", "masks"):
        shutil.rmtree(path_of(folder, f"val/{part}"))
        path_of(folder, f"val/{part}").mkdir()
    assert "split without images: val" in fault(folder)


def test_empty_train_without_search(folder: DataConfig) -> None:
    shutil.rmtree(path_of(folder, "search"))
    for path in path_of(folder, "train").glob("*/*"):
        path.unlink()
    assert "split without images: train" in fault(folder)


@pytest.mark.parametrize("damage", ["text", "empty", "cut", "bits", "folder"])
@pytest.mark.parametrize("name", [IMAGE, MASK])
def test_broken_file(folder: DataConfig, name: str, damage: str) -> None:
    path = path_of(folder, name)
    content = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.symlink_to(path.parent)
        assert Path(name).stem.split("_seg")[0] in fault(folder)
        return
    spoilt = {
        "text": b"no picture",
        "empty": b"",
        "cut": content[: len(content) // 2],
        "bits": content[:16] + b"\xff" * 64 + content[80:],
    }
    path.write_bytes(spoilt[damage])
    text = fault(folder)
    assert "cannot be read as a picture" in text
    assert name in text


def test_both_broken_are_told(folder: DataConfig) -> None:
    path_of(folder, IMAGE).write_bytes(b"x")
    path_of(folder, MASK).write_bytes(b"x")
    text = fault(folder)
    assert IMAGE in text
    assert MASK in text


def test_several_pages(folder: DataConfig) -> None:
    page = Image.new("RGB", (64, 48))
    page.save(path_of(folder, "train/images/train_00000.tif"), save_all=True, append_images=[page])
    path_of(folder, IMAGE).unlink()
    assert "train/images/train_00000.tif (holds 2 pages" in fault(folder)


def test_other_size(folder: DataConfig) -> None:
    save(folder, MASK, np.zeros((47, 64), np.uint8))
    assert "train/images/train_00000.jpg is 64×48, train_00000_segmentation.png is 64×47" in fault(folder)


def test_mask_not_binary(folder: DataConfig) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[0, :3] = (3, 17, 255)
    save(folder, MASK, mask)
    text = fault(folder)
    assert f"{MASK} (values 0, 3, 17, 255)" in text
    assert "threshold" in text


def test_jpeg_mask(folder: DataConfig) -> None:
    path = path_of(folder, MASK)
    Image.open(path).save(path.with_suffix(".jpg"), quality=60)
    path.unlink()
    text = fault(folder)
    assert "mask that is not binary: train/masks/train_00000_segmentation.jpg" in text
    assert "in all)" in text


def test_colour_mask(folder: DataConfig) -> None:
    mask = np.zeros((48, 64, 3), np.uint8)
    mask[:5, :5, 0] = 255
    save(folder, MASK, mask)
    assert f"mask in colour: {MASK}" in fault(folder)


@pytest.mark.parametrize(("suffix", "orientation"), [("jpg", 3), ("jpg", 2), ("png", 4), ("jpg", 1), ("tif", 3)])
def test_turned_pictures_are_a_warning(folder: DataConfig, suffix: str, orientation: int) -> None:
    """Of the same size, so no other check sees that the mask was drawn on the picture as viewers show it."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = path_of(folder, IMAGE)
    picture = Image.open(path)
    picture.load()
    path.unlink()
    picture.save(path.with_suffix(f".{suffix}"), exif=exif)
    warnings = check_dataset(folder).warnings
    if orientation == 1 or suffix == "tif":  # Pillow applies that of TIFF
        assert warnings == ()
    else:
        assert "1 images have an EXIF orientation" in warnings[0]
        assert f"train/images/train_00000.{suffix}" in warnings[0]


@pytest.mark.parametrize("parts", [("images",), ("images", "masks")])
def test_links_to_nothing_are_told(folder: DataConfig, tmp_path: Path, parts: tuple[str, ...]) -> None:
    """As when the disk is not mounted that a set is linked from: it would become smaller in silence."""
    for name, part in ((IMAGE, "images"), (MASK, "masks")):
        if part in parts:
            path = path_of(folder, name)
            path.unlink()
            path.symlink_to(tmp_path / "not mounted" / path.name)
    text = fault(folder)
    assert f"{len(parts)} × link to a file that does not exist: " in text
    assert IMAGE in text


def test_links_are_followed(folder: DataConfig, tmp_path: Path) -> None:
    path = path_of(folder, IMAGE)
    path.symlink_to(path.rename(tmp_path / path.name))
    assert check_dataset(folder).warnings == ()


def test_empty_mask_is_a_warning(folder: DataConfig) -> None:
    save(folder, MASK, np.zeros((48, 64), np.uint8))
    [warning] = check_dataset(folder).warnings
    assert warning == f"1 of 6 train masks mark no pixel: {MASK}"


def test_full_mask_is_a_warning(folder: DataConfig) -> None:
    save(folder, MASK, np.full((48, 64), 255, np.uint8))
    [warning] = check_dataset(folder).warnings
    assert "mark every pixel" in warning


def test_only_empty_masks(folder: DataConfig) -> None:
    for path in path_of(folder, "val/masks").iterdir():
        Image.new("L", (64, 48)).save(path)
    assert "split in which no mask marks any pixel: val/masks (2 masks)" in fault(folder)


@pytest.mark.parametrize("target", ["val", "search", "test"])
def test_image_in_two_splits(folder: DataConfig, target: str) -> None:
    # Stored in another format under another name: equal pixels count, not equal files.
    Image.open(path_of(folder, IMAGE)).save(path_of(folder, f"{target}/images/other.png"))
    shutil.copy(path_of(folder, MASK), path_of(folder, f"{target}/masks/other.png"))
    text = fault(folder)
    assert "image that is in two splits" in text
    assert IMAGE in text
    assert f"{target}/images/other.png" in text


def test_image_in_one_split_twice(folder: DataConfig) -> None:
    shutil.copy(path_of(folder, IMAGE), path_of(folder, "train/images/twin.jpg"))
    shutil.copy(path_of(folder, MASK), path_of(folder, "train/masks/twin.png"))
    [warning] = check_dataset(folder).warnings
    assert "train/images/train_00000.jpg = train/images/twin.jpg" in warning


def test_twins_parted_by_the_held_out_search_split(folder: DataConfig) -> None:
    """Both lie in train/images, so the message says which splits they went to."""
    shutil.rmtree(path_of(folder, "search"))
    shutil.copy(path_of(folder, IMAGE), path_of(folder, "train/images/twin.jpg"))
    shutil.copy(path_of(folder, MASK), path_of(folder, "train/masks/twin.png"))
    parted = next(
        seed for seed in range(100) if hold_out([str(i) for i in range(7)], 0.2, seed)[1] == [6]
    )  # twin.jpg is the last
    text = fault(folder.model_copy(update={"split_seed": parted}))
    assert "train/images/train_00000.jpg = train/images/twin.jpg (train and search)" in text


def test_everything_is_told_at_once(folder: DataConfig) -> None:
    path_of(folder, "val/images/val_00000.jpg").write_bytes(b"x")
    path_of(folder, "test/masks/test_00000_segmentation.png").unlink()
    save(folder, MASK, np.zeros((8, 8), np.uint8))
    save(folder, "train/masks/train_00001_segmentation.png", np.full((48, 64), 9, np.uint8))
    with pytest.raises(InputError) as caught:
        check_dataset(folder)
    assert "4 faults" in caught.value.message
    assert len(caught.value.details) == 4


def test_label_masks(folder: DataConfig) -> None:
    config = folder.model_copy(update={"num_classes": 4})
    rng = np.random.default_rng(0)
    assert folder.root is not None
    for path in folder.root.glob("*/masks/*"):
        Image.fromarray(rng.integers(0, 3, (48, 64), dtype=np.uint8)).save(path)
    [warning] = check_dataset(config).warnings
    assert "no train mask holds class 3" in warning
    save(config, MASK, np.full((48, 64), 4, np.uint8))
    assert f"{MASK} (values 4, num_classes 4)" in fault(config)


def test_unknown_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: DataConfig) -> None:
    monkeypatch.setenv("SLICEMAMBA_DATA", str(tmp_path))
    with pytest.raises(InputError, match="known: synthetic, lesions") as caught:
        check_dataset(DataConfig(name="polyps"))
    assert caught.value.pointer == "/data/name"


def test_report_is_remembered_until_a_file_changes(folder: DataConfig, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    decoded: list[int] = []

    def count(done: int, total: int) -> None:
        decoded.append(done)

    first = check_dataset(folder, cache_dir=cache, on_progress=count)
    decoded.clear()
    assert check_dataset(folder, cache_dir=cache, on_progress=count) == first
    assert decoded == []
    os.utime(path_of(folder, MASK), ns=(1, 1))
    assert check_dataset(folder, cache_dir=cache, on_progress=count).fingerprint != first.fingerprint
    assert decoded


def test_only_the_newest_reports_are_kept(folder: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "MAX_REPORTS", 2)
    cache = tmp_path / "cache"
    for seed in range(4):
        check_dataset(folder.model_copy(update={"split_seed": seed}), cache_dir=cache)
    assert len(list(cache.iterdir())) == 2
    last = check_dataset(folder.model_copy(update={"split_seed": 3}))
    assert (cache / f"check-{last.fingerprint[:20]}.json").exists()


def test_damaged_memory_of_a_report_is_ignored(folder: DataConfig, tmp_path: Path) -> None:
    first = check_dataset(folder, cache_dir=tmp_path / "cache")
    [memory] = (tmp_path / "cache").iterdir()
    memory.write_text("{")
    assert check_dataset(folder, cache_dir=tmp_path / "cache") == first


def test_needs_neither_torch_nor_ray() -> None:
    code = "import sys, slicemamba.data.checks, slicemamba.data.base; print({'torch', 'ray'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_listing_decodes_nothing_and_knows_what_was_checked(
    folder: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = check_dataset(folder, cache_dir=tmp_path / "reports")
    monkeypatch.setattr(checks, "examine", None)
    assert check_listing(folder, cache_dir=tmp_path / "reports") == (checked.num_images, checked)
    assert check_listing(folder, cache_dir=tmp_path / "elsewhere") == (checked.num_images, None)
    assert folder.root is not None
    image = sorted((folder.root / "train" / "images").iterdir())[0]
    image.write_bytes(image.read_bytes()[:100])
    assert check_listing(folder, cache_dir=tmp_path / "reports") == (checked.num_images, None)


def test_listing_tells_what_is_missing_in_the_words_of_the_check(folder: DataConfig) -> None:
    assert folder.root is not None
    sorted((folder.root / "train" / "masks").iterdir())[0].unlink()
    with pytest.raises(InputError) as listed:
        check_listing(folder)
    with pytest.raises(InputError) as checked:
        check_dataset(folder)
    assert str(listed.value) == str(checked.value)
