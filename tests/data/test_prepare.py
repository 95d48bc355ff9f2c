"""Split folders from raw downloads: whole groups, binary masks, and nothing half-done."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from slicemamba.config import DataConfig
from slicemamba.data.checks import check_dataset
from slicemamba.data.convert import Reading, binarise
from slicemamba.data.findings import BadFileError
from slicemamba.data.prepare import SplitPlan, assign_splits, join_twins, read_groups
from slicemamba.data.prepare_pictures import prepare_pictures
from slicemamba.data.reading import read_image, read_mask
from slicemamba.data.splits import SPLITS, split_pairs
from slicemamba.data.synthetic import draw_lesion
from slicemamba.errors import InputError

COUNT = 12


def write_download(images: Path, masks: Path, image_name: str, mask_name: str, **save: Any) -> None:
    """``COUNT`` pictures with masks; names are formats of the picture's number."""
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    for index in range(COUNT):
        image, mask = draw_lesion(5, "train", index, (40, 48))
        Image.fromarray(image).save(images / image_name.format(index))
        Image.fromarray(mask * np.uint8(255)).save(masks / mask_name.format(index), **save)


def kvasir(root: Path) -> Path:
    write_download(root / "Kvasir-SEG/images", root / "Kvasir-SEG/masks", "{:03d}.jpg", "{:03d}.jpg", quality=60)
    return root


def clinicdb(root: Path) -> Path:
    for part, extension in (("PNG", "png"), ("TIF", "tif")):
        names = (f"{{:d}}.{extension}",) * 2
        write_download(root / part / "Original", root / part / "Ground Truth", *names)
    return root


def isic(root: Path) -> Path:
    images = root / "ISIC-2017_Training_Data"
    write_download(images, root / "ISIC-2017_Training_GroundTruth", "ISIC_{:07d}.jpg", "ISIC_{:07d}_segmentation.png")
    Image.new("L", (48, 40)).save(images / "ISIC_0000000_superpixels.png")
    return root


DOWNLOADS = {"kvasir": kvasir, "clinicdb": clinicdb, "isic": isic}


def names(root: Path) -> dict[str, list[str]]:
    pairs = split_pairs(root, DataConfig(name="set", root=root))
    return {split: [pair.name for pair in found] for split, found in pairs.items()}


@pytest.mark.parametrize("kind", DOWNLOADS)
def test_downloads(tmp_path: Path, kind: Any) -> None:
    raw = DOWNLOADS[kind](tmp_path / "raw")
    seen: list[tuple[int, int]] = []
    made = prepare_pictures(kind, raw, tmp_path / "set", SplitPlan(), on_progress=lambda *done: seen.append(done))
    assert seen == [(done, COUNT) for done in range(1, COUNT + 1)]
    assert made.num_images == {"train": 6, "val": 2, "search": 2, "test": 2}
    report = check_dataset(DataConfig(name="set", root=tmp_path / "set"))
    assert report.num_images == made.num_images
    assert report.warnings == ()
    found = [name for split in names(tmp_path / "set").values() for name in split]
    assert len(found) == len(set(found)) == COUNT
    assert (made.num_intermediate_pixels > 0) == (kind == "kvasir")
    for split in SPLITS:
        for pair in split_pairs(tmp_path / "set", DataConfig(name="set"))[split]:
            image, mask = draw_lesion(5, "train", int(pair.name.split("_")[-1]), (40, 48))
            assert (read_mask(pair.mask, 1) != mask).mean() < 0.01
            assert np.abs(read_image(pair.image).astype(int) - image).mean() < 8


def test_same_seed_same_split(tmp_path: Path) -> None:
    raw = kvasir(tmp_path / "raw")
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        prepare_pictures("kvasir", raw, tmp_path / name, SplitPlan(seed=seed))
    assert names(tmp_path / "a") == names(tmp_path / "b") != names(tmp_path / "c")


def test_patients_by_pattern_and_by_table(tmp_path: Path) -> None:
    write_download(tmp_path / "raw/images", tmp_path / "raw/masks", "{:02d}.png", "{:02d}.png")
    table = tmp_path / "groups.csv"
    table.write_text("group,name\n" + "".join(f"video{index // 3},{index:02d}.png\n" for index in range(COUNT)))
    prepare_pictures("folder", tmp_path / "raw", tmp_path / "a", SplitPlan(groups=read_groups(table)))
    videos = {split: {int(name) // 3 for name in found} for split, found in names(tmp_path / "a").items()}
    assert [len(videos[split]) for split in SPLITS] == [1, 1, 1, 1]
    prepare_pictures("folder", tmp_path / "raw", tmp_path / "b", SplitPlan(patient_pattern=r"^\d(\d)"))
    digits = [name[-1] for found in names(tmp_path / "b").values() for name in {n[-1] for n in found}]
    assert Counter(digits).most_common(1)[0][1] == 1  # each in one split


@pytest.mark.parametrize(
    ("content", "expected"), [("a,b\n", "columns 'name' and 'group'"), (None, "cannot be read"), ("name,group\n", "02")]
)
def test_group_tables_that_cannot_be_used(tmp_path: Path, content: str | None, expected: str) -> None:
    if content is not None:
        (tmp_path / "groups.csv").write_text(content)
    with pytest.raises(InputError, match=expected):
        SplitPlan(groups=read_groups(tmp_path / "groups.csv")).groups_of(["02"])


def test_equal_images_come_into_one_split(tmp_path: Path) -> None:
    write_download(tmp_path / "raw/images", tmp_path / "raw/masks", "{:02d}.png", "{:02d}.png")
    for index in range(6, COUNT):
        for part in ("images", "masks"):
            shutil.copy(tmp_path / f"raw/{part}/{index - 6:02d}.png", tmp_path / f"raw/{part}/{index:02d}.png")
    prepare_pictures("folder", tmp_path / "raw", tmp_path / "set", SplitPlan())
    home = {name: split for split, found in names(tmp_path / "set").items() for name in found}
    assert all(home[f"{index:02d}"] == home[f"{index + 6:02d}"] for index in range(6))


def test_labels_and_folder_names(tmp_path: Path) -> None:
    write_download(tmp_path / "raw/photos", tmp_path / "raw/classes", "{:02d}.png", "{:02d}_seg.png")
    for path in (tmp_path / "raw/classes").iterdir():
        Image.fromarray(np.random.default_rng(0).integers(0, 5, (40, 48), dtype=np.uint8)).save(path)
    with pytest.raises(InputError, match="--images and --masks"):
        prepare_pictures("folder", tmp_path / "raw", tmp_path / "set", SplitPlan())
    folders: tuple[str | None, str | None] = ("photos", "classes")
    prepare_pictures(
        "folder", tmp_path / "raw", tmp_path / "set", SplitPlan(), folders=folders, reading=Reading(threshold=False)
    )
    report = check_dataset(DataConfig(name="set", root=tmp_path / "set", num_classes=5))
    assert all(min(shares) > 0.1 for shares in report.class_share.values())


def test_one_folder_may_have_the_usual_name(tmp_path: Path) -> None:
    write_download(tmp_path / "raw/images", tmp_path / "raw/truths", "{:02d}.png", "{:02d}.png")
    made = prepare_pictures("folder", tmp_path / "raw", tmp_path / "set", SplitPlan(), folders=(None, "truths"))
    assert sum(made.num_images.values()) == COUNT
    with pytest.raises(InputError, match="it holds images, truths"):
        prepare_pictures("folder", tmp_path / "raw", tmp_path / "other", SplitPlan())


def test_a_raw_data_set_of_nnunet(tmp_path: Path) -> None:
    raw = tmp_path / "Dataset001_Lesions"
    write_download(raw / "imagesTr", raw / "labelsTr", "case_{:02d}_0000.png", "case_{:02d}.png")
    write_download(raw / "imagesTs", tmp_path / "elsewhere", "case_{:02d}_0000.png", "{:02d}.png")
    prepare_pictures("folder", raw, tmp_path / "set", SplitPlan())
    assert check_dataset(DataConfig(name="set", root=tmp_path / "set")).num_images["train"] == 6


def test_what_is_parted_already_is_not_taken_for_one_folder_of_it(tmp_path: Path) -> None:
    """The first folder with images and masks was taken for the whole: most images were lost without a word."""
    for split in ("train", "val", "test"):
        folder = tmp_path / "raw" / split
        write_download(folder / "images", folder / "masks", f"{split}{{:02d}}.png", f"{split}{{:02d}}.png")
    with pytest.raises(InputError, match=r"several folders with 'images' and 'masks': test, train, val; .*data check"):
        prepare_pictures("folder", tmp_path / "raw", tmp_path / "set", SplitPlan())


def test_what_macos_adds_to_archives_is_no_second_set(tmp_path: Path) -> None:
    raw = kvasir(tmp_path / "raw")
    for part in ("images", "masks"):
        (raw / "__MACOSX/Kvasir-SEG" / part).mkdir(parents=True)
        (raw / "__MACOSX/Kvasir-SEG" / part / "._001.jpg").write_bytes(b"x")
    assert sum(prepare_pictures("kvasir", raw, tmp_path / "set", SplitPlan()).num_images.values()) == COUNT


def test_faulty_files_are_told_together_and_leave_nothing(tmp_path: Path) -> None:
    raw = kvasir(tmp_path / "raw")
    (raw / "Kvasir-SEG/images/001.jpg").write_bytes(b"x")
    Image.new("L", (7, 7), 255).save(raw / "Kvasir-SEG/masks/002.jpg")
    with pytest.raises(InputError) as caught:
        prepare_pictures("kvasir", raw, tmp_path / "set", SplitPlan())
    assert "images/001.jpg" in str(caught.value)
    assert "002.jpg is 7×7" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_destination_in_use(tmp_path: Path) -> None:
    raw = kvasir(tmp_path / "raw")
    (tmp_path / "set").mkdir()
    prepare_pictures("kvasir", raw, tmp_path / "set", SplitPlan())
    before = names(tmp_path / "set")
    with pytest.raises(InputError, match="must not exist or be an empty folder"):
        prepare_pictures("kvasir", raw, tmp_path / "set", SplitPlan(seed=9))
    assert names(tmp_path / "set") == before


@pytest.mark.parametrize(
    "fractions", [(0.5, 0.5, 0.5, 0.5), (1.0, 0.0, 0.0, 0.0), (0.6, -0.1, 0.3, 0.2), (0.5, 0.3, 0.2, 0.0)]
)
def test_fractions_that_do_not_fit(fractions: tuple[float, float, float, float]) -> None:
    with pytest.raises(InputError, match="sum to 1"):
        SplitPlan(fractions)


def test_no_search_folder_at_fraction_zero(tmp_path: Path) -> None:
    raw = kvasir(tmp_path / "raw")
    prepare_pictures("kvasir", raw, tmp_path / "set", SplitPlan((0.6, 0.2, 0.0, 0.2)))
    assert not (tmp_path / "set/search").exists()
    assert len(names(tmp_path / "set")["search"]) == 1  # held out of train when the set is used


def test_masks_beside_their_images_are_told_by_their_endings(tmp_path: Path) -> None:
    write_download(tmp_path / "raw", tmp_path / "raw", "{:02d}.png", "{:02d}_mask.png")
    made = prepare_pictures("folder", tmp_path / "raw", tmp_path / "set", SplitPlan(), folders=(".", "."))
    assert sum(made.num_images.values()) == COUNT
    assert made.mask_values == [0, 255]
    for path in (tmp_path / "raw").glob("*_mask.png"):
        path.unlink()
    with pytest.raises(InputError, match="no file there is named like another"):
        prepare_pictures("folder", tmp_path / "raw", tmp_path / "b", SplitPlan(), folders=(".", "images/.."))


def test_objects_that_are_numbered_are_not_erased(tmp_path: Path) -> None:
    write_download(tmp_path / "raw/images", tmp_path / "raw/masks", "{:02d}.png", "{:02d}.png")
    for number, path in enumerate(sorted((tmp_path / "raw/masks").iterdir())):
        ids = np.asarray(Image.open(path)) // 255 * np.uint8(10 * number + 10)
        Image.fromarray(np.where(np.arange(48) % 2, ids, ids // 4)).save(path)
    with pytest.raises(InputError, match="marks whatever is not 0 with --marked"):
        prepare_pictures("folder", tmp_path / "raw", tmp_path / "set", SplitPlan())
    prepare_pictures("folder", tmp_path / "raw", tmp_path / "set", SplitPlan(), reading=Reading(any_value=True))
    for path in (tmp_path / "set").glob("*/masks/*"):
        marked = np.asarray(Image.open(path))
        assert ((np.asarray(Image.open(tmp_path / "raw/masks" / path.name)) > 0) == (marked == 255)).all()


@given(
    sizes=st.lists(st.integers(1, 9), min_size=4, max_size=40),
    seed=st.integers(0, 2**32),
    search=st.sampled_from([0.0, 0.15]),
)
def test_every_split_gets_whole_groups_near_its_share(sizes: list[int], seed: int, search: float) -> None:
    groups = [f"p{index}" for index, size in enumerate(sizes) for _ in range(size)]
    fractions = (0.65 - search, 0.15, search, 0.2)
    splits = assign_splits(groups, fractions, seed)
    assert splits == assign_splits(groups, fractions, seed)
    assert len(set(zip(groups, splits, strict=True))) == len(sizes)
    counts = Counter(splits)
    assert set(counts) == {split for split, share in zip(SPLITS, fractions, strict=True) if share}
    for split, share in zip(SPLITS, fractions, strict=True):
        assert counts[split] <= share * len(groups) + 4 * max(sizes)


def test_fewer_groups_than_splits() -> None:
    with pytest.raises(InputError, match="9 images of 3 groups cannot be divided into 4 splits"):
        assign_splits(["a", "b", "c"] * 3, (0.5, 0.15, 0.15, 0.2), 0)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_twins_join_their_groups_and_nothing_else(rows: list[tuple[int, int]]) -> None:
    joined = join_twins([str(group) for group, _ in rows], [str(digest) for _, digest in rows])
    linked = {index: {index} for index in range(len(rows))}
    for _ in rows:  # the transitive closure, the slow way
        for a in linked:
            for b in linked:
                if any(rows[i][0] == rows[j][0] or rows[i][1] == rows[j][1] for i in linked[a] for j in linked[b]):
                    linked[a] = linked[b] = linked[a] | linked[b]
    for a in linked:
        assert {b for b in linked if joined[a] == joined[b]} == linked[a]


@pytest.mark.parametrize(
    ("values", "expected", "intermediate"),
    [
        (np.array([[0, 127, 128, 255]], np.uint8), [0, 0, 255, 255], 2),
        (np.array([[0, 1]], np.uint8), [0, 255], 0),
        (np.array([[False, True]]), [0, 255], 0),
        (np.array([[0, 32767, 32768, 65535]], np.int32), [0, 0, 255, 255], 2),
        (np.zeros((1, 3), np.uint8), [0, 0, 0], 0),
    ],
)
def test_threshold_is_half_of_the_scale(values: Any, expected: list[int], intermediate: int) -> None:
    marked, count = binarise(values, Path("a.png"))
    assert marked.tolist() == [expected]
    assert count == intermediate


def test_marks_far_below_the_scale_are_a_fault() -> None:
    with pytest.raises(BadFileError, match="highest value 2 of 255"):
        binarise(np.array([[0, 2]], np.uint8), Path("a.png"))
