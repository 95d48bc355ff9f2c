"""Networks beside each other on the same images: scores with intervals, paired differences, published figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean

import torch

from slicemamba.data.base import load_split
from slicemamba.errors import InputError, name_some
from slicemamba.evaluation.evaluate import evaluate
from slicemamba.evaluation.metrics import METRICS_VERSION
from slicemamba.evaluation.per_image import class_scores
from slicemamba.evaluation.published import SOURCE, published_scores
from slicemamba.evaluation.scores import ImageScores, refuse_other_images
from slicemamba.evaluation.statistics import (
    PairedDifference,
    Training,
    difference_of_trainings,
    interval_of_trainings,
    mean_of_trainings,
)
from slicemamba.files import write_text
from slicemamba.models.checkpoints import INSIDE_RUNS, WEIGHTS, find_network, load_network, read_card, title_of
from slicemamba.models.complexity import count_flops, num_parameters
from slicemamba.models.supernet import Supernet

PERCENT = {"miou": "mIoU", "dice": "DSC", "accuracy": "Acc", "specificity": "Spe", "sensitivity": "Sen"}
METRICS = (*PERCENT, "hd95")
PAIRED = ("miou", "dice", "hd95")
Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Entrant:
    """A network in a comparison.

    Attributes:
        name: folder of its run, or its own. title: its family.
        parameters, flops: FLOPs of one image of the size it was scored at. class_names: as in DataConfig.
        more: scores of further trainings of the same network, from other seeds.
    """

    name: str
    title: str
    scores: ImageScores
    parameters: int
    flops: int
    class_names: tuple[str, ...] | None = None
    more: tuple[ImageScores, ...] = ()

    @property
    def trainings(self) -> list[Training]:
        return [Training(scores.counts, scores.hd95) for scores in (self.scores, *self.more)]

    def estimates(self) -> dict[str, tuple[float, float, float]]:
        """By metric: the score, the mean over trainings, with the ends of its interval over images and seeds."""
        if not self.more:
            values, intervals = self.scores.metrics(), self.scores.intervals()
            return {metric: (values[metric], *intervals[metric]) for metric in METRICS}
        groups = self.scores.patients
        return {
            metric: (
                mean_of_trainings(self.trainings, metric),
                *interval_of_trainings(self.trainings, metric, groups=groups),
            )
            for metric in METRICS
        }


@dataclass(frozen=True, eq=False)
class TextTable:
    """A table of texts, the first two columns names, to be written as Markdown or drawn in the terminal."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def to_markdown(self) -> str:
        lines = [f"**{self.title}**", "", _line(self.header), _line(["---", "---", *["---:"] * (len(self.header) - 2)])]
        lines += [_line(row) for row in self.rows]
        return "\n".join([*lines, *(["", self.note] if self.note else [])]) + "\n"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def enter(
    path: Path,
    split: str,
    cache_dir: Path,
    device: torch.device,
    *,
    progress: Callable[[], AbstractContextManager[Progress | None]] = nullcontext,
) -> Entrant:
    """A network with its scores: those its run has left where they are newer than its weights, else by evaluating it.

    Args:
        progress: entered around an evaluation; gives what is called as (images done, images in all).

    Raises:
        InputError: no plain network there, one without its data, or one whose logits are not finite.
    """
    folder = find_network(path)
    card, network = read_card(folder), load_network(folder)
    if isinstance(network, Supernet) or card.data is None:
        raise InputError(f"{folder} must hold a network with the data it was trained on; a supernet has no one score")
    run = folder.parent if folder.name in INSIDE_RUNS else folder
    saved = run / "scores" / f"{split}.npz"
    if saved.is_file() and saved.stat().st_mtime >= (folder / WEIGHTS).stat().st_mtime:
        scores = ImageScores.load(saved)
    else:
        data = load_split(card.data, split, cache_dir)
        with progress() as on_progress:
            done = evaluate(network.to(device), data, batch_size=16, device=device, on_progress=on_progress)
        scores = ImageScores.of(data, done, card.data.name)
    flops = count_flops(network, scores.image_size, card.data.channels)
    names = card.data.class_names
    return Entrant(run.resolve().name, title_of(card), scores, num_parameters(network), flops, names)


def enter_trainings(
    paths: Sequence[Path],
    split: str,
    cache_dir: Path,
    device: torch.device,
    *,
    progress: Callable[[], AbstractContextManager[Progress | None]] = nullcontext,
) -> Entrant:
    """A network that was trained from several seeds, each training as of ``enter``.

    Raises:
        InputError: the folders hold networks of different size, or the same one twice.
    """
    first, *others = [enter(path, split, cache_dir, device, progress=progress) for path in paths]
    if len({path.resolve() for path in paths}) < len(paths):
        raise InputError(f"{', '.join(map(str, paths))}: trainings of one network must not name a folder twice")
    for other in others:
        if (other.parameters, other.flops) != (first.parameters, first.flops):
            raise InputError(
                f"{first.name} and {other.name} must be trainings of one network, as they are joined by a comma; they "
                f"have {first.parameters:,} and {other.parameters:,} parameters: separate networks by a space"
            )
    name = first.name if not others else f"{first.name} and {len(others)} more"
    return replace(first, name=name, more=tuple(other.scores for other in others))


def check_comparable(entrants: Sequence[Entrant]) -> None:
    """Raises InputError unless all were scored on the same images by the contract of this version."""
    first = entrants[0]
    every = [(entrant.name, scores) for entrant in entrants for scores in (entrant.scores, *entrant.more)]
    old = [name for name, scores in every if scores.metrics_version != METRICS_VERSION]
    if old:
        raise InputError(
            f"scores of {name_some(old)} are not of metrics contract {METRICS_VERSION}; remove their scores folders "
            "to score them again"
        )
    for name, scores in every[1:]:
        refuse_other_images(first.scores, scores, (first.name, name))


def differences(entrants: Sequence[Entrant]) -> list[dict[str, PairedDifference]]:
    """Of each network but the first: its scores minus the first's, by metric, paired over images; over seeds, too."""
    first = entrants[0]
    return [
        {
            metric: difference_of_trainings(other.trainings, first.trainings, metric, groups=first.scores.patients)
            for metric in PAIRED
        }
        for other in entrants[1:]
    ]


def comparison_tables(entrants: Sequence[Entrant]) -> list[TextTable]:
    """The scores, and where there are several networks the differences against the first."""
    check_comparable(entrants)
    tables = [_score_table(entrants)]
    if entrants[0].scores.counts.shape[1] > 1:
        tables.append(_class_table(entrants))
    return tables if len(entrants) == 1 else [*tables, _difference_table(entrants)]


def _score_table(entrants: Sequence[Entrant]) -> TextTable:
    scores = entrants[0].scores
    height, width = scores.image_size
    rows = [(entrant.name, entrant.title, *_score_cells(entrant), *_cost_cells(entrant)) for entrant in entrants]
    published = published_scores(scores.data) if scores.split == "test" else ()
    for row in published:
        cells = [f"{100 * value:.2f}" for name, value in asdict(row).items() if name in PERCENT]
        rows.append(("published, full data set", row.network, *cells, "–", "–", "–"))
    return TextTable(
        f"{scores.data} / {scores.split}, {len(scores.names)} images of {height}×{width}",
        ("run", "network", *(f"{title} % ↑" for title in PERCENT.values()), "HD95 px ↓", "params M", "GFLOPs"),
        tuple(rows),
        note=f"In brackets: 95 % bootstrap intervals over images or patients (metrics contract {METRICS_VERSION})."
        + (f" Published: {SOURCE}." if published else ""),
    )


def _class_table(entrants: Sequence[Entrant]) -> TextTable:
    """Dice of each class: the mean over classes hides one that is never found."""
    found = [_class_dice(entrant, entrants[0].class_names) for entrant in entrants]
    rows = [
        (entrant.name, entrant.title, *(f"{100 * dice:.2f}" for dice in classes.values()))
        for entrant, classes in zip(entrants, found, strict=True)
    ]
    return TextTable("Dice % of each class, pooled over all images", ("run", "network", *found[0]), tuple(rows))


def _class_dice(entrant: Entrant, names: tuple[str, ...] | None) -> dict[str, float]:
    """By class, the mean over trainings."""
    found = [class_scores(scores.counts, names) for scores in (entrant.scores, *entrant.more)]
    return {name: fmean(row[name]["dice"] for row in found) for name in found[0]}


def _score_cells(entrant: Entrant) -> list[str]:
    return [_cell(metric, *ends) for metric, ends in entrant.estimates().items()]


def _cell(metric: str, value: float, low: float, high: float, sign: str = "") -> str:
    factor = 100 if metric in PERCENT else 1
    return f"{factor * value:{sign}.2f} [{factor * low:{sign}.2f}, {factor * high:{sign}.2f}]"


def _cost_cells(entrant: Entrant) -> list[str]:
    return [f"{entrant.parameters / 1e6:.3g}", f"{entrant.flops / 1e9:.3g}"]


def _difference_table(entrants: Sequence[Entrant]) -> TextTable:
    rows = []
    for entrant, paired in zip(entrants[1:], differences(entrants), strict=True):
        cells = []
        for metric, found in paired.items():
            verdict = "tie" if found.interval.low <= 0 <= found.interval.high else f"{found.share_better:.1%} better"
            cells.append(f"{_cell(metric, found.difference, *found.interval, sign='+')} {verdict}")
        rows.append((entrant.name, entrant.title, *cells))
    return TextTable(
        f"Differences from {entrants[0].name} ({entrants[0].title}), on the same images",
        ("run", "network", "ΔmIoU points", "ΔDSC points", "ΔHD95 px"),
        tuple(rows),
        note="In brackets: 95 % intervals of the paired difference; a tie where they hold 0. “Better”: share of "
        f"resamples in which the network beats the first. {_covered(entrants)}",
    )


def _covered(entrants: Sequence[Entrant]) -> str:
    """What the intervals of differences are about, in a sentence."""
    counts = [1 + len(entrant.more) for entrant in entrants]
    if min(counts) > 1:
        return f"The intervals cover another sample of images and other seeds, from {min(counts)} trainings or more."
    return (
        "The intervals cover another sample of images, for these trained networks: another seed of training may differ "
        "by more. Join trainings of one network by commas to cover that, too."
    )


def to_csv(entrants: Sequence[Entrant]) -> str:
    """One row a network, ours and published: scores in 0…1, ends of intervals, cost, paired differences."""
    check_comparable(entrants)
    columns = ["run", "network", "source", *(f"{m}{end}" for m in METRICS for end in ("", "_low", "_high"))]
    columns += ["parameters", "flops"]
    columns += [f"difference_{m}{end}" for m in PAIRED for end in ("", "_low", "_high", "_share_better")]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for entrant, paired in zip(entrants, [{}, *differences(entrants)], strict=True):
        estimates = entrant.estimates()
        row: dict[str, str | float] = {"run": entrant.name, "network": entrant.title, "source": "measured"}
        for metric in METRICS:
            value, low, high = estimates[metric]
            row |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
        row |= {"parameters": entrant.parameters, "flops": entrant.flops}
        for metric, found in paired.items():
            column = f"difference_{metric}"
            row |= {
                column: found.difference,
                f"{column}_low": found.interval.low,
                f"{column}_high": found.interval.high,
            }
            row[f"{column}_share_better"] = found.share_better
        writer.writerow(row)
    first = entrants[0].scores
    for published in published_scores(first.data) if first.split == "test" else ():
        writer.writerow(asdict(published) | {"source": f"published, full data set: {SOURCE}"})
    return text.getvalue()


def write_tables(entrants: Sequence[Entrant], out: Path) -> tuple[Path, Path]:
    """Writes ``<out>.md`` and ``<out>.csv``."""
    stem = out.with_suffix("") if out.suffix in (".md", ".csv") else out
    stem.parent.mkdir(parents=True, exist_ok=True)
    markdown, table = stem.with_name(f"{stem.name}.md"), stem.with_name(f"{stem.name}.csv")
    write_text(markdown, "\n".join(table.to_markdown() for table in comparison_tables(entrants)))
    write_text(table, to_csv(entrants))
    return markdown, table
