"""The optimiser's step: AdamW and its learning rate, mixed precision, averaging over processes, clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from slicemamba.config import TrainConfig
from slicemamba.errors import InputError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
_SMALLEST_SCALE = 2.0**-10  # a scale that has been halved so often does not overflow: the gradients are not finite


class NotFiniteError(ArithmeticError):
    """The gradient of a step is not finite."""


def learning_rate(config: TrainConfig, position: float) -> float:
    """The learning rate at a place in the training.

    Args:
        config: rates and lengths of the schedule.
        position: epochs done when the step is over; the first of ten steps of the first epoch has 0.1.

    Returns:
        In the first ``warmup_epochs`` a line that rises by steps; then a cosine from epoch to epoch between
        ``learning_rate`` and ``min_learning_rate``, down in ``t_max`` epochs and, as published, up again; without
        ``t_max``, down until the end.
    """
    if position <= config.warmup_epochs:
        return config.learning_rate * position / config.warmup_epochs
    length = config.t_max or max(1, config.epochs - config.warmup_epochs)
    turn = math.pi * (math.ceil(position) - 1 - config.warmup_epochs) / length
    span = config.learning_rate - config.min_learning_rate
    return config.min_learning_rate + span * (1 + math.cos(turn)) / 2


def check_precision(config: TrainConfig, device: torch.device) -> None:
    """Raises InputError for fp16 without a GPU."""
    if config.precision == "fp16" and device.type != "cuda":
        raise InputError("precision fp16 needs a CUDA GPU; use bf16 or float32 on the CPU", pointer="/precision")


def _groups(network: nn.Module, config: TrainConfig) -> list[dict[str, Any]]:
    """AdamW's parameter groups: all weights, or those of one dimension apart, without decay."""
    if config.decay_vectors:
        return [{"params": list(network.parameters())}]
    vectors = [weight for weight in network.parameters() if weight.ndim < 2]
    others = [weight for weight in network.parameters() if weight.ndim >= 2]
    return [{"params": others}, {"params": vectors, "weight_decay": 0.0}]


class Optimizer:
    """Turns losses into updates of a network's weights, alike on all processes.

    Args:
        network: on its device. config: how to train.
    """

    def __init__(self, network: nn.Module, config: TrainConfig) -> None:
        self._network = network
        self._config = config
        self._device = next(network.parameters()).device
        self._adamw = torch.optim.AdamW(
            _groups(network, config),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=self._device.type in ("cpu", "cuda"),  # a third of the time, where torch has it
        )
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=config.precision == "fp16")

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        dtype = _DTYPES.get(self._config.precision)
        return torch.autocast(self._device.type, dtype=dtype, enabled=dtype is not None)

    def backward(self, loss: Tensor) -> None:
        """Adds the gradients of a part of the batch to those of the parts before."""
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]

    def average(self, loss: float) -> list[float]:
        """Averages the gradients over all processes and returns the loss of each.

        One all-reduce holds both, so that every process learns of another's loss that is not finite at no extra cost.
        Only weights that took part in the step are in it: in single-path training those of the drawn architecture,
        the same on all processes, a fraction of the supernet.
        """
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return [loss]
        world = dist.get_world_size()
        gradients = self._gradients()
        losses = torch.zeros(world, device=self._device)
        losses[dist.get_rank()] = loss
        flat = torch.cat([*(gradient.flatten() for gradient in gradients), losses])
        dist.all_reduce(flat)
        *pieces, losses = torch.split(flat, [*(gradient.numel() for gradient in gradients), world])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient) / world)
        told: list[float] = losses.tolist()
        return told

    def step(self, position: float) -> bool:
        """Clips the gradients and takes the step; False where fp16 overflowed, which skips it and halves the scale.

        Args:
            position: epochs done when this step is over, for the learning rate.

        Raises:
            NotFiniteError: the gradient is not finite. The weights are as before.
        """
        self._scaler.unscale_(self._adamw)
        norm = nn.utils.get_total_norm(self._gradients())
        finite = bool(norm.isfinite())
        if not finite and not (self._scaler.is_enabled() and self._scaler.get_scale() > _SMALLEST_SCALE):
            raise NotFiniteError
        if finite and self._config.clip_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(self._network.parameters(), self._config.clip_grad_norm, norm)
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate(self._config, position)
        self._scaler.step(self._adamw)
        self._scaler.update()
        return finite

    def zero_grad(self) -> None:
        self._adamw.zero_grad(set_to_none=True)

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self._network.parameters() if parameter.grad is not None]

    def state_dict(self) -> dict[str, Any]:
        return {"adamw": self._adamw.state_dict(), "scaler": self._scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._adamw.load_state_dict(state["adamw"])
        self._scaler.load_state_dict(state["scaler"])
