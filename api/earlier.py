"""Searches that ended on this service, as estimates need them."""

from __future__ import annotations

from collections.abc import Iterator

from api.estimate import Earlier, measured_rates, workers_of
from api.service import Filter, SearchService
from api.states import SearchState
from api.studies import Studies
from cluster.config import SearchJob, parse_job
from slicemamba.errors import InputError

MAX_SEARCHES = 20


def earlier_searches(service: SearchService, studies: Studies, wanted: SearchJob) -> Iterator[Earlier]:
    """The newest searches that have SUCCEEDED on such workers and tell how fast they went, newest first."""
    found, _ = service.page(Filter(states=[SearchState.SUCCEEDED]), MAX_SEARCHES)
    for search in found:
        try:
            job = parse_job(search.spec)
        except InputError:  # of a version with other options
            continue
        if not isinstance(job, SearchJob) or workers_of(job) != workers_of(wanted):
            continue
        rates = measured_rates(search, job, studies.trials(search.id, service.run_folder(search.id), "search"))
        if rates is not None:
            yield Earlier(search.id, job, rates)
