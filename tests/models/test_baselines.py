"""VM-UNet is 1×1 slices, MONAI's networks keep the interface, and an ensemble is the mean probability."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from slicemamba.architecture import Architecture
from slicemamba.config import ModelConfig
from slicemamba.errors import InputError
from slicemamba.models.baselines import CONV_KINDS, ConvKind, ConvUNet
from slicemamba.models.checkpoints import NetworkCard, card_of, load_network, read_card, save_network
from slicemamba.models.complexity import count_flops, num_parameters
from slicemamba.models.ensemble import Ensemble
from slicemamba.models.unet import SliceMambaUNet
from slicemamba.ops.slicing import scan_orders
from slicemamba.training.losses import segmentation_loss


@pytest.mark.parametrize(("height", "width"), [(4, 4), (3, 7), (8, 5), (1, 6)])
def test_slices_of_1x1_are_the_cross_scan_of_vm_unet(height: int, width: int) -> None:
    """VMamba (arXiv 2401.10166, figure 3): rows, columns, and both backwards, written with NumPy alone."""
    places = np.arange(height * width).reshape(height, width)
    rows, columns = places.ravel(), places.T.ravel()
    cross_scan = [rows, columns, rows[::-1], columns[::-1]]
    ours = scan_orders(height, width, (1, 1)).numpy()
    for direction, theirs in zip([0, 2, 1, 3], cross_scan, strict=True):
        assert np.array_equal(ours[direction], theirs)


@pytest.mark.parametrize("kind", CONV_KINDS)
@pytest.mark.parametrize(("channels", "size"), [(3, (32, 32)), (1, (33, 50)), (3, (7, 90))])
def test_any_size_and_grey_images(kind: ConvKind, channels: int, size: tuple[int, int]) -> None:
    network = ConvUNet(kind, ModelConfig(embed_dim=8), 3).eval()
    image = torch.rand(2, channels, *size)
    with torch.no_grad():
        logits = network(image)
        assert logits.shape == (2, 3, *size)
        assert logits.is_contiguous()
        assert torch.equal(logits, network(image.expand(-1, 3, -1, -1)))
    with pytest.raises(InputError, match="1 or 3"):
        network(torch.rand(1, 2, 32, 32))


@pytest.mark.parametrize("kind", CONV_KINDS)
def test_a_few_steps_lower_the_loss_and_reach_every_weight(kind: ConvKind) -> None:
    network = ConvUNet(kind, ModelConfig(embed_dim=8), 1)
    image = torch.rand(2, 3, 32, 32)
    target = (image.mean(dim=1) > 0.5).long()
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    losses = []
    for _ in range(8):
        loss = segmentation_loss(network(image), target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert all(parameter.grad is not None for parameter in network.parameters())


@pytest.mark.parametrize(("kind", "millions"), [("unet", 31.1), ("attention_unet", 31.7)])
def test_widths_are_the_usual_ones_at_c_96(kind: ConvKind, millions: float) -> None:
    with torch.device("meta"):
        network = ConvUNet(kind, ModelConfig(), 1)
    assert num_parameters(network) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("kind", CONV_KINDS)
def test_flops_of_a_convolutional_network(kind: ConvKind) -> None:
    network = ConvUNet(kind, ModelConfig(embed_dim=8), 1)
    small = count_flops(network, (32, 32))
    assert small > 2 * 32 * 32 * 3 * 5 * 9, "the first convolution alone: 3 to 5 channels, 3×3"
    assert count_flops(network, (64, 96)) == 6 * small
    assert network.training


def members(num_classes: int, count: int = 3) -> list[SliceMambaUNet | ConvUNet]:
    config = ModelConfig(embed_dim=8, encoder_depths=(1, 1), decoder_depths=(1, 1))
    slicings: list[SliceMambaUNet | ConvUNet] = [
        SliceMambaUNet(config, num_classes, Architecture.uniform((2, 2 + i), config.depths)) for i in range(count - 1)
    ]
    return [*slicings, ConvUNet("unet", config, num_classes)]


def probabilities(logits: Tensor) -> Tensor:
    return logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)


@pytest.mark.parametrize("num_classes", [1, 4])
def test_ensemble_gives_the_mean_probability(num_classes: int) -> None:
    networks = members(num_classes)
    ensemble = Ensemble(networks).eval()
    image = torch.rand(2, 3, 24, 40)
    with torch.no_grad():
        expected = torch.stack([probabilities(network(image)) for network in networks]).mean(dim=0)
        assert torch.allclose(probabilities(ensemble(image)), expected, atol=1e-6)
        alone = Ensemble(networks[:1])(image)
        assert torch.allclose(probabilities(alone), probabilities(networks[0](image)), atol=1e-6)


class _Sure(SliceMambaUNet):
    """Gives one logit everywhere."""

    def __init__(self, logit: float) -> None:
        config = ModelConfig(embed_dim=4, encoder_depths=(1,), decoder_depths=(1,))
        super().__init__(config, 1, Architecture.uniform((1, 1), config.depths))
        self.logit = logit

    def forward(self, image: Tensor) -> Tensor:
        return torch.full((len(image), 1, *image.shape[2:]), self.logit)


@pytest.mark.parametrize(
    ("logits", "expected"), [((500.0, 500.0), 500), ((500.0, -500.0), 0), ((-500.0, -500.0), -500)]
)
def test_sure_members_give_no_infinity(logits: tuple[float, float], expected: float) -> None:
    mean = Ensemble([_Sure(logit) for logit in logits])(torch.zeros(1, 3, 4, 4))
    assert torch.allclose(mean, torch.full_like(mean, expected))


def test_members_of_different_tasks_are_refused() -> None:
    for networks in ([], [members(1)[0], members(3)[0]]):
        with pytest.raises(InputError, match="one number of classes"):
            Ensemble(networks)


@pytest.mark.parametrize("kind", [*CONV_KINDS, "ensemble"])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_network_comes_back_from_its_folder(kind: str, num_classes: int, tmp_path: Path) -> None:
    config = ModelConfig(embed_dim=8)
    made = {
        "unet": lambda: ConvUNet("unet", config, num_classes),
        "attention_unet": lambda: ConvUNet("attention_unet", config, num_classes),
        "ensemble": lambda: Ensemble(members(num_classes)),
    }
    network = made[kind]().train()
    image = torch.rand(2, 3, 40, 24)
    network(image)  # moves batch norm's running statistics, which must be kept too
    save_network(tmp_path, network.eval())
    again = load_network(tmp_path)
    assert type(again) is type(network)
    assert not again.training
    assert card_of(again) == read_card(tmp_path) == card_of(network)
    assert NetworkCard.model_validate_json(card_of(network).model_dump_json()).kind == kind
    with torch.no_grad():
        assert torch.equal(again(image), network(image))
