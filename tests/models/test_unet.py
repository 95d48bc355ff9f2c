"""The network: sizes as published, any image size, stochastic depth, and that slicing matters."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from nas.space import SearchSpace
from slicemamba.architecture import Architecture, Block
from slicemamba.config import ModelConfig
from slicemamba.errors import InputError
from slicemamba.models.bss import BSS, S3Block
from slicemamba.models.complexity import num_parameters
from slicemamba.models.layers import DropPath, PatchExpand, PatchMerging
from slicemamba.models.supernet import Supernet
from slicemamba.models.unet import SliceMambaUNet


def awaken(network: nn.Module) -> None:
    """Enlarges the small first weights, so that every block has a say as in a trained network."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Linear):
                module.weight.mul_(10)


@pytest.fixture
def network(tiny_model: ModelConfig) -> SliceMambaUNet:
    return SliceMambaUNet(tiny_model, 1, Architecture.uniform((2, 4), tiny_model.depths)).eval()


def test_published_network_has_35_80_million_parameters() -> None:
    config = ModelConfig()
    with torch.device("meta"):
        network = SliceMambaUNet(config, 1, Architecture.uniform((2, 2), config.depths))
    assert round(num_parameters(network) / 1e6, 2) == 35.80


@pytest.mark.parametrize(("weight_sharing", "millions"), [("separate", 133.76), ("shared", 35.80)])
def test_published_supernet_has_133_76_million_parameters(weight_sharing: str, millions: float) -> None:
    with torch.device("meta"):
        supernet = Supernet(ModelConfig(), 1, ((2, 2), (2, 4), (4, 2), (4, 4)), weight_sharing)  # type: ignore[arg-type]
    assert round(num_parameters(supernet) / 1e6, 2) == millions


def test_number_of_parameters_counts_trainable_weights_alone(network: SliceMambaUNet) -> None:
    before = num_parameters(network)
    network.final_conv.requires_grad_(False)
    assert num_parameters(network) == before - (2 + 1)  # 1×1 convolution from C/4 = 2 channels to 1, with bias


def test_drop_path_rates_rise_over_the_encoder_and_fall_over_the_decoder() -> None:
    config = ModelConfig()
    with torch.device("meta"):
        network = SliceMambaUNet(config, 1, Architecture.uniform((2, 2), config.depths))
    rates = [block.drop_path.rate for block in network.blocks()]  # type: ignore[union-attr]
    assert rates == pytest.approx([*np.linspace(0, 0.2, 15), *np.linspace(0.2, 0, 7)])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (3, 50), (7, 8), (33, 31), (16, 24)], ids="{0[0]}x{0[1]}".format)
def test_logits_have_the_size_of_any_image(
    network: SliceMambaUNet, batch: int, channels: int, size: tuple[int, int]
) -> None:
    with torch.no_grad():
        logits = network(torch.rand(batch, channels, *size))
    assert logits.shape == (batch, 1, *size)
    assert logits.is_contiguous()
    assert logits.isfinite().all()


def test_image_that_does_not_divide_by_the_stride_is_padded_with_its_edge(network: SliceMambaUNet) -> None:
    image = torch.rand(2, 3, 21, 30)
    assert network.stride == 8
    padded = functional.pad(image, (0, 2, 0, 3), mode="replicate")
    with torch.no_grad():
        torch.testing.assert_close(network(image), network(padded)[..., :21, :30])


def test_one_channel_counts_as_three_equal_ones(network: SliceMambaUNet) -> None:
    image = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(image), network(image.repeat(1, 3, 1, 1)))


def test_images_of_a_batch_do_not_touch_one_another(network: SliceMambaUNet) -> None:
    images = torch.rand(3, 3, 19, 16)
    with torch.no_grad():
        together = network(images)
        alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_every_slicing_gives_another_output(tiny_model: ModelConfig, tiny_space: SearchSpace) -> None:
    supernet = Supernet(tiny_model, 1, tiny_space.choices, "shared").eval()
    awaken(supernet)
    image = torch.rand(1, 3, 32, 32) * 255
    with torch.no_grad():
        outputs = [supernet(image, architecture) for architecture in tiny_space.fixed()]
    for one, other in itertools.combinations(outputs, 2):
        assert (one - other).abs().max() > 1e-3


@pytest.mark.parametrize("block", range(6))
def test_slicing_of_every_single_block_matters(tiny_model: ModelConfig, tiny_space: SearchSpace, block: int) -> None:
    supernet = Supernet(tiny_model, 1, tiny_space.choices, "shared").eval()
    awaken(supernet)
    image = torch.rand(1, 3, 32, 32) * 255
    genes = [0] * 6
    genes[block] = 3
    with torch.no_grad():
        changed = supernet(image, tiny_space.decode(genes))
        difference = changed - supernet(image, tiny_space.decode([0] * 6))
    assert difference.abs().max() > 1e-3


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 2, 16, 16), (1, 4, 16, 16)])
def test_image_of_another_form_is_refused(network: SliceMambaUNet, shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"image must be \(B, 1 or 3, H, W\); got shape \("):
        network(torch.rand(shape))


def test_architecture_of_other_depths_is_refused(network: SliceMambaUNet, tiny_model: ModelConfig) -> None:
    other = Architecture.uniform((2, 2), (2, 1, 2, 1))
    with pytest.raises(InputError, match=r"\(2, 1, 2, 1\)"):
        SliceMambaUNet(tiny_model, 1, other)
    with pytest.raises(InputError, match=r"depths \(1, 2, 2, 1\), as the network; got \(2, 1, 2, 1\)"):
        network.run(torch.rand(1, 3, 16, 16), other)


def test_network_of_one_stage_and_several_classes_works() -> None:
    config = ModelConfig(embed_dim=4, encoder_depths=(1,), decoder_depths=(1,), d_state=2, expand=1, d_conv=1)
    network = SliceMambaUNet(config, 5, Architecture.uniform((3, 5), config.depths))
    assert network(torch.rand(2, 3, 10, 9)).shape == (2, 5, 10, 9)


def test_every_weight_learns(network: SliceMambaUNet) -> None:
    network(torch.rand(2, 3, 16, 16)).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_same_input_gives_the_same_output_in_eval_mode(network: SliceMambaUNet) -> None:
    image = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(network(image), network(image))


def test_block_is_a_residual_around_the_mixer() -> None:
    block = S3Block(6, drop_path=0.5, d_state=2).eval()
    x = torch.rand(2, 5, 7, 6)
    torch.testing.assert_close(block(x, Block(2, 2)), x + block.self_attention(block.ln_1(x), Block(2, 2)))


def test_step_sizes_start_between_a_thousandth_and_a_tenth() -> None:
    steps = functional.softplus(BSS(32).dt_projs_bias)
    assert steps.min() >= 1e-3 * 0.999
    assert steps.max() <= 0.1 * 1.001
    assert steps.max() / steps.min() > 10


def test_drop_path_drops_whole_samples_and_scales_up_the_rest() -> None:
    drop = DropPath(0.25).train()
    y = drop(torch.ones(4000, 2, 3))
    assert ((y == 0) | torch.isclose(y, torch.tensor(4 / 3))).all()
    assert torch.equal(y.amin(dim=(1, 2)), y.amax(dim=(1, 2)))
    assert (y[:, 0, 0] == 0).float().mean() == pytest.approx(0.25, abs=0.03)


def test_drop_path_does_nothing_in_eval_mode() -> None:
    x = torch.rand(8, 2)
    assert DropPath(0.9).eval()(x) is x


def test_patch_merging_halves_the_map_and_doubles_the_channels() -> None:
    assert PatchMerging(6)(torch.rand(2, 4, 8, 6)).shape == (2, 2, 4, 12)


@pytest.mark.parametrize(("scale", "channels"), [(2, 8), (4, 4)])
def test_patch_expand_spreads_each_vector_over_its_own_patch(scale: int, channels: int) -> None:
    expand = PatchExpand(16, scale)
    x = torch.zeros(1, 3, 2, 16)
    x[0, 1, 1] = torch.rand(16)
    y = expand(x)
    assert y.shape == (1, 3 * scale, 2 * scale, channels)
    touched = y.abs().sum(dim=-1)[0] > 0
    expected = torch.zeros(3 * scale, 2 * scale, dtype=torch.bool)
    expected[scale : 2 * scale, scale : 2 * scale] = True
    assert torch.equal(touched, expected)
