"""A first guess by the classes' shares: what it is, for each network's heads, and that it is of fresh networks only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from slicemamba.architecture import Architecture
from slicemamba.config import ModelConfig, PretrainConfig
from slicemamba.data.base import SegmentationData
from slicemamba.models.baselines import ConvUNet
from slicemamba.models.supernet import Supernet
from slicemamba.models.unet import SliceMambaUNet
from slicemamba.training.prior import start_at_prior

SMALL = {"embed_dim": 8, "encoder_depths": (1, 1), "decoder_depths": (1, 1)}
CONV = {"skeleton": "conv", "embed_dim": 8, "levels": 3, "block_levels": (1,), "deep_supervision": True}


def masks_of(shares: list[float], size: int = 1000) -> SegmentationData:
    """Two images whose pixels hold the classes in these shares, and as many again that are ignored."""
    labels = np.repeat(np.arange(len(shares)), [round(share * size) for share in shares])
    masks = np.stack([np.concatenate([labels, np.full(size, 255)])] * 2).reshape(2, 40, -1).astype(np.uint8)
    num_classes = 1 if len(shares) == 2 else len(shares)
    return SegmentationData(np.zeros((*masks.shape, 3), np.uint8), masks, ("a", "b"), "train", num_classes)


def networks(num_classes: int) -> dict[str, ConvUNet | SliceMambaUNet | Supernet]:
    published, conv = ModelConfig.model_validate(SMALL), ModelConfig.model_validate(CONV)
    return {
        "published": SliceMambaUNet(published, num_classes, Architecture.uniform("2x2", published.depths)),
        "conv": SliceMambaUNet(conv, num_classes, conv.uniform(Architecture.uniform("c3", (1,)).stages[0][0])),
        "supernet": Supernet(published, num_classes, [(2, 2), (4, 4)]),
        "unet": ConvUNet("unet", published, num_classes),
        "attention_unet": ConvUNet("attention_unet", published, num_classes),
    }


@pytest.mark.parametrize("kind", ["published", "conv", "supernet", "unet", "attention_unet"])
@pytest.mark.parametrize("shares", [[0.97, 0.03], [0.9, 0.06, 0.04]])
def test_without_weights_each_head_gives_the_shares(kind: str, shares: list[float]) -> None:
    data = masks_of(shares)
    network = networks(data.num_classes)[kind]
    assert len(network.heads()) == (2 if kind == "conv" else 1)
    start_at_prior(network, data)
    for head in network.heads():
        nn.init.zeros_(head.weight)
        features = torch.randn(1, head.weight.shape[1])
        logits = head(features if isinstance(head, nn.Linear) else features[..., None, None]).flatten()
        first = logits.sigmoid() if len(shares) == 2 else logits.softmax(0)
        assert first.tolist() == pytest.approx(shares[-len(first) :], abs=1e-4)


def test_heads_give_all_logits() -> None:
    """Nothing after them: adding to a head's bias adds as much to the logits everywhere."""
    image = torch.randn(1, 3, 64, 64)
    for kind, network in networks(1).items():
        network.eval()
        with torch.no_grad():
            before = logits_of(network, image)
            network.heads()[0].bias += 2.5
            assert torch.allclose(logits_of(network, image), before + 2.5, atol=1e-4), kind


def logits_of(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
    more = [Architecture.uniform("4x4", network.config.depths)] if isinstance(network, Supernet) else []
    logits: torch.Tensor = network(image, *more)
    return logits


def test_class_that_train_lacks_keeps_a_finite_bias() -> None:
    data = replace(masks_of([0.9, 0.1]), num_classes=4)
    network = networks(4)["published"]
    start_at_prior(network, data)
    bias = network.heads()[0].bias
    assert bias is not None
    assert bias.isfinite().all()
    assert bias[2] == bias[3] < bias[1] < bias[0]


def test_pretraining_refuses_it() -> None:
    with pytest.raises(ValueError, match="prior_bias is for segmentation"):
        PretrainConfig(prior_bias=True)
