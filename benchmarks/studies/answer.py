"""The network that a default search names, trained anew from three seeds, beside those that everyone knows.

Where it scans, it is trained without its scans as well, as the search says what they bring.

python -m benchmarks.studies.answer search     # the preset `laptop` on each set; goes on where it stopped
python -m benchmarks.studies.answer run --processes 2
python -m benchmarks.studies.answer table

What it is set beside was trained by ``benchmarks.studies.networks``, for as many processor seconds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.studies import networks, trainings
from benchmarks.studies.ranking import preset
from benchmarks.studies.trainings import CONV, FOLDER, SETS, Row, Study
from cluster.run_folder import RunFolder
from cluster.scan_use import without_scans
from slicemamba.architecture import Architecture

RUNS = Path("runs/answer")
CHOSEN = FOLDER / "answer-chosen.json"
BESIDE = ("unet", "conv -", "conv c3", "conv 2x2")
CHOSEN_ROW, UNSCANNED = "chosen", "chosen, its scans left out"
SEEDS = 3


def search(_: argparse.Namespace) -> None:
    """Runs or resumes the searches, and keeps what they named."""
    found = json.loads(CHOSEN.read_text()) if CHOSEN.is_file() else {}
    for dataset in SETS:
        if dataset in found:
            continue
        out = RUNS / dataset
        options = [f"data.name={dataset}", f"name={dataset}"]
        command = ["slicemamba", "search", "laptop", "--out", str(out)]
        command += [part for option in options for part in ("--set", option)]
        subprocess.run([str(Path(sys.executable).parent / command[0]), *command[1:]], check=True)
        found[dataset] = _named(RunFolder(out))
        CHOSEN.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def _named(run: RunFolder) -> dict[str, Any]:
    result = run.read_json("result.json")
    assert result is not None
    chosen, unet = result["retrained"], result["baselines"]["unet"]
    return {
        "architecture": chosen["architecture"],
        "findings": result["findings"],
        "test": chosen["scores"]["test"],
        "flops": chosen["flops"],
        "params": chosen["params"],
        "unet_test": unet["scores"]["test"],
    }


def _study(dataset: str, named: Mapping[str, Any]) -> Study:
    rows = _own_rows(named["architecture"]) | {name: networks.STUDY.rows[name] for name in BESIDE}
    return Study("answer", rows, reference="unet", seconds=networks.STUDY.seconds, sets=(dataset,))


def _own_rows(architecture: str) -> dict[str, Row]:
    without = str(without_scans(preset(), Architecture.parse(architecture)))
    rows = {CHOSEN_ROW: Row(CONV, architecture)}
    return rows if without == architecture else rows | {UNSCANNED: Row(CONV, without, beside=CHOSEN_ROW)}


def run(options: argparse.Namespace) -> None:
    """Trains the named networks for as long as the others were, by the ratio of their steps' times."""
    tasks = []
    for dataset, named in json.loads(CHOSEN.read_text()).items():
        study = _study(dataset, named)
        done = {(line["network"], line["set"], line["seed"]) for line in study.finished()}
        rows = [name for name in study.rows if name not in BESIDE]
        left = [(name, seed) for seed in range(SEEDS) for name in rows if (name, dataset, seed) not in done]
        if not left:
            continue
        timed = {name: study.rows[name].build(1).train() for name in (*rows, "conv -")}
        steps = trainings.measured_steps(study, timed)
        known = trainings.step_seconds(networks.STUDY)["conv -"]
        tasks += [
            (study, name, dataset, seed, study.seconds, known * steps[name] / steps["conv -"]) for name, seed in left
        ]
    print(f"{len(tasks)} trainings of {networks.STUDY.seconds:g} s", flush=True)
    trainings.work_off(tasks, FOLDER / "answer.jsonl", options.processes)


def table(_: argparse.Namespace) -> None:
    """Each set's named network beside the others, and all sets together."""
    others = [line for line in networks.STUDY.finished() if line["network"] in BESIDE]
    for dataset, named in json.loads(CHOSEN.read_text()).items():
        study = _study(dataset, named)
        lines = [line for line in [*study.finished(), *others] if line["set"] == dataset]
        trainings.print_table(study, lines, [dataset])
    study = Study(
        "answer", {CHOSEN_ROW: Row(CONV, "-"), **{name: networks.STUDY.rows[name] for name in BESIDE}}, "unet", 0
    )
    for name in BESIDE:
        print(f"\nchosen against {name}")
        trainings.print_over_sets(study, [*study.finished(), *others], beside=name, rows=[CHOSEN_ROW])


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("command", choices=("search", "run", "table"))
    parser.add_argument("--processes", type=int, default=2)
    chosen_options = parser.parse_args()
    {"search": search, "run": run, "table": table}[chosen_options.command](chosen_options)
