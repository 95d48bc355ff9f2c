"""``slicemamba pick``: a network of a finished search for a budget, saved with weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.run_folder import RunFolder
from cluster.slicing_text import SlicingText
from nas.objectives import OBJECTIVES, format_value
from nas.pick import Pick
from slicemamba.architecture import Architecture
from slicemamba.errors import InputError


def print_pick(console: Console, found: Pick, objectives: list[str]) -> None:
    """Prints the member to take beside the best, and what is lost against it."""
    metrics = found.row["metrics"]
    shown = [*objectives, *(name for name in OBJECTIVES if name in metrics and name not in objectives)]
    table = Table("", f"trial {found.row['number']}", f"best: trial {found.best['number']}", "difference")
    for name in shown:
        own, best = metrics[name], found.best["metrics"][name]
        difference = "–" if own == best else ("+" if own > best else "−") + format_value(name, abs(own - best))
        table.add_row(OBJECTIVES[name].heading, format_value(name, own), format_value(name, best), difference)
    console.print(table)
    console.print(SlicingText(found.row["architecture"]))


def network_of(run: RunFolder, row: Mapping[str, Any], target: Path) -> str:
    """Saves a member's network into ``target``: trained in the finals where it was in them, else the supernet's part.

    Returns:
        What its weights are, in words.

    Raises:
        InputError: the run has no supernet any more.
    """
    from slicemamba.models.checkpoints import load_network, read_card, save_network
    from slicemamba.models.supernet import Supernet

    finalist = run.path / "finals" / f"{row['number']:05d}"
    if (finalist / "config.json").exists():
        save_network(target, load_network(finalist), read_card(finalist).data)
        return "trained on in the finals"
    folder = run.path / "supernet"
    if not (folder / "config.json").exists():
        raise InputError(f"{folder} holds no supernet to take the network's weights from")
    supernet = load_network(folder)
    assert isinstance(supernet, Supernet)
    save_network(target, supernet.extract(Architecture.parse(row["architecture"])), read_card(folder).data)
    return "inherited from the supernet"
