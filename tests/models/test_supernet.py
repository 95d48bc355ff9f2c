"""The supernet: only the chosen blocks run, and a network taken out of it gives the same output."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch

from nas.space import SearchSpace
from slicemamba.architecture import SKIP, Architecture, parse_block
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
        with pytest.raises(InputError, match="block 3x7 is not among the supernet's choices 2x2, 2x4, 4x2, 4x4"):
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


ELASTIC = tuple(map(parse_block, ("2x2", "4x2", "2x2n2", "4x4e1", "2x4n1e1", "-")))


@pytest.mark.parametrize("sharing", SHARINGS)
def test_smaller_and_skipped_blocks_come_out_as_they_were(tiny_model: ModelConfig, sharing: Sharing) -> None:
    space = SearchSpace(ELASTIC, tiny_model.depths)
    supernet = Supernet(tiny_model, 3, ELASTIC, sharing).eval()
    image = torch.rand(2, 3, 16, 24)
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for architecture in [
            *space.fixed(),
            Architecture.uniform(SKIP, space.depths),
            *map(space.decode, [[5, 4, 3, 2, 1, 0]]),
            space.sample(rng),
        ]:
            network = supernet.extract(architecture)
            torch.testing.assert_close(network(image), supernet(image, architecture))
            assert torch.equal(network(image), supernet.extract(architecture)(image))


def test_smaller_block_of_shared_weights_leaves_the_rest_without_gradient(tiny_model: ModelConfig) -> None:
    supernet = Supernet(tiny_model, 1, ELASTIC, "shared").eval()
    depths = tiny_model.depths
    supernet(torch.rand(1, 3, 16, 16), Architecture.uniform(parse_block("2x2n2e1"), depths)).sum().backward()
    block = next(iter(supernet.blocks()))
    assert isinstance(block, S3Block)
    mixer = block.self_attention
    half = len(mixer.out_norm.weight) // 2
    states = mixer.A_logs.grad.view(4, 2 * half, -1)  # type: ignore[union-attr]
    assert states[:, :half, :2].all()
    assert not states[:, half:].any()
    assert not states[..., 2:].any()
    assert not mixer.out_proj.weight.grad[:, half:].any()  # type: ignore[index]


def test_block_larger_than_the_shared_weights_is_refused(tiny_model: ModelConfig) -> None:
    supernet = Supernet(tiny_model, 1, ELASTIC, "shared")
    with pytest.raises(InputError, match="block 2x2n8 needs 8 states and expand 2; the weights have 4 and 2"):
        supernet(torch.rand(1, 3, 16, 16), Architecture.uniform(parse_block("2x2n8"), tiny_model.depths))
