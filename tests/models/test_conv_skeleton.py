"""The convolutional skeleton is a U-Net, its blocks start as the identity, and its choices share weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cluster.config import parse_job
from nas.latency import measure_latencies
from nas.space import SearchSpace
from slicemamba.architecture import FULL, HALF, SKIP, Architecture, parse_block
from slicemamba.config import ModelConfig
from slicemamba.costs import network_cost
from slicemamba.errors import InputError
from slicemamba.models.bss import S3Block
from slicemamba.models.checkpoints import card_of, load_network, save_network, title_of
from slicemamba.models.complexity import cost, num_parameters
from slicemamba.models.initialise import initialise
from slicemamba.models.supernet import Supernet, WeightSharing
from slicemamba.models.unet import SliceMambaUNet
from slicemamba.training.losses import bce_dice_loss, segmentation_loss

MODEL = ModelConfig(skeleton="conv", embed_dim=8, levels=4, block_levels=(1, 3), drop_path_rate=0.0)
CHOICES = tuple(map(parse_block, ("2x2", "4x2n4e1", "c3", "c7e1", "-", "full", "half")))
SPACE = SearchSpace(CHOICES, MODEL.depths, MODEL.has_widths)


def noisy(network: nn.Module, seed: int = 0) -> nn.Module:
    """With weights far from their start, so that no block is the identity."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    return network.eval()


def plain_unet(state: dict[str, Tensor], image: Tensor, levels: int) -> Tensor:
    """A U-Net written out with torch's own functions on (B, C, H, W), from the skeleton's weights."""

    def pair(x: Tensor, stage: int) -> Tensor:
        w = {key.removeprefix(f"conv.stages.{stage}.0."): value for key, value in state.items()}
        y = x
        for number in (1, 2):
            y = F.conv2d(y, w[f"conv{number}.weight"], padding=1)
            y = F.instance_norm(y, weight=w[f"norm{number}.weight"], bias=w[f"norm{number}.bias"])
            y = F.leaky_relu(y, 0.01)
        return y + (F.conv2d(x, w["shortcut.weight"][:, :, None, None]) if "shortcut.weight" in w else x)

    skips: list[Tensor] = []
    x = image
    for stage in range(levels):
        x = pair(x if stage == 0 else F.max_pool2d(x, 2), stage)
        skips.append(x)
    skips.pop()
    for step in range(levels - 1):
        linear = state[f"conv.expands.{step}.linear.weight"]  # (2·2·C, 2C), rows by place in the patch
        dim = linear.shape[0] // 4
        kernel = linear.view(2, 2, dim, -1).permute(3, 2, 0, 1)
        x = torch.cat([F.conv_transpose2d(x, kernel, stride=2), skips.pop()], dim=1)
        x = pair(x, levels + step)
    return F.conv2d(x, state["conv.head.weight"][:, :, None, None], state["conv.head.bias"])


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_without_blocks_it_is_a_unet(channels: int) -> None:
    model = MODEL.model_copy(update={"in_channels": channels})
    network = noisy(SliceMambaUNet(model, 2, model.uniform(SKIP)))
    image = torch.randn(2, channels, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(network(image), plain_unet(network.state_dict(), image, 4), atol=1e-4, rtol=1e-4)


def test_fresh_blocks_are_the_identity() -> None:
    supernet = Supernet(MODEL, 1, CHOICES, "shared").eval()
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        bare = supernet(image, MODEL.uniform(SKIP))
        for text in ("2x2", "4x2n4e1", "c3", "c7e1"):
            torch.testing.assert_close(supernet(image, MODEL.uniform(parse_block(text))), bare)


def test_choice_without_scan_is_a_gated_convolution() -> None:
    block = noisy(S3Block(8, drop_path=0.0, kernel=5))
    assert isinstance(block, S3Block)
    x = torch.randn(2, 6, 7, 8)
    mixer = block.self_attention
    inner, gate = mixer.in_proj(block.ln_1(x)).chunk(2, dim=-1)
    kernel = mixer.conv2d.weight[..., 1:-1, 1:-1]
    mixed = F.conv2d(inner.permute(0, 3, 1, 2), kernel, mixer.conv2d.bias, padding=1, groups=len(kernel))
    expected = x + mixer.out_proj(mixer.out_norm(F.silu(mixed).permute(0, 2, 3, 1)) * F.silu(gate))
    torch.testing.assert_close(block(x, parse_block("c3")), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("sharing", ["shared", "separate"])
@pytest.mark.parametrize("size", [(32, 32), (37, 50)])
def test_extracted_network_computes_what_the_supernet_does(sharing: WeightSharing, size: tuple[int, int]) -> None:
    supernet = noisy(Supernet(MODEL, 1, CHOICES, sharing))
    assert isinstance(supernet, Supernet)
    rng, image = np.random.default_rng(0), torch.randn(1, 1, *size)
    every = [SPACE.sample(rng) for _ in range(6)] + SPACE.fixed()
    with torch.no_grad():
        for architecture in every:
            expected = supernet(image, architecture)
            assert expected.shape == (1, 1, *size)
            torch.testing.assert_close(supernet.extract(architecture)(image), expected)


def test_width_and_blocks_cost_what_the_closed_form_and_the_network_say() -> None:
    for levels, text in ((4, "2x2"), (3, "4x4")):
        model = ModelConfig(skeleton="conv", embed_dim=8, levels=levels, block_levels=(1, 2), deep_supervision=True)
        counted = cost(model, 3, model.uniform(parse_block(text)), (33, 64))
        found = network_cost(model, 3, (33, 64))
        assert (found.flops, found.params) == (counted["flops"], counted["params"])
    half, full = (cost(MODEL, 1, Architecture.uniform(SKIP, MODEL.depths, width), (64, 64)) for width in (HALF, FULL))
    assert half["flops"] < 0.65 * full["flops"]
    convolution, scan = (cost(MODEL, 1, MODEL.uniform(parse_block(text)), (64, 64)) for text in ("c3", "2x2"))
    assert full["flops"] < convolution["flops"] < scan["flops"]


def test_space_draws_widths_and_blocks_each_in_their_place() -> None:
    assert MODEL.depths == (1, 2, 1, 2, 1, 2, 1)
    assert str(SPACE.fixed()[4]) == "s1:full|s2:full,-|s3:full|s4:full,-|s5:full|s6:full,-|s7:full"
    assert SPACE.fixed()[-1] == Architecture.uniform(SKIP, MODEL.depths, HALF)
    assert SPACE.size == 2**7 * 5**3
    rng = np.random.default_rng(1)
    for _ in range(20):
        drawn = SPACE.mutate(SPACE.sample(rng), 0.5, rng)
        assert all(stage[0] in (FULL, HALF) and not any(b.divisor for b in stage[1:]) for stage in drawn.stages)
        assert SPACE.decode(SPACE.encode(drawn)) == drawn
    neighbours = SPACE.neighbours(drawn)
    assert len(set(neighbours)) == len(neighbours) == SPACE.num_neighbours == 7 + 3 * 4
    with pytest.raises(InputError, match="block 1 is 2x2, which is not among the choices full, half"):
        SPACE.check(Architecture.parse("s1:2x2|s2:full,-|s3:full|s4:full,-|s5:full|s6:full,-|s7:full"))


def test_saved_network_and_supernet_come_back_and_start_others(tmp_path: Path) -> None:
    supernet = noisy(Supernet(MODEL, 1, CHOICES, "separate"))
    assert isinstance(supernet, Supernet)
    save_network(tmp_path / "supernet", supernet)
    architecture = SPACE.sample(np.random.default_rng(3))
    network = SliceMambaUNet(MODEL, 1, architecture)
    report = initialise(network, tmp_path / "supernet", architecture)
    assert not report.fresh
    assert not report.unused
    save_network(tmp_path / "network", network)
    loaded = load_network(tmp_path / "network")
    image = torch.randn(1, 3, 40, 32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(image), supernet(image, architecture))
    three = SliceMambaUNet(MODEL, 3, architecture)
    assert {name.partition(":")[0] for name in initialise(three, tmp_path / "network", architecture).head} == {
        "conv.head.weight",
        "conv.head.bias",
    }
    assert title_of(card_of(network)) == "U-Net with searched blocks"
    assert title_of(card_of(SliceMambaUNet(MODEL, 1, MODEL.uniform(SKIP)))) == "U-Net, conv skeleton"


def test_weights_of_the_other_skeleton_are_refused(tmp_path: Path) -> None:
    published = ModelConfig(embed_dim=8, encoder_depths=(1,), decoder_depths=(1,))
    other = SliceMambaUNet(published, 1, published.uniform(parse_block("2x2")))
    save_network(tmp_path, other)
    with pytest.raises(InputError, match=r"does not fit the network: it has 0 of its"):
        initialise(SliceMambaUNet(MODEL, 1, MODEL.uniform(SKIP)), tmp_path, MODEL.uniform(SKIP))


def test_deep_supervision_adds_the_loss_of_coarser_maps_in_training_alone() -> None:
    model = MODEL.model_copy(update={"deep_supervision": True})
    network = SliceMambaUNet(model, 1, model.uniform(SKIP))
    image, target = torch.randn(2, 3, 32, 32), torch.randint(0, 2, (2, 32, 32))
    heads = network.train()(image)
    assert heads.shape == (3, 2, 1, 32, 32)
    weighted = sum(0.5**i * bce_dice_loss(each, target) for i, each in enumerate(heads)) / 1.75
    torch.testing.assert_close(segmentation_loss(heads, target), weighted)
    segmentation_loss(heads, target).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    torch.testing.assert_close(network.eval()(image), heads[0])
    assert num_parameters(network) > num_parameters(SliceMambaUNet(MODEL, 1, MODEL.uniform(SKIP)))


def test_latency_table_times_each_place_with_its_own_choices() -> None:
    supernet = Supernet(MODEL, 1, CHOICES, "shared").eval()
    table = measure_latencies(supernet, torch.randn(1, 3, 32, 32), 1, torch.inference_mode)
    assert [set(times) for times in table.blocks_ms[:3]] == [
        {"full", "half"},
        {"full", "half"},
        {"2x2", "4x2n4e1", "c3", "c7e1", "-"},
    ]
    assert table.latency_ms(SPACE.sample(np.random.default_rng(0))) > 0


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"skeleton": "conv", "block_levels": []}, "block_levels names no level"),
        ({"skeleton": "conv", "block_levels": [3, 2]}, "must rise"),
        ({"skeleton": "conv", "block_levels": [2, 5]}, "must be 0 to 4 with 5 levels"),
        ({"skeleton": "conv", "encoder_depths": [1, 1], "decoder_depths": [1, 1]}, "of skeleton published"),
        ({"block_levels": [1]}, "block_levels is of skeleton conv"),
        ({"skeleton": "conv", "levels": 7, "block_levels": [2]}, "needs images of 128 pixels or more"),
    ],
)
def test_models_that_cannot_be_are_refused(model: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_job({"kind": "search", "model": model, "data": {"image_size": [64, 64]}})
    assert message in str(caught.value.details)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (["2x2", "c4"], "use 'c3' or 'c5'"),
        (["2x2", "full", "half"], "set model.skeleton to conv"),
        (["2x2", "c3e4"], "c3e4 exceeds"),
    ],
)
def test_choices_that_cannot_be_are_refused(choices: list[str], message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_job({"kind": "search", "space": {"choices": choices}})
    assert message in str(caught.value.details)


def test_wider_block_than_the_weights_is_refused() -> None:
    image = torch.randn(1, 3, 32, 32)
    narrow = Supernet(MODEL, 1, [parse_block("c3"), SKIP], "shared").eval()
    with pytest.raises(InputError, match="convolution of width 3 and no scan"):
        narrow(image, MODEL.uniform(parse_block("2x2")))
    half = SliceMambaUNet(MODEL, 1, Architecture.uniform(SKIP, MODEL.depths, HALF))
    with pytest.raises(InputError, match="at most half here; got full"):
        half.run(image, MODEL.uniform(SKIP))
