"""The network against tensors of an independent implementation, loaded by the keys of published checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from slicemamba.architecture import Architecture, Block, SliceSize
from slicemamba.config import ModelConfig
from slicemamba.models.bss import BSS
from slicemamba.models.checkpoints import load_state
from slicemamba.models.supernet import Supernet
from slicemamba.training.losses import bce_dice_loss

CHOICES: tuple[SliceSize, ...] = ((2, 2), (2, 4), (4, 2), (4, 4))


def read(path: Path) -> dict[str, Tensor]:
    with np.load(path) as stored:
        return {name: torch.from_numpy(array) for name, array in stored.items()}


def under(stored: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in stored.items() if name.startswith(prefix)}


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm().clamp_min(1e-30))


def load_supernet(stored: dict[str, Tensor]) -> Supernet:
    config = ModelConfig(embed_dim=int(stored["dims"][0]))
    supernet = Supernet(config, int(stored["num_classes"]), CHOICES).eval()
    load_state(supernet, under(stored, "state/"), source="golden")
    return supernet


def architecture(stored: dict[str, Tensor], index: int, supernet: Supernet) -> Architecture:
    sizes = [CHOICES[gene] for gene in stored["archs"][index].tolist()]
    return Architecture.from_blocks(sizes, supernet.config.depths)


@pytest.mark.parametrize("name", ["binary", "9class"])
def test_supernet_gives_the_golden_logits_of_every_architecture(golden_dir: Path, name: str) -> None:
    stored = read(golden_dir / f"supernet_{name}.npz")
    supernet = load_supernet(stored)
    with torch.no_grad():
        for i in range(len(stored["archs"])):
            logits = supernet(stored["image"], architecture(stored, i, supernet))
            torch.testing.assert_close(logits, stored[f"logits_{i}"], atol=1e-4, rtol=0)


def test_supernet_gives_the_golden_loss_and_gradients(golden_dir: Path) -> None:
    stored = read(golden_dir / "supernet_binary.npz")
    supernet = load_supernet(stored)
    logits = supernet(stored["image"], architecture(stored, int(stored["grad_arch_index"]), supernet))
    loss = bce_dice_loss(logits, stored["target"].squeeze(1))
    assert loss.item() == pytest.approx(stored["loss"].item(), abs=1e-5)
    loss.backward()
    parameters = dict(supernet.named_parameters())
    golden = under(stored, "grad/")
    assert golden
    for name, expected in golden.items():
        got = parameters[name].grad
        assert got is not None, name
        assert relative(got, expected) < 1e-3, name


@pytest.mark.parametrize("size", CHOICES, ids="{0[0]}x{0[1]}".format)
def test_bss_gives_the_golden_output_and_gradients(golden_dir: Path, size: SliceSize) -> None:
    stored = read(golden_dir / f"bss_slice_{size[0]}x{size[1]}.npz")
    mixer = BSS(12, d_state=16, expand=2, d_conv=3)
    load_state(mixer, under(stored, "param/"), source="golden")
    x = stored["x"].requires_grad_()
    y = mixer(x, Block(*size))
    torch.testing.assert_close(y, stored["y"], atol=1e-5, rtol=0)
    y.backward(stored["grad_y"])
    assert x.grad is not None
    assert relative(x.grad, stored["grad_x"]) < 1e-3
    golden = under(stored, "grad/")
    assert golden.keys() == dict(mixer.named_parameters()).keys()
    for name, parameter in mixer.named_parameters():
        assert parameter.grad is not None
        assert relative(parameter.grad, golden[name]) < 1e-3, name
