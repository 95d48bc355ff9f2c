"""A proposed configuration is a valid job, fits the images, and says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from api.cli import app
from slicemamba.config import DataConfig
from slicemamba.data.description import FILE
from slicemamba.data.plan import as_yaml, propose
from slicemamba.data.reports import DatasetReport
from slicemamba.documents import read_yaml
from slicemamba.errors import InputError


def report(size: tuple[int, int], train: int, values: tuple[float, float] | None = None) -> DatasetReport:
    return DatasetReport(
        name="set",
        num_images={"train": train, "val": 9, "search": 9, "test": 9},
        smallest_size=size,
        largest_size=size,
        median_size=size,
        foreground_share={},
        value_range=values,
        fingerprint="x",
    )


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [
        ((1080, 1920), 256, [144, 256]),
        ((40, 50), 256, [32, 48]),
        ((3000, 20), 96, [96, 32]),
        ((500, 500), 96, [96, 96]),
    ],
)
def test_image_size_keeps_the_aspect(size: tuple[int, int], longest: int, expected: list[int]) -> None:
    found = {one.option: one.value for one in propose(DataConfig(name="set"), report(size, 100), longest)}
    assert found["data.image_size"] == expected


def test_small_sets_get_small_batches() -> None:
    few, many = (
        {one.option: one.value for one in propose(DataConfig(name="set"), report((64, 64), train), 64)}
        for train in (20, 4000)
    )
    assert few["retrain.batch_size"] == 2
    assert many["retrain.batch_size"] == 16


@pytest.mark.parametrize(
    ("shares", "told"), [((1, 0.9, 0.03), True), ((1, 0.9, 0.2), False), ((1, 0.9, 0), False), ((), False)]
)
def test_images_of_a_rare_class_are_drawn_more_often(shares: tuple[float, ...], told: bool) -> None:
    known = report((64, 64), 100).model_copy(update={"class_images": shares, "class_names": ("-", "liver", "spleen")})
    proposals = propose(DataConfig(name="set"), known, 64)
    found = {one.option: one.value for one in proposals}
    assert found.get("retrain.rare_class_threshold") == found.get("supernet.rare_class_threshold")
    assert found.get("retrain.rare_class_threshold") == (0.3 if told else None)
    if told:
        assert "spleen is in 3.0% of the train images; they are drawn 3.2 times as often" in as_yaml(proposals)


@pytest.mark.parametrize(("ratios", "fit"), [((0.9, 1.0, 1.2), None), ((0.6, 1.0, 2.0), "pad"), (None, None)])
def test_images_of_different_aspects_are_padded(ratios: tuple[float, float, float] | None, fit: str | None) -> None:
    told = report((64, 64), 100).model_copy(update={"aspect_ratios": ratios})
    found = {one.option: one.value for one in propose(DataConfig(name="set"), told, 64)}
    assert found.get("data.fit") == fit


@pytest.mark.parametrize(
    ("size", "pixels", "patches"),
    [
        ((1500, 2000), 100, True),  # 0.3 pixels at 80×96
        ((1500, 2000), 60_000, False),  # still large enough
        ((1500, 2000), 9, False),  # lost as stored
        ((150, 180), 20, False),  # images that are not that large
    ],
)
def test_large_images_of_small_lesions_are_not_resized(size: tuple[int, int], pixels: int, patches: bool) -> None:
    share = pixels / (size[0] * size[1])
    told = report(size, 20).model_copy(update={"smallest_lesion": (share / 2, share)})
    proposals = propose(DataConfig(name="set"), told, 100)
    found = {one.option: one.value for one in proposals}
    assert (found.get("data.fit") == "patch") == patches
    if patches:
        assert found["data.image_size"] == [96, 96]
        assert found["retrain.batch_size"] == 16  # of 20 images of 16 × 21 windows
        assert "would have 0.3 pixels, of 100 stored ones" in as_yaml(proposals)


def test_hounsfield_units_get_a_window() -> None:
    proposals = propose(DataConfig(name="set"), report((64, 64), 100, (-1000, 900)), 64)
    found = {one.option: one.value for one in proposals}
    assert found["data.window"] == [-125, 275]
    assert "# values from -1000 are Hounsfield units" in as_yaml(proposals)


def check(folder: DataConfig, *options: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["data", "check", str(folder.root), "--no-sheet", "--json", *options])
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def test_check_keeps_what_it_measured_and_plan_reads_it(
    folder: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert folder.root is not None
    (folder.root / FILE).write_text("# by hand\nclass_names: [skin, lesion]  # as the clinic says\n")
    found = check(folder)
    text = (folder.root / FILE).read_text()
    assert text.startswith("# by hand\nclass_names: [skin, lesion]  # as the clinic says\nmeasured:\n")
    measured = read_yaml(folder.root / FILE)["measured"]
    assert measured["median_size"] == found["median_size"] == [48, 64]
    assert measured["aspect_ratios"] == pytest.approx([4 / 3] * 3)
    assert 0 < measured["smallest_lesion"][0] <= measured["smallest_lesion"][1] < 1
    assert len(measured["intensities"]) == 3
    assert all(0 < mean < 255 and std > 0 for mean, std in measured["intensities"])
    check(folder)
    assert (folder.root / FILE).read_text() == text

    def decoded(*_: object) -> None:
        raise AssertionError("a file was decoded")

    with monkeypatch.context() as patch:
        patch.setattr("slicemamba.data.checks.examine", decoded)
        command = ["plan", str(folder.root), "--out"]
        done = CliRunner().invoke(app, [*command, str(tmp_path / "plan.yaml")], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert "the smallest lesion has" in (tmp_path / "plan.yaml").read_text()
        next((folder.root / "train/masks").iterdir()).touch()
        with pytest.raises(AssertionError, match="was decoded"):
            CliRunner().invoke(app, [*command, str(tmp_path / "again.yaml")], catch_exceptions=False)


@pytest.mark.parametrize("told", ["{}\n", "{class_names: [a, b]}\n", "measured: {name: old}\n", "measured: 3\n"])
def test_measures_go_into_any_form_of_description(folder: DataConfig, told: str) -> None:
    assert folder.root is not None
    (folder.root / FILE).write_text(told)
    if told == "measured: 3\n":
        done = CliRunner().invoke(app, ["data", "check", str(folder.root), "--no-sheet"])
        assert isinstance(done.exception, InputError) or done.exit_code == 2
        return
    found = check(folder)
    values = read_yaml(folder.root / FILE)
    assert values["measured"]["num_images"] == found["num_images"]
    assert values.get("class_names") == (["a", "b"] if "class" in told else None)
    assert check(folder)["fingerprint"] == found["fingerprint"]


def test_folder_that_cannot_be_written_is_checked(folder: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("slicemamba.data.description.write_text", refuse)
    done = CliRunner().invoke(app, ["data", "check", str(folder.root), "--no-sheet"])
    assert done.exit_code == 0
    assert "was not written (Permission denied)" in done.stderr
