"""The supernet: only the chosen blocks run, and a network taken out of it gives the same output."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from nas.space import SearchSpace
from slicemamba.architecture import Architecture
from slicemamba.config import ModelConfig
from slicemamba.errors import InputError
from slicemamba.models.bss import S3Block
from slicemamba.models.supernet import ChoiceBlock, Supernet

Sharing = Literal["separate", "shared"]
SHARINGS: tuple[Sharing, ...] = ("separate", "shared")


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("num_classes", [1, 4])
def test_extracted_network_equals_the_supernet_exactly(
    tiny_model: ModelConfig, tiny_space: SearchSpace, sharing: Sharing, num_classes: int
) -> None:
    supernet = Supernet(tiny_model, num_classes, tiny_space.choices, sharing).eval()
    image = torch.rand(2, 3, 21, 32)
    rng = np.random.default_rng(1)
    with torch.no_grad():
        for architecture in [*tiny_space.fixed(), *(tiny_space.sample(rng) for _ in range(4))]:
            network = supernet.extract(architecture)
            assert network.architecture == architecture
            assert not network.training
            assert torch.equal(network(image), supernet(image, architecture))


def test_extracted_network_has_weights_of_its_own(tiny_model: ModelConfig, tiny_space: SearchSpace) -> None:
    supernet = Supernet(tiny_model, 1, tiny_space.choices)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    network = supernet.extract(tiny_space.fixed()[0])
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in supernet.state_dict().items())


def test_gradients_reach_the_chosen_blocks_alone(tiny_model: ModelConfig, tiny_space: SearchSpace) -> None:
    supernet = Supernet(tiny_model, 1, tiny_space.choices)
    supernet.eval()  # without stochastic depth, which may drop a chosen block
    genes = [0, 1, 2, 3, 0, 1]
    supernet(torch.rand(2, 3, 16, 16), tiny_space.decode(genes)).square().sum().backward()
    for block, gene in zip(supernet.blocks(), genes, strict=True):
        assert isinstance(block, ChoiceBlock)
        for i, choice in enumerate(block):
            for parameter in choice.parameters():
                assert (parameter.grad is not None) == (i == gene)
    outside = [p for name, p in supernet.named_parameters() if ".blocks." not in name]
    assert all(parameter.grad is not None for parameter in outside)


def test_shared_supernet_uses_one_set_of_weights(tiny_model: ModelConfig, tiny_space: SearchSpace) -> None:
    supernet = Supernet(tiny_model, 1, tiny_space.choices, "shared")
    assert all(isinstance(block, S3Block) for block in supernet.blocks())
    unlisted = Architecture.uniform((3, 7), tiny_model.depths)
    assert supernet(torch.rand(1, 3, 16, 16), unlisted).shape == (1, 1, 16, 16)


def test_unknown_slice_size_is_refused_with_the_choices(tiny_model: ModelConfig, tiny_space: SearchSpace) -> None:
    supernet = Supernet(tiny_model, 1, tiny_space.choices)
    unlisted = Architecture.uniform((3, 7), tiny_model.depths)
    for use in (lambda: supernet(torch.rand(1, 3, 16, 16), unlisted), lambda: supernet.extract(unlisted)):
        with pytest.raises(InputError, match="slice size 3x7 is not among the supernet's choices 2x2, 2x4, 4x2, 4x4"):
            use()


def test_architecture_of_other_depths_is_refused_by_the_supernet(
    tiny_model: ModelConfig, tiny_space: SearchSpace
) -> None:
    supernet = Supernet(tiny_model, 1, tiny_space.choices)
    with pytest.raises(InputError, match="depths"):
        supernet.extract(Architecture.uniform((2, 2), (1, 1)))


def test_extraction_keeps_the_training_mode(tiny_model: ModelConfig, tiny_space: SearchSpace) -> None:
    supernet = Supernet(tiny_model, 1, tiny_space.choices).train()
    assert supernet.extract(tiny_space.fixed()[0]).training
