"""Networks beside each other on the same images: scores with intervals, paired differences, published figures."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from slicemamba.data.base import load_split
from slicemamba.errors import InputError, name_some
from slicemamba.evaluation.evaluate import evaluate
from slicemamba.evaluation.metrics import METRICS_VERSION
from slicemamba.evaluation.per_image import class_scores
from slicemamba.evaluation.published import SOURCE, published_scores
from slicemamba.evaluation.scores import ImageScores, refuse_other_images
from slicemamba.evaluation.statistics import PairedDifference, paired_difference
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
    """

    name: str
    title: str
    scores: ImageScores
    parameters: int
    flops: int
    class_names: tuple[str, ...] | None = None


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
    flops = count_flops(network, scores.image_size)
    names = card.data.class_names
    return Entrant(run.resolve().name, title_of(card), scores, num_parameters(network), flops, names)


def check_comparable(entrants: Sequence[Entrant]) -> None:
    """Raises InputError unless all were scored on the same images by the contract of this version."""
    first = entrants[0]
    old = [entrant.name for entrant in entrants if entrant.scores.metrics_version != METRICS_VERSION]
    if old:
        raise InputError(
            f"scores of {name_some(old)} are not of metrics contract {METRICS_VERSION}; remove their scores folders "
            "to score them again"
        )
    for other in entrants[1:]:
        refuse_other_images(first.scores, other.scores, (first.name, other.name))


def differences(entrants: Sequence[Entrant]) -> list[dict[str, PairedDifference]]:
    """Of each network but the first: its scores minus the first's, by metric, paired over images."""
    first = entrants[0].scores
    return [
        {
            metric: paired_difference(
                other.scores.counts, first.counts, metric, hd95=(other.scores.hd95, first.hd95), groups=first.patients
            )
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
    rows = [(entrant.name, entrant.title, *_score_cells(entrant.scores), *_cost_cells(entrant)) for entrant in entrants]
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
    found = [class_scores(entrant.scores.counts, entrants[0].class_names) for entrant in entrants]
    rows = [
        (entrant.name, entrant.title, *(f"{100 * row['dice']:.2f}" for row in classes.values()))
        for entrant, classes in zip(entrants, found, strict=True)
    ]
    return TextTable("Dice % of each class, pooled over all images", ("run", "network", *found[0]), tuple(rows))


def _score_cells(scores: ImageScores) -> list[str]:
    values, intervals = scores.metrics(), scores.intervals()
    return [_cell(metric, values[metric], *intervals[metric]) for metric in METRICS]


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
        "resamples of the images in which the network beats the first.",
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
        values, intervals = entrant.scores.metrics(), entrant.scores.intervals()
        row: dict[str, str | float] = {"run": entrant.name, "network": entrant.title, "source": "measured"}
        for metric in METRICS:
            row |= {
                metric: values[metric],
                f"{metric}_low": intervals[metric].low,
                f"{metric}_high": intervals[metric].high,
            }
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
