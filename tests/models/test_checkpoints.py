"""Networks on disk: round trips of both layouts, and a sentence for every file that does not fit."""

from __future__ import annotations

import contextlib
import pickle
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from nas.space import SearchSpace
from slicemamba.architecture import Architecture
from slicemamba.config import DataConfig, ModelConfig
from slicemamba.errors import InputError
from slicemamba.models.checkpoints import (
    NetworkCard,
    card_of,
    load_network,
    load_state,
    read_card,
    read_state,
    save_network,
)
from slicemamba.models.supernet import Supernet
from slicemamba.models.unet import SliceMambaUNet


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture
def network(tiny_model: ModelConfig) -> SliceMambaUNet:
    return SliceMambaUNet(tiny_model, 3, Architecture.parse("s1:2x2|s2:2x4,4x4|s3:4x2,3x5|s4:1x9")).eval()


def test_network_comes_back_from_its_folder(network: SliceMambaUNet, tmp_path: Path) -> None:
    data = DataConfig(name="kvasir", image_size=(64, 96), num_classes=3)
    save_network(tmp_path / "a" / "b", network, data)
    again = load_network(tmp_path / "a" / "b")
    assert isinstance(again, SliceMambaUNet)
    assert again.architecture == network.architecture
    assert not again.training
    assert same(again.state_dict(), network.state_dict())
    assert read_card(tmp_path / "a" / "b").data == data
    image = torch.rand(1, 3, 16, 24)
    with torch.no_grad():
        assert torch.equal(again(image), network(image))


@pytest.mark.parametrize("sharing", ["separate", "shared"])
def test_supernet_comes_back_from_its_folder(
    tiny_model: ModelConfig, tiny_space: SearchSpace, tmp_path: Path, sharing: Literal["separate", "shared"]
) -> None:
    supernet = Supernet(tiny_model, 1, tiny_space.choices, sharing)
    save_network(tmp_path, supernet)
    again = load_network(tmp_path)
    assert isinstance(again, Supernet)
    assert again.choices == tiny_space.choices
    assert again.weight_sharing == sharing
    assert same(again.state_dict(), supernet.state_dict())


def test_saving_again_replaces_what_was_there(network: SliceMambaUNet, tmp_path: Path) -> None:
    save_network(tmp_path, network)
    with torch.no_grad():
        network.final_conv.bias.fill_(7)  # type: ignore[union-attr]
    save_network(tmp_path, network)
    assert same(load_network(tmp_path).state_dict(), network.state_dict())
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "weights.safetensors"]


def test_card_survives_json(network: SliceMambaUNet) -> None:
    card = card_of(network)
    assert NetworkCard.model_validate_json(card.model_dump_json()) == card


@pytest.mark.parametrize("wrapper", [None, "model_state_dict", "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "smunet.", "module.smunet."])
def test_published_file_is_read_whatever_wraps_it(
    network: SliceMambaUNet, tmp_path: Path, wrapper: str | None, prefix: str
) -> None:
    state: dict[str, Any] = {prefix + key: value for key, value in network.state_dict().items()}
    torch.save(state if wrapper is None else {"epoch": 3, "min_loss": 0.5, wrapper: state}, tmp_path / "best.pth")
    assert same(read_state(tmp_path / "best.pth"), network.state_dict())


def test_supernet_keys_are_those_of_published_checkpoints(tiny_model: ModelConfig, tiny_space: SearchSpace) -> None:
    keys = Supernet(tiny_model, 1, tiny_space.choices).state_dict().keys()
    assert {
        "patch_embed.proj.weight",
        "layers.1.blocks.1.3.self_attention.x_proj_weight",
        "layers.0.downsample.reduction.weight",
        "layers_up.1.upsample.expand.weight",
        "layers_up.0.blocks.1.0.ln_1.bias",
        "final_up.expand.weight",
        "final_conv.bias",
    } <= keys


def test_missing_left_over_and_misshapen_weights_are_named(network: SliceMambaUNet) -> None:
    state = dict(network.state_dict())
    before = {name: value.clone() for name, value in state.items()}
    del state["final_conv.bias"]
    state["decoder.weight"] = torch.zeros(1)
    state["final_conv.weight"] = torch.zeros(9, 2, 1, 1)
    with pytest.raises(InputError, match=r"best\.pth does not fit the network") as caught:
        load_state(network, state, source="best.pth")
    text = str(caught.value)
    assert "missing: final_conv.bias" in text
    assert "not of this network: decoder.weight" in text
    assert "final_conv.weight: (9, 2, 1, 1) in the file, (3, 2, 1, 1) in the network" in text
    assert same(before, network.state_dict()), "a state that does not fit changes nothing"


def test_weights_of_another_network_are_refused(
    network: SliceMambaUNet, tiny_model: ModelConfig, tiny_space: SearchSpace, tmp_path: Path
) -> None:
    save_network(tmp_path, network)
    other = Supernet(tiny_model, 3, tiny_space.choices)
    save_network(tmp_path / "other", other)
    (tmp_path / "other" / "weights.safetensors").replace(tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match="does not fit the network"):
        load_network(tmp_path)


class _Evil:
    """Would run code when unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.file,)


def test_pickled_code_is_refused_and_never_run(tmp_path: Path) -> None:
    traces = tmp_path / "touched"
    torch.save({"state_dict": _Evil(traces)}, tmp_path / "a.pth")
    (tmp_path / "b.pth").write_bytes(pickle.dumps(_Evil(traces), protocol=2))
    for file in ("a.pth", "b.pth"):
        with pytest.raises(InputError, match="cannot be read"):
            read_state(tmp_path / file)
    assert not traces.exists()


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("content", ["empty", "text", "half", "zeros", "folder"])
def test_broken_weights_are_refused(network: SliceMambaUNet, tmp_path: Path, suffix: str, content: str) -> None:
    file = tmp_path / f"weights.{suffix}"
    if suffix == "pth":
        torch.save(network.state_dict(), file)
    else:
        save_network(tmp_path, network)
    whole = file.read_bytes()
    file.unlink()
    if content == "folder":
        file.mkdir()
    else:
        broken = {"empty": b"", "text": b"<html>404: Not Found</html>", "half": whole[: len(whole) // 2]}
        file.write_bytes(broken.get(content, bytes(len(whole))))
    with pytest.raises(InputError, match=r"weights .*weights\.\w+ cannot be read"):
        read_state(file)


@pytest.mark.parametrize("place", range(0, 400, 7))
def test_damaged_file_of_the_older_format_is_refused_or_read(
    network: SliceMambaUNet, tmp_path: Path, place: int
) -> None:
    """One byte of its header changed: torch's own reader raises UnicodeDecodeError, KeyError, IndexError and more."""
    file = tmp_path / "old.pth"
    torch.save(network.state_dict(), file, _use_new_zipfile_serialization=False)
    damaged = bytearray(file.read_bytes())
    damaged[place] ^= 0xFF
    file.write_bytes(damaged)
    with contextlib.suppress(InputError):
        load_state(network, read_state(file), source="old.pth")


@pytest.mark.parametrize("file", ["absent.pth", "absent.safetensors"])
def test_absent_weights_are_refused(tmp_path: Path, file: str) -> None:
    with pytest.raises(InputError, match=r"do not exist; give the path of a \.safetensors or \.pth file"):
        read_state(tmp_path / file)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"model": {"a": 1}}, "text"])
def test_file_without_tensors_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(InputError, match="must hold a dictionary of tensors"):
        read_state(tmp_path / "a.pth")


def test_folder_without_a_card_is_refused(network: SliceMambaUNet, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a saved network: it has no config\.json"):
        load_network(tmp_path)
    save_network(tmp_path, network)
    with pytest.raises(InputError, match="is not a saved network"):
        load_network(tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"model": {}, "num_classes": 1}',
        '{"model": {}, "num_classes": 1, "architecture": "s1:2x2", "choices": ["2x2"]}',
        '{"format": 2, "model": {}, "num_classes": 1, "architecture": "s1:2x2"}',
        '{"model": {}, "num_classes": 1, "choices": ["2x2"], "kind": "supernet"}',
        '{"model": {}, "num_classes": 1, "architecture": "s1:2x2", "kind": "unet"}',
        '{"model": {}, "num_classes": 1, "kind": "ensemble"}',
        '{"model": {}, "num_classes": 1, "kind": "ensemble", "members": []}',
    ],
)
def test_card_of_another_form_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match="is not the card of a saved network") as caught:
        read_card(tmp_path)
    assert "errors.pydantic.dev" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
