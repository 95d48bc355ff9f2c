"""How many requests a client may make."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from threading import Lock

_MAX_CLIENTS = 10_000


@dataclass
class _Bucket:
    level: float
    filled_at: float


class RateLimit:
    """A token bucket a client: ``per_minute`` requests on average, as many at once (at least one) after silence."""

    def __init__(self, per_minute: float) -> None:
        self._per_minute = per_minute
        self._capacity = max(1.0, per_minute)  # less would let no request pass, however long it waits
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self._lock = Lock()

    def seconds_to_wait(self, client: str, now: float) -> float:
        """0 when the request may pass, which is counted; else in how many seconds one may."""
        with self._lock:
            bucket = self._buckets.setdefault(client, _Bucket(self._capacity, now))
            self._buckets.move_to_end(client)
            if len(self._buckets) > _MAX_CLIENTS:
                self._buckets.popitem(last=False)
            gained = (now - bucket.filled_at) * self._per_minute / 60
            bucket.level, bucket.filled_at = min(self._capacity, bucket.level + gained), now
            if bucket.level < 1:
                return (1 - bucket.level) * 60 / self._per_minute
            bucket.level -= 1
            return 0.0
