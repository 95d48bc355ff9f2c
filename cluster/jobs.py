"""A thin wrapper of Ray's Job API: submit, look, stop, read logs. Ray is imported on first use.

Every request has a timeout, so that an address nobody answers at cannot hang the caller.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cluster.capacity import Node
from cluster.connect import ENVIRONMENT, spare_proxy, use_local_token
from cluster.run_folder import RunFolder
from slicemamba.errors import InputError
from slicemamba.text import masked

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

CONNECT_TIMEOUT_SECONDS = 3.0
READ_TIMEOUT_SECONDS = 20.0  # Ray itself waits up to 10 s for an agent before it gives up a submission
_NODES_SECONDS = 3
_PASSING = ("408", "425", "429")  # of something before the job server that is busy
RUN_ENVIRONMENT = {**ENVIRONMENT, "PYTHONUNBUFFERED": "1"}


class JobState(StrEnum):
    """Ray's own status of a job."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    STOPPED = "STOPPED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @property
    def ended(self) -> bool:
        return self in (JobState.STOPPED, JobState.SUCCEEDED, JobState.FAILED)


class ClusterUnavailableError(Exception):
    """The job server does not answer, or not yet as it should. The same call may pass later."""


class JobRefusedError(Exception):
    """The job server refuses the request; the same call would be refused again."""


class JobUnknownError(JobRefusedError):
    """The job server knows no job of this id: it never came there, or the head was restarted since."""


def check_cluster(address: str) -> None:
    """Makes sure that a Ray job server answers at ``address``.

    Raises:
        InputError: the address has another scheme than http(s), or no job server answers there.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InputError(
            f"the Ray address must be that of the job server, such as http://127.0.0.1:8265; got {address!r}"
        )
    try:
        with _translated(address):
            _connect(address).get_version()
    except (ClusterUnavailableError, JobRefusedError) as error:
        raise InputError(f"{error}; start Ray with `ray start --head`, or give the address of a running one") from None


def submit_run(address: str, submission_id: str, run_dir: Path, command: Sequence[str] | None = None) -> None:
    """Starts the driver of a run. A job of this id that exists already counts as done, so a repeated call is harmless.

    Args:
        address: of the Ray job server.
        submission_id: the job's id in Ray, ours to choose.
        run_dir: the run folder, as the head node sees it; it holds ``config.json``.
        command: what to run in place of ``python -m cluster.entrypoint --run-dir <run_dir>``.

    Raises:
        ClusterUnavailableError: the server does not answer, or has no agent ready yet.
        JobRefusedError: the server refuses the job.
    """
    default = [sys.executable, "-m", "cluster.entrypoint", "--run-dir", str(run_dir)]
    try:
        with _translated(address):
            _connect(address).submit_job(
                entrypoint=shlex.join(command or default),
                submission_id=submission_id,
                runtime_env={"env_vars": dict(RUN_ENVIRONMENT)},
                metadata=_metadata(run_dir),
            )
    except (ClusterUnavailableError, JobRefusedError) as error:
        if "already exists" not in str(error):
            raise


def _metadata(run_dir: Path) -> dict[str, str]:
    """What Ray's dashboard shows beside the job: the name that its user gave it, what it does, and its folder's."""
    told = RunFolder(run_dir).read_json("config.json") or {}
    return {"run": run_dir.name} | {key: str(told[key]) for key in ("name", "kind") if key in told}


def job_state(address: str, submission_id: str) -> JobState | None:
    """Ray's status of the job, None where Ray does not know it. Raises ClusterUnavailableError."""
    try:
        with _translated(address):
            return JobState(_connect(address).get_job_status(submission_id).value)
    except JobUnknownError:
        return None


def stop_run(address: str, submission_id: str) -> None:
    """Asks the job to stop; one that is unknown or has ended is left alone. Raises ClusterUnavailableError."""
    try:
        with _translated(address):
            _connect(address).stop_job(submission_id)
    except JobUnknownError:
        return


def job_logs(address: str, submission_id: str) -> str | None:
    """What the driver has printed, ``masked``; None where Ray does not know the job. Raises ClusterUnavailableError."""
    try:
        with _translated(address):
            return masked(_connect(address).get_job_logs(submission_id))
    except JobUnknownError:
        return None


def cluster_nodes(address: str) -> list[Node]:
    """Nodes of the cluster; none where it does not answer, or not so as this Ray expects."""
    from ray.util.state import list_nodes
    from ray.util.state.exception import RayStateApiException

    try:
        with _translated(address):
            found = list_nodes(address, timeout=_NODES_SECONDS, detail=True, raise_on_missing_output=False)
    except (ClusterUnavailableError, JobRefusedError, RayStateApiException):
        return []
    alive = [(node.node_ip, node.resources_total) for node in found if node.state == "ALIVE"]
    return [Node(address, offers.get("CPU", 0), offers.get("GPU", 0)) for address, offers in alive]


@lru_cache(maxsize=8)
def _connect(address: str) -> JobSubmissionClient:
    from ray.job_submission import JobSubmissionClient

    class TimedClient(JobSubmissionClient):
        """Ray's requests have no timeout of their own."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            timeout = (CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS)
            return super()._do_request(method, endpoint, **{"timeout": timeout, **options})

    return TimedClient(address)


@contextmanager
def _translated(address: str) -> Iterator[None]:
    """Turns what Ray's client raises into the two errors above."""
    use_local_token()  # before Ray is imported, which reads it then
    spare_proxy()
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise ClusterUnavailableError(
            f"the Ray job server at {address} refuses this client's token: {error}"
        ) from error
    except RuntimeError as error:  # Ray's client tells HTTP errors by their text alone
        status = re.search(r"status code (\d+)", str(error))
        if status and status[1].startswith("4") and status[1] not in _PASSING:
            raise (JobUnknownError if status[1] == "404" else JobRefusedError)(str(error)) from error
        if "Version check returned 404" in str(error):
            raise ClusterUnavailableError(f"the server at {address} is not a Ray job server") from error
        raise ClusterUnavailableError(f"the Ray job server at {address} answers with an error: {error}") from error
    except OSError as error:  # the requests library's errors are OSErrors too
        raise ClusterUnavailableError(f"no Ray job server answers at {address}") from error
    except (ValueError, KeyError, TypeError) as error:  # of another form than Ray's answers have
        raise ClusterUnavailableError(f"the server at {address} is not a Ray job server") from error
