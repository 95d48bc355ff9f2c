"""The trials of a run, read only."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.run_folder import STUDY_KINDS, RunFolder
from nas.retries import DatabaseRetries
from nas.study import Trial, find_trials, open_storage

Studies = Mapping[str, list[Trial]]
"""Trials by kind of study."""


def studies_of(run: RunFolder, *kinds: str) -> Studies:
    """The trials of a run's studies of these kinds, of all where none is given; none of a study that does not exist.

    Raises:
        RunFailedError: the studies' database is away, and has not come back in two minutes.
    """

    def read() -> Studies:
        storage = open_storage(run.study_location)
        return {kind: find_trials(storage, run.study_name(kind)) for kind in kinds or STUDY_KINDS}

    return DatabaseRetries(run.warn)(read)
