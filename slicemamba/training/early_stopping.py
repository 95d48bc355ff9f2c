"""When a training that no longer gets better ends."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass
class EarlyStopping:
    """Stops at the first validation whose best predecessor is at least ``patience`` epochs old.

    Only a score above the best so far counts as better; NaN never does.

    Attributes:
        patience: in epochs; None never stops.
        best, best_epoch: highest validation score so far, and the epoch that gave it.
        stopped: whether the training has been stopped.
    """

    patience: int | None
    best: float = -math.inf
    best_epoch: int = 0
    stopped: bool = False

    def update(self, epoch: int, score: float | None, device: torch.device) -> bool:
        """Takes the score of an epoch (1, 2, …), None where it was not validated; returns whether to stop now.

        With several processes the first one decides for all, as rounding may differ between devices.
        """
        if score is None:
            return False
        if score > self.best:
            self.best, self.best_epoch = score, epoch
        if self.patience is None:
            return False
        self.stopped = epoch - self.best_epoch >= self.patience
        if dist.is_initialized():
            decision = torch.tensor(int(self.stopped), device=device)
            dist.broadcast(decision, src=0)
            self.stopped = bool(decision)
        return self.stopped

    def state_dict(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if name != "patience"}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best, self.best_epoch, self.stopped = state["best"], state["best_epoch"], state["stopped"]
