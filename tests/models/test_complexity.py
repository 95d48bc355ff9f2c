"""FLOPs: a count by hand, area, and that slicing costs nothing."""

from __future__ import annotations

import pytest
import torch

from nas.space import SearchSpace
from slicemamba.architecture import Architecture, parse_block
from slicemamba.config import ModelConfig
from slicemamba.models.complexity import cost, count_flops, num_parameters
from slicemamba.models.unet import SliceMambaUNet


def test_flops_equal_a_count_by_hand() -> None:
    config = ModelConfig(embed_dim=4, encoder_depths=(1,), decoder_depths=(1,), d_state=2, expand=1)
    network = SliceMambaUNet(config, 1, Architecture.uniform((2, 2), config.depths))
    positions, c, d, r, n = 4, 4, 4, 1, 2  # an 8×8 image has 2×2 patches
    embed = 2 * positions * c * (3 * 4 * 4)
    in_proj, out_proj = 2 * positions * c * (2 * d), 2 * positions * d * c
    depthwise = 2 * positions * d * 9
    scan = 4 * positions * (2 * d * (r + 2 * n) + 2 * r * d + 9 * d * n)
    expand = 2 * positions * c * (c // 4 * 16)
    head = 2 * 64 * (c // 4)
    assert count_flops(network, (8, 8)) == embed + 2 * (in_proj + depthwise + scan + out_proj) + expand + head == 7360


def test_flops_grow_with_the_area(tiny_model: ModelConfig) -> None:
    network = SliceMambaUNet(tiny_model, 1, Architecture.uniform((2, 2), tiny_model.depths))
    small = count_flops(network, (32, 32))
    assert small > 0
    assert count_flops(network, (64, 32)) == 2 * small
    assert count_flops(network, (64, 96)) == 6 * small


def test_flops_of_a_padded_image_are_those_of_the_padded_size(tiny_model: ModelConfig) -> None:
    network = SliceMambaUNet(tiny_model, 1, Architecture.uniform((2, 2), tiny_model.depths))
    padded, whole = count_flops(network, (31, 26)), count_flops(network, (32, 32))
    assert padded == whole


def test_flops_are_equal_for_all_slicings(tiny_model: ModelConfig, tiny_space: SearchSpace) -> None:
    counts = {count_flops(SliceMambaUNet(tiny_model, 1, a), (32, 32)) for a in tiny_space.fixed()}
    assert len(counts) == 1


def test_smaller_blocks_cost_less(tiny_model: ModelConfig) -> None:
    def measured(text: str) -> dict[str, float]:
        architecture = Architecture.uniform(parse_block(text), tiny_model.depths)
        network = SliceMambaUNet(tiny_model, 1, architecture)
        found = cost(tiny_model, 1, architecture, (32, 32))
        assert found == {"params": num_parameters(network), "flops": count_flops(network, (32, 32))}
        return found

    whole, fewer_states, narrower, skipped = map(measured, ("2x4", "2x4n2", "2x4e1", "-"))
    assert measured("4x2") == whole
    for name in ("params", "flops"):
        assert skipped[name] < narrower[name] < fewer_states[name] < whole[name]


@pytest.mark.parametrize("training", [True, False])
def test_counting_leaves_the_network_as_it_was(tiny_model: ModelConfig, training: bool) -> None:
    network = SliceMambaUNet(tiny_model, 1, Architecture.uniform((2, 2), tiny_model.depths)).train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    count_flops(network, (32, 32))
    assert network.training is training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
