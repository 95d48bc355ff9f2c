"""Why the published network from scratch may mark nothing: its last feature maps and gradients, before and after.

python -m benchmarks.studies.sticking [--prior-bias]
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.studies.trainings import Row, load
from slicemamba.config import TrainConfig
from slicemamba.data.base import SegmentationData
from slicemamba.data.transforms import inputs_of
from slicemamba.models.unet import SliceMambaUNet
from slicemamba.training.losses import bce_dice_loss
from slicemamba.training.prior import start_at_prior
from slicemamba.training.trainer import fit

DATASET, EPOCHS, NUM_IMAGES = "retina", 30, 16
PUBLISHED = Row({"embed_dim": 16}, "2x2")


def look(network: SliceMambaUNet, data: SegmentationData, when: str) -> None:
    """Prints the deviation over positions of the maps before the head, and how large the gradients before them are."""
    maps: list[Tensor] = []
    hook = network.final_up.register_forward_hook(lambda _module, _given, made: maps.append(made.detach()))
    network.train().zero_grad()
    masks = torch.from_numpy(np.array(data.masks[:NUM_IMAGES]))
    loss = bce_dice_loss(network(inputs_of(data, slice(0, NUM_IMAGES))), masks)
    loss.backward()
    hook.remove()
    deviation = maps[0].std(dim=(0, 1, 2)).mean().item()
    print(f"{when}: loss {loss.item():.3f}, deviation of the last maps over positions {deviation:.4f}")
    for name, part in (("encoder", network.layers), ("decoder", network.layers_up), ("head", network.final_conv)):
        print(f"  {name}: median of gradient by weight, in norms {_relative_gradient(part):.1e}")


def _relative_gradient(part: nn.Module) -> float:
    found = ((weight.grad, weight) for weight in part.parameters())
    return statistics.median((grad.norm() / weight.norm()).item() for grad, weight in found if grad is not None)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prior-bias", action="store_true", help="begin with the classes' shares")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = load((64, 64), DATASET, "train")
    network = PUBLISHED.build(data.num_classes)
    assert isinstance(network, SliceMambaUNet)
    if parser.parse_args(arguments).prior_bias:
        start_at_prior(network, data)
    print(f"{DATASET}: {len(data)} images, {float((data.masks > 0).mean()):.2%} foreground")
    look(network, data, "at the start")
    settings = TrainConfig(epochs=EPOCHS, batch_size=8, validate_every=EPOCHS)  # the recipe ``published``
    fit(network, data, settings, validate=dict, on_epoch=lambda report, state: None)
    look(network, data, f"after {EPOCHS} epochs")


if __name__ == "__main__":
    main()
