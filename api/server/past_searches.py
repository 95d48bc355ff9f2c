"""Searches that ended on this service, as estimates need them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from api.server.estimate import Earlier, measured_rates, workers_of
from api.server.service import Filter, SearchService
from api.states import SearchState
from cluster.config import SearchJob, parse_job
from cluster.run_view import Progress

MAX_SEARCHES = 20


def ended_searches(service: SearchService) -> Iterator[tuple[str, SearchJob, dict[str, Progress]]]:
    """The newest searches that have SUCCEEDED: id, job and progress by phase."""
    found, _ = service.page(Filter(states=[SearchState.SUCCEEDED]), MAX_SEARCHES, with_specs=True)
    for row in found:
        try:
            job, progress = parse_job(row.spec), read_progress(row.progress)
        except ValueError:  # of a version with other options
            continue
        if isinstance(job, SearchJob):
            yield row.id, job, progress


def read_progress(stored: Mapping[str, Any]) -> dict[str, Progress]:
    """A row's progress as its driver wrote it."""
    return {name: Progress.model_validate(values) for name, values in stored.items()}


def earlier_searches(service: SearchService, wanted: SearchJob) -> Iterator[Earlier]:
    """The newest searches that have SUCCEEDED on such workers and tell how fast they went, newest first."""
    for search_id, job, progress in ended_searches(service):
        rates = measured_rates(job, progress) if workers_of(job) == workers_of(wanted) else None
        if rates is not None:
            yield Earlier(search_id, job, rates)
