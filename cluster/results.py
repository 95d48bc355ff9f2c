"""The last phase of a run: evaluation on the test split, comparison, figures, and what goes into ``result.json``."""

from __future__ import annotations

import platform
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from cluster.config import Job, PretrainJob, RetrainJob, SearchJob, SegmentationJob, SupernetJob, TrainWorkers
from cluster.connect import cluster_resources
from cluster.finals import finals_rows
from cluster.history import training_history
from cluster.ray_train import path_sampler
from cluster.run_folder import FINALS_KINDS, RunFolder
from cluster.scan_use import UNSCANNED, baselines_of, scan_use, trained_sentence
from cluster.studies import studies_of
from cluster.workers import device_for, run_on_worker
from nas.front import MeasuredFront, as_rows
from nas.objectives import format_count, loss_matrix
from nas.pareto import hypervolume
from nas.study import Trial, TrialState, dominating, pareto_front, reference_point
from slicemamba.architecture import Architecture, format_block
from slicemamba.config import DataConfig
from slicemamba.data.base import load_split
from slicemamba.data.digests import digest_splits
from slicemamba.data.volumes import find_volumes
from slicemamba.evaluation.evaluate import evaluate, trivial_baselines
from slicemamba.evaluation.figures import save_predictions
from slicemamba.evaluation.inference import InferenceOptions, Segmenter
from slicemamba.evaluation.metrics import METRICS_VERSION
from slicemamba.evaluation.per_image import class_scores
from slicemamba.evaluation.scores import ImageScores
from slicemamba.evaluation.statistics import paired_difference
from slicemamba.evaluation.volumes import evaluate_volumes
from slicemamba.models.baselines import TITLES
from slicemamba.models.checkpoints import load_network, read_card, title_of
from slicemamba.models.complexity import count_flops, num_parameters

SPLITS = ("search", "test")
COMPARED = ("dice", "miou", "hd95")
_PACKAGES = ("slicemamba-nas", "torch", "ray", "optuna", "numpy", "medpy")


def pretrained(job: PretrainJob, run: RunFolder) -> dict[str, Any]:
    """Result of a pretrain job."""
    return header(job) | {"pretrained": {"architecture": job.architecture, **training_history(run, "pretrain")}}


def supernet(job: SupernetJob, run: RunFolder) -> dict[str, Any]:
    """Result of a supernet job."""
    return header(job) | {"supernet": _supernet_history(job, run)}


def retrained(job: RetrainJob, run: RunFolder, network: Path, cache_dir: Path) -> dict[str, Any]:
    """Result of a retrain job."""
    scores = _scores(job, run, network, cache_dir)
    return header(job) | scores | {"findings": _missed_classes(scores["retrained"])}


def searched(
    job: SearchJob, run: RunFolder, measured: MeasuredFront, network: Path | None, cache_dir: Path
) -> dict[str, Any]:
    """Result of a search: frontier, the best against the fixed slicings and random search, and scores on test."""
    objectives = job.search.objectives
    studies = studies_of(run)
    trials, random = studies["search"], studies["random"]
    front = [trials[member.number] for member in measured.members]
    result = header(job) | {
        "objectives": list(objectives),
        "hypervolume": _hypervolumes(trials, random, objectives),
        "supernet": _supernet_history(job, run),
        "trials": dict(Counter(trial.state.value for trial in trials)),
        "best": _row(front[0]),
        "pareto": as_rows(measured),
        "survey": run.read_json("survey.json"),
        "finals": finals_rows(job, run, studies),
        "front": measured.model_dump(mode="json", exclude={"members"}),
        "fixed": {_slicing(trial): _row(trial) for trial in _completed(trials) if trial.origin == "fixed"},
        "random": None,
        "splits": digest_splits(job.data, cache_dir)[0],
        "evaluation_seconds": sum(trial.seconds or 0.0 for trial in [*studies["survey"], *trials, *random]),
    }
    if random:
        random_front = pareto_front(random, objectives)
        rows = [_row(trial) for trial in random_front]  # none where constraints are met by luck, and luck failed
        better = [_row(trial) for trial in dominating(random, front, objectives)]
        result["random"] = {"best": rows[0] if rows else None, "pareto": rows, "dominating": better}
    if network is not None:
        result |= _scores(job, run, network, cache_dir)
        beside = baselines_of(job, Architecture.parse(front[0].architecture))
        result["baselines"] = {name: _against(name, result["retrained"], run) for name in beside}
    rounds = [studies[kind] for kind in FINALS_KINDS]
    result["scan_use"] = scan_use(job, run, front[0], trials, rounds)
    unscanned = result.get("baselines", {}).get(UNSCANNED)
    if result["scan_use"] is not None and unscanned is not None and unscanned["difference"] is not None:
        result["scan_use"]["sentence"] = trained_sentence(result["scan_use"], unscanned)
    result["findings"] = _findings(result)
    _report(job, run, result)
    return result


def _hypervolumes(trials: list[Trial], random: list[Trial], objectives: tuple[str, ...]) -> dict[str, Any]:
    """Of the search's frontier and of random search's, from the one reference point of the search."""
    reference = reference_point(trials, objectives)
    assert reference is not None  # a search without a completed trial has failed before

    def volume(some: list[Trial]) -> float:
        eligible = [trial.metrics for trial in some if trial.eligible]
        return hypervolume(loss_matrix(eligible, objectives), reference)

    return {
        "search": volume(trials),
        "random": volume(random) if random else None,
        "reference": dict(zip(objectives, reference, strict=True)),
    }


def _findings(result: Mapping[str, Any]) -> list[str]:
    """What a reader should know first, in sentences; before all, what is better than the chosen network."""
    baselines = result.get("baselines", {})
    scans = result["scan_use"]
    beside = [found for name, found in baselines.items() if name != UNSCANNED or scans is None]  # else told with scans
    beside.sort(key=lambda found: not _wins(found))
    first = [scans] if scans is not None and UNSCANNED in baselines and _wins(baselines[UNSCANNED]) else []
    about = [*first, *beside, result["front"], *([] if first else [scans]), result["survey"]]
    told = [found["sentence"] for found in about if found is not None]
    return [*_missed_classes(result.get("retrained", {})), *told]


def _wins(baseline: Mapping[str, Any]) -> bool:
    """Whether it is measurably better than the chosen network."""
    return baseline["difference"] is not None and baseline["difference"]["dice"]["high"] < 0


def _missed_classes(network: Mapping[str, Any]) -> list[str]:
    """A mean over classes hides one that is never found."""
    classes = network.get("classes", {}).get("test", {})
    missed = [name for name, scores in classes.items() if scores["images"] and not scores["dice"]]
    if not missed:
        return []
    return [
        f"The chosen network found nothing of {', '.join(missed)} in any test image, though the masks hold "
        f"{'it' if len(missed) == 1 else 'them'}: look at how often train has it, and train for longer."
    ]


def _report(job: SearchJob, run: RunFolder, result: dict[str, Any]) -> None:
    """Writes the report; what goes wrong there must not cost a run its result."""
    from cluster.report import write_report_of

    try:
        write_report_of(run, job, result)
    except Exception as error:
        run.warn(f"the report could not be written ({error}); write it with `slicemamba report`", "evaluate")


def header(job: Job) -> dict[str, Any]:
    """What every result begins with."""
    return {
        "kind": job.kind,
        "name": job.name,
        "data": job.data.name,
        "metrics_version": METRICS_VERSION,
        "environment": _environment(),
    }


def _environment() -> dict[str, Any]:
    """Versions and hardware, so that a figure can be traced to where it came from."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:  # run from a working directory, as ``ray job submit --working-dir .`` does
            versions[package] = "not installed"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": versions,
        "commit": _commit(),
        "cluster": {name: total for name, total in cluster_resources().items() if name in ("CPU", "GPU", "memory")},
    }


def _commit() -> str | None:
    """The commit of the code where it runs from a checkout; ``-dirty`` when files differ from it."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):  # no git here
        return None
    return done.stdout.strip() or None


def _supernet_history(job: SupernetJob | SearchJob, run: RunFolder) -> dict[str, Any]:
    """Epoch reports, and how often each block's choices were trained: a row for each block, by slice size."""
    history = training_history(run, "supernet")
    num_steps = history["epochs"][-1]["step"] if history["epochs"] else 0
    counts = path_sampler(job).update_counts(num_steps)
    names = [format_block(block) for block in job.search_space.choices]
    return history | {"updates": [dict(zip(names, row, strict=True)) for row in counts.tolist()]}


def _completed(trials: Iterable[Trial]) -> list[Trial]:
    return [trial for trial in trials if trial.state is TrialState.COMPLETED]


def _row(trial: Trial) -> dict[str, Any]:
    fields = {"number", "architecture", "metrics", "violation"}
    return trial.model_dump(mode="json", include=fields)


def _slicing(trial: Trial) -> str:
    return Architecture.parse(trial.architecture).fixed_name


def _scores(job: SearchJob | RetrainJob, run: RunFolder, folder: Path, cache_dir: Path) -> dict[str, Any]:
    """Evaluates the retrained network on search and test, and on val where that is a fold of a cross-validation."""
    assert job.retrain is not None
    splits = SPLITS if job.data.folds is None else (*SPLITS, "val")
    scored = scores_of(folder, job, run, cache_dir, job.retrain.batch_size, splits)
    card = read_card(folder)
    trivial = scored.pop("trivial")
    history = training_history(run, "retrain")
    started = {"init": None if job.init is None else str(job.init)}
    about = {"network": title_of(card), "architecture": card.architecture} | started | costs_of(folder, job, history)
    return {"retrained": about | scored | history, "trivial": trivial}


def costs_of(folder: Path, job: SegmentationJob, history: Mapping[str, Any]) -> dict[str, float]:
    """Parameters, FLOPs of an image, and wall seconds of all epochs of a saved network, validation included."""
    network = load_network(folder)
    flops = count_flops(network, job.data.image_size, job.model.in_channels)
    seconds = round(sum(row["seconds"] for row in history["epochs"]), 3)
    return {"params": num_parameters(network), "flops": flops, "seconds": seconds}


def place_of_baseline(run: RunFolder, name: str) -> RunFolder:
    """The folder of a baseline's training and scores."""
    return RunFolder(run.path / "baselines" / name)


def _against(name: str, chosen: Mapping[str, Any], run: RunFolder) -> dict[str, Any]:
    """A baseline's scores and costs, what the chosen network scores more on the same images, and that as a sentence."""
    place = place_of_baseline(run, name)
    found = dict(place.read_json("scores.json") or {})
    scored = run.scores_path("test"), place.scores_path("test")
    # A network that diverged has left no scores.
    found["difference"] = _differences(*map(ImageScores.load, scored)) if all(map(Path.exists, scored)) else None
    title = "the same network without its scans" if name == UNSCANNED else TITLES[name]
    return found | {"title": title, "sentence": _sentence(title, found, chosen)}


def _differences(own: ImageScores, other: ImageScores) -> dict[str, Any]:
    """By metric: own score less the other's, and the ends of its 95 % interval over images or patients."""
    found = {}
    for metric in COMPARED:
        distances = (own.hd95, other.hd95) if metric == "hd95" else None
        one = paired_difference(own.counts, other.counts, metric, hd95=distances, groups=own.patients)
        found[metric] = {"value": one.difference, "low": one.interval.low, "high": one.interval.high}
    return found


def _sentence(title: str, baseline: Mapping[str, Any], chosen: Mapping[str, Any]) -> str:
    """Which of the two is better on test; dearer or cheaper."""
    if baseline["difference"] is None:
        return _capital(f"{title} cannot be compared with: one of the two networks diverged.")
    dice = baseline["difference"]["dice"]
    ends = f"{100 * dice['low']:+.1f} to {100 * dice['high']:+.1f}"
    if dice["high"] < 0:
        verdict = f"{title} is better than the chosen network"
    elif dice["low"] > 0:
        verdict = f"The chosen network is better than {title}"
    else:
        verdict = f"No measurable difference between the chosen network and {title}"
    own, other = (
        f"{100 * of['scores']['test']['dice']:.1f} % at {format_count(of['flops'])}FLOPs" for of in (chosen, baseline)
    )
    return _capital(
        f"{verdict}: Dice on test {own}, {title} {other}, given the same time of training ({chosen['seconds']:.0f} s "
        f"and {baseline['seconds']:.0f} s on the clock); difference {100 * dice['value']:+.1f} points (95 % interval "
        f"over images or patients {ends}). One training of each: another seed may differ by more."
    )


def _capital(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def scores_of(
    folder: Path, job: SegmentationJob, run: RunFolder, cache_dir: Path, batch_size: int, splits: Sequence[str]
) -> dict[str, Any]:
    """``scores``, their ``intervals`` over images, and ``trivial`` scores of a saved network, each by split.

    A set with test volumes gets their scores too, as ``volumes``.

    On a worker with the resources of a training worker: the driver may be on a node without a GPU. The scores of each
    image are left in ``<run>/scores/<split>.npz``.
    """
    run.emit("phase", phase="evaluate")
    workers = job.resources.train
    given = (workers, job.data, folder, run, cache_dir, batch_size, tuple(splits))
    return run_on_worker(_evaluate_network, workers, "evaluate", *given)


def _evaluate_network(
    workers: TrainWorkers,
    config: DataConfig,
    folder: Path,
    run: RunFolder,
    cache_dir: Path,
    batch_size: int,
    splits: Sequence[str],
) -> dict[str, Any]:
    """What ``scores_of`` gives; writes the test split's pictures too, and predictions of volumes as NIfTI."""
    device = device_for(workers)
    network = load_network(folder).to(device)
    result: dict[str, Any] = {"scores": {}, "intervals": {}, "trivial": {}, "classes": {}}
    loaded = {split: load_split(config, split, cache_dir) for split in splits}  # mapped, not read

    def tell(before: int, done: int) -> None:
        total = sum(map(len, loaded.values()))
        run.emit("progress", phase="evaluate", done=before + done, total=total, unit="images", metrics={})

    num_done = 0
    for split, data in loaded.items():
        scored = evaluate(
            network,
            data,
            batch_size=batch_size,
            device=device,
            on_progress=lambda done, _, before=num_done: tell(before, done),  # type: ignore[misc]
        )
        num_done += len(data)
        result["scores"][split] = scored.metrics
        result["intervals"][split] = scored.intervals()
        result["trivial"][split] = trivial_baselines(data)
        if scored.is_finite:
            result["classes"][split] = class_scores(scored.counts, config.class_names)
            ImageScores.of(data, scored, config.name).save(run.scores_path(split))
        if split == "test":
            save_predictions(run.path / "predictions", data, scored)
        paths = find_volumes(config) if split == "test" and scored.is_finite else []
        if paths:
            volumes = evaluate_volumes(
                Segmenter(network, config, device, InferenceOptions(batch_size=batch_size)),
                paths,
                destination=run.path / "predictions" / "volumes",
                on_progress=lambda done, total: run.emit(
                    "progress", phase="evaluate", done=done, total=total, unit="volumes", metrics={}
                ),
            )
            result["volumes"] = volumes.as_dict()
    return result
