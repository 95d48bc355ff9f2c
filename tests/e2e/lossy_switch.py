"""An Ethernet switch in a process of its own: it carries frames between tap devices, late, with losses, or not at all.

python lossy_switch.py HOST …  opens a tap for each host and prints their names as one JSON line. Each line that it then
reads is a JSON object with the conditions from now on: ``cut`` (pairs of hosts between which nothing passes), ``loss``
(share of the frames, drawn with a seed) and ``delay`` (seconds, one way). It ends with its input, and the taps with it.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import random
import select
import struct
import sys
import time
from itertools import count

_SET_INTERFACE = 0x400454CA  # TUNSETIFF
_TAP, _NO_PACKET_INFO = 0x0002, 0x1000
_LONGEST_FRAME = 1 << 16
_BURST = 64  # frames read from one tap before the others have their turn
_SEED = 0


def open_tap() -> tuple[int, str]:
    """A new tap of this process: its file descriptor and the name that the kernel gave it."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    answer = fcntl.ioctl(tap, _SET_INTERFACE, struct.pack("16sH22x", b"slmtap%d", _TAP | _NO_PACKET_INFO))
    return tap, answer[:16].rstrip(b"\0").decode()


class Switch:
    """Frames go where their address was last heard, others everywhere, as in any switch.

    Args:
        taps: file descriptors by host.
    """

    def __init__(self, taps: dict[str, int]) -> None:
        self._taps = taps
        self._heard: dict[bytes, str] = {}
        self._cut: set[frozenset[str]] = set()
        self._loss = self._delay = 0.0
        self._rng = random.Random(_SEED)
        self._under_way: list[tuple[float, int, str, bytes]] = []  # (due, order, host, frame)
        self._order = count()

    def set_conditions(self, line: str) -> None:
        conditions = json.loads(line)
        self._cut = {frozenset(pair) for pair in conditions["cut"]}
        self._loss, self._delay = conditions["loss"], conditions["delay"]

    def receive(self, host: str) -> None:
        for _ in range(_BURST):
            try:
                frame = os.read(self._taps[host], _LONGEST_FRAME)
            except OSError:  # no more for now, or its host is not set up yet
                return
            self._heard[frame[6:12]] = host
            known = self._heard.get(frame[:6])
            for target in [known] if known else self._taps:
                if target != host:
                    self._forward(frame, host, target)

    def _forward(self, frame: bytes, host: str, target: str) -> None:
        if frozenset((host, target)) in self._cut or self._rng.random() < self._loss:
            return
        heapq.heappush(self._under_way, (time.monotonic() + self._delay, next(self._order), target, frame))

    def deliver(self) -> float | None:
        """Hands over what is due; returns the seconds until there is more, None where nothing is under way."""
        while self._under_way:
            wait = self._under_way[0][0] - time.monotonic()
            if wait > 0:
                return wait
            _, _, target, frame = heapq.heappop(self._under_way)
            try:
                os.write(self._taps[target], frame)
            except OSError:  # its host has no room for it, or is gone: lost, as on any wire
                continue
        return None


def main() -> None:
    opened = {host: open_tap() for host in sys.argv[1:]}
    print(json.dumps({host: name for host, (_, name) in opened.items()}), flush=True)
    switch = Switch({host: tap for host, (tap, _) in opened.items()})
    hosts = {tap: host for host, (tap, _) in opened.items()}
    while True:
        readable, _, _ = select.select([sys.stdin, *hosts], [], [], switch.deliver())
        for source in readable:
            if source is not sys.stdin:
                switch.receive(hosts[source])
            elif line := sys.stdin.readline():
                switch.set_conditions(line)
            else:
                return


if __name__ == "__main__":
    main()
