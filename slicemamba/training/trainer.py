"""The training loop, for a network and for a supernet, on one process or several, with Ray or without.

Every random choice of a step (images, path, augmentation, stochastic depth) is drawn from a generator seeded by the
configuration's seed and the step's number. So the state of all generators is the step's number, and a run resumed from
an epoch's checkpoint gives what an uninterrupted one gives, to the last bit on the CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn

from slicemamba.architecture import Architecture
from slicemamba.config import TrainConfig
from slicemamba.data.base import SegmentationData
from slicemamba.data.transforms import augment, to_input
from slicemamba.training.losses import segmentation_loss

State = dict[str, Any]
_STREAMS = {"order": 0, "augment": 1, "drop_path": 2, "path": 3}


class TrainingDivergedError(RuntimeError):
    """The loss is not finite."""


@dataclass(frozen=True)
class EpochReport:
    """What an epoch gave: mean training loss, learning rate it was run at, wall seconds, validation metrics if any."""

    epoch: int
    epochs: int
    step: int
    loss: float
    learning_rate: float
    seconds: float
    validation: dict[str, float] = field(default_factory=dict)

    def flat(self) -> dict[str, float]:
        """One level of numbers, for logs; validation metrics as ``val_…``."""
        values = asdict(self)
        validation = values.pop("validation")
        return values | {f"val_{name}": value for name, value in validation.items()}


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Optimiser steps of an epoch: batches that together hold every image."""
    return math.ceil(num_images / min(batch_size, num_images))


def generator_for(seed: int, stream: str, *position: int) -> np.random.Generator:
    """The generator of one kind of choice at one position (an epoch, or a step and a rank)."""
    return np.random.default_rng([seed, _STREAMS[stream], *position])


def _torch_seed(seed: int, stream: str, *position: int) -> int:
    return int(generator_for(seed, stream, *position).integers(2**63 - 1))


def fit(
    network: nn.Module,
    data: SegmentationData,
    config: TrainConfig,
    *,
    validate: Callable[[], dict[str, float]],
    on_epoch: Callable[[EpochReport, Callable[[], State]], None],
    draw: Callable[[int], Architecture] | None = None,
    state: State | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> None:
    """Trains ``network`` in place.

    Args:
        network: on its device. Called as ``network(image)``, or ``network(image, architecture)`` with ``draw``.
        data: the training split.
        validate: measures the network; called with it in eval mode, on every process.
        on_epoch: receives each epoch's report and a function that gives the state to checkpoint.
        draw: the architecture of a step, counted from 0; the same on all processes and in a resumed run.
        state: a checkpointed state to resume from.
        on_step: receives (steps done, steps in all, loss) after each step.

    Raises:
        TrainingDivergedError: the loss of a step is not finite; the message names the step and its images.
    """
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.t_max, config.min_learning_rate)
    first_epoch = 0
    if state is not None:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        first_epoch = int(state["epoch"])

    for epoch in range(first_epoch, config.epochs):
        started = time.perf_counter()
        network.train()
        losses = []
        batches = list(_batches(len(data), epoch, config))
        for i, indices in enumerate(batches):
            step = epoch * len(batches) + i
            architecture = None if draw is None else draw(step)
            losses.append(_step(network, optimizer, data, indices, step, config, architecture))
            if on_step is not None:
                on_step(step + 1, config.epochs * len(batches), losses[-1])
        learning_rate = float(scheduler.get_last_lr()[0])
        scheduler.step()

        network.eval()
        due = (epoch + 1) % config.validate_every == 0 or epoch + 1 == config.epochs
        report = EpochReport(
            epoch=epoch + 1,
            epochs=config.epochs,
            step=(epoch + 1) * len(batches),
            loss=_mean_over_processes(float(np.mean(losses)), network),
            learning_rate=learning_rate,
            validation=validate() if due else {},
            seconds=time.perf_counter() - started,
        )
        on_epoch(report, lambda done=epoch + 1: _state(network, optimizer, scheduler, done))  # type: ignore[misc]


def _state(network: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any, epoch: int) -> State:
    return {
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "epoch": epoch,
    }


def _step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: SegmentationData,
    indices: npt.NDArray[np.int64],
    step: int,
    config: TrainConfig,
    architecture: Architecture | None,
) -> float:
    """One optimiser step on this process's share of the batch; its loss."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    images, masks = _load(data, indices, step, rank, config, next(network.parameters()).device)
    torch.manual_seed(_torch_seed(config.seed, "drop_path", step, rank))
    logits = network(images) if architecture is None else network(images, architecture)
    loss = segmentation_loss(logits, masks)
    value = float(loss.detach())
    if not math.isfinite(value):
        names = ", ".join(data.names[i] for i in indices[:5])
        raise TrainingDivergedError(
            f"the loss is {value} at step {step} (images {names}, …"
            + (f", architecture {architecture}" if architecture else "")
            + "); lower the learning rate or set clip_grad_norm"
        )
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    average_gradients(network)
    if config.clip_grad_norm is not None:
        nn.utils.clip_grad_norm_(network.parameters(), config.clip_grad_norm)
    optimizer.step()
    return value


def _load(
    data: SegmentationData,
    indices: npt.NDArray[np.int64],
    step: int,
    rank: int,
    config: TrainConfig,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) and masks (B, H, W) of a step, augmented, on the device."""
    images = to_input(data.images[indices], data.intensity).to(device, non_blocking=True)
    masks = torch.from_numpy(np.array(data.masks[indices])).to(device, non_blocking=True)
    if not config.augment:
        return images, masks
    generator = torch.Generator().manual_seed(_torch_seed(config.seed, "augment", step, rank))
    return augment(
        images,
        masks,
        generator,
        flip_probability=config.flip_probability,
        rotate_probability=config.rotate_probability,
    )


def _batches(num_images: int, epoch: int, config: TrainConfig) -> Iterator[npt.NDArray[np.int64]]:
    """This process's indices of each batch: every image at least once an epoch, in an order drawn for the epoch.

    The last batch is filled up from the start of the order, so that all batches have one size, a multiple of the
    number of processes; a set smaller than a batch makes one batch of its own size.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    size = max(world, min(config.batch_size, num_images) // world * world)
    order = generator_for(config.seed, "order", epoch).permutation(num_images)
    steps = math.ceil(num_images / size)
    for batch in np.resize(order, (steps, size)):
        yield batch[rank::world]


def average_gradients(network: nn.Module) -> None:
    """Averages the gradients over all processes in one all-reduce of the weights that took part in the step.

    In single-path training these are the drawn architecture's alone, the same on all processes, which costs a fraction
    of what synchronising the whole supernet would.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    pieces = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, piece in zip(gradients, pieces, strict=True):
        gradient.copy_(piece.view_as(gradient))


def _mean_over_processes(value: float, network: nn.Module) -> float:
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    tensor = torch.tensor(value, device=next(network.parameters()).device)
    dist.all_reduce(tensor)
    return float(tensor) / dist.get_world_size()
