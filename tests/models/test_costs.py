"""Closed forms of a network's cost against the network itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from slicemamba.architecture import Architecture
from slicemamba.config import ModelConfig
from slicemamba.costs import network_cost
from slicemamba.models.complexity import cost, num_parameters
from slicemamba.models.supernet import Supernet
from slicemamba.models.unet import SliceMambaUNet

CASES = [
    ({"embed_dim": 8, "encoder_depths": (1,), "decoder_depths": (1,)}, (32, 32)),
    ({"embed_dim": 16, "encoder_depths": (1, 1, 2), "decoder_depths": (1, 3, 1)}, (64, 60)),
    ({"embed_dim": 36, "d_state": 8, "expand": 1, "d_conv": 5}, (97, 33)),
    ({}, (64, 64)),
]


@pytest.mark.parametrize(("options", "size"), CASES)
@pytest.mark.parametrize("num_classes", [1, 9])
def test_operations_and_weights_are_those_counted_on_the_network(
    options: dict[str, Any], size: tuple[int, int], num_classes: int
) -> None:
    model = ModelConfig(**options)
    counted = cost(model, num_classes, Architecture.uniform((2, 4), model.depths), size)
    found = network_cost(model, num_classes, size)
    assert (found.flops, found.params) == (counted["flops"], counted["params"])


def test_weights_of_blocks_are_what_a_supernet_has_once_a_choice() -> None:
    model = ModelConfig(embed_dim=16, encoder_depths=(1, 2), decoder_depths=(2, 1))
    found = network_cost(model, 1, (32, 32))
    supernet = Supernet(model, 1, [(2, 2), (2, 4), (4, 4)])
    assert num_parameters(supernet) == found.params + 2 * found.block_params


def test_memory_for_the_backward_pass_is_about_what_autograd_keeps() -> None:
    model, size = ModelConfig(), (64, 64)
    network = SliceMambaUNet(model, 1, Architecture.uniform((2, 2), model.depths)).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in weights:
            kept[place] = tensor  # held, so that no other tensor gets its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.rand(1, 3, *size))
    total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert network_cost(model, 1, size).saved_bytes == pytest.approx(total, rel=0.15)
