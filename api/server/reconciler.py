"""The thread that makes searches go on: it compares database, run folder and Ray, and acts on the difference.

It keeps nothing in memory that decides anything, so that after a restart, or beside another process, it goes on with
what it finds.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from threading import Event, Thread
from typing import Protocol

from api.server.adoption import Adoption
from api.server.decisions import UNREACHABLE, Decision, Observation, decide
from api.server.models import Search, utc_now
from api.server.queue import UNKNOWN_SIZE, places
from api.server.service import SearchService
from api.server.settings import Settings
from api.server.specs import without_folder
from api.states import SearchState
from cluster.capacity import Node
from cluster.jobs import ClusterUnavailableError, JobRefusedError, JobState
from cluster.run_folder import RunFolder
from cluster.run_view import RunStatus
from slicemamba.text import finite

logger = logging.getLogger(__name__)

LOG_TAIL_LINES = 20
ASK_RAY_SECONDS = 30.0
"""How often Ray is asked for the job of a driver that gives signs of life, as its answer is shown and decides nothing,
and for those of a paused search, of which none was at work.
"""
ASK_SIZE_SECONDS = 60.0
PAUSE_SECONDS = 0.05  # between two searches of a round, which is stretched by half of its interval at most
_MAX_MOVES = 4  # from STARTING to the end are two; more would be a fault


class Jobs(Protocol):
    """What the service needs of Ray; ``cluster.jobs`` has it."""

    def check_cluster(self, address: str) -> None: ...
    def submit_run(self, address: str, submission_id: str, run_dir: Path) -> None: ...
    def job_state(self, address: str, submission_id: str) -> JobState | None: ...
    def stop_run(self, address: str, submission_id: str) -> None: ...
    def cluster_nodes(self, address: str) -> list[Node]: ...
    def job_logs(self, address: str, submission_id: str) -> str | None: ...


@dataclass
class _Asked:
    """When Ray was last asked for a search's job (by the monotonic clock), since when the search had been in its state,
    and the driver's last sign of life that was seen; None where no driver is at work."""

    at: float
    changed_at: datetime
    written_at: datetime | None = None


class Reconciler:
    """Looks after all searches that have not ended.

    Args:
        service: of the searches. jobs: of the cluster.
        settings: how often to look, and where Ray is.
        wake: makes it look at once.
        on_round: told ``done`` or ``failed`` after each round.
    """

    def __init__(
        self,
        service: SearchService,
        jobs: Jobs,
        settings: Settings,
        wake: Event,
        on_round: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._service = service
        self._jobs = jobs
        self._settings = settings
        self._wake = wake
        self._on_round = on_round
        self._adoption = Adoption(service, settings.runs_path, settings.stale_seconds)
        self._asked: dict[str, _Asked] = {}
        self._stopping = Event()
        self._listing_fault: str | None = None
        self._thread: Thread | None = None
        self._rounded_at = 0.0
        self._size, self._size_asked_at = UNKNOWN_SIZE, -math.inf
        self._cluster_down = False  # learnt once a round: each timeout would delay all other searches

    def start(self) -> None:
        self._stopping.clear()
        self._rounded_at = time.monotonic()
        self._thread = Thread(target=self._run, name="reconciler", daemon=True)
        self._thread.start()

    def seconds_since_round(self) -> float | None:
        """Since its thread last ended a round, or was started; None while it does not run."""
        return None if self._thread is None else time.monotonic() - self._rounded_at

    def stop(self) -> None:
        """Returns when the round in progress has ended."""
        self._stopping.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        self._service.remove_deleted()
        while not self._stopping.is_set():
            try:
                self.run_once()
                self._on_round("done")
            except Exception:  # the database is away; it may come back
                logger.exception("searches could not be listed")
                self._on_round("failed")
            self._rounded_at = time.monotonic()
            self._wake.wait(self._settings.reconcile_seconds)
            self._wake.clear()

    def run_once(self) -> None:
        """One round. A fault of one search is logged and does not keep the others from going on."""
        self._cluster_down = False
        self._adopt()
        self._service.admit(self._places())
        active = self._service.active()
        self._asked = {search.id: asked for search in active if (asked := self._asked.get(search.id)) is not None}
        at_work: list[tuple[Search, dict[str, object]]] = []
        for search in active:
            try:
                news = self._without_ray(search)
                if news is None:
                    self.reconcile(search)
                elif news:
                    at_work.append((search, news))
                else:
                    continue
            except Exception:
                logger.exception("could not reconcile %s", search.title)
            # Each takes some of the interpreter that requests want too: without a pause they would wait for all.
            self._stopping.wait(min(PAUSE_SECONDS, self._settings.reconcile_seconds / 2 / len(active)))
        self._service.note_all(at_work)

    def _places(self) -> int:
        """How many drivers may run at the same time; Ray is asked for the size of its cluster once in a while."""
        if self._settings.max_running is not None:
            return self._settings.max_running
        if time.monotonic() - self._size_asked_at >= ASK_SIZE_SECONDS:
            self._size = places(self._jobs.cluster_nodes(self._settings.ray_address))
            self._size_asked_at = time.monotonic()
        return self._size

    def _adopt(self) -> None:
        fault = None
        try:
            self._adoption.look()
        except OSError as error:  # the folder of runs is away; it may come back
            fault = str(error)
        if fault is not None and fault != self._listing_fault:  # once, not in every round
            logger.error("run folders could not be listed: %s", fault)
        self._listing_fault = fault

    def reconcile(self, seen: Search) -> None:
        """Takes one search as far as it goes right now, from what was seen of it: each change asks for just that."""
        search: Search | None = seen
        for _ in range(_MAX_MOVES):
            if search is None or SearchState(search.state).ended or self._act(search) != "move":
                return
            search = self._service.find(seen.id)

    def _act(self, search: Search) -> str:
        observed = self._look(search)
        decision = decide(observed, self._settings.stale_seconds)
        if decision.action == "submit":
            self._submit(search, observed)
        elif decision.action == "move":
            self._move(search, decision, observed)
        else:
            message = self._stop(observed) if decision.action == "stop" else None
            values = {"message": message or decision.message, **_columns(observed)}
            if search.state == SearchState.PAUSED and observed.reachable and decision.action == "wait":
                self._asked[search.id] = _Asked(time.monotonic(), search.changed_at)
                values["admitted"] = False
            self._service.note(search, **values)
        return decision.action

    def _stop(self, observed: Observation) -> str | None:
        """None, or why the job could not be asked to stop; it is asked again in the next round."""
        assert observed.job_id is not None  # it was seen
        try:
            self._jobs.stop_run(self._settings.ray_address, observed.job_id)
        except ClusterUnavailableError as error:
            self._on_unavailable(error)
            return UNREACHABLE
        return None

    def _without_ray(self, search: Search) -> dict[str, object] | None:
        """What is new of a search without asking Ray, which takes longest; None where it must be asked.

        A paused search at whose job nothing was at work rests, and a driver is at work that has written its status
        since the last look. Once in a while Ray is asked all the same, to have its own word to show.
        """
        now, asked = time.monotonic(), self._asked.get(search.id)
        if asked is not None and (now - asked.at >= ASK_RAY_SECONDS or asked.changed_at != search.changed_at):
            asked = None
        if search.state == SearchState.PAUSED:
            return None if asked is None else {}
        status = self._status(search) if search.state == SearchState.RUNNING else None
        if status is None or status.state != "RUNNING":
            return None
        if asked is None or asked.written_at == status.updated_at:
            self._asked[search.id] = _Asked(now, search.changed_at, status.updated_at)
            return None
        asked.written_at = status.updated_at
        recent = (utc_now() - status.updated_at).total_seconds() < self._settings.stale_seconds
        return {"message": None, **_progress(status)} if recent else None

    def _status(self, search: Search) -> RunStatus | None:
        """What the driver wrote last; None while that is what the attempt before has left."""
        status = self._service.folder_of(search).read_status()
        left = None if search.state == SearchState.QUEUED else search.left_attempt
        return None if status is not None and left is not None and status.attempt <= left else status

    def _look(self, search: Search) -> Observation:
        """Ray is asked first: when it says that the job has ended, the status read after that is the last one."""
        reachable, job_id, job = self._find_job(search)
        return Observation(
            state=SearchState(search.state),
            losses=search.losses,
            reachable=reachable,
            job=job,
            status=self._status(search),
            has_result=self._service.folder_of(search).result_path.exists(),
            now=utc_now(),
            changed_at=search.changed_at,
            job_id=job_id,
            admitted=search.admitted,
        )

    def _find_job(self, search: Search) -> tuple[bool, str | None, JobState | None]:
        """Whether Ray answers, and which job of the search it knows, the youngest that may matter."""
        for job_id in _jobs_to_follow(search):
            reachable, job = self._ask_ray(job_id)
            if job is not None or not reachable:
                return reachable, job_id, job
        return True, None, None

    def _ask_ray(self, job_id: str) -> tuple[bool, JobState | None]:
        if self._cluster_down:
            return False, None
        try:
            return True, self._jobs.job_state(self._settings.ray_address, job_id)
        except ClusterUnavailableError as error:
            self._on_unavailable(error)
            return False, None

    def _on_unavailable(self, error: ClusterUnavailableError) -> None:
        logger.warning("%s", error)
        self._cluster_down = True

    def _submit(self, search: Search, observed: Observation) -> None:
        """Repeatable at every point: the file is written whole, and a job that exists already counts as submitted."""
        if self._cluster_down:
            return self._service.note(search, message=UNREACHABLE)
        address, folder = self._settings.ray_address, self._service.folder_of(search)
        try:
            # A process that was killed before it could say so may have submitted it: then status and result may be the
            # job's own, and are left as they are.
            if self._jobs.job_state(address, search.job_id) is None:
                self._clear(search, observed, folder)
                self._jobs.submit_run(address, search.job_id, folder.path)
        except ClusterUnavailableError as error:
            self._on_unavailable(error)
            return self._service.note(search, message=UNREACHABLE)
        except JobRefusedError as error:
            self._service.move(search, SearchState.FAILED, error=f"the cluster refuses the job: {error}")
            return None
        if not self._service.move(search, SearchState.STARTING, f"submitted to Ray as {search.job_id}"):
            self._stop_if_cancelled(search)
        return None

    def _clear(self, search: Search, observed: Observation, folder: RunFolder) -> None:
        """Makes the folder ready for this attempt, and keeps in mind what the one before has left there."""
        folder.set_aside_result()  # it had succeeded, and goes on with more trials; with a result the driver would not
        folder.write_json(folder.config_path.name, search.spec)
        self._service.note(search, left_attempt=observed.status.attempt if observed.status else None)

    def _stop_if_cancelled(self, search: Search) -> None:
        """Another process may have seen no job and have moved the search on while this one submitted it."""
        now = self._service.find(search.id)
        if now is None or now.state in (SearchState.CANCELLING, SearchState.CANCELLED, SearchState.PAUSED):
            self._jobs.stop_run(self._settings.ray_address, search.job_id)

    def _move(self, search: Search, decision: Decision, observed: Observation) -> None:
        assert decision.to is not None
        values = _columns(observed)
        if decision.to is SearchState.QUEUED:
            values |= {"attempt": search.attempt + 1, "losses": search.losses + 1}
        if decision.error is not None:
            values["error"] = self._explain(search, decision)
        self._service.move(search, decision.to, decision.message, **values)
        logger.info("%s: %s -> %s", search.title, search.state, decision.to.value)

    def _explain(self, search: Search, decision: Decision) -> str | None:
        """The error, with the end of the driver's log where that is all there is to go by."""
        if not decision.with_log:
            data = search.spec.get("data") or {}
            return decision.error and without_folder(decision.error, data.get("name", ""), self._settings.data_root)
        try:
            log = self._jobs.job_logs(self._settings.ray_address, search.job_id) or ""
        except ClusterUnavailableError:
            log = ""
        tail = "\n".join(log.rstrip().splitlines()[-LOG_TAIL_LINES:])
        return (
            f"{decision.error}; the end of its log:\n{tail}" if tail else f"{decision.error}, and there is no log of it"
        )


def _jobs_to_follow(search: Search) -> list[str]:
    """Ids of the jobs that may be at work for a search, the youngest first.

    Somebody may pause, resume and cancel faster than this thread looks: then the attempt that counts was never
    submitted, and what has to stop is a job of an earlier one. So has a search in the queue, which waits for its end.
    """
    if search.state in (SearchState.STARTING, SearchState.RUNNING):
        return [search.job_id]
    newest = search.attempt - (search.state == SearchState.QUEUED)
    return [search.job_id_of(attempt) for attempt in range(newest, 0, -1)]


def _columns(observed: Observation) -> dict[str, object]:
    """What is copied to the row. Ray's status stays as it was while Ray cannot be asked."""
    columns: dict[str, object] = {}
    if observed.state is SearchState.QUEUED:
        return columns
    if observed.reachable:
        columns["job_status"] = observed.job.value if observed.job else None
    return columns if observed.status is None else columns | _progress(observed.status)


def _progress(status: RunStatus) -> dict[str, object]:
    return {
        "phase": status.phase,
        "progress": finite(status.model_dump(mode="json", include={"progress"})["progress"]),
    }
