"""Connecting to Ray: a cluster by its address, or one of one's own for as long as the process lives."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from slicemamba.errors import InputError

_CONNECT_SECONDS = 5.0
# For Ray's processes and ours: no usage reports; training reports taken at once, and training shown in the dashboard;
# no log files a trial, as the study holds it all; OpenMP threads that sleep while they wait, without which two
# processes on the same cores slow each other down several times over.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "OMP_WAIT_POLICY": "PASSIVE",
}
_INSIDE_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray for drivers it has started itself


def check_address(address: str) -> None:
    """Raises InputError when nothing listens at a Ray address, in seconds instead of Ray's minutes."""
    if address in ("auto", "local"):
        return
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if host is None or port is None:
        raise InputError(f"Ray address must be 'auto', 'local', HOST:PORT or ray://HOST:PORT; got {address!r}")
    try:
        socket.create_connection((host, port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise InputError(
            f"no Ray cluster answers at {address} ({error}); start one with `ray start --head`, correct the address "
            "(--address or RAY_ADDRESS), or leave it out to run on this machine"
        ) from None


@contextmanager
def ray_cluster(address: str | None = None) -> Iterator[None]:
    """Connects to Ray and disconnects at the end.

    Args:
        address: ``auto`` (a cluster on this machine), ``local`` (a new one, stopped at the end), HOST:PORT or
            ``ray://HOST:PORT``; RAY_ADDRESS when None, and ``local`` when that is not set.

    Raises:
        InputError: nothing answers there.
    """
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    check_address(address)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    # A job has the environment it was submitted with, and Ray refuses a second one.
    runtime_env = None if address == "local" or _INSIDE_A_JOB in os.environ else {"env_vars": ENVIRONMENT}
    try:
        ray.init(address=address, logging_level=logging.WARNING, runtime_env=runtime_env)
    except ConnectionError as error:
        raise InputError(f"no Ray cluster can be reached at {address!r}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def cluster_resources() -> dict[str, float]:
    """What all nodes of the connected cluster offer: CPU, GPU, memory (bytes) and more."""
    import ray

    total: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return total
