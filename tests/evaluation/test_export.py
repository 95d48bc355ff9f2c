"""Programs and bundles: equal to the network at any batch size, free of what they must not need, and honest cards."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec as real_find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import Tensor

from slicemamba.architecture import Architecture
from slicemamba.config import DataConfig, ModelConfig
from slicemamba.errors import InputError, RunFailedError
from slicemamba.evaluation import export as module
from slicemamba.evaluation.bundle import export_bundle, model_card, read_metrics
from slicemamba.evaluation.export import FORMATS, Artifact, check_formats, export_programs
from slicemamba.evaluation.inference import Segmenter
from slicemamba.models.checkpoints import load_network, read_card, save_network
from slicemamba.models.unet import SliceMambaUNet

DATA = DataConfig(name="lesions", root=Path("/some/place"), image_size=(32, 40), intensity="zscore")
SCORES = {"search": {"dice": 0.75, "miou": 0.625}, "test": {"dice": 0.5, "miou": 0.375}}


def network() -> SliceMambaUNet:
    """Two blocks; 3×5 slices, which do not divide the maps. Marks about half of the pixels of noise."""
    torch.manual_seed(3)
    model = ModelConfig(embed_dim=8, encoder_depths=(1,), decoder_depths=(1,), d_state=2)
    made = SliceMambaUNet(model, 1, Architecture.parse("s1:3x5|s2:2x4")).eval()
    with torch.no_grad():
        made.final_conv.bias -= made(torch.randn(1, 3, 32, 40)).median()  # type: ignore[operator]
    return made


def save_run(folder: Path) -> Path:
    """A run's folder with a network and a result; returns the network's."""
    saved = network()
    save_network(folder / "retrained", saved, DATA)
    result = {
        "metrics_version": 1,
        "data": "lesions",
        "retrained": {"architecture": str(saved.architecture), "scores": SCORES},
        "trivial": {},
        "environment": {"packages": {"torch": "2"}},
    }
    (folder / "result.json").write_text(json.dumps(result))
    return folder / "retrained"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with all programs; made once, as it takes seconds."""
    source = save_run(tmp_path_factory.mktemp("run"))
    folder = tmp_path_factory.mktemp("bundle")
    made = export_bundle(source, load_network(source), read_card(source), folder)  # type: ignore[arg-type]
    assert [artifact.file.name for artifact in made] == ["model.pt2", "model_portable.pt2", "model.onnx"]
    assert all(artifact.error <= 1e-4 for artifact in made)
    return folder


def program(bundle: Path, name: str) -> Callable[[Tensor], Tensor]:
    if name.endswith("onnx"):
        import onnxruntime

        session = onnxruntime.InferenceSession(bundle / name)
        return lambda batch: torch.from_numpy(session.run(None, {"image": batch.numpy()})[0])
    run: Callable[[Tensor], Tensor] = torch.export.load(bundle / name).module()
    return run


@pytest.mark.parametrize("name", ["model.pt2", "model_portable.pt2", "model.onnx"])
def test_program_gives_the_networks_logits_at_any_batch_size(bundle: Path, name: str) -> None:
    run, truth = program(bundle, name), network()
    with torch.no_grad():
        for batch in (1, 2, 5):
            image = torch.randn(batch, 3, 32, 40)
            torch.testing.assert_close(run(image), truth(image), rtol=0, atol=1e-4)


def test_convolutional_skeleton_in_all_forms(tmp_path: Path) -> None:
    """With each kind of block and width; the map is padded, as 32×40 is no multiple of 16."""
    torch.manual_seed(5)
    model = ModelConfig(skeleton="conv", embed_dim=4, levels=4, block_levels=(1, 3), d_state=2)
    made = SliceMambaUNet(
        model, 2, Architecture.parse("s1:half|s2:full,2x3|s3:full|s4:half,c3e1|s5:full|s6:full,-|s7:half")
    )
    for parameter in made.parameters():  # fresh blocks are the identity
        parameter.data += 0.1 * torch.randn(parameter.shape)
    batch = torch.randn(3, 3, 32, 40)
    artifacts = export_programs(made.eval(), [batch[:2], batch], tmp_path)
    assert [artifact.file.name for artifact in artifacts] == ["model.pt2", "model_portable.pt2", "model.onnx"]
    with torch.no_grad():
        expected = made(batch)
    for artifact in artifacts:
        assert artifact.error <= 1e-4
        torch.testing.assert_close(program(tmp_path, artifact.file.name)(batch), expected, atol=1e-4, rtol=1e-4)


def test_portable_program_runs_with_torch_alone(bundle: Path) -> None:
    script = (
        "import sys, torch; run = torch.export.load(sys.argv[1]).module(); "
        "print(tuple(run(torch.zeros(3, 3, 32, 40)).shape)); "
        "assert not any(name.startswith('slicemamba') for name in sys.modules)"
    )
    command = [sys.executable, "-c", script, str(bundle / "model_portable.pt2")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=bundle)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(3, 1, 32, 40)"


def test_onnx_graph_is_standard_and_holds_the_scan_as_a_loop(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    onnx.checker.check_model(model)
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Scan") == 2
    assert {node.domain for node in model.graph.node} == {""}
    assert len(kinds) < 250
    batch, *rest = (dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)
    assert (batch, rest) == ("batch", [3, 32, 40])


def test_programs_tell_nothing_of_the_machine(bundle: Path) -> None:
    here = str(Path(module.__file__).parents[2]).encode()
    for name in ("model.pt2", "model_portable.pt2", "model.onnx"):
        assert here not in (bundle / name).read_bytes()


def test_bundle_is_read_like_a_network_and_names_no_folder(bundle: Path) -> None:
    loaded = load_network(bundle)
    for key, value in network().state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    card = read_card(bundle)
    assert card.data == DATA.model_copy(update={"root": None})
    preprocessing = json.loads((bundle / "preprocessing.json").read_text())
    assert preprocessing["input"]["shape"] == ["batch", 3, 32, 40]
    assert (preprocessing["intensity"], preprocessing["threshold"]) == ("zscore", 0.5)
    assert json.loads((bundle / "metrics.json").read_text())["scores"] == SCORES


def test_card_tells_what_is_known(bundle: Path) -> None:
    text = (bundle / "MODEL_CARD.md").read_text()
    for said in (
        "trained on lesions",
        "s1:3x5|s2:2x4",
        "32×40",
        "| dice | 0.7500 | 0.5000 |",
        "model.onnx",
        "not a medical",
    ):
        assert said in text
    assert "/some/place" not in text


def test_the_cards_example_gives_the_networks_mask(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = (bundle / "MODEL_CARD.md").read_text().split("```python\n")[1].split("```")[0]
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    (tmp_path / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes())
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(example, found)
    small = np.asarray(Image.fromarray(pixels).resize((40, 32), Image.Resampling.BILINEAR))
    made = Segmenter(network(), DATA, torch.device("cpu"))
    expected = made.labels(next(made.pictures([small])))
    assert 0 < expected.mean() < 1
    assert np.array_equal(found["mask"], expected)


@pytest.mark.parametrize("exported", [["model_portable.pt2"], ["model.pt2"], []])
def test_the_cards_example_opens_what_was_exported(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: list[str]
) -> None:
    artifacts = [Artifact(bundle / name, 0.0, 0.0) for name in exported]
    text = model_card(read_card(bundle), DATA, None, artifacts, 1)
    if not exported:
        assert "slicemamba predict" in text.split("## Use")[1]
        assert "```python" not in text
        return
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save(tmp_path / "image.png")
    (tmp_path / exported[0]).write_bytes((bundle / exported[0]).read_bytes())
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], found)
    assert found["mask"].shape == (32, 40)
    assert found["logits"].shape == (1, 1, 32, 40)


@pytest.mark.parametrize("intensity", ["minmax", "zscore", "unit"])
@pytest.mark.parametrize("num_classes", [1, 4])
def test_card_without_scores(tmp_path: Path, intensity: str, num_classes: int) -> None:
    data = DATA.model_copy(update={"intensity": intensity, "num_classes": num_classes})
    save_network(tmp_path, network(), data)
    text = model_card(read_card(tmp_path), data, None, [], 1000)
    assert "There was no result of a run next to the network" in text
    assert ("binary masks" in text) == (num_classes == 1)
    assert "```python" not in text, "nothing was exported that an example could open"


def test_scores_of_another_network_are_not_taken(tmp_path: Path) -> None:
    source = save_run(tmp_path)
    card = read_card(source)
    assert read_metrics(source, card) is not None
    assert read_metrics(source, card.model_copy(update={"architecture": "s1:2x2|s2:2x4"})) is None
    (tmp_path / "result.json").write_text('{"retrained": null}')
    assert read_metrics(source, card) is None
    (tmp_path / "result.json").unlink()
    assert read_metrics(source, card) is None


def test_a_program_that_differs_is_removed_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_largest_difference", lambda *_: 0.25)
    with pytest.raises(
        RunFailedError, match=r"model\.pt2 gives logits that differ .* by up to 0\.25, more than 0\.0001"
    ):
        export_programs(network(), [torch.randn(2, 3, 32, 40)], tmp_path, ["pt2"])
    assert list(tmp_path.iterdir()) == []


def test_a_failed_export_leaves_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_run(tmp_path / "run")
    save_network(tmp_path / "out", network())  # an earlier bundle
    (tmp_path / "out" / "model.onnx").touch()
    monkeypatch.setattr(module, "_largest_difference", lambda *_: float("nan"))
    with pytest.raises(RunFailedError):
        export_bundle(source, network(), read_card(source), tmp_path / "out", ["pt2"])
    assert list((tmp_path / "out").iterdir()) == []


def test_bundle_without_programs_and_refusals(tmp_path: Path) -> None:
    source = save_run(tmp_path / "run")
    card = read_card(source)
    with pytest.raises(InputError, match="is the network's own folder; give another one"):
        export_bundle(source, network(), card, source, [])
    with pytest.raises(InputError, match="cannot be created"):
        export_bundle(source, network(), card, source / "config.json" / "x", [])
    assert export_bundle(source, network(), card, tmp_path / "out", []) == []
    assert "No program was exported" in (tmp_path / "out" / "MODEL_CARD.md").read_text()
    assert (source / "weights.safetensors").is_file()


def test_formats_are_checked_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_formats(["onnx", "pt2", "onnx"]) == ["pt2", "onnx"]
    assert check_formats(FORMATS) == list(FORMATS)
    with pytest.raises(InputError, match="format must be one of pt2, portable, onnx; got tflite"):
        check_formats(["pt2", "tflite"])
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "onnxruntime" else real_find_spec(name))
    with pytest.raises(InputError, match=r"needs onnxruntime: pip install 'slicemamba-nas\[onnx\]'"):
        check_formats(["onnx"])
    assert check_formats(["pt2", "portable"]) == ["pt2", "portable"]


def test_artifact_sizes_stand_in_the_card(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").write_bytes(bytes(2_500_000))
    save_network(tmp_path, network(), DATA)
    text = model_card(read_card(tmp_path), DATA, None, [Artifact(tmp_path / "model.pt2", 3e-6, 1.0)], 1000)
    assert "| model.pt2 | 2.5 MB | 3.0e-06 |" in text
