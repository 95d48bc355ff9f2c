"""Connecting to Ray: a cluster by its address, or one of one's own for as long as the process lives."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from slicemamba.errors import InputError, RunFailedError

_CONNECT_SECONDS = 5.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_START_ATTEMPTS = 3
# For Ray's processes and ours: no usage reports; training reports taken at once, and training shown in the dashboard;
# no log files a trial, as the study holds it all; all workers of a search started at once, not one after the other; no
# colours in logs; OpenMP threads that sleep while they wait, without which two processes on the same cores slow each
# other down several times over; time for a node to start on a busy machine, where 30 s do not do; no modules from the
# working directory, where a user's cluster.py or nas/ would stand in for ours; no upload of that directory by Ray
# where a command is called by `uv run`; no Ray that starts by itself where a thread asks for one that has gone.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000000",
    "RAY_COLOR_PREFIX": "0",
    "RAY_raylet_start_wait_time_s": "60",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONSAFEPATH": "1",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",
}
NO_RAY = "none"
"""As an address: all work is done in this process, one thing after the other."""
_RAYS_PATIENCE, _PATIENCE_SECONDS = "RAY_gcs_rpc_server_reconnect_timeout_s", 60.0  # and Ray's default
_LONGEST_TEMP = 30  # characters; what Ray puts behind takes some seventy of the 107 that a socket's path may have
_INSIDE_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for drivers it has started itself


def connected() -> bool:
    """Whether this process is a driver or worker of a Ray; else it does all work by itself."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def submission_id() -> str | None:
    """Id of the Ray job whose driver this process is; None outside of Ray jobs."""
    found: str | None = _own_job().get("metadata", {}).get("job_submission_id")
    return found


def worker_variables() -> dict[str, str]:
    """ENVIRONMENT, less what the Ray job that this process drives was submitted with: Ray refuses to set that again."""
    given = _own_job().get("runtime_env", {}).get("env_vars", {})
    return {name: value for name, value in ENVIRONMENT.items() if name not in given}


def _own_job() -> dict[str, Any]:
    config: dict[str, Any] = json.loads(os.environ.get(_INSIDE_A_JOB) or "{}")
    return config


def seconds_without_head() -> float:
    """How long a driver waits for a head that does not answer, by Ray's own setting."""
    return float(os.environ.get(_RAYS_PATIENCE) or _PATIENCE_SECONDS)


def use_local_token() -> None:
    """Lets this process use the token that ``ray start`` has left for its user; Ray's clients do so only if told."""
    known = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if known or (Path.home() / ".ray" / "auth_token").exists():
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def check_address(address: str) -> None:
    """Raises InputError when nothing listens at a Ray address, in seconds instead of Ray's minutes."""
    if address in ("auto", "local", NO_RAY):
        return
    try:
        parts = urlsplit(address if "://" in address else f"//{address}")
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        scheme, host, port = "", None, None
    if scheme in ("http", "https"):
        raise InputError(
            f"{address} is the address of Ray's job server: submit the job there, with `slicemamba submit` by way of "
            "the service or with `ray job submit`; to drive it from here give HOST:6379 or ray://HOST:10001 of that "
            "cluster (--address or RAY_ADDRESS)"
        )
    if scheme not in ("", "ray") or host is None or port is None:
        raise InputError(f"Ray address must be 'auto', 'local', 'none', HOST:PORT or ray://HOST:PORT; got {address!r}")
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except (OSError, UnicodeError) as error:  # the latter for names that no host can have
        raise InputError(
            f"no Ray cluster answers at {address} ({error}); start one with `ray start --head`, correct the address "
            "(--address or RAY_ADDRESS), or leave it out to run on this machine"
        ) from None


def check_can_search(address: str | None) -> None:
    """Raises InputError for Ray Client: Ray Tune would run there in a process of its own, with a copy of the study."""
    address = address or os.environ.get("RAY_ADDRESS") or ""
    if address.startswith("ray://"):
        raise InputError(
            f"{address} (Ray Client) supports trainings only, not searches; submit the search with `ray job submit` or "
            "to the service, or connect to HOST:6379 from a machine in the cluster's network (--address or RAY_ADDRESS)"
        )


@contextmanager
def ray_cluster(address: str | None = None) -> Iterator[bool]:
    """Connects to Ray and disconnects at the end.

    Args:
        address: ``auto`` (a cluster on this machine), ``local`` (a new one, stopped at the end), HOST:PORT or
            ``ray://HOST:PORT``; RAY_ADDRESS when None, and ``local`` when that is not set.

    Yields:
        Whether it is a Ray of this process's own.

    Raises:
        InputError: nothing answers there.
        RunFailedError: a new one did not start on this machine.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    check_address(address)
    use_local_token()
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    spare_proxy()
    if address == "local":
        _choose_token()
    import ray

    # The log of a job is the place for what the workers say; in a terminal that would bury the progress, and errors
    # reach the driver as exceptions anyway.
    in_job = _INSIDE_A_JOB in os.environ
    runtime_env = None if address == "local" else {"env_vars": worker_variables()}
    options: dict[str, Any] = {"logging_level": logging.WARNING, "log_to_driver": in_job, "runtime_env": runtime_env}
    try:
        with _in_folder_of_packages():
            if address == "local":
                with _in_short_temp():
                    _start_own(options)
            else:
                ray.init(address=address, **options)
    except ConnectionError as error:
        raise InputError(
            f"no Ray cluster can be reached at {address!r}: {error}; if it asks for a token, set RAY_AUTH_MODE=token "
            "and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) to that of the cluster"
        ) from None
    try:
        yield address == "local"
    finally:
        ray.shutdown()


def _choose_token() -> None:
    """A Ray of this process's own asks for a token, as by default, but none that has to be kept in the home folder."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")  # by itself Ray does the same with a warning that helps nobody here
    known = os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not known and not (Path.home() / ".ray" / "auth_token").exists():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def spare_proxy() -> None:
    """Has every client of this process and its children reach this machine itself without the proxy of the way out."""
    for name in ("no_proxy", "NO_PROXY"):
        spared = [host for host in os.environ.get(name, "").split(",") if host]
        os.environ[name] = ",".join([*spared, *(host for host in _LOOPBACK if host not in spared)])


@contextmanager
def _in_folder_of_packages() -> Iterator[None]:
    """Ray puts the working directory first among the places where workers look for modules: that is to be ours."""
    before = Path.cwd()
    os.chdir(Path(__file__).resolve().parents[1])
    try:
        yield
    finally:
        os.chdir(before)


def short_temp() -> str:
    """The folder for temporary files, or /tmp where its path is too long for sockets of Ray and of multiprocessing."""
    folder = tempfile.gettempdir()
    return folder if len(folder) <= _LONGEST_TEMP else "/tmp"


@contextmanager
def _in_short_temp() -> Iterator[None]:
    """Ray's processes get it from the environment as they are started; without it they wait for a minute, and fail."""
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = short_temp()
    try:
        yield
    finally:
        os.environ.pop("TMPDIR")
        os.environ.update({} if before is None else {"TMPDIR": before})


def _start_own(options: dict[str, Any]) -> None:
    """Starts a Ray, and again where it took too long: it gives its parts 15 s, which a busy machine exceeds."""
    import ray

    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            ray.init(address="local", **options)
        except OSError as error:
            if "AF_UNIX" not in str(error):  # says what it is of
                raise
            raise InputError(
                f"the folder {os.environ.get('RAY_TMPDIR')} has too long a path for Ray's sockets, which may have 107 "
                "characters in all; set RAY_TMPDIR to a short one, such as RAY_TMPDIR=/tmp"
            ) from None
        except Exception as error:  # Ray has no class for it
            if "timed out during startup" in str(error) and attempt < _START_ATTEMPTS:
                continue
            raise RunFailedError(
                f"Ray did not start on this machine ({attempt} of {_START_ATTEMPTS} attempts): {error} If it is busy "
                "or short of memory, run again later; see also raylet.err in /tmp/ray/session_latest/logs"
            ) from error
        else:
            return


def cluster_resources() -> dict[str, float]:
    """What all nodes of the connected cluster offer: CPU, GPU, memory (bytes) and more; nothing where there is none."""
    if not connected():
        return {}
    import ray

    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return total
