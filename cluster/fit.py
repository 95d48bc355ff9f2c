"""What to change in a job so that it runs on a machine: fewer or smaller workers, and nothing that needs a GPU."""

from __future__ import annotations

from typing import Any

from cluster.config import Job, SearchJob
from slicemamba.config import TrainConfig


def to_fit(job: Job, cpus: int, gpus: int) -> list[str]:
    """Assignments ``a.b=value`` that let a job run on one machine, all at once; none where it does already.

    Args:
        job: what is to run. cpus, gpus: of the machine.
    """
    train, search = job.resources.train, job.resources.search
    changes: dict[str, Any] = {}
    if train.gpus * train.num_workers > gpus:
        changes["resources.train.gpus"] = 0
    if train.cpus > cpus:
        changes["resources.train.cpus"] = cpus
    fitting = max(1, int(cpus / min(train.cpus, cpus)))
    if train.num_workers > fitting:
        # A batch divides by as many workers as by one of its divisors.
        changes["resources.train.num_workers"] = max(n for n in range(1, fitting + 1) if train.num_workers % n == 0)
    if isinstance(job, SearchJob):
        if search.gpus > gpus:
            changes["resources.search.gpus"] = 0
        if search.cpus > cpus:
            changes["resources.search.cpus"] = cpus
        if "resources.search.gpus" in changes and "peak_memory_mb" in job.search.measured:
            kept = [name for name in job.search.objectives if name != "peak_memory_mb"]
            changes["search.objectives"] = f"[{', '.join(kept)}]"
    if "resources.train.gpus" in changes:
        for part in ("supernet", "retrain", "pretrain"):
            settings = getattr(job, part, None)
            if isinstance(settings, TrainConfig) and settings.precision == "fp16":
                changes[f"{part}.precision"] = "float32"
    return [f"{name}={value}" for name, value in changes.items()]
