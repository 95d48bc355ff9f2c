"""How long and how many the finals train, from the configuration alone. Imports neither torch nor Ray."""

from __future__ import annotations

from cluster.config import SearchJob
from nas.config import FinalsConfig
from slicemamba.config import TrainConfig


def round_sizes(num_finalists: int, rounds: int) -> list[int]:
    """How many take part in each round: all, then the better half, but never fewer than two."""
    sizes = [num_finalists]
    for _ in range(rounds - 1):
        sizes.append(max(2, -(-sizes[-1] // 2)))
    return sizes


def round_epochs(epochs: int, rounds: int) -> list[int]:
    """Epochs that a network has been trained after each round: half as many before the next, all after the last."""
    total = max(epochs, 2 ** (rounds - 1))
    return [-(-total // 2 ** (rounds - number)) for number in range(1, rounds + 1)]


def finals_training(job: SearchJob, settings: FinalsConfig) -> TrainConfig:
    """How finalists are trained: as the winner will be, without its warm-up, the cosine over all of their epochs."""
    base = job.retrain or TrainConfig.model_validate(job.supernet.model_dump(include=set(TrainConfig.model_fields)))
    epochs = settings.epochs or max(1, base.epochs // 4)
    total = round_epochs(epochs, settings.rounds)[-1]
    return base.model_copy(
        update={
            "epochs": total,
            "t_max": total,
            "warmup_epochs": 0,
            "early_stop_epochs": None,
            "validate_every": total,
        }
    )


def finals_epochs(job: SearchJob, settings: FinalsConfig) -> int:
    """Epochs of all networks of all rounds together, where as many take part as may."""
    total, before = 0, 0
    after = round_epochs(finals_training(job, settings).epochs, settings.rounds)
    for size, epochs in zip(round_sizes(settings.max_candidates, settings.rounds), after, strict=True):
        total += size * (epochs - before)
        before = epochs
    return total
