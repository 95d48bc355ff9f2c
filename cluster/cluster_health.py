"""What a driver tells of its cluster while it works: that its head is gone, that nodes are missing, that all is well.

Ray itself waits for nodes without an end and a word. For a head it waits a minute and then ends the process at once,
but only where the head's machine refuses connections; where the network swallows them, it waits without an end. Then
the process is ended here, after the same time: by then Ray has given its node up and the service has put another driver
in its place, which waits for this one to be silent.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from cluster.capacity import Need, live_nodes, wait_for_room
from cluster.connect import ENVIRONMENT, NO_RAY, ray_cluster, seconds_without_head
from slicemamba.errors import RunFailedError

_LOOK_SECONDS = 5.0
_ANSWER_SECONDS = 3.0
_LOOKS = 2
"""How often in a row something has to be seen before it is told; a restarted worker is no missing node."""


@contextmanager
def cluster_with_room(
    address: str | None, needs: Sequence[Need], wait_seconds: float, tell: Callable[[str], None]
) -> Iterator[None]:
    """``ray_cluster`` with room for the workers, waited for or refused, and watched for the time of a block.

    Args:
        address: NO_RAY for none, here or in RAY_ADDRESS; then this machine has to have the room.
        address, needs, wait_seconds, tell: as of ``ray_cluster``, ``wait_for_room`` and ``watched``, which also say
            what is raised.
    """
    if (address or os.environ.get("RAY_ADDRESS")) == NO_RAY:
        os.environ.setdefault("OMP_WAIT_POLICY", ENVIRONMENT["OMP_WAIT_POLICY"])  # before torch is loaded
        wait_for_room(needs, 0, True, tell)
        yield
        return
    with ray_cluster(address) as own:
        wait_for_room(needs, wait_seconds, own, tell)
        with watched(needs, tell):
            yield


@contextmanager
def watched(needs: Sequence[Need], tell: Callable[[str], None]) -> Iterator[None]:
    """Watches the connected cluster for the time of a block.

    Args:
        needs: workers that the nodes must hold. tell: called, in a thread, when something becomes wrong or well again.
    """
    import ray
    from ray.util.client import ray as client

    stop = threading.Event()
    by_client = client.is_connected()  # type: ignore[no-untyped-call]
    head = None if by_client else ray.get_runtime_context().gcs_address
    look = _Look(head, needs)
    thread = threading.Thread(target=_watch, args=(look, tell, stop, _end_process), name="cluster", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_ANSWER_SECONDS)


def _watch(
    look: Callable[[], str | None],
    tell: Callable[[str], None],
    stop: threading.Event,
    end: Callable[[str], None],
) -> None:
    told, last, times = None, None, 0
    while not stop.wait(_LOOK_SECONDS):
        try:
            seen = look()
        except HeadLostError as error:
            end(str(error))
            return
        except Exception:  # the head has gone in the middle of it, or the client's connection: nothing was seen
            continue
        times = times + 1 if seen == last else 1
        last = seen
        if times >= _LOOKS and seen != told:
            with contextlib.suppress(OSError, RunFailedError):  # a full disk, or a successor: the driver finds out too
                tell(seen or "the cluster is complete again")
            told = seen


class HeadLostError(Exception):
    """Ray's head has been away for longer than a driver may be without it."""


class _Look:
    """What is wrong with the cluster at the moment; None where nothing is."""

    def __init__(self, head: str | None, needs: Sequence[Need]) -> None:
        self._head = head  # None by way of ray://, whose client tells by itself what has become of it
        self._needs = needs
        self._silent_since: float | None = None
        self._patience_seconds = seconds_without_head()

    def __call__(self) -> str | None:
        """Raises HeadLostError."""
        if self._head is not None and not _answers(self._head):
            return self._without_head()
        self._silent_since = None
        nodes = live_nodes()
        missing = [sentence for need in self._needs if (sentence := need.shortage(nodes)) is not None]
        return f"nodes have left, and the run waits for new ones: {'; '.join(missing)}" if missing else None

    def _without_head(self) -> str:
        """From the first look on that found it silent: before that this process itself may have stood still."""
        now = time.monotonic()
        self._silent_since = now if self._silent_since is None else self._silent_since
        if now - self._silent_since > self._patience_seconds:
            raise HeadLostError(
                f"Ray's head at {self._head} has not answered for {self._patience_seconds:g} s, so this driver ends. "
                "When the head can be reached, start the run again: it continues from here"
            )
        return (
            f"Ray's head at {self._head} does not answer; this driver ends about a minute after its head. "
            "Restart the head, then the run: it continues from here"
        )


def _end_process(reason: str) -> None:
    """At once, as Ray does it, and without a last word in the run: the main thread hangs in a call to the head."""
    print(f"error: {reason}", file=sys.stderr, flush=True)
    os._exit(1)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except OSError:
        return False
    return True
