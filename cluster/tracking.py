"""A run told to an MLflow server, where MLFLOW_TRACKING_URI names one: an observer of the run's events, nothing more.

A run has one MLflow run, which later attempts go on with (``<run>/mlflow.json``): its configuration as parameters, the
epochs of its trainings and its trials as curves, its result, report and networks as files. What cannot be told costs
one warning, and never the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cluster.config import Job, public_spec
from cluster.event_files import Place, end_of
from cluster.run_folder import RunFolder
from slicemamba import __version__
from slicemamba.errors import RunFailedError

if TYPE_CHECKING:
    from mlflow import MlflowClient

URI_VARIABLE = "MLFLOW_TRACKING_URI"
EXPERIMENT_VARIABLE = "MLFLOW_EXPERIMENT_NAME"
NOTES = "mlflow.json"
_PERIOD_SECONDS = 2.0
_END_SECONDS = 60.0
"""What a run waits at its end for all to be told."""
_AT_ONCE = 100  # parameters a request, and metrics; the least that servers allow
_LONGEST_VALUE = 500
_ENDS = {"SUCCEEDED": "FINISHED", "FAILED": "FAILED", "CANCELLED": "KILLED"}
_FILES = ("result.json", "report.html", "retrained", "pretrained")
# A server that is away is found out in seconds and not in minutes; nobody else is told.
_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


@contextmanager
def tracked(run: RunFolder, job: Job) -> Iterator[None]:
    """Tells MLflow of a run for the time of a block, in a thread; does nothing where no server is named."""
    if not os.environ.get(URI_VARIABLE):
        yield
        return
    number = 0 if run.attempt is None else run.attempt.number
    stop = threading.Event()
    observer = _Observer(run, job, end_of(run.path, number))
    thread = threading.Thread(target=observer.follow, args=(stop,), name="mlflow", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_END_SECONDS)
        if thread.is_alive():
            observer.give_up("it takes too long")


class _Observer:
    """Reads a run's events from a place on, and tells them."""

    def __init__(self, run: RunFolder, job: Job, place: Place) -> None:
        self._run = run
        self._job = job
        self._place = place
        self._given_up = False

    def follow(self, stop: threading.Event) -> None:
        try:
            client, run_id = self._open()
            ended = False
            while not ended:
                ended = stop.wait(_PERIOD_SECONDS)
                self._tell(client, run_id)
            self._conclude(client, run_id)
        except ImportError:
            self.give_up("the package is missing; install it with `pip install 'slicemamba-nas[mlflow]'`")
        except Exception as error:  # of whatever server, network or version it is
            self.give_up(str(error).strip().partition("\n")[0] or type(error).__name__)

    def give_up(self, reason: str) -> None:
        """Warns, once."""
        if not self._given_up:
            self._given_up = True
            with contextlib.suppress(OSError, RunFailedError):  # a full disk, or a successor: the driver finds out too
                self._run.warn(f"MLflow is not told of this run any more ({URI_VARIABLE}): {reason}")

    def _open(self) -> tuple[MlflowClient, str]:
        """The client, and the id of the run, which is made unless an attempt before has made it."""
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        client = MlflowClient(os.environ[URI_VARIABLE])
        known = self._run.read_json(NOTES)
        if known is not None and known["uri"] == os.environ[URI_VARIABLE]:
            run_id: str = known["run_id"]
            client.update_run(run_id, status="RUNNING")
            return client, run_id
        name = os.environ.get(EXPERIMENT_VARIABLE) or "slicemamba"
        experiment = client.get_experiment_by_name(name)
        experiment_id = client.create_experiment(name) if experiment is None else experiment.experiment_id
        tags = {"slicemamba.kind": self._job.kind, "slicemamba.version": __version__}
        title = f"{self._job.name} {self._run.path.name}"
        run_id = client.create_run(experiment_id, run_name=title, tags=tags).info.run_id
        self._run.write_json(NOTES, {"uri": os.environ[URI_VARIABLE], "run_id": run_id})
        self._tell_parameters(client, run_id)
        return client, run_id

    def _tell_parameters(self, client: MlflowClient, run_id: str) -> None:
        from mlflow.entities import Param

        values = public_spec(self._job.model_dump(mode="json"))
        params = [Param(name, str(value)[:_LONGEST_VALUE]) for name, value in _flat(values)]
        for first in range(0, len(params), _AT_ONCE):
            client.log_batch(run_id, params=params[first : first + _AT_ONCE])

    def _tell(self, client: MlflowClient, run_id: str) -> None:
        """What is new among the events."""
        from mlflow.entities import Metric

        found: list[Metric] = []
        for place, event in self._run.events(self._place):
            self._place = place
            moment = int(datetime.fromisoformat(event["time"]).timestamp() * 1000)
            found += [Metric(name, value, moment, step) for name, value, step in curves(event)]
        for first in range(0, len(found), _AT_ONCE):
            client.log_batch(run_id, metrics=found[first : first + _AT_ONCE])

    def _conclude(self, client: MlflowClient, run_id: str) -> None:
        """The result's scores and files, and how the run has ended."""
        status, result = self._run.read_status(), self._run.read_json("result.json")
        ended = "FAILED" if status is None else status.state
        if result is not None and ended == "SUCCEEDED":
            for name, value in chosen(result):
                client.set_tag(run_id, name, value)
            for name, score in result.get("retrained", {}).get("scores", {}).get("test", {}).items():
                if isinstance(score, (int, float)):
                    client.log_metric(run_id, f"test/{name}", score)
            for name in _FILES:
                path = self._run.path / name
                if path.is_dir():
                    client.log_artifacts(run_id, str(path), name)
                elif path.exists():
                    client.log_artifact(run_id, str(path))
        client.set_terminated(run_id, _ENDS.get(ended, "FAILED"))


def curves(event: Mapping[str, Any]) -> Iterator[tuple[str, float, int]]:
    """(name, value, step) of what an event adds to curves: an epoch of a training, or a trial by its number."""
    phase = event.get("phase")
    if event["event"] == "epoch":
        named, step = event, event["epoch"]
        kept = {name for name in event if name == "loss" or name == "learning_rate" or name.startswith("val_")}
    elif event["event"] == "trial":
        named, step = event.get("metrics") or {}, event["number"]
        kept = set(named)
    else:
        return
    for name in sorted(kept):
        if isinstance(named[name], (int, float)):
            yield f"{phase}/{name}", float(named[name]), step


def chosen(result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Tags that name what a run has found."""
    best = result.get("retrained") or result.get("best") or {}
    if best.get("architecture"):
        yield "slicemamba.architecture", str(best["architecture"])
    for number, finding in enumerate(result.get("findings", []), 1):
        yield f"slicemamba.finding_{number}", finding if isinstance(finding, str) else json.dumps(finding)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        elif value not in (None, {}):
            yield prefix + name, value
