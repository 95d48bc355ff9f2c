"""The training loop, for a network and for a supernet, on one process or several, with Ray or without.

Every random choice of a step (images, path, augmentation, stochastic depth) is drawn from a generator seeded by the
configuration's seed and the step's number. So the state of all generators is the step's number, and a run resumed from
an epoch's checkpoint gives what an uninterrupted one gives, to the last bit on the CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from slicemamba.architecture import Architecture
from slicemamba.config import TrainConfig
from slicemamba.data.base import SegmentationData
from slicemamba.errors import name_some
from slicemamba.training.early_stopping import EarlyStopping
from slicemamba.training.ema import WeightAverage
from slicemamba.training.losses import distillation_loss
from slicemamba.training.optim import NotFiniteError, Optimizer, check_precision, learning_rate
from slicemamba.training.order import Indices
from slicemamba.training.seeds import torch_seed
from slicemamba.training.task import Task, segmentation

State = dict[str, Any]
Paths = Sequence[Architecture]


class TrainingDivergedError(RuntimeError):
    """The loss or the gradient is not finite."""


@dataclass(frozen=True)
class EpochReport:
    """What an epoch gave: mean training loss, learning rate of its last step, wall seconds, validation metrics if any.

    ``stopped_early`` is true for the last epoch of a training that ``early_stop_epochs`` has ended.
    """

    epoch: int
    epochs: int
    step: int
    loss: float
    learning_rate: float
    seconds: float
    stopped_early: bool = False
    validation: dict[str, float] = field(default_factory=dict)

    def flat(self) -> dict[str, float]:
        """One level of numbers, for logs; validation metrics as ``val_…``."""
        values = asdict(self)
        validation = values.pop("validation")
        return values | {f"val_{name}": value for name, value in validation.items()}


def step_size(num_samples: int, batch_size: int, num_processes: int = 1) -> int:
    """Samples of an optimiser step: as many for each process, and at least one; a small set makes a smaller batch."""
    return max(num_processes, min(batch_size, num_samples) // num_processes * num_processes)


def steps_per_epoch(num_samples: int, batch_size: int, num_processes: int = 1) -> int:
    """Optimiser steps of an epoch: batches that together hold every sample."""
    return math.ceil(num_samples / step_size(num_samples, batch_size, num_processes))


def fit(
    network: nn.Module,
    data: SegmentationData | Task,
    config: TrainConfig,
    *,
    validate: Callable[[], dict[str, float]],
    on_epoch: Callable[[EpochReport, Callable[[], State]], None],
    draw: Callable[[int], Sequence[Architecture]] | None = None,
    distillation_weight: float = 1.0,
    state: State | None = None,
    on_step: Callable[[int, int, float], None] | None = None,
) -> None:
    """Trains ``network`` in place.

    Args:
        network: on its device. Called as ``network(image)``, or ``network(image, architecture)`` with ``draw``.
        data: the training split, or another task.
        validate: measures the network; called with it in eval mode and, with ``ema_decay``, with its averaged weights,
            on every process.
        on_epoch: receives each epoch's report and a function that gives the state to checkpoint.
        draw: the architectures of a step, counted from 0; the same on all processes and in a resumed run. Of several
            the first learns from the task's targets and the others from its output (in-place distillation, BigNAS,
            arXiv 2003.11142); their mean gradient makes one step.
        distillation_weight: of that output for the others; the task's targets have the rest.
        state: a checkpointed state to resume from.
        on_step: receives (steps done, steps in all, loss) after each step.

    Raises:
        TrainingDivergedError: the loss or the gradient of a step is not finite, on any process; raised on all of them.
            The message names the step and its images.
        InputError: a precision that the network's device does not have.
    """
    task: Task = segmentation(data, config) if isinstance(data, SegmentationData) else data
    device = next(network.parameters()).device
    check_precision(config, device)
    optimizer = Optimizer(network, config)
    average = None if config.ema_decay is None else WeightAverage(network, config.ema_decay)
    stopping = EarlyStopping(config.early_stop_epochs)
    first_epoch = 0
    if state is not None:
        first_epoch = int(state["epoch"])
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        stopping.load_state_dict(state["early_stopping"])
        if average is not None:
            average.load_state_dict(state["average"])

    def current(epoch: int) -> State:
        return {
            "epoch": epoch,
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "early_stopping": stopping.state_dict(),
            "average": None if average is None else average.state_dict(),
        }

    for epoch in range(first_epoch, config.epochs):
        if stopping.stopped:
            return
        started = time.perf_counter()
        network.train()
        losses = []
        batches = list(_batches(task, epoch, config))
        for i, batch in enumerate(batches):
            step = epoch * len(batches) + i
            paths = () if draw is None else tuple(draw(step))
            losses.append(
                _backward(network, optimizer, task, batches[i : i + 2], step, config, paths, distillation_weight)
            )
            taken = _step(optimizer, epoch + (i + 1) / len(batches), task, batch, step, paths)
            if average is not None and taken:
                average.update(network)
            if on_step is not None:
                on_step(step + 1, config.epochs * len(batches), losses[-1])

        network.eval()
        validation: dict[str, float] = {}
        if (epoch + 1) % config.validate_every == 0 or epoch + 1 == config.epochs:
            with nullcontext() if average is None else average.applied(network):
                validation = validate()
        report = EpochReport(
            epoch=epoch + 1,
            epochs=config.epochs,
            step=(epoch + 1) * len(batches),
            loss=float(np.mean(losses)),
            learning_rate=learning_rate(config, epoch + 1),
            stopped_early=stopping.update(epoch + 1, validation.get(task.score), device) and epoch + 1 < config.epochs,
            validation=validation,
            seconds=time.perf_counter() - started,
        )
        on_epoch(report, lambda done=epoch + 1: current(done))  # type: ignore[misc]


def trained_weights(state: State) -> dict[str, Tensor]:
    """The weights a training is after: those that were validated, averaged with ``ema_decay``."""
    average = state["average"]
    return {**state["network"], **({} if average is None else average["weights"])}


def _backward(
    network: nn.Module,
    optimizer: Optimizer,
    task: Task,
    batches: list[Indices],
    step: int,
    config: TrainConfig,
    paths: Paths,
    distillation_weight: float,
) -> float:
    """Leaves a batch's gradient, averaged over all processes, in the network; returns the loss, averaged alike.

    Args:
        batches: this step's, and the next one of the epoch where there is one.
    """
    rank, world = place()
    batch = batches[0]
    inputs, targets = task.load(batch[rank::world], step, rank, next(network.parameters()).device)
    if len(batches) > 1:
        task.prefetch(batches[1][rank::world], step + 1)
    torch.manual_seed(torch_seed(config.seed, "drop_path", step, rank))
    optimizer.zero_grad()
    value = 0.0
    parts = (inputs.chunk(config.accumulate_steps), targets.chunk(config.accumulate_steps))
    for part, target in zip(*parts, strict=True):
        teacher: Tensor | None = None
        for path in paths or (None,):
            with optimizer.autocast():
                output = network(part) if path is None else network(part, path)
            loss = _loss(task, output, target, teacher, distillation_weight)
            loss = loss * (len(part) / len(inputs) / max(1, len(paths)))
            optimizer.backward(loss)
            value += float(loss.detach())
            teacher = output.detach() if teacher is None else teacher
    values = optimizer.average(value)
    for of_rank, other in enumerate(values):
        if not math.isfinite(other):
            raise _diverged(f"loss is {other}", task, batch[of_rank::world], step, paths)
    return math.fsum(values) / world


def _loss(task: Task, output: Tensor, target: Tensor, teacher: Tensor | None, distillation_weight: float) -> Tensor:
    """Of one architecture; of the first of a step, which has no teacher, against the targets alone."""
    if teacher is None:
        return task.loss(output, target)
    distilled = distillation_loss(output, teacher, target)
    if distillation_weight == 1:
        return distilled
    return distillation_weight * distilled + (1 - distillation_weight) * task.loss(output, target)


def _step(optimizer: Optimizer, position: float, task: Task, batch: Indices, step: int, paths: Paths) -> bool:
    try:
        return optimizer.step(position)
    except NotFiniteError:
        raise _diverged("gradient is not finite", task, batch, step, paths) from None


def _diverged(what: str, task: Task, indices: Indices, step: int, paths: Paths) -> TrainingDivergedError:
    where = f"images {name_some([task.name(i) for i in indices])}"
    if paths:
        where += f"; architecture {' and '.join(map(str, paths))}"
    return TrainingDivergedError(f"the {what} at step {step} ({where}); lower the learning rate or set clip_grad_norm")


def place() -> tuple[int, int]:
    """Rank of this process, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _batches(task: Task, epoch: int, config: TrainConfig) -> Iterator[Indices]:
    """The samples of each batch, in the task's order of the epoch.

    The last batch is filled up from the start of the order, so that all batches have one size, a multiple of the
    number of processes; a set smaller than a batch makes one batch of its own size. Process r takes every world-th
    sample from the r-th on.
    """
    _, world = place()
    size = step_size(len(task), config.batch_size, world)
    yield from np.resize(task.order(epoch), (steps_per_epoch(len(task), config.batch_size, world), size))
