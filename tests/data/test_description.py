"""``dataset.yaml``: groups and classes travel with the folder into whatever uses it."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from slicemamba.config import DataConfig
from slicemamba.data.base import load_split
from slicemamba.data.catalog import resolve_root
from slicemamba.data.checks import check_dataset
from slicemamba.data.description import FILE, Description, read_description, write_description
from slicemamba.data.patients import groups_of, patients_of
from slicemamba.data.prepare import SplitPlan
from slicemamba.data.prepare_pictures import prepare_pictures
from slicemamba.data.splits import SPLITS, split_pairs
from slicemamba.data.synthetic import draw_lesion
from slicemamba.errors import InputError

COUNT = 24


def video_of(name: str) -> str:
    """Frames of a video do not follow each other, and no name tells it."""
    return f"video {int(name) * 7 % 6}"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    for part in ("images", "masks"):
        (tmp_path / "raw" / part).mkdir(parents=True)
    for index in range(COUNT):
        image, mask = draw_lesion(3, "train", index, (40, 48))
        Image.fromarray(image).save(tmp_path / f"raw/images/{index:02d}.png")
        Image.fromarray(mask * np.uint8(255)).save(tmp_path / f"raw/masks/{index:02d}.png")
    return tmp_path / "raw"


@pytest.fixture
def videos(raw: Path, tmp_path: Path) -> DataConfig:
    """Prepared with a table of groups, without a search folder; nothing else is told afterwards."""
    groups = {f"{index:02d}": video_of(f"{index:02d}") for index in range(COUNT)}
    prepare_pictures("folder", raw, tmp_path / "set", SplitPlan((0.5, 0.25, 0.0, 0.25), groups=groups))
    return DataConfig(name="set", root=tmp_path / "set", image_size=(32, 32))


def homes(config: DataConfig) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    assert config.root is not None
    for split, pairs in split_pairs(config.root, config).items():
        for pair in pairs:
            found[video_of(pair.name)].add(split)
    return found


def test_groups_of_the_table_are_in_one_split_each_and_in_one_fold(videos: DataConfig) -> None:
    assert all(len(splits) == 1 for splits in homes(videos).values())  # search is held out of train here
    held: dict[str, int] = {}
    for fold in (1, 2, 3):
        of_fold = videos.model_copy(update={"folds": 3, "fold": fold})
        assert all(len(splits) == 1 for splits in homes(of_fold).values())
        assert of_fold.root is not None
        for pair in split_pairs(of_fold.root, of_fold)["val"]:
            assert held.setdefault(video_of(pair.name), fold) == fold


def test_bootstrap_units_are_the_groups(videos: DataConfig, tmp_path: Path) -> None:
    for split in SPLITS:
        data = load_split(videos, split, tmp_path / "cache")
        assert data.patients == tuple(map(video_of, data.names))


def test_report_counts_the_groups_and_forgets_no_change(videos: DataConfig, tmp_path: Path) -> None:
    report = check_dataset(videos, cache_dir=tmp_path)
    assert sum(report.num_patients.values()) == 6
    assert videos.root is not None
    name = split_pairs(videos.root, videos)["test"][0].name
    described = read_description(videos.root)
    other = next(pair.name for pair in split_pairs(videos.root, videos)["train"])
    groups = described.groups | {name: described.groups[other]}
    write_description(videos.root, described.model_copy(update={"groups": groups}))
    with pytest.raises(InputError, match=r"1 × patient .* in two splits"):
        check_dataset(videos, cache_dir=tmp_path)


def test_image_that_the_table_lacks_is_a_warning(videos: DataConfig) -> None:
    assert videos.root is not None
    groups = dict(read_description(videos.root).groups)
    groups.pop("00")
    write_description(videos.root, Description(groups=groups))
    [warning] = check_dataset(videos).warnings
    assert "names no group for 1 of 24 images, which stand alone: 00" in warning


def test_equal_images_stay_together_in_folds_too(raw: Path, tmp_path: Path) -> None:
    for part in ("images", "masks"):
        (raw / part / "99.png").write_bytes((raw / part / "00.png").read_bytes())
    prepare_pictures("folder", raw, tmp_path / "set", SplitPlan())
    config = DataConfig(root=tmp_path / "set", name="set")
    first, twin, other = groups_of(["00", "99", "01"], config)
    assert first == twin != other
    assert patients_of(["00", "99"], config) == [None, None]  # no patient is known


def test_pattern_of_prepare_need_not_be_repeated(raw: Path, tmp_path: Path) -> None:
    prepare_pictures("folder", raw, tmp_path / "set", SplitPlan(patient_pattern=r"^\d(\d)$"))
    assert patients_of(["03", "13", "04"], DataConfig(name="set", root=tmp_path / "set")) == ["3", "3", "4"]


def test_slices_belong_to_the_group_of_their_volume(tmp_path: Path) -> None:
    write_description(tmp_path, Description(groups={"case0001": "anna", "case0002": "anna"}))
    names = ["case0001_slice000", "case0002_slice001", "case0003_slice000"]
    assert patients_of(names, DataConfig(name="ct", root=tmp_path)) == ["anna", "anna", "case0003"]


def test_classes_stand_in_for_defaults_alone(tmp_path: Path) -> None:
    described = Description(num_classes=3, label_map={0: 0, 7: 1, 9: 2}, class_names=("none", "left", "right"))
    write_description(tmp_path, described)
    assert read_description(tmp_path) == described
    plain = DataConfig(name="set", root=tmp_path)
    resolved = resolve_root(plain)
    assert (resolved.num_classes, resolved.label_map) == (3, described.label_map)
    assert resolved.class_names == described.class_names
    own = plain.model_copy(update={"label_map": {0: 0, 7: 1, 9: 1}})
    assert resolve_root(own) == own.model_copy(update={"root": tmp_path.resolve()})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("groups: {1: a}", "groups"),
        ("num_classes: 2", "ambiguous"),
        ("num_classes: 3\nclass_names: [a, b]", "3 different names"),
        ("num_clases: 3", "num_classes"),
        ("label_map: {0: 4}", "label_map must give classes"),
        ("groups: [", "not valid YAML"),
    ],
)
def test_faults_of_the_file_are_told_with_its_path(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(InputError) as caught:
        resolve_root(DataConfig(name="set", root=tmp_path))
    assert expected in str(caught.value)
    assert FILE in str(caught.value)


def nnunet(raw: Path, labels: dict[str, object], values: list[int]) -> Path:
    """The pictures as an nnU-Net raw data set whose masks hold stripes of ``values``."""
    (raw / "images").rename(raw / "imagesTr")
    (raw / "masks").rename(raw / "labelsTr")
    for index in range(COUNT):
        (raw / f"imagesTr/{index:02d}.png").rename(raw / f"imagesTr/case_{index:02d}_0000.png")
        (raw / f"labelsTr/{index:02d}.png").unlink()
        stripes = np.array(values, np.uint8)[np.arange(48) // 5 % len(values)][None].repeat(40, axis=0)
        Image.fromarray(stripes).save(raw / f"labelsTr/case_{index:02d}.png")
    (raw / "dataset.json").write_text(json.dumps({"channel_names": {"0": "R"}, "labels": labels}))
    return raw


@pytest.mark.parametrize(
    ("labels", "values", "label_map"),
    [
        ({"background": 0, "disc": 1, "cup": 2}, [0, 1, 2], None),
        ({"cup": 9, "background": 0, "disc": 4}, [0, 4, 9], {0: 0, 4: 1, 9: 2}),
        ({"0": "background", "1": "disc", "2": "cup"}, [0, 1, 2], None),
        ({"background": 0, "disc": 1}, [0, 1], None),
        ({"background": 0, "disc": 3}, [0, 3], {0: 0, 3: 1}),
    ],
)
def test_nnunet_set_tells_its_labels(
    raw: Path, tmp_path: Path, labels: dict[str, object], values: list[int], label_map: dict[int, int] | None
) -> None:
    prepare_pictures("folder", nnunet(raw, labels, values), tmp_path / "set", SplitPlan(patient_pattern=r"_\d(\d)$"))
    config = resolve_root(DataConfig(name="set", root=tmp_path / "set"))
    assert config.class_names == ("background", "disc", "cup")[: len(values)]
    assert (config.num_classes, config.label_map) == (1 if len(values) == 2 else 3, label_map)
    report = check_dataset(config)
    assert all(share > 0.2 for share in report.class_share["train"])
    assert sum(report.num_patients.values()) == 10


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"background": 0, "whole": [1, 2]}, "has regions"),
        ({"background": 0, "disc": 1, "cup": 1}, "a value of its own"),
        ({"background": 0, "ignore": 2}, "a class beside the background"),
        ({"disc": 1, "cup": 2}, "0 the background"),
    ],
)
def test_labels_that_are_not_supported(raw: Path, tmp_path: Path, labels: dict[str, object], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        prepare_pictures("folder", nnunet(raw, labels, [0, 1]), tmp_path / "set", SplitPlan())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("strata:\n  a: x\n  b: y\n  a: z\n", "'a' is given twice, in lines 2 and 4"),
        ("strata: [\n", "is not valid YAML"),
        ("- strata\n", "must hold a mapping"),
    ],
)
def test_faults_of_the_file_are_told_as_those_of_a_configuration(tmp_path: Path, text: str, said: str) -> None:
    """By libyaml too, which reads long groups and strata."""
    (tmp_path / "dataset.yaml").write_text("groups:\n  2026-01-31: scan 1\n")
    assert read_description(tmp_path).groups == {"2026-01-31": "scan 1"}
    (tmp_path / "dataset.yaml").write_text(text)
    with pytest.raises(InputError, match=said):
        read_description(tmp_path)
