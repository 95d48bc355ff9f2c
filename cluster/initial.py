"""The network of a job, and the weights that it starts from: where they are, and whether they fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cluster.config import Job, RetrainJob, SearchJob, SegmentationJob
from cluster.run_folder import RunFolder
from slicemamba.architecture import Architecture
from slicemamba.files import from_here

if TYPE_CHECKING:
    from slicemamba.models.ensemble import SingleNetwork
    from slicemamba.models.supernet import Supernet


def build_network(job: SegmentationJob, architecture: Architecture | None) -> Supernet | SingleNetwork:
    """What the job trains, with fresh weights: for a search or a supernet job without architecture, the supernet."""
    from slicemamba.models.baselines import ConvUNet
    from slicemamba.models.supernet import Supernet
    from slicemamba.models.unet import SliceMambaUNet

    if isinstance(job, RetrainJob) and (job.network == "unet" or job.network == "attention_unet"):
        return ConvUNet(job.network, job.model, job.data.num_classes)
    if architecture is not None:
        return SliceMambaUNet(job.model, job.data.num_classes, architecture)
    return Supernet(job.model, job.data.num_classes, job.space.choices, job.space.weight_sharing)


def resolve_init(job: Job) -> Job:
    """The job with the path of its ``init`` made absolute, as workers have other working directories."""
    if isinstance(job, (SearchJob, RetrainJob)) and isinstance(job.init, Path):
        return job.model_copy(update={"init": from_here(job.init, "init")})
    return job


def init_source(job: SearchJob | RetrainJob, run: RunFolder) -> Path | None:
    """What the retraining starts from; None for from scratch."""
    return run.path / "supernet" if job.init == "supernet" else job.init


def check_init(job: Job) -> None:
    """Raises InputError where the given weights are not there or do not fit; for a search, any slicing it may find."""
    if not isinstance(job, (SearchJob, RetrainJob)) or not isinstance(job.init, Path):
        return
    from slicemamba.models.initialise import initialise

    for architecture in [job.slicing] if isinstance(job, RetrainJob) else job.search_space.fixed():
        initialise(build_network(job, architecture), job.init, architecture)
