"""The audit of a finished search: what ``nas.audit`` needs is measured here, on Ray, and put together.

Each part keeps what it has: evaluations in the study ``audit``, counts beside the search's, each training in a folder
of its own. So an audit that was killed goes on, and nothing is evaluated or trained twice.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.attempts import check_no_audit, only_driver
from cluster.capacity import needs_of
from cluster.cluster_health import cluster_with_room
from cluster.config import SearchJob, differing_fields
from cluster.connect import check_can_search
from cluster.driver import open_study, with_proven_precision
from cluster.front import read_front
from cluster.report import finished_search, write_report
from cluster.run_folder import AUDIT, RunFolder
from cluster.run_view import RunStatus
from cluster.status import StatusWriter
from cluster.studies import studies_of
from nas.config import AuditConfig
from nas.pareto import hypervolume_curves
from nas.search import SearchSession
from nas.searchers import baseline_seed, make_searcher
from nas.searchers.listed import ListedSearcher
from nas.study import Trial, TrialState, loss_rows, pareto_front
from slicemamba.architecture import Architecture
from slicemamba.data.cache import default_cache_dir
from slicemamba.data.digests import digest_splits
from slicemamba.errors import InputError, RunFailedError


def run_audit(
    run: RunFolder,
    settings: AuditConfig,
    *,
    address: str | None = None,
    on_status: Callable[[RunStatus], None] | None = None,
) -> dict[str, Any]:
    """Audits a finished search; an audit of the same settings that was stopped goes on, a finished one is read.

    Args:
        run: the search's folder. settings: what to do. address: of the Ray cluster, as for ``ray_cluster``.
        on_status: called with each new status.

    Returns:
        What ``audit.json`` holds (docs/audit.md).

    Raises:
        InputError: no finished search, an audit of other settings, or images that changed since the audit.
    """
    check_can_search(address)
    job = finished_search(run)
    folder = RunFolder(run.path / AUDIT)
    _refuse_other_settings(folder, settings)
    cache_dir = default_cache_dir()
    with only_driver(folder), StatusWriter(folder, on_status):
        folder.emit("phase", phase="check")
        splits, leaks = digest_splits(job.data, cache_dir)
        done = run.read_json("audit.json")
        if done is not None and done["settings"] == settings.model_dump(mode="json"):
            if done["splits"] != splits:
                raise InputError(f"the images have changed since the audit; remove {folder.path} to repeat the audit")
            return done
        folder.write_json("config.json", settings.model_dump(mode="json"))
        needs = needs_of(job.resources, trains=True, searches=True)
        with cluster_with_room(address, needs, job.resources.wait_seconds, folder.warn):
            audit = _audit(job, run, folder, settings, cache_dir)
        audit |= {"splits": splits, "leaks": [list(pair) for pair in leaks]}
        return _conclude(job, run, folder, settings, audit)


def set_aside_other_audit(run: RunFolder, settings: AuditConfig) -> None:
    """Renames an audit of other settings to ``audit-1``, …, so that one of these begins; evaluations stay known."""
    folder = RunFolder(run.path / AUDIT)
    before = folder.read_json("config.json")
    if before is None or not differing_fields(before, settings.model_dump(mode="json")):
        return
    check_no_audit(run)
    run.set_aside_audit()


def _refuse_other_settings(folder: RunFolder, settings: AuditConfig) -> None:
    before = folder.read_json("config.json")
    fields = [] if before is None else differing_fields(before, settings.model_dump(mode="json"))
    if fields:
        raise InputError(
            f"{folder.path} holds an audit with other settings; give the same ones, or remove it to start over",
            details=fields,
        )


def _audit(job: SearchJob, run: RunFolder, folder: RunFolder, settings: AuditConfig, cache_dir: Path) -> dict[str, Any]:
    # Imported here, so that a fault in the input is told without waiting for torch.
    from cluster.audit_front import front_scores
    from cluster.audit_training import retrained_scores

    trials = studies_of(run, "search")["search"]
    plans = random_plans(job, settings.random_seeds)
    known = _evaluate_missing(job, run, folder, plans, cache_dir)
    measured = read_front(run)
    numbers = [] if measured is None else [member.number for member in measured.members]
    front = [trials[number] for number in numbers] or pareto_front(trials, job.search.objectives)
    return {
        "random": _against_random(job, trials, plans, known, settings),
        "front": front_scores(job, run, folder, front, settings.seed, cache_dir),
        **retrained_scores(job, run, folder, settings, front, known, cache_dir),
    }


def random_plans(job: SearchJob, num_seeds: int) -> list[list[Architecture]]:
    """What random search evaluates at the search's budget, for each seed; the first is the run's own baseline."""
    space, plans = job.search_space, []
    for index in range(num_seeds):
        seed = baseline_seed(job.search.seed, index)
        config = job.search.model_copy(update={"searcher": "random", "seed": seed})
        searcher = make_searcher(config, space)
        plan: dict[Architecture, None] = {}
        while len(plan) < config.num_trials:
            architecture = searcher.ask(plan.keys())
            assert architecture is not None  # random search awaits nothing
            plan[architecture] = None
        plans.append(list(plan))
    return plans


def _evaluate_missing(
    job: SearchJob, run: RunFolder, folder: RunFolder, plans: list[list[Architecture]], cache_dir: Path
) -> dict[str, Trial]:
    """Evaluates what is planned, and the fixed slicings, unless a study has it; all ended trials by architecture."""
    from cluster.ray_tune import search

    folder.emit("phase", phase="audit_search")
    space = job.search_space
    # One that racing gave up has no score of the whole split.
    known = [t for trials in studies_of(run, "random", "search").values() for t in trials if t.ended]
    elsewhere = {t.architecture: t for t in known if t.state is not TrialState.PRUNED}
    wanted = [*space.fixed(), *(one for plan in plans for one in plan)]
    # What an earlier start has written comes first and in its order, so that the session recognises it.
    listed = dict.fromkeys(Architecture.parse(trial.architecture) for trial in studies_of(run, AUDIT)[AUDIT])
    listed |= dict.fromkeys(one for one in wanted if str(one) not in elsewhere)
    study = open_study(run, AUDIT, space, job.search.objectives, AUDIT, job.search.constraints, driver=folder)
    session = SearchSession(study, ListedSearcher(list(listed)), origin=AUDIT, num_trials=len(listed))

    def show(trial: Trial | None = None) -> None:
        folder.emit(
            "progress", phase="audit_search", done=session.num_ended, total=len(listed), unit="trials", metrics={}
        )

    show()
    supernet = run.path / "supernet"
    settled = job.model_copy(update={"search": with_proven_precision(job, run, cache_dir, supernet)})
    search(settled, session, supernet, run, cache_dir, name=AUDIT, on_trial=show)
    return {t.architecture: t for t in study.trials() if t.ended} | elsewhere


def _against_random(
    job: SearchJob,
    trials: list[Trial],
    plans: list[list[Architecture]],
    known: dict[str, Trial],
    settings: AuditConfig,
) -> dict[str, Any]:
    """Hypervolume after each evaluation: the search, random search of each seed, and the fixed slicings' alone."""
    objectives = job.search.objectives
    in_order = sorted((trial for trial in trials if trial.ended), key=lambda trial: trial.ended_as or 0)
    curves = {"search": loss_rows(in_order, objectives)}
    for index, plan in enumerate(plans):
        curves[f"random {index}"] = loss_rows([known[str(one)] for one in plan], objectives)
    curves["fixed"] = loss_rows([known[str(one)] for one in job.search_space.fixed()], objectives)
    return {
        "seeds": [baseline_seed(job.search.seed, index) for index in range(settings.random_seeds)],
        "num_evaluations": job.search.num_trials,
        "hypervolume": hypervolume_curves(curves),
    }


def _conclude(
    job: SearchJob, run: RunFolder, folder: RunFolder, settings: AuditConfig, audit: dict[str, Any]
) -> dict[str, Any]:
    from cluster.audit_verdict import conclude

    if not audit["retrained"]:
        raise RunFailedError("no network could be trained for the audit")
    audit = conclude(job, run, folder, settings, audit)
    folder.check_attempt()
    run.write_json("audit.json", audit)
    write_report(run)
    return audit
