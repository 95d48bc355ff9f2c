"""Figures for Prometheus, at ``/metrics``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

from api.states import SearchState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Telemetry:
    """The figures of one app, in a registry of its own, so that several apps of a process do not mix.

    Args:
        searches_by_state: asked at each scrape, so that the figures are right beside other processes too.
    """

    def __init__(self, searches_by_state: Callable[[], Mapping[str, int]]) -> None:
        self._registry = CollectorRegistry()
        names = ["method", "route", "status"]
        self._requests = Counter("slicemamba_http_requests", "Requests answered.", names, registry=self._registry)
        self._seconds = Histogram(
            "slicemamba_http_request_seconds",
            "Time to answer a request.",
            ["method", "route"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.rounds = Counter(
            "slicemamba_reconciler_rounds", "Rounds of the reconciler, by how they went.", ["outcome"],
            registry=self._registry,
        )  # fmt: skip
        self._registry.register(_Searches(searches_by_state))

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    def render(self) -> bytes:
        """Prometheus's text format."""
        return generate_latest(self._registry)


class _Searches:
    def __init__(self, searches_by_state: Callable[[], Mapping[str, int]]) -> None:
        self._searches_by_state = searches_by_state

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily("slicemamba_searches", "Searches by state.", labels=["state"])
        found = self._searches_by_state()
        for state in SearchState:
            family.add_metric([state.value], found.get(state.value, 0))
        yield family
