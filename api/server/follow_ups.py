"""Jobs that follow a search: whether one can be started now, and what exactly it is to do.

Requests name trials and nothing else; where the weights of a trial lie is found here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from api.schemas import ExportRequest, FiguresRequest, RetrainRequest
from api.server.models import SEARCH, Search
from api.server.problems import conflict, not_found
from api.server.service import SearchService
from api.server.specs import check_finite
from api.server.studies import Studies
from api.states import SearchState
from cluster.config import RetrainJob, SearchJob, config_hash, parse_job
from cluster.follow_up import JOBS, AuditJob, ExportJob, FiguresJob, FollowUp
from cluster.run_folder import RunFolder
from nas.config import AuditConfig
from nas.study import Trial
from slicemamba.config import TrainConfig
from slicemamba.errors import InputError

Submitted = tuple[Search, bool]


class FollowUps:
    """Starts follow-up jobs. Each method answers with the job and whether it is new, as ``SearchService.submit`` does.

    All of them raise ProblemError: 404 for an unknown search or trial, 409 where what the job needs is not there yet,
    or the idempotency key was used for something else.
    """

    def __init__(self, service: SearchService, studies: Studies) -> None:
        self._service = service
        self._studies = studies

    def retrain(self, search_id: str, number: int, study: str, wanted: RetrainRequest, key: str | None) -> Submitted:
        """Trains the trial's slicing as the search trains its winner, but for what the request changes.

        Raises:
            InputError: the request's training options are not as they should be.
        """
        asked = _Asked("retrain", search_id, number, study, wanted.model_dump(mode="json", exclude_unset=True))
        if (found := self._service.repeated(key, asked.hash)) is not None:
            return found, False
        search, trial = self._find(search_id, number, study)
        job = self._retrain_job(search, trial, wanted)
        return self._submit(search, job, key, asked)

    def export(self, search_id: str, number: int, study: str, wanted: ExportRequest, key: str | None) -> Submitted:
        """Writes a bundle of the trial's network, which must have been trained: as the winner, or by ``retrain``."""
        asked = _Asked("export", search_id, number, study, wanted.model_dump(mode="json"))
        if (found := self._service.repeated(key, asked.hash)) is not None:
            return found, False
        search, trial = self._find(search_id, number, study)
        network = self._trained(search, trial.architecture)
        if network is None:
            raise conflict(
                f"trial {number} of study {study!r} of search {search_id} is not trained yet; train it with "
                f"POST /v1/searches/{search_id}/trials/{number}/retrain?study={study}, and export it when that has "
                "SUCCEEDED"
            )
        job = ExportJob(architecture=trial.architecture, network=network, format=wanted.format)
        return self._submit(search, job, key, asked)

    def figures(self, search_id: str, number: int, study: str, wanted: FiguresRequest, key: str | None) -> Submitted:
        """Draws what the trial predicts on the search split with the supernet's weights."""
        asked = _Asked("figures", search_id, number, study, wanted.model_dump(mode="json"))
        if (found := self._service.repeated(key, asked.hash)) is not None:
            return found, False
        search, trial = self._find(search_id, number, study)
        self._require_supernet(search)
        return self._submit(search, FiguresJob(architecture=trial.architecture, images=wanted.images), key, asked)

    def audit(self, search_id: str, wanted: AuditConfig, key: str | None) -> Submitted:
        """Audits a search that has SUCCEEDED; one of other settings than the last sets that one aside."""
        asked = _Asked("audit", search_id, None, None, wanted.model_dump(mode="json"))
        if (found := self._service.repeated(key, asked.hash)) is not None:
            return found, False
        return self._submit(self._service.get(search_id), AuditJob(audit=wanted), key, asked)

    def _submit(self, search: Search, job: FollowUp, key: str | None, asked: _Asked) -> Submitted:
        return self._service.submit_job(search, job, key, asked.hash, trial=asked.number, study=asked.study)

    def _find(self, search_id: str, number: int, study: str) -> tuple[Search, Trial]:
        search = self._service.get(search_id)
        trials = self._studies.view(search_id, self._service.run_folder(search_id), study).trials
        if number >= len(trials):
            self._require_folder(search)
            raise not_found(f"study {study!r} of search {search_id} has no trial {number}; it has {len(trials)} so far")
        return search, trials[number]

    def _retrain_job(self, search: Search, trial: Trial, wanted: RetrainRequest) -> RetrainJob:
        parent = parse_job(search.spec, source=f"search {search.id}")
        assert isinstance(parent, SearchJob)
        init = wanted.init if "init" in wanted.model_fields_set else parent.init
        if init == "supernet":
            self._require_supernet(search)
            init = self._service.run_folder(search.id).path / "supernet"
        base = parent.retrain or TrainConfig()
        values = {
            **parent.model_dump(mode="json", include={"name", "labels", "model", "resources", "data", "space"}),
            "kind": "retrain",
            "architecture": trial.architecture,
            "retrain": base.model_dump(mode="json") | wanted.retrain,
            "init": None if init is None else str(init),
        }
        job = parse_job(values, source="the request")
        assert isinstance(job, RetrainJob)
        check_finite(job)
        return job

    def _require_folder(self, search: Search) -> None:
        folder = self._service.run_folder(search.id)
        if SearchState(search.state).ended and not folder.config_path.exists():
            raise conflict(
                f"the files of search {search.id} are missing on this server; if runs are kept in a store, download "
                f"them with `slicemamba restore` on the server (run {search.id})"
            )

    def _require_supernet(self, search: Search) -> None:
        if not (self._service.run_folder(search.id).path / "supernet" / "config.json").exists():  # written last
            raise conflict(f"the supernet of search {search.id} is not trained yet; the search is {search.state}")

    def _trained(self, search: Search, architecture: str) -> str | None:
        """The folder of a network of this architecture, relative to the run folder: the latest retraining's first."""
        run = self._service.run_folder(search.id).path
        done = [job for job in self._service.jobs_of(search.id) if job.kind == "retrain"]
        ours = [f"{JOBS}/{job.id}/retrained" for job in done if job.state == SearchState.SUCCEEDED]
        others = sorted((path.name for path in run.glob("retrained*")), reverse=True)  # of former winners too
        return next((name for name in [*ours, *others] if _architecture_of(run / name) == architecture), None)


class _Asked:
    """What a request asks for; its hash tells a repeated request from another one with the same key."""

    def __init__(
        self, kind: str, search_id: str, number: int | None, study: str | None, body: Mapping[str, Any]
    ) -> None:
        self.number, self.study = number, study
        self.hash = config_hash({"kind": kind, SEARCH: search_id, "trial": number, "study": study, "body": dict(body)})


def _architecture_of(network: Path) -> str | None:
    """Of a saved network; None where there is none, or it is not written to its end."""
    try:
        card = RunFolder(network).read_json("config.json") or {}
    except (OSError, InputError):
        return None
    architecture: str | None = card.get("architecture")
    return architecture
