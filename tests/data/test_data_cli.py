"""``slicemamba data``: what is printed and written, and the exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from synapse_cases import write_download
from typer.testing import CliRunner

import slicemamba.cli
from cluster.config import check_document
from slicemamba.config import DataConfig
from slicemamba.data.description import read_description
from slicemamba.data.sheet import write_contact_sheet
from slicemamba.errors import InputError

runner = CliRunner()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Calls the command in an empty folder; errors for users are raised, as the main program prints them."""
    import typer

    app = typer.Typer()
    slicemamba.cli.register(app, check_document)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object, code: int = 0) -> str:
        result = runner.invoke(app, ["data", *map(str, arguments)])
        if isinstance(result.exception, InputError):
            raise result.exception
        assert result.exit_code == code, result.output
        return result.stdout

    return call


def test_check_of_a_folder(run, folder: DataConfig, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    output = run("check", folder.root)
    assert "no faults" in output
    with Image.open(tmp_path / "contact-sheet-lesions.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    assert pixels.shape[0] > 500
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 1000  # pictures, not an empty page


def test_check_of_a_job_file(run, folder: DataConfig, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    job = {"kind": "search", "data": {"name": "lesions", "root": str(folder.root)}, "search": {"num_trials": 3}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    report = json.loads(run("check", "job.yaml", "--json", "--sheet", "out/sheet.png"))
    assert report["ok"]
    assert report["num_images"] == {"train": 6, "val": 2, "search": 2, "test": 3}
    assert report["contact_sheet"] == "out/sheet.png"
    assert Path("out/sheet.png").is_file()


def test_faults(run, folder: DataConfig) -> None:  # type: ignore[no-untyped-def]
    assert folder.root is not None
    (folder.root / "val/images/val_00000.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=r"val_00000\.jpg"):
        run("check", folder.root)
    told = json.loads(run("check", folder.root, "--json", code=2))
    assert not told["ok"]
    assert "val_00000.jpg" in told["faults"][0]


def test_options_are_overridden(run, folder: DataConfig) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match="in two splits"):
        run("check", folder.root, "--set", r"data.patient_pattern=_0000(\d)$")
    with pytest.raises(InputError, match="misspelt"):
        run("check", folder.root, "--set", "data.misspelt=1")


def test_prepare_then_check_of_synapse(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    write_download(tmp_path / "raw", 5)
    assert "train" in run("prepare", "synapse", "raw", "set", "--fractions", "0.4,0.2,0.2,0.2", "--seed", 1)
    report = json.loads(run("check", "set", "--json"))
    assert (len(report["class_share"]["test"]), sum(report["num_patients"].values())) == (9, 5)


def test_prepare_of_pictures(run, folder: DataConfig) -> None:  # type: ignore[no-untyped-def]
    assert folder.root is not None
    output = run("prepare", "folder", folder.root / "train", "set", "--fractions", "0.5,0.2,0,0.3")
    assert "slicemamba data check set" in output
    assert Path("set/test/images").is_dir()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["folders", "raw", "set"], "kind must be one of isic, kvasir"),
        (["folder", "raw", "set", "--fractions", "0.5,0.5"], "look like 0.5,0.15"),
        (["folder", "raw", "set", "--patient-pattern", "x"], "patient_pattern needs one group"),
        (["synapse", "raw", "set", "--masks", "a"], "--masks has no effect for synapse"),
        (["folder", "raw", "set"], "is not a folder"),
        (["kvasir", "raw", "set", "--published-test"], "--published-test has no effect for kvasir"),
        (["synapse", "raw", "set", "--patient-pattern", "(x)"], "--patient-pattern has no effect for synapse"),
        (["folder", "raw", "set", "--groups", "none.csv"], "cannot be read"),
        (["folder", "raw", "set", "--groups", "none.csv", "--patient-pattern", "(x)"], "both tell the patients"),
        (["folder", "raw", "set", "--labels", "--marked"], "give one of them"),
        (["synapse", "raw", "set", "--marked"], "--marked has no effect for synapse"),
    ],
)
def test_arguments_that_do_not_fit(run, arguments: list[str], expected: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError) as caught:
        run("prepare", *arguments)
    assert expected in str(caught.value)


def test_contact_sheet_of_the_synthetic_set(synthetic: DataConfig, tmp_path: Path) -> None:
    path = write_contact_sheet(synthetic, tmp_path / "sheet.png", per_split=3)
    with Image.open(path) as sheet:
        assert sheet.width > sheet.height / 2


def test_each_command_tells_the_next(run, folder: DataConfig) -> None:  # type: ignore[no-untyped-def]
    assert folder.root is not None
    pattern = r"_0000(\d)$"
    output = run("prepare", "folder", folder.root / "train", "my set", "--patient-pattern", pattern)
    assert output.splitlines()[-1] == "next: slicemamba data check 'my set'"
    output = run("check", "my set", "--set", "data.num_classes=1")
    assert output.splitlines()[-1] == (
        "next: slicemamba search laptop --set data.name=my-set --set 'data.root=my set' --set data.num_classes=1"
    )
    Path("job.yaml").write_text(yaml.safe_dump({"data": {"name": "lesions", "root": str(folder.root)}}))
    assert run("check", "job.yaml").splitlines()[-1] == "next: slicemamba search job.yaml"


@pytest.mark.parametrize(
    ("values", "num_classes", "label_map"),
    [
        ([0, 255], 1, None),
        ([0, 1, 2], 3, None),
        ([0, 127, 254], 3, {0: 0, 127: 1, 254: 2}),
        ([0, 2], 3, {0: 0, 2: 1}),
        ([0, 1, 2, 255], 3, None),
    ],
)
def test_labels_are_told_from_masks_that_are_not_quite_binary(  # type: ignore[no-untyped-def]
    run, folder: DataConfig, values: list[int], num_classes: int, label_map: dict[int, int] | None
) -> None:
    """With --labels the folder says from then on what its masks hold; without, nothing is erased by the cut."""
    assert folder.root is not None
    for image, mask in zip(
        *(sorted((folder.root / "train" / part).iterdir()) for part in ("images", "masks")), strict=True
    ):
        with Image.open(image) as picture:
            width, height = picture.size
        labels = np.arange(height * width).reshape(height, width) // 5 % len(values)
        Image.fromarray(np.array(values, np.uint8)[labels]).save(mask)
    output = run("prepare", "folder", folder.root / "train", "labels", "--labels")
    assert ("255 is taken for pixels without a label" in output) == (len(values) == 4)
    described = read_description(Path("labels"))
    assert (described.num_classes, described.label_map) == (num_classes, label_map)
    assert described.ignore_label == (255 if 255 in values and len(values) == 4 else None)
    assert len(json.loads(run("check", "labels", "--json"))["class_share"]["train"]) == max(2, num_classes)
    if values[1:] == [127, 254]:
        with pytest.raises(InputError, match="would erase 50% of what they mark"):
            run("prepare", "folder", folder.root / "train", "binary")
        assert not Path("binary").exists()
        output = run("prepare", "folder", folder.root / "train", "binary", "--marked", "--classes", "skin,lesion")
        assert "if these are class labels" not in output
        report = json.loads(run("check", "binary", "--json"))
        assert report["class_share"]["train"][1] == pytest.approx(2 / 3, abs=0.01)
        assert report["class_names"] == ["skin", "lesion"]


def test_check_of_a_job_file_looks_at_all_of_it(run, folder: DataConfig, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"data": {"name": "lesions", "root": str(folder.root)}}))
    with pytest.raises(InputError, match=r"/search/num_trial: unknown field; did you mean 'num_trials'"):
        run("check", "job.yaml", "--set", "search.num_trial=3")
    with pytest.raises(InputError, match="did you mean 'search'"):
        run("check", "job.yaml", "--set", "kind=serach")


def test_check_of_a_folder_with_names_of_all_kinds(run, folder: DataConfig) -> None:  # type: ignore[no-untyped-def]
    assert folder.root is not None
    images = sorted((folder.root / "train" / "images").iterdir())
    for name, image in zip(("x$y^$", "[bold]", "n" * 230, "{0}"), images, strict=False):
        [mask] = (folder.root / "train" / "masks").glob(f"{image.stem}_*")
        image.rename(image.with_name(f"{name}{image.suffix}"))
        mask.rename(mask.with_name(f"{name}_mask.png"))
    assert "no faults" in run("check", folder.root)
