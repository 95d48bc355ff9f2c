"""Why the published network from scratch may mark nothing where lesions are small, and what helps.

python -m benchmarks.studies.sticking

What all places of a map have in common is the mean over positions, what tells them apart the deviation from it.
LayerNorm divides each place by the length of both: where the first is far longer, nothing is left of the second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.studies.trainings import CONV, Row, load
from slicemamba.config import TrainConfig
from slicemamba.data.base import SegmentationData
from slicemamba.data.transforms import inputs_of
from slicemamba.evaluation.evaluate import evaluate
from slicemamba.models.unet import SliceMambaUNet
from slicemamba.training.prior import start_at_prior
from slicemamba.training.trainer import EpochReport, fit

DATASET, EPOCHS = "retina", 150
SHOWN = (0, 3, 30, EPOCHS)
PUBLISHED = Row({"embed_dim": 16, "drop_path_rate": 0.0}, "2x2")


@dataclass(frozen=True)
class Start:
    """One way to train it."""

    learning_rate: float
    prior_bias: bool

    def __str__(self) -> str:
        return f"rate {self.learning_rate:g}, prior bias {'on' if self.prior_bias else 'off'}"


STARTS = (Start(1e-3, False), Start(1e-3, True), Start(1e-4, False), Start(1e-4, True))


@torch.no_grad()
def deviation(network: SliceMambaUNet, data: SegmentationData) -> float:
    """Of the maps after the last block: length of a place's deviation from the mean, by the length of the mean."""
    maps: list[Tensor] = []
    blocks: Iterator[nn.Module] = network.blocks()
    hook = list(blocks)[-1].register_forward_hook(lambda _module, _given, made: maps.append(made))
    network.eval()(inputs_of(data, slice(0, len(data))))
    hook.remove()
    places = maps[0].flatten(0, -2)
    mean = places.mean(0)
    return float((places - mean).norm(dim=1).mean() / mean.norm())


def main() -> None:
    torch.set_num_threads(1)
    train, test = load((64, 64), DATASET, "train"), load((64, 64), DATASET, "test")
    print(f"{DATASET}: {len(train)} images, {float((train.masks == 1).mean()):.2%} foreground; {EPOCHS} epochs\n")
    print(f"| start | {' | '.join(f'deviation, epoch {epoch}' for epoch in SHOWN)} | Dice on train | on test |")
    print(f"|{' --- |' * (len(SHOWN) + 3)}")
    for start in STARTS:
        print(f"| {start} | {' | '.join(_row(start, train, test))} |", flush=True)
    torch.manual_seed(0)
    learns = Row(CONV, "-").build(train.num_classes)
    scores = _trained(learns, 1e-3, train, test, lambda report, state: None)
    print(f"\nskeleton conv without blocks, rate 0.001: Dice {scores[0]:.3f} on train, {scores[1]:.3f} on test")


def _row(start: Start, train: SegmentationData, test: SegmentationData) -> list[str]:
    torch.manual_seed(0)
    network = PUBLISHED.build(train.num_classes)
    assert isinstance(network, SliceMambaUNet)
    if start.prior_bias:
        start_at_prior(network, train)
    seen = {0: deviation(network, train)}

    def look(report: EpochReport, state: object) -> None:
        if report.epoch in SHOWN:
            seen[report.epoch] = deviation(network, train)

    scores = _trained(network, start.learning_rate, train, test, look)
    return [*(f"{seen[epoch]:.2f}" for epoch in SHOWN), *(f"{score:.3f}" for score in scores)]


def _trained(
    network: nn.Module,
    rate: float,
    train: SegmentationData,
    test: SegmentationData,
    look: Callable[[EpochReport, object], None],
) -> list[float]:
    """Dice on train and on test."""
    fit(
        network,
        train,
        TrainConfig(epochs=EPOCHS, batch_size=8, validate_every=EPOCHS, learning_rate=rate),
        validate=dict,
        on_epoch=look,
    )
    cpu = torch.device("cpu")
    return [
        evaluate(network, data, batch_size=16, device=cpu, with_hd95=False).metrics["dice"] for data in (train, test)
    ]


if __name__ == "__main__":
    main()
