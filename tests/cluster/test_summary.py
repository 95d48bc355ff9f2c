"""The result of a search as it is shown in a terminal of the usual width."""

from __future__ import annotations

import os
from typing import Any

from rich.console import Console

from cluster.summary import print_summary
from nas.space import SearchSpace

SLICING = str(SearchSpace(((2, 2), (2, 4)), (2, 2, 9, 2, 2, 2, 2, 1)).decode([1] * 22))


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
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
    print_summary(console, result)
    text = console.export_text()
    for words in ("(pixels) ↓", "(ms) ↓", "Sensitivity ↑", "HD95 (pixels) ↓", "0.8062–0.9854", "foreground"):
        assert words in text, text
    rows = [line.split("│")[-2].strip() for line in text.splitlines() if "2x4" in line]
    assert "".join(rows) == SLICING
    assert all(row.endswith((",", "|")) for row in rows[:-1]), "broken between blocks alone"
    assert max(map(len, text.splitlines())) <= 80
