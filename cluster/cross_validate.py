"""k-fold cross-validation: one retraining a fold, each a run of its own, then the folds pooled and as an ensemble.

<run>/
  fold-1/ … fold-k/   runs of the folds (see run_folder.py); a finished one is not done again
  ensemble/           the folds' networks as one, for evaluate, predict and compare
  scores/             per-image counts: folds.npz (each image by the network that has not seen it), test.npz (ensemble)
  result.json         scores of the folds, of all out-of-fold predictions together, and of the ensemble on test
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.capacity import needs_of
from cluster.cluster_health import cluster_with_room
from cluster.config import RetrainJob, parse_job
from cluster.run_folder import RunFolder
from slicemamba.data.cache import default_cache_dir
from slicemamba.errors import InputError, RunFailedError


def fold_jobs(job: RetrainJob, folds: int, run: RunFolder) -> list[tuple[RetrainJob, RunFolder]]:
    """The retrainings to run, in turn, before ``conclude``.

    Raises:
        InputError: the networks would start from one that has seen the images which they are to hold out.
    """
    _refuse_seen_images(job)
    found = []
    for fold in range(1, folds + 1):
        values = job.model_dump(mode="json")
        values["data"] |= {"folds": folds, "fold": fold}
        part = parse_job(values, source=f"fold {fold}")
        assert isinstance(part, RetrainJob)
        found.append((part, RunFolder(run.path / f"fold-{fold}")))
    return found


def _refuse_seen_images(job: RetrainJob) -> None:
    """Pretrained encoders are welcome to start from; a network trained on the same set knows all of its folds."""
    if job.init is None:
        return
    from slicemamba.models.checkpoints import read_card

    try:
        card = read_card(job.init)
    except InputError:  # an encoder's folder or a published file
        return
    if card.data is not None and card.data.name == job.data.name:
        raise InputError(
            f"init {job.init} was trained on {job.data.name}, so it has seen the images that the folds hold out; "
            "start from a pretrained encoder, or from scratch",
            pointer="/init",
        )


def conclude(job: RetrainJob, folds: int, run: RunFolder, address: str | None = None) -> dict[str, Any]:
    """Pools the finished folds, makes and scores the ensemble, and returns what ``result.json`` then holds.

    Raises:
        RunFailedError: the network of a fold diverged.
    """
    from cluster import results
    from slicemamba.data.catalog import fit_model, resolve_root
    from slicemamba.evaluation.scores import ImageScores

    done = run.read_json("result.json")
    if done is not None:
        return done
    runs = [folder for _, folder in fold_jobs(job, folds, run)]
    broken = [folder.path.name for folder in runs if not folder.scores_path("val").exists()]
    if broken:
        raise RunFailedError(f"the networks of {', '.join(broken)} give logits that are not finite")
    held_out = ImageScores.join([ImageScores.load(folder.scores_path("val")) for folder in runs], "folds")
    held_out.save(run.scores_path("folds"))
    data = resolve_root(job.data)
    job = job.model_copy(update={"data": data, "model": fit_model(job.model, data)})
    needs = needs_of(job.resources, trains=True, searches=False)  # the ensemble is scored where its folds were
    with cluster_with_room(address, needs, job.resources.wait_seconds, run.warn):
        ensemble = results.scores_of(
            _make_ensemble(job, runs, run), job, run, default_cache_dir(), job.retrain.batch_size, ["test"]
        )
        header = results.header(job)
    trivial = ensemble.pop("trivial")
    parts = [folder.read_json("result.json") or {} for folder in runs]
    result = header | {
        "kind": "cross-validation",
        "network": parts[0]["retrained"]["network"],
        "architecture": parts[0]["retrained"]["architecture"],
        "folds": [_fold(part["retrained"]) for part in parts],
        "out_of_fold": {
            "images": len(held_out.names),
            "scores": held_out.metrics(),
            "intervals": held_out.intervals(),
        },
        "ensemble": ensemble,
        "trivial": trivial,
    }
    run.write_json("result.json", result)
    return result


def _make_ensemble(job: RetrainJob, runs: list[RunFolder], run: RunFolder) -> Path:
    from slicemamba.models.checkpoints import load_network, save_network
    from slicemamba.models.ensemble import Ensemble, SingleNetwork

    networks = [load_network(folder.path / "retrained") for folder in runs]
    members = [network for network in networks if isinstance(network, SingleNetwork)]
    save_network(run.path / "ensemble", Ensemble(members), job.data)
    return run.path / "ensemble"


def _fold(retrained: Mapping[str, Any]) -> dict[str, Any]:
    best = retrained["best_epoch"] or {}
    return {"best_epoch": best.get("epoch"), "scores": retrained["scores"], "intervals": retrained["intervals"]}


def print_cross_validation(console: Console, result: Mapping[str, Any]) -> None:
    """The scores of each fold, of all folds together and of the ensemble."""
    names = {"dice": "Dice ↑", "miou": "mIoU ↑", "hd95": "HD95 ↓"}
    table = Table("", "split", *names.values(), title=f"{result['network']}: folds, pooled, and their ensemble")
    for number, fold in enumerate(result["folds"], 1):
        table.add_row(f"fold {number}", "held out", *(f"{fold['scores']['val'][name]:.4g}" for name in names))
    pooled = result["out_of_fold"]
    rows = [
        (f"all folds, {pooled['images']} images", "held out", pooled["scores"], pooled["intervals"]),
        ("ensemble", "test", result["ensemble"]["scores"]["test"], result["ensemble"]["intervals"]["test"]),
    ]
    for title, split, scores, intervals in rows:
        cells = [f"{scores[name]:.4g} \\[{low:.4g}, {high:.4g}]" for name in names for low, high in [intervals[name]]]
        table.add_row(f"[bold]{title}[/]", split, *cells)
    for title, scores in result["trivial"]["test"].items():
        table.add_row(title, "test", *(f"{scores[name]:.4g}" for name in names))
    console.print(table)
