"""The folder of one run: what the driver writes and everyone else reads. Imports neither torch nor Ray.

<run>/
  config.json      the job, with the data set's folder resolved
  status.json      phase, progress, error, as the events tell them (cluster/run_view.py); replaced whole at each change
  search.journal   the study (Optuna journal): studies "search" and "random"
  .trials/         a record of each study's trials for those who only read (nas/record.py)
  attempts/<n>/    the drivers that were at work on it, the highest number last (cluster/attempts.py), each with
                   events.jsonl, only ever appended to, an event a line; events-<n>.jsonl are those of its workers
  .logs/<job>/     what the drivers printed that were Ray jobs (cluster/driver_log.py)
  .ray/            checkpoints and other state of Ray Train and Tune
  precision.json   whether bf16 ranked slicings as float32 did, where a search asked for bf16
  supernet/        weights.safetensors, config.json of the trained supernet
  pretrained/      the same of the encoder of a pretrain job
  winner.json      the architecture that retrained/ is of, written before it is trained
  retrained/       the same of the retrained winner; retrained-1/, … of winners before the search was extended
  baselines/       networks to compare the winner with, each with the files of a run of its own (cluster/baselines.py)
  init_report.json what it took of the weights it started from, where there were any
  tensorboard/     scalars of each training, an epoch a step: tensorboard --logdir <run>/tensorboard
  baselines.json   how long a training step of the winner and of each of them takes
  result.json      Pareto frontier, comparison, test scores; written last
  report.html      all of it as one page that needs nothing else
  scores/          per-image counts: search.npz, test.npz of the retrained network; <study>/<number>.npz of trials
  training.png     loss and validation score of each training
  mlflow.json      the MLflow run that is told of this one, where a tracking server is named (cluster/tracking.py)
  audit.json       how far the result can be trusted; of ``slicemamba audit``
  audit/           its own config.json, status.json and attempts; retrained/NN/ networks trained for it
  jobs/<id>/       of jobs that follow the search (see follow_up.py), each with the files of a run of its own
  *.png, predictions/
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from cluster.event_files import START, Place, event_file, read_events
from cluster.run_view import RunStatus
from slicemamba.errors import InputError
from slicemamba.files import open_inside, writing
from slicemamba.text import to_json

JOURNAL = "search.journal"
FRONT = "front.json"
LATENCIES = "latencies.json"
STATUS = "status.json"
RESULT = "result.json"
AUDIT = "audit"
CHECKPOINTS, RECORD = "checkpoints", "checkpoints.json"
"""Folder of a training's states below ``.ray/<phase>/``, and the file in it that names them."""
MAX_JSON_BYTES = 256 << 20
STUDY_VARIABLE = "SLICEMAMBA_STUDY_URL"
MAX_ROUNDS = 4
FINALS_KINDS = tuple(f"finals-{number}" for number in range(1, MAX_ROUNDS + 1))
STUDY_KINDS = ("survey", "search", "random", *FINALS_KINDS, "audit")
PHASES = (
    "check",
    "pretrain",
    "supernet",
    "survey",
    "search",
    "random",
    "finals",
    "retrain",
    "baselines",
    "evaluate",
    "audit_search",
    "audit_front",
    "audit_retrain",
    "export",
    "figures",
)


def reports_dir(runs_path: Path) -> Path:
    """Where reports on data sets are remembered for all runs of a service."""
    return runs_path / ".checks"


class Fence(Protocol):
    """What a run folder needs of a driver's attempt: raises where another one has followed it."""

    @property
    def run_path(self) -> Path: ...
    @property
    def number(self) -> int: ...
    @property
    def token(self) -> str: ...
    @property
    def is_driver(self) -> bool: ...
    def of_worker(self) -> Fence: ...
    def check(self) -> None: ...


class RunFolder:
    """Paths, status and events of one run.

    Args:
        path: the run's folder; made when first written to.

    Attributes:
        attempt: of the driver in this process, looked at before each write; None where it is no driver.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        self.attempt: Fence | None = None
        self._events: tuple[Fence | None, Path] | None = None  # whose file of events

    def __getstate__(self) -> dict[str, Any]:
        """A copy in another process is a worker's."""
        return {"path": self.path, "attempt": self.attempt and self.attempt.of_worker(), "_events": None}

    @property
    def config_path(self) -> Path:
        return self.path / "config.json"

    @property
    def study_location(self) -> Path | str:
        """Where the trials are: SLICEMAMBA_STUDY_URL (a database), else a journal file in this folder."""
        return os.environ.get(STUDY_VARIABLE) or self.path / JOURNAL

    def study_name(self, kind: str) -> str:
        """Name of a study, one of ``STUDY_KINDS``; in a database, which runs share, after the run's folder."""
        return kind if isinstance(self.study_location, Path) else f"{self.path}/{kind}"

    def counts_path(self, kind: str, number: int) -> Path:
        """Pixel counts of a trial of the study ``search`` or ``random``, written by the worker that evaluated it."""
        return self.path / "scores" / kind / f"{number:05d}.npz"

    @property
    def result_path(self) -> Path:
        return self.path / RESULT

    def set_aside_result(self) -> None:
        """Renames that of a search which had fewer trials to ``result-1.json``, …, and the audit, which was of it.

        A driver that finds a result is done. An audit that is at work has to have ended before.
        """
        if self.result_path.exists():
            self.result_path.replace(self._aside("result-{}.json"))
        self.set_aside_audit()

    def set_aside_audit(self) -> None:
        """Renames an audit to ``audit-1`` and ``audit-1.json``, …; what it has evaluated stays in the study."""
        folder = self.path / AUDIT
        if folder.exists():
            aside = self._aside("audit-{}")
            folder.rename(aside)
            if (self.path / "audit.json").exists():
                (self.path / "audit.json").rename(aside.with_suffix(".json"))

    def _aside(self, name: str) -> Path:
        """The first of the names with a number that is free."""
        return next(path for number in itertools.count(1) if not (path := self.path / name.format(number)).exists())

    def scores_path(self, split: str) -> Path:
        """Scores by image of the network that this run gave, on a split."""
        return self.path / "scores" / f"{split}.npz"

    def write_json(self, name: str, values: Mapping[str, Any] | list[Any], *, lasting: bool = True) -> Path:
        """Writes a file whole or not at all: a reader never sees half of it, a crash never leaves half.

        Args:
            name: of the file. values: its content.
            lasting: it outlives a loss of power, too, for which the disk is waited for.
        """
        self.check_attempt()
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with writing(target, lasting=lasting) as draft:
            draft.write_text(to_json(values, indent=2) + "\n", encoding="utf-8")
            self.check_attempt()  # again, as the disk may have taken its time
        return target

    def check_attempt(self) -> None:
        """Raises FencedError where this process was the folder's driver and another one has taken over."""
        if self.attempt is not None:
            self.attempt.check()

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The file's content, None where it does not exist. Raises InputError if it is damaged, or beyond 256 MiB."""
        try:
            with open_inside(self.path, self.path / name) as file:
                content = file.read(MAX_JSON_BYTES)  # of a longer one half, which is damaged like any other
            values: dict[str, Any] = json.loads(content)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise InputError(
                f"{self.path / name} is damaged ({error}); bring it back from a copy (`slicemamba restore` where runs "
                "are kept in a store), or remove it and repeat the run's command, which makes it anew"
            ) from None
        return values

    def write_status(self, status: RunStatus) -> None:
        """Twice a second, and a lost one is made up for by the next: not worth a disk's time."""
        self.write_json(STATUS, status.model_dump(mode="json"), lasting=False)

    def read_status(self) -> RunStatus | None:
        """What the driver said last; None where there is nothing, or nothing that can be made out.

        It is written whole, but a machine that loses its power may leave an empty file: then Ray's word counts.
        """
        try:
            with open_inside(self.path, self.path / STATUS) as file:
                return RunStatus.model_validate_json(file.read(MAX_JSON_BYTES))
        except (FileNotFoundError, ValueError):
            return None

    def emit(self, kind: str, **fields: Any) -> None:
        """Appends an event to a file of this process's own, as those on several nodes cannot share one over NFS."""
        self.check_attempt()
        event = {"time": datetime.now(timezone.utc).isoformat(), "event": kind, **fields}
        if self._events is None or self._events[0] is not self.attempt:
            self._events = self.attempt, event_file(self.path, self.attempt)
        file = self._events[1]
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab", buffering=0) as opened:
            opened.write((to_json(event) + "\n").encode())

    def warn(self, message: str, phase: str | None = None) -> None:
        """Tells something that a user should know: in the events, and in the log of this process."""
        print(f"warning: {message}", flush=True)
        self.emit("warning", phase=phase, message=message)

    def events(self, place: Place = START) -> Iterator[tuple[Place, dict[str, Any]]]:
        """(place after it, event) of all attempts from a place on, as ``cluster.event_files.read_events``."""
        return read_events(self.path, place)
