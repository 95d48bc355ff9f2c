"""A search planned for a data set: what its images ask for, and what this machine can do of it in a given time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml
from rich.console import Console

from cluster.config import Job, SearchJob, TrainWorkers, parse_job
from cluster.dry_run import Trial, try_step
from cluster.work import TRAIN_PASSES, samples_of, training_memory, work_by_phase
from slicemamba.data.cli import measured_folder
from slicemamba.data.plan import Proposal, as_yaml, propose
from slicemamba.documents import read_yaml
from slicemamba.errors import InputError
from slicemamba.files import write_text
from slicemamba.recipes import TRAININGS

_SHARE = 0.5
"""Of the free memory that a training may take: images, and what else runs here, want the rest."""
_FEWEST, _MOST = 10, 300
"""Epochs: fewer teach nothing, and more have brought nothing; conventions."""


def write_plan(target: Path, out: Path, longest_side: int = 96, base: str = "laptop", hours: float = 1.0) -> None:
    """Writes the proposed job for a folder, checking it where that has not been done, and timing a training step.

    Args:
        target: folder of a data set. out: the YAML file. longest_side: of the network's images, in pixels.
        base: configuration that gives the other options. hours: that the whole search may take here.

    Raises:
        InputError: faults of the data, or a base that is no search. RunFailedError: the step failed.
    """
    if not target.is_dir():
        raise InputError(f"{target} is no folder; give the folder of a data set")
    given = read_yaml(Path(base))
    _check_base(parse_job(given, source=base), base)
    config, report = measured_folder(target)
    rest = {part: values for part, values in given.items() if part != "data"} | {"name": config.name}
    found = propose(config, report, longest_side)
    found = _within_memory(found, _job(rest, found))
    job = _job(rest, found)
    with Console(stderr=True).status("Timing a training step"):
        tried = try_step(job)
    found += _within_time(job, samples_of(job.data, report.num_images, report.median_size), tried, hours)
    _job(rest, found)  # what is written is valid as a whole
    head = f"# Proposed by `slicemamba plan {target}`, on the options of {base}.\n"
    write_text(out, head + _document(rest, found))


def _check_base(job: Job, base: str) -> None:
    """Raises InputError where nothing can be planned on its options; before a set is decoded."""
    if not isinstance(job, SearchJob) or job.retrain is None:
        raise InputError(f"--base must be a search that retrains its winner, such as laptop; {base} is none")
    if job.resources.train.gpus and not torch.cuda.is_available():
        raise InputError(
            f"{base} trains on a GPU, and this machine has none: a step of it cannot be timed here. Plan on a machine "
            "of the cluster, or take --base laptop"
        )


def _job(rest: Mapping[str, Any], found: list[Proposal]) -> SearchJob:
    own = yaml.safe_load(as_yaml(found))
    job = parse_job({**rest, **{part: {**rest.get(part, {}), **values} for part, values in own.items()}})
    assert isinstance(job, SearchJob)
    return job


def _document(rest: Mapping[str, Any], found: list[Proposal]) -> str:
    """The options of the base with the proposed ones, each below its reason, in their place."""
    text = as_yaml(found)
    own = yaml.safe_load(text)
    plain = {part: values for part, values in rest.items() if not isinstance(values, dict)}
    text = yaml.safe_dump(plain, sort_keys=False) + text
    for part, values in rest.items():
        if part in plain:
            continue
        if part not in own:
            text += yaml.safe_dump({part: values}, sort_keys=False)
            continue
        kept = {name: value for name, value in values.items() if name not in own[part]}
        lines = yaml.safe_dump(kept, sort_keys=False).splitlines() if kept else []
        text = text.replace(f"{part}:\n", "".join([f"{part}:\n", *(f"  {line}\n" for line in lines)]), 1)
    return text


def _free_memory(resources: TrainWorkers) -> int:
    """Bytes free where a training would run."""
    if resources.gpus and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return int(psutil.virtual_memory().available)


def _within_memory(found: list[Proposal], job: SearchJob) -> list[Proposal]:
    """The proposals with a batch that the memory has room for; halved until it does."""
    free, wanted = _free_memory(job.resources.train), job.supernet.batch_size
    batch = wanted
    while batch > 1 and _memory(job, batch) > _SHARE * free:
        batch //= 2
    if batch == wanted:
        return found
    reason = (
        f"{wanted} would take about {_memory(job, wanted) / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free here"
    )
    return [Proposal(one.option, batch, reason) if one.option.endswith(".batch_size") else one for one in found]


def _memory(job: SearchJob, batch: int) -> int:
    return training_memory(_with(job, batch_size=batch))


def _with(job: SearchJob, **options: int) -> SearchJob:
    """With these options of all its trainings."""
    assert job.retrain is not None
    return job.model_copy(
        update={
            "supernet": job.supernet.model_copy(update=options),
            "retrain": job.retrain.model_copy(update=options),
        }
    )


def _within_time(job: SearchJob, samples: Mapping[str, int], tried: Trial, hours: float) -> list[Proposal]:
    """Epochs for which the whole search takes that long, at the pace of the step that was tried."""

    def takes(epochs: int) -> float:
        work = work_by_phase(_with(job, epochs=epochs), samples)
        return sum(phase.passes for phase in work.values()) * tried.seconds_per_pass / 3600

    epochs = next((count for count in range(_MOST, _FEWEST, -1) if takes(count) <= hours), _FEWEST)
    pace = f"{TRAIN_PASSES * tried.seconds_per_pass * 1e3:.1f} ms to train on an image, measured here"
    reason = f"the whole search takes about {_time(takes(epochs))}: {pace}"
    if takes(epochs) > hours:
        reason += f"; fewer than {_FEWEST} would teach little, though {_time(hours)} were asked for"
    elif epochs == _MOST:
        reason += f"; {_time(hours)} would allow more, but hardly any set gains by it"
    return [Proposal(f"{part}.epochs", epochs, reason) for part in TRAININGS]


def _time(hours: float) -> str:
    return f"{hours:.1f} h" if hours >= 1.95 else f"{hours * 60:.0f} min"
