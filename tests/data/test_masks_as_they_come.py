"""Masks as people have them: each kind is brought to what it means, or the exact option is proposed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from slicemamba.config import DataConfig
from slicemamba.data.catalog import resolve_root
from slicemamba.data.checks import check_dataset
from slicemamba.data.colours import parse_colours
from slicemamba.data.convert import Reading
from slicemamba.data.prepare import SplitPlan
from slicemamba.data.prepare_pictures import prepare_pictures
from slicemamba.data.reading import IGNORED, read_pair
from slicemamba.data.splits import split_pairs
from slicemamba.errors import InputError

COUNT = 10
SIZE = (40, 48)
PLAN = SplitPlan((0.4, 0.2, 0.2, 0.2))
MARKED = np.zeros(SIZE, bool)
MARKED[8:30, 10:36] = True
STRIPES = np.arange(48)[None].repeat(40, axis=0) // 16  # 0, 1, 2
TABLE = "#000000=background,#ff0000=polyp,#00ff00=tool"


def image(number: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (*SIZE, 3), dtype=np.uint8))


def write(root: Path, mask: Image.Image, ending: str = ".png") -> Path:
    """Ten images with this mask."""
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for number in range(COUNT):
        image(number).save(root / f"images/{number}.png")
        mask.save(root / f"masks/{number}{ending}")
    return root


def masks_of(root: Path) -> tuple[DataConfig, list[NDArray[np.uint8]]]:
    """The description, and masks of all images as a network sees them; the set has no faults."""
    config = resolve_root(DataConfig(name="set", root=root, image_size=(32, 32)))
    check_dataset(config)
    pairs = [pair for found in split_pairs(root, config).values() for pair in found]
    return config, [read_pair(pair, config)[1] for pair in pairs]


def palette(values: NDArray[np.uint8], colours: list[int]) -> Image.Image:
    picture = Image.fromarray(values, "P")
    picture.putpalette(colours)
    return picture


def binary_forms() -> dict[str, tuple[Image.Image, str]]:
    grey = MARKED.astype(np.uint8) * np.uint8(255)
    rgba = np.dstack([grey, grey, grey, np.full_like(grey, 255)])
    return {
        "one bit": (Image.fromarray(MARKED), ".png"),
        "gif": (Image.fromarray(grey), ".gif"),
        "rgba": (Image.fromarray(rgba), ".png"),
        "rgb": (Image.fromarray(rgba[..., :3]), ".tif"),
        "reversed palette": (palette((~MARKED).astype(np.uint8), [255, 255, 255, 0, 0, 0]), ".png"),
        "jpeg": (Image.fromarray(grey), ".jpg"),
        "16 bits": (Image.fromarray(MARKED.astype(np.uint16) * np.uint16(65535)), ".png"),
        "zero and one": (Image.fromarray(MARKED.astype(np.uint8)), ".bmp"),
    }


@pytest.mark.parametrize("form", list(binary_forms()))
def test_binary_masks_in_any_form(tmp_path: Path, form: str) -> None:
    prepare_pictures("folder", write(tmp_path / "raw", *binary_forms()[form]), tmp_path / "set", PLAN)
    config, masks = masks_of(tmp_path / "set")
    assert config.num_classes == 1
    for mask in masks:
        np.testing.assert_array_equal(mask, MARKED)


def test_palette_index_is_the_label_and_255_is_ignored(tmp_path: Path) -> None:
    labels = STRIPES.astype(np.uint8)
    labels[:5] = 255
    colours = [0, 0, 0, 200, 0, 0, 0, 200, 0, *([90] * (253 * 3))]
    source = write(tmp_path / "raw", palette(labels, colours))
    prepare_pictures("folder", source, tmp_path / "set", PLAN, reading=Reading(threshold=False))
    config, masks = masks_of(tmp_path / "set")
    assert (config.num_classes, config.ignore_label) == (3, 255)
    np.testing.assert_array_equal(masks[0], np.where(labels == 255, IGNORED, labels))


def in_colour() -> Image.Image:
    return Image.fromarray(np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)[STRIPES])


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_colour_table_gives_classes(tmp_path: Path, ending: str) -> None:
    """JPEG smears colours: the nearest is meant."""
    source = write(tmp_path / "raw", in_colour(), ending)
    reading = Reading(threshold=False, colours=parse_colours(TABLE))
    prepare_pictures("folder", source, tmp_path / "set", PLAN, reading=reading)
    config, masks = masks_of(tmp_path / "set")
    assert config.class_names == ("background", "polyp", "tool")
    assert (masks[0] == STRIPES).mean() > (0.99 if ending == ".png" else 0.9)


def test_colours_that_were_found_are_offered_as_an_option_that_works(tmp_path: Path) -> None:
    source = write(tmp_path / "raw", in_colour())
    with pytest.raises(InputError, match="masks are in colour") as error:
        prepare_pictures("folder", source, tmp_path / "none", PLAN)
    option = re.fullmatch(r"--colours '(.+)'", error.value.details[0])
    assert option is not None
    reading = Reading(threshold=False, colours=parse_colours(option[1].replace("class 2", "ignore")))
    prepare_pictures("folder", source, tmp_path / "set", PLAN, reading=reading)
    config, masks = masks_of(tmp_path / "set")
    assert (config.num_classes, config.class_names) == (1, ("background", "class 1"))
    assert set(np.unique(masks[0])) == {0, 1, IGNORED}
    incomplete = Reading(threshold=False, colours=parse_colours("#000000=background,#ff0000=polyp"))
    with pytest.raises(InputError, match="10 faults") as error:
        prepare_pictures("folder", source, tmp_path / "other", PLAN, reading=incomplete)
    assert "#00ff00" in error.value.details[0]


@pytest.mark.parametrize("text", ["red=polyp", "#000000=a", "#000000=a,#000000=b", "#000000=ignore,#ffffff=b"])
def test_broken_colour_tables(text: str) -> None:
    with pytest.raises(InputError, match="colours must"):
        parse_colours(text)


def test_stray_values_between_labels(tmp_path: Path) -> None:
    """0, 128 and 255 with traces of others: the option is proposed, and brings them to the nearest."""
    values = np.array([0, 128, 255], np.uint8)[STRIPES]
    values[0, :16], values[0, 16:32] = np.arange(16), np.arange(118, 134)
    source = write(tmp_path / "raw", Image.fromarray(values))
    with pytest.raises(InputError, match="--labels --values 0,128,255"):
        prepare_pictures("folder", source, tmp_path / "none", PLAN, reading=Reading(threshold=False))
    reading = Reading(threshold=False, values=(0, 128, 255))
    prepare_pictures("folder", source, tmp_path / "set", PLAN, reading=reading)
    config, masks = masks_of(tmp_path / "set")
    assert (config.num_classes, config.label_map) == (3, {0: 0, 128: 1, 255: 2})
    np.testing.assert_array_equal(masks[0], STRIPES)


def test_degrees_of_grey_are_labels(tmp_path: Path) -> None:
    values = np.array([0, 102, 153, 255], np.uint8)[np.arange(48)[None].repeat(40, axis=0) // 12]
    source = write(tmp_path / "raw", Image.fromarray(values))
    prepare_pictures("folder", source, tmp_path / "set", PLAN, reading=Reading(threshold=False))
    assert masks_of(tmp_path / "set")[0].label_map == {0: 0, 102: 1, 153: 2, 255: 3}


def test_instance_map_of_16_bits_is_marked_whole(tmp_path: Path) -> None:
    numbers = np.where(MARKED, np.arange(48)[None].repeat(40, axis=0) * 40, 0).astype(np.uint16)
    source = write(tmp_path / "raw", Image.fromarray(numbers))
    with pytest.raises(InputError, match="whatever is not 0 with --marked"):
        prepare_pictures("folder", source, tmp_path / "none", PLAN)
    prepare_pictures("folder", source, tmp_path / "set", PLAN, reading=Reading(any_value=True))
    np.testing.assert_array_equal(masks_of(tmp_path / "set")[1][0], MARKED)


def test_masks_of_half_the_size_are_named_and_resized_on_demand(tmp_path: Path) -> None:
    half = Image.fromarray(MARKED[::2, ::2].astype(np.uint8) * np.uint8(255))
    source = write(tmp_path / "raw", half)
    with pytest.raises(InputError, match="10 faults") as error:
        prepare_pictures("folder", source, tmp_path / "none", PLAN)
    assert "0.png is 48×40, 0.png is 24×20" in error.value.details[0]
    assert "--resize-masks" in error.value.details[0]
    prepare_pictures("folder", source, tmp_path / "set", PLAN, reading=Reading(resize_masks=True))
    np.testing.assert_array_equal(masks_of(tmp_path / "set")[1][0], MARKED)
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(source / "masks/3.png")
    with pytest.raises(InputError, match="1 fault"):
        prepare_pictures("folder", source, tmp_path / "none", PLAN, reading=Reading(resize_masks=True))


def test_several_masks_of_an_image_are_united_as_in_busi(tmp_path: Path) -> None:
    """Class folders, names with spaces and parentheses, name_mask.png and name_mask_1.png."""
    halves = [MARKED.copy(), MARKED.copy()]
    halves[0][:, 20:], halves[1][:, :20] = False, False
    for number in range(COUNT):
        kind = ("benign", "malignant")[number % 2]
        (tmp_path / "raw" / kind).mkdir(parents=True, exist_ok=True)
        name = f"{kind} ({number + 1})"
        image(number).save(tmp_path / "raw" / kind / f"{name}.png")
        for suffix, half in zip(("_mask", "_mask_1"), halves, strict=True):
            Image.fromarray(half).save(tmp_path / "raw" / kind / f"{name}{suffix}.png")
    made = prepare_pictures("folder", tmp_path / "raw", tmp_path / "set", PLAN)
    assert sum(made.num_images.values()) == made.num_united == COUNT
    for mask in masks_of(tmp_path / "set")[1]:
        np.testing.assert_array_equal(mask, MARKED)


def test_one_file_for_each_object_as_in_the_data_science_bowl(tmp_path: Path) -> None:
    objects = [np.zeros(SIZE, np.uint8) for _ in range(3)]
    for number, one in enumerate(objects):
        one[5 + 10 * number : 12 + 10 * number, 10:20] = 255
    for number in range(COUNT):
        case = tmp_path / "raw/stage1_train" / f"{number:032x}"
        (case / "images").mkdir(parents=True)
        (case / "masks").mkdir()
        image(number).convert("RGBA").save(case / f"images/{number:032x}.png")
        for index, one in enumerate(objects):
            Image.fromarray(one).save(case / f"masks/{index:064x}.png")
    prepare_pictures("folder", tmp_path / "raw", tmp_path / "set", PLAN)
    np.testing.assert_array_equal(masks_of(tmp_path / "set")[1][0], np.maximum.reduce(objects) > 0)


@pytest.mark.parametrize(
    "folders", [("image", "label"), ("img", "gt"), ("Original", "Ground Truth"), ("imgs", "masks")]
)
def test_common_names_of_folders(tmp_path: Path, folders: tuple[str, str]) -> None:
    source = write(tmp_path / "raw", Image.fromarray(MARKED))
    for old, new in zip(("images", "masks"), folders, strict=True):
        (source / old).rename(source / new)
    assert sum(prepare_pictures("folder", source, tmp_path / "set", PLAN).num_images.values()) == COUNT


@pytest.mark.parametrize("form", [",", ";", "\t", "json", "nested json"])
def test_table_of_pairs(tmp_path: Path, form: str) -> None:
    """Files of one name in two folders, groups, several masks of an image."""
    rows = []
    for number in range(COUNT):
        folder = tmp_path / "raw" / f"Fall {number // 2}"
        folder.mkdir(parents=True, exist_ok=True)
        image(number).save(folder / f"Bild ü{number % 2}.PNG")
        Image.fromarray(MARKED).save(folder / f"maske {number % 2}.png")
        rows.append(
            {
                "Image": f"Fall {number // 2}/Bild ü{number % 2}.PNG",
                "mask": f"Fall {number // 2}/maske {number % 2}.png",
                "patient": f"P{number // 2}",
            }
        )
    table = tmp_path / ("pairs.json" if "json" in form else "pairs.csv")
    if "json" in form:
        table.write_text(json.dumps(rows if form == "json" else {"training": rows}))
    else:
        lines = [rows[0].keys(), *(row.values() for row in rows)]
        table.write_text("\n".join(form.join(line) for line in lines), encoding="utf-8")
    made = prepare_pictures("folder", tmp_path / "raw", tmp_path / "set", PLAN, table=table)
    assert sum(made.num_images.values()) == COUNT
    assert sum(made.num_groups.values()) == COUNT // 2
    masks_of(tmp_path / "set")
    chosen = ("Image", "mask")
    made = prepare_pictures("folder", tmp_path / "raw", tmp_path / "all", PLAN, table=table, columns=chosen)
    assert sum(made.num_groups.values()) == COUNT
    with pytest.raises(InputError, match="--columns must name"):
        prepare_pictures("folder", tmp_path / "raw", tmp_path / "b", PLAN, table=table, columns=("image", "x"))


def test_table_that_names_what_is_not_there(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("image,mask\na.png,b.png\n")
    with pytest.raises(InputError, match="2 faults"):
        prepare_pictures("folder", tmp_path, tmp_path / "set", PLAN, table=table)
    table.write_text("one,two\na.png,b.png\n")
    with pytest.raises(InputError, match=r"has the columns \['one', 'two'\]; name those"):
        prepare_pictures("folder", tmp_path, tmp_path / "set", PLAN, table=table)
