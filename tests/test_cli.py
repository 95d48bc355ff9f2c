"""The commands that need no cluster, as a user calls them: outputs, exit codes, and what is said about bad input."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from slicemamba import cli
from slicemamba.architecture import Architecture
from slicemamba.config import DataConfig, ModelConfig, SyntheticConfig
from slicemamba.data.description import Description, write_description
from slicemamba.data.synthetic import write_isic_folder
from slicemamba.errors import InputError
from slicemamba.models.checkpoints import load_network, save_network
from slicemamba.models.supernet import Supernet
from slicemamba.models.unet import SliceMambaUNet

MODEL = ModelConfig(embed_dim=8, encoder_depths=(1,), decoder_depths=(1,), d_state=2)
DATA = DataConfig(
    image_size=(32, 40), synthetic=SyntheticConfig(num_train=2, num_val=2, num_search=2, num_test=3), intensity="zscore"
)


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer(pretty_exceptions_enable=False)
    cli.register(made)
    return made


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLICEMAMBA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    made = SliceMambaUNet(MODEL, 1, Architecture.parse("s1:2x2|s2:2x4"))
    save_network(tmp_path / "network", made, DATA)
    return tmp_path / "network"


def test_evaluate_prints_scores_with_intervals_and_writes_those_of_each_image(
    app: typer.Typer, network: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["evaluate", str(network), "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    assert "95 % interval" in done.stdout
    stored = json.loads((out / "evaluation.json").read_text())
    assert stored["images"] == 3
    low, high = stored["intervals"]["dice"]
    assert low <= stored["metrics"]["dice"] <= high
    assert f"{low:.4f} … {high:.4f}" in done.stdout
    assert len((out / "per_image.csv").read_text().splitlines()) == 1 + 3
    assert (out / "predictions" / "predictions.png").is_file()
    as_json = CliRunner().invoke(app, ["evaluate", str(network), "--json"], catch_exceptions=False)
    assert json.loads(as_json.stdout) == stored


def test_evaluate_reports_what_other_tools_report_where_it_is_asked_to(app: typer.Typer, network: Path) -> None:
    command = ["evaluate", str(network), "--boundary-tolerance", "2"]
    shown = CliRunner().invoke(app, command, catch_exceptions=False).stdout
    assert "surface_dice" in shown
    stored = json.loads(CliRunner().invoke(app, [*command, "--json"], catch_exceptions=False).stdout)
    assert stored["boundaries"]["surface_dice_tolerance"] == 2
    assert stored["boundaries"]["hd95_directed_max"] >= 0.9 * stored["metrics"]["hd95"]
    assert isinstance(stored["boundaries"]["lesions_found"], int)


def test_figures(app: typer.Typer, network: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["figures", str(network), "--out", str(tmp_path / "f"), "--limit", "2"], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert {path.name for path in (tmp_path / "f").iterdir()} == {
        "cases",
        "grid.png",
        "grid.pdf",
        "scores.png",
        "scores.pdf",
    }
    with pytest.raises(InputError, match="has no image named nobody"):
        CliRunner().invoke(app, ["figures", str(network), "--case", "nobody"], catch_exceptions=False)


def test_scores_of_a_network_that_diverged_are_null(app: typer.Typer, network: Path, tmp_path: Path) -> None:
    """JSON has no NaN: what reads it would break."""
    made = load_network(network)
    assert isinstance(made, SliceMambaUNet)
    with torch.no_grad():
        made.final_conv.bias.fill_(float("nan"))  # type: ignore[union-attr]
    save_network(network, made, DATA)
    out = tmp_path / "out"
    for arguments in (["--json"], ["--out", str(out)]):
        done = CliRunner().invoke(app, ["evaluate", str(network), *arguments], catch_exceptions=False)
        assert done.exit_code == 0
        text = done.stdout if "--json" in arguments else (out / "evaluation.json").read_text()
        assert json.loads(text, parse_constant=pytest.fail)["metrics"]["dice"] is None


def test_volume_with_a_damaged_header_stops_no_other(app: typer.Typer, network: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).random((20, 24, 3)).astype(np.float32)
    for name in ("a", "unit", "z"):
        image = nib.Nifti1Image(values, np.eye(4))
        image.header["xyzt_units"] = 7 if name == "unit" else 2
        nib.save(image, tmp_path / f"{name}.nii.gz")
    affine = nib.Nifti1Image(values, np.eye(4))
    affine.header["srow_x"], affine.header["sform_code"] = (np.nan, 0, 0, 0), 1
    affine.header["qform_code"] = 0
    (tmp_path / "affine.nii").write_bytes(affine.header.binaryblock + bytes(4) + values.tobytes(order="F"))
    files = [str(tmp_path / name) for name in ("a.nii.gz", "unit.nii.gz", "affine.nii", "z.nii.gz")]
    done = CliRunner().invoke(app, ["predict", str(network), *files, "-o", str(tmp_path / "m")], catch_exceptions=False)
    assert done.exit_code == cli.BROKEN_FILES
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["a.nii.gz", "z.nii.gz"]
    assert "unit.nii.gz (unit of length" in done.stderr
    assert "affine.nii" in done.stderr


def test_predict_writes_masks_and_tells_what_failed(app: typer.Typer, network: Path, tmp_path: Path) -> None:
    folder = write_isic_folder(DATA, tmp_path / "set") / "test" / "images"
    (folder / "broken.jpg").write_text("no picture")
    (folder / "cut.png").write_bytes(b"\x89PNG")
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((20, 24, 3)), np.eye(4)), folder / "scan.nii.gz")
    options = ["--mode", "window", "--overlap", "0.5", "--flips", "--probabilities", "--overlay", "--batch-size", "2"]
    done = CliRunner().invoke(
        app, ["predict", str(network), str(folder), "--out", str(tmp_path / "m"), *options], catch_exceptions=False
    )
    assert done.exit_code == cli.BROKEN_FILES == 3
    assert "4 masks written" in done.stderr
    assert "2 files gave no mask" in done.stderr
    assert "broken.jpg" in done.stderr
    assert done.stderr.count("Fix: replace it with an intact file.") == 1
    masks = sorted(path.name for path in (tmp_path / "m").iterdir() if path.is_file())
    assert len(masks) == 4
    assert masks[-1] == "scan.nii.gz" or "scan.nii.gz" in masks
    assert len(list((tmp_path / "m" / "overlays").iterdir())) == 4
    assert len(list((tmp_path / "m" / "probabilities").iterdir())) == 4


def test_a_bundle_predicts_what_the_network_does(app: typer.Typer, network: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    done = CliRunner().invoke(
        app, ["export", str(network), "--out", str(bundle), "--format", "pt2"], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert "model.pt2" in done.stdout
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 50, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    masks = []
    for source in (network, bundle):
        out = tmp_path / f"masks-of-{source.name}"
        CliRunner().invoke(
            app, ["predict", str(source), str(tmp_path / "a.png"), "--out", str(out)], catch_exceptions=False
        )
        masks.append((out / "a.png").read_bytes())
    assert masks[0] == masks[1]


@pytest.mark.parametrize("window", ["a,b", "5", "3,1", "1,2,3", "1,1"])
def test_a_window_of_another_form_is_refused(app: typer.Typer, network: Path, window: str) -> None:
    with pytest.raises(InputError, match=r"--window must be two numbers, the lower one first"):
        CliRunner().invoke(app, ["predict", str(network), str(network), f"--window={window}"], catch_exceptions=False)


def test_networks_that_cannot_be_used_are_refused(app: typer.Typer, network: Path, tmp_path: Path) -> None:
    save_network(tmp_path / "supernet", Supernet(MODEL, 1, [(2, 2)]), DATA)
    save_network(tmp_path / "unknown", SliceMambaUNet(MODEL, 1, Architecture.parse("s1:2x2|s2:2x4")))
    for folder, said in (
        (tmp_path / "supernet", "holds a supernet; give a plain network"),
        (tmp_path / "unknown", "does not say what data it was trained on"),
        (tmp_path, "contains no trained network; give the folder of a finished run"),
        (tmp_path / "nowhere", "nowhere does not exist; give the folder of a finished run"),
    ):
        with pytest.raises(InputError, match=said):
            CliRunner().invoke(app, ["evaluate", str(folder)], catch_exceptions=False)


def test_images_of_another_place_are_scored_without_splits(app: typer.Typer, network: Path, tmp_path: Path) -> None:
    hospital = write_isic_folder(DATA, tmp_path / "set") / "train"
    done = CliRunner().invoke(
        app, ["evaluate", str(network), "--data", str(hospital), "--json"], catch_exceptions=False
    )
    found = json.loads(done.stdout)
    assert (found["data"], found["images"]) == ("train", DATA.synthetic.num_train)
    next((hospital / "masks").iterdir()).unlink()
    with pytest.raises(InputError, match="image without a mask"):
        CliRunner().invoke(app, ["evaluate", str(network), "--data", str(hospital)], catch_exceptions=False)


def test_classes_of_another_place_must_be_those_of_the_network(app: typer.Typer, network: Path, tmp_path: Path) -> None:
    hospital = write_isic_folder(DATA, tmp_path / "set")
    write_description(hospital, Description(num_classes=3))
    with pytest.raises(InputError, match="tells 1 classes apart"):
        CliRunner().invoke(app, ["evaluate", str(network), "--data", str(hospital)], catch_exceptions=False)


def test_a_run_stands_for_the_network_in_it(app: typer.Typer, network: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"kind": "search", "name": "first"}')
    network.rename(run / "retrained")
    done = CliRunner().invoke(app, ["evaluate", str(run), "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["images"] == 3
    bundle = tmp_path / "bundle"
    CliRunner().invoke(app, ["export", str(run), "--out", str(bundle), "--format", "pt2"], catch_exceptions=False)
    assert (bundle / "weights.safetensors").is_file()


@pytest.mark.parametrize(
    ("device", "said"),
    [("gpu", "--device must be cpu, cuda or cuda:N; got 'gpu'"), ("cuda:99", "cuda:99 is not usable here")],
)
def test_a_device_that_is_not_there_is_refused(app: typer.Typer, network: Path, device: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        CliRunner().invoke(app, ["evaluate", str(network), "--device", device], catch_exceptions=False)


def test_network_whose_data_is_not_at_hand_asks_for_it(
    app: typer.Typer, network: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a service hands networks out: without the folder that the data has on the server."""
    monkeypatch.delenv("SLICEMAMBA_DATA", raising=False)
    made = SliceMambaUNet(MODEL, 1, Architecture.parse("s1:2x2|s2:2x4"))
    save_network(network, made, DATA.model_copy(update={"name": "elsewhere"}))
    with pytest.raises(InputError, match="'elsewhere', whose folder is not known here; give it with --data"):
        CliRunner().invoke(app, ["evaluate", str(network)], catch_exceptions=False)
