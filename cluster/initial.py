"""The weights that a retraining starts from: where they are, and whether they fit, before any time is spent."""

from __future__ import annotations

from pathlib import Path

from cluster.config import Job, RetrainJob, SearchJob
from cluster.run_folder import RunFolder
from slicemamba.architecture import Architecture


def resolve_init(job: Job) -> Job:
    """The job with the path of its ``init`` made absolute, as workers have other working directories."""
    if isinstance(job, (SearchJob, RetrainJob)) and isinstance(job.init, Path):
        return job.model_copy(update={"init": job.init.expanduser().resolve()})
    return job


def init_source(job: SearchJob | RetrainJob, run: RunFolder) -> Path | None:
    """What the retraining starts from; None for from scratch."""
    return run.path / "supernet" if job.init == "supernet" else job.init


def check_init(job: Job) -> None:
    """Raises InputError where the given weights are not there or do not fit; for a search, any slicing it may find."""
    if not isinstance(job, (SearchJob, RetrainJob)) or not isinstance(job.init, Path):
        return
    from slicemamba.models.initialise import initialise
    from slicemamba.models.unet import SliceMambaUNet

    given = [Architecture.parse(job.architecture)] if isinstance(job, RetrainJob) else job.search_space.fixed()
    for architecture in given:
        initialise(SliceMambaUNet(job.model, job.data.num_classes, architecture), job.init, architecture)
