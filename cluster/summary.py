"""The result of a search as tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cluster.slicing_text import SlicingText
from nas.objectives import OBJECTIVES, format_count, format_value, losses


def print_summary(console: Console, result: Mapping[str, Any]) -> None:
    """Prints the frontier, the best against fixed slicings and random search, and the scores on test.

    Args:
        console: where to. result: what ``result.json`` of a search holds.
    """
    objectives: list[str] = result["objectives"]
    _print_findings(console, result)
    if result.get("finals"):
        console.print(_finals(result["finals"], objectives[0]))
    console.print(_frontier(result["pareto"], objectives))
    console.print(_comparison(result, objectives))
    if "retrained" in result:
        print_scores(console, result)
    if result.get("baselines"):
        console.print(_beside_baselines(result))


def _print_findings(console: Console, result: Mapping[str, Any]) -> None:
    for sentence in result.get("findings", ()):
        console.print(f"• {escape(sentence)}", highlight=False)


def print_retrained(console: Console, result: Mapping[str, Any]) -> None:
    """Prints what ``result.json`` of a retraining holds."""
    _print_findings(console, result)
    print_scores(console, result)


def print_scores(console: Console, result: Mapping[str, Any]) -> None:
    """Prints the retrained network's scores on test, beside those of trivial predictions."""
    console.print(_test_scores(result))


def _narrow(names: Sequence[str]) -> list[str]:
    """Headings in two lines where there is a unit, as their columns hold short numbers."""
    return [OBJECTIVES[name].heading.replace(" (", "\n(") for name in names]


def _cells(metrics: Mapping[str, float], objectives: Sequence[str]) -> list[str]:
    return [format_value(name, metrics[name]) for name in objectives]


def _frontier(front: list[dict[str, Any]], objectives: list[str]) -> Table:
    table = Table(
        "trial",
        *_narrow(objectives),
        "ties",
        "slicing",
        title=f"Frontier ({'after the finals' if front[0].get('supernet') else 'supernet weights'}, search split)",
    )
    for row in front:
        cells = [*_cells(row["metrics"], objectives), str(len(row.get("tied_with", ())) or "")]
        table.add_row(str(row["number"]), *cells, SlicingText(row["architecture"]))
    return table


def _finals(rows: list[dict[str, Any]], objective: str) -> Table:
    """The finalists, best first in the first objective after the last round each was in."""
    rounds = max(len(row["rounds"]) for row in rows)
    headings = [f"after round {number}" for number in range(1, rounds + 1)]
    table = Table("trial", "", "supernet", *headings, title=f"Finals: {OBJECTIVES[objective].title}, search split")

    def order(row: dict[str, Any]) -> tuple[float, ...]:
        last = row["rounds"][-1] if row["rounds"] else row["supernet"]
        return (-len(row["rounds"]), *losses(last, [objective]))

    for row in sorted(rows, key=order):
        scores = [format_value(objective, one[objective]) for one in (row["supernet"], *row["rounds"])]
        table.add_row(str(row["number"]), "fixed" if row["origin"] == "fixed" else "", *scores)
    return table


def _comparison(result: Mapping[str, Any], objectives: list[str]) -> Table:
    table = Table("", *_narrow(objectives), title="Best slicing found, and what it must beat")
    table.add_row("[bold]best of the search[/]", *_cells(result["best"]["metrics"], objectives))
    for size, row in result["fixed"].items():
        outside = " (outside the constraints)" if row.get("violation") else ""
        table.add_row(f"fixed slicing {size}{outside}", *_cells(row["metrics"], objectives))
    if result["random"] is not None:
        best = result["random"]["best"]
        cells = ["none within the constraints"] if best is None else _cells(best["metrics"], objectives)
        table.add_row("best of random search", *cells)
        if better := result["random"].get("dominating"):  # unknown to runs of older versions
            count = "1 candidate of random search beats" if len(better) == 1 else f"{len(better)} of random search beat"
            table.caption = f"{count} a member of the frontier in all objectives"
    return table


def _test_scores(result: Mapping[str, Any]) -> Table:
    """A row a score, which fits where a column a score would not."""
    names = ["dice", "miou", "hd95", "sensitivity", "specificity"]
    retrained, trivial = result["retrained"], result["trivial"]["test"]
    intervals = retrained.get("intervals", {}).get("test", {})  # none of a diverged network, or of an older version
    guesses = [name.replace(" ", "\n") for name in trivial]
    title = f"Retrained {_start(retrained.get('init'))} (interval over images or patients)"
    table = Table("test split", "retrained", "95 % interval", *guesses, title=title)
    columns = [_cells(scores, names) for scores in (retrained["scores"]["test"], *trivial.values())]
    for name, own, *others in zip(names, *columns, strict=True):
        interval = "–".join(_cells({name: value}, [name])[0] for value in intervals.get(name, ()))
        table.add_row(OBJECTIVES[name].heading, f"[bold]{own}[/]", interval, *others)
    return table


def _beside_baselines(result: Mapping[str, Any]) -> Table:
    """The chosen network and what everyone knows, trained for as long; a row a network."""
    names = ["dice", "miou", "hd95"]
    table = Table("test split", *_narrow(names), "FLOPs", "params", "training (s)", title="Beside other networks")
    rows = {"chosen network": result["retrained"]}
    rows |= {found["title"]: found for found in result["baselines"].values()}
    for name, found in rows.items():
        scores = found.get("scores", {}).get("test")
        cells = ["diverged"] * len(names) if scores is None else _cells(scores, names)
        costs = [format_count(found[cost]) for cost in ("flops", "params")]
        table.add_row(name, *cells, *costs, f"{found['seconds']:.0f}")
    return table


def _start(init: str | None) -> str:
    """What a training began with, in words; None where from random weights."""
    return "from scratch" if init is None else "from the supernet's weights" if init == "supernet" else f"from {init}"


_COLOURS = {"passed": "green", "open": "yellow", "failed": "red"}
_COLOURS |= {"supported": "green", "weak": "yellow", "not supported": "red"}


def print_audit(console: Console, audit: Mapping[str, Any]) -> None:
    """Prints what was trained, the front with its ties, and the verdict with its criteria.

    Args:
        console: where to. audit: what ``audit.json`` holds.
    """
    from nas.audit import foresight  # which imports torch, and this module is imported by commands that do not

    console.print(_trained(audit))
    console.print(_front_ties(audit))
    table = Table("", "question", "found", title="The verdict's criteria")
    for one in audit["verdict"]["criteria"]:
        table.add_row(f"[{_COLOURS[one['outcome']]}]{one['outcome']}[/]", one["question"], escape(one["evidence"]))
    console.print(table)
    if (scatter := audit.get("seed_deviation")) is not None:  # an audit of an earlier version has none
        console.print(foresight(audit["settings"]["retrain_seeds"], audit["settings"]["margin"], scatter))
    word = audit["verdict"]["word"]
    console.print(f"[bold {_COLOURS[word]}]{word}[/]: {escape(audit['verdict']['sentence'])}")


def _trained(audit: Mapping[str, Any]) -> Table:
    title = OBJECTIVES[audit["metric"]].title
    table = Table("network", "why", "seed", f"{title}: supernet", "search", "test", title="Trained from scratch")
    for row in audit["retrained"]:
        supernet = "–" if row["supernet"] is None else f"{row['supernet']:.4f}"
        scores = ["failed", escape(row["error"] or "")]
        if "test" in row:
            test = row["test"]
            scores = [f"{row['search']['value']:.4f}", f"{test['value']:.4f} ({test['low']:.3f}–{test['high']:.3f})"]
        table.add_row(Path(row["folder"]).name, ", ".join(row["roles"]), str(row["seed"]), supernet, *scores)
    return table


def _front_ties(audit: Mapping[str, Any]) -> Table:
    metric = audit["metric"]
    table = Table(
        "trial", OBJECTIVES[metric].title, "95 % interval", "against the best", "", title="Frontier, search split"
    )
    for place, row in enumerate(audit["front"]["members"]):
        own, against = row["intervals"][metric], row["difference_to_best"]
        table.add_row(
            str(row["number"]),
            f"{own['value']:.4f}",
            f"{own['low']:.4f}–{own['high']:.4f}",
            f"{against['value']:+.4f} ({against['low']:+.4f} to {against['high']:+.4f})",
            "the best" if place == 0 else "tie" if row["tie"] else "worse",
        )
    return table
