"""Jobs that follow a search: what each is to do. Imports neither torch nor Ray.

Each has a folder of its own in the search's run folder, ``<run>/jobs/<id>/``, with the same ``config.json``,
``status.json``, attempts and ``result.json`` as a run; nothing in them names a path outside the run folder. A
retraining is an ordinary ``RetrainJob``; the others are here. ``cluster.run_follow_up`` runs them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import PositiveInt

from cluster.config import RetrainJob
from cluster.run_folder import RunFolder
from nas.config import AuditConfig
from slicemamba.config import Config, validate

JOBS = "jobs"


class AuditJob(Config):
    """Says how far the search's answer can be trusted."""

    kind: Literal["audit"] = "audit"
    audit: AuditConfig = AuditConfig()


class ExportJob(Config):
    """Writes a bundle of a trained network.

    Attributes:
        architecture: of the network. network: its folder, relative to the run folder.
        format: ``bundle`` – every program that the driver's packages can make; ``torch`` and ``onnx`` – these alone.
    """

    kind: Literal["export"] = "export"
    architecture: str
    network: str
    format: Literal["bundle", "torch", "onnx"] = "bundle"


class FiguresJob(Config):
    """Draws what a slicing predicts with the supernet's weights: the worst and the best images of the search split."""

    kind: Literal["figures"] = "figures"
    architecture: str
    images: PositiveInt = 8


OwnJob = AuditJob | ExportJob | FiguresJob
FollowUp = RetrainJob | OwnJob
_KINDS: dict[str, type[OwnJob]] = {
    "audit": AuditJob,
    "export": ExportJob,
    "figures": FiguresJob,
}


def job_folder(run: RunFolder, job_id: str) -> RunFolder:
    """Where a job of a run has its files."""
    return RunFolder(run.path / JOBS / job_id)


def run_of(folder: RunFolder) -> RunFolder:
    """The run that a job's folder is in."""
    return RunFolder(folder.path.parents[1])


def is_follow_up(folder: RunFolder) -> bool:
    """Whether a folder is that of a job that follows a run, by its place and its name: ``<run>/jobs/j-…``."""
    return folder.path.parent.name == JOBS and folder.path.name.startswith("j-")


def parse_follow_up(values: Mapping[str, Any], *, source: str = "job") -> OwnJob | None:
    """The job that follows a search; None for a job of a kind that runs on its own. Raises InputError."""
    kind = _KINDS.get(str(values.get("kind")))
    return None if kind is None else validate(kind, values, source=source)
