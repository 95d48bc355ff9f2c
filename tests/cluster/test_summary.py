"""The result of a search as it is shown in a terminal of the usual width."""

from __future__ import annotations

import os
from typing import Any

import pytest
from rich.console import Console

from cluster.summary import print_scores, print_summary
from nas.space import SearchSpace

SLICING = str(SearchSpace(((2, 2), (2, 4)), (2, 2, 9, 2, 2, 2, 2, 1)).decode([1] * 22))


def printed(result: dict[str, Any]) -> str:
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    print_summary(console, result)
    return console.export_text()


def test_nothing_is_cut_off_at_80_columns() -> None:
    metrics = {
        "dice": 0.8958,
        "hd95": 7.502,
        "latency_ms": 77.29,
        "miou": 0.86,
        "sensitivity": 0.94,
        "specificity": 1.0,
    }
    result: dict[str, Any] = {
        "objectives": ["dice", "hd95", "latency_ms"],
        "pareto": [{"number": 23, "metrics": metrics, "architecture": SLICING}],
        "best": {"metrics": metrics},
        "fixed": {"2x2": {"metrics": metrics}},
        "random": None,
        "retrained": {
            "scores": {"test": metrics},
            "intervals": {"test": {name: [value * 0.9, value * 1.1] for name, value in metrics.items()}},
        },
        "trivial": {"test": {"all background": metrics, "all foreground": metrics}},
    }
    text = printed(result)
    for words in ("(pixels) ↓", "(ms) ↓", "Sensitivity ↑", "HD95 (pixels) ↓", "0.8062–0.9854", "foreground"):
        assert words in text, text
    rows = [line.split("│")[-2].strip() for line in text.splitlines() if "2x4" in line]
    assert "".join(rows) == SLICING
    assert all(row.endswith((",", "|")) for row in rows[:-1]), "broken between blocks alone"
    assert max(map(len, text.splitlines())) <= 80


def test_what_breaks_constraints_and_what_chance_does_better_is_told() -> None:
    def row(number: int, dice: float, violation: float = 0.0) -> dict[str, Any]:
        return {"number": number, "metrics": {"dice": dice}, "architecture": SLICING, "violation": violation}

    result = {
        "objectives": ["dice"],
        "pareto": [row(3, 0.8)],
        "best": row(3, 0.8),
        "fixed": {"2x2": row(0, 0.9, violation=0.2), "2x4": row(1, 0.7)},
        "random": {"best": row(5, 0.85), "pareto": [row(5, 0.85)], "dominating": [row(5, 0.85)]},
    }
    text = " ".join(printed(result).split())
    assert "fixed slicing 2x2 (outside the constraints)" in text
    assert "fixed slicing 2x4 " in text
    assert "1 candidate of random search beats a member of the frontier" in text


@pytest.mark.parametrize(
    ("init", "words"), [(None, "from scratch"), ("supernet", "from the supernet's weights"), ("/w/x", "from /w/x")]
)
def test_retraining_is_called_what_it_was(init: str | None, words: str) -> None:
    scores = dict.fromkeys(("dice", "miou", "hd95", "sensitivity", "specificity"), 0.5)
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    print_scores(console, {"retrained": {"scores": {"test": scores}, "init": init}, "trivial": {"test": {}}})
    assert f"Retrained {words}" in " ".join(console.export_text().split())
