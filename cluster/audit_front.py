"""Intervals of the front: counts of its candidates, those that are missing evaluated on Ray."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cluster.config import SearchJob, SearchWorkers
from cluster.run_folder import RunFolder
from cluster.workers import device_for, run_on_worker
from nas.audit import counted, front_intervals
from nas.counts import ScoredImages, load_scored, save_counts
from nas.objectives import primary_metric
from nas.study import Trial
from slicemamba.architecture import Architecture
from slicemamba.config import DataConfig
from slicemamba.data.base import load_split
from slicemamba.data.catalog import resolve_root
from slicemamba.data.patients import groups_of
from slicemamba.evaluation.evaluate import evaluate
from slicemamba.models.checkpoints import load_network
from slicemamba.models.supernet import Supernet

Counts = npt.NDArray[np.int64]


def front_scores(
    job: SearchJob, run: RunFolder, folder: RunFolder, front: Sequence[Trial], seed: int, cache_dir: Path
) -> dict[str, Any]:
    """Scores of the front's members on the search split with intervals over images or patients, beside the best's."""
    folder.emit("phase", phase="audit_front")
    missing = [trial for trial in front if not run.counts_path("search", trial.number).exists()]
    if missing:
        todo = [(trial.architecture, run.counts_path("search", trial.number)) for trial in missing]
        workers = job.resources.search
        given = (workers, job.data, run.path / "supernet", todo, folder, cache_dir, job.search.batch_size)
        run_on_worker(_count_candidates, workers, "audit front", *given)
    primary = primary_metric(job.search.objectives)
    shown = list(dict.fromkeys([primary, *counted(job.search.objectives)]))
    found = [load_scored(run.counts_path("search", trial.number)) for trial in front]
    counts, patients = [one.counts for one in found], groups_of(found[0].names, resolve_root(job.data))
    rows = front_intervals(counts, shown, primary, seed, patients=patients)
    members = [
        {"number": trial.number, "architecture": trial.architecture, "metrics": trial.metrics, **row}
        for trial, row in zip(front, rows, strict=True)
    ]
    return {"num_images": len(patients), "num_patients": len(set(patients)), "members": members}


def _count_candidates(
    workers: SearchWorkers,
    config: DataConfig,
    supernet_dir: Path,
    todo: list[tuple[str, Path]],
    folder: RunFolder,
    cache_dir: Path,
    batch_size: int,
) -> None:
    """Evaluates candidates with the supernet and keeps the counts of each. A file that is there is whole."""
    device = device_for(workers)
    supernet = load_network(supernet_dir).to(device)
    assert isinstance(supernet, Supernet)
    data = load_split(config, "search", cache_dir)
    for done, (text, path) in enumerate(todo, 1):
        architecture = Architecture.parse(text)
        scored = evaluate(
            lambda images, a=architecture: supernet(images, a),  # type: ignore[misc]
            data,
            batch_size=batch_size,
            device=device,
            with_hd95=False,
        )
        save_counts(path, ScoredImages(data.names, scored.counts, None))
        folder.emit("progress", phase="audit_front", done=done, total=len(todo), unit="candidates", metrics={})
