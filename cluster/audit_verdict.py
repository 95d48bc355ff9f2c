"""The last part of an audit: the verdict from what was measured, and the checklist from the run."""

from __future__ import annotations

from typing import Any

from cluster.config import SearchJob
from cluster.costs import device_hours, phase_seconds
from cluster.run_folder import RunFolder
from cluster.studies import studies_of
from nas.audit import CheaperMember, Estimate, Evidence, judge
from nas.checklist import RunFacts, checklist
from nas.config import AuditConfig


def conclude(
    job: SearchJob, run: RunFolder, folder: RunFolder, settings: AuditConfig, audit: dict[str, Any]
) -> dict[str, Any]:
    """All of ``audit.json``.

    Args:
        folder: the audit's own. audit: what was measured, and the splits.
    """
    result = run.read_json("result.json") or {}
    searched = result.get("splits")
    changed = searched is not None and searched != audit["splits"]
    verdict = judge(evidence_of(audit, changed=changed))
    hours = _device_hours(job, run, folder)
    items = checklist(_facts(job, settings, audit, result, hours))
    return {
        "format": 1,
        "settings": settings.model_dump(mode="json"),
        "verdict": verdict.model_dump(mode="json"),
        **audit,
        "data_changed": changed,
        "device_hours": hours,
        "checklist": [item.model_dump() for item in items],
    }


def evidence_of(audit: dict[str, Any], *, changed: bool) -> Evidence:
    """What the rules ask for, from what the audit has measured."""
    comparison, ranking = audit["comparison"], audit["ranking"]["test"]
    volumes = {name: curve[-1] for name, curve in audit["random"]["hypervolume"].items() if curve}
    against = comparison["difference"]
    return Evidence(
        metric=audit["metric"],
        leaks=len(audit["leaks"]),
        data_changed=changed,
        num_test_images=audit["num_test_images"],
        num_test_patients=audit["num_test_patients"],
        trivial=Estimate(**audit["trivial"]["difference"]),
        benefit=None if against is None else Estimate(**against),
        retrain_seeds=comparison["retrain_seeds"],
        fixed_above=[size for size, one in comparison["fixed"].items() if one["value"] < 0],
        ranking=Estimate(**ranking["kendall"]),
        num_architectures=ranking["num_architectures"],
        search_volume=volumes["search"],
        margin=audit["cheaper"]["margin"],
        cheaper=[
            CheaperMember(
                number=row["number"],
                rival=audit["cheaper"]["rival"],
                difference=Estimate(**row["difference"]),
                seeds=row["seeds"],
                costs={name: (own, other) for name, (own, other) in row["costs"].items()},
            )
            for row in audit["cheaper"]["members"]
        ],
        random_volumes=[volume for name, volume in volumes.items() if name.startswith("random")],
    )


def _device_hours(job: SearchJob, run: RunFolder, folder: RunFolder) -> dict[str, float]:
    studies = dict(studies_of(run))
    of_audit = device_hours(job, folder, {"audit": studies.pop("audit")})
    own = device_hours(job, run, studies)
    # Several trainings may have run at once, so each is counted in its own folder.
    places = [RunFolder(path) for path in sorted((folder.path / "retrained").glob("*"))]
    own_seconds = sum(phase_seconds(place).get("retrain", 0.0) for place in places)
    of_audit["audit_retrain"] = own_seconds * job.resources.train.num_workers / 3600
    return own | {f"audit: {name.removeprefix('audit_')}": hours for name, hours in of_audit.items()}


def _facts(
    job: SearchJob, settings: AuditConfig, audit: dict[str, Any], result: dict[str, Any], hours: dict[str, float]
) -> RunFacts:
    environment = result.get("environment", {})
    packages = environment.get("packages", {})
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "ray") if name in packages)
    commit = environment.get("commit")
    space = job.search_space
    return RunFacts(
        code=f"slicemamba-nas {packages.get('slicemamba-nas', 'unknown')}" + (f", commit {commit}" if commit else ""),
        environment=f"{environment.get('platform', 'unknown')}, {versions}",
        searcher=job.search.searcher,
        num_trials=job.search.num_trials,
        num_choices=len(space.choices),
        num_blocks=space.num_blocks,
        space_size=space.size,
        seeds={"supernet": job.supernet.seed, "search": job.search.seed}
        | ({} if job.retrain is None else {"retrain": job.retrain.seed}),
        random_seeds=settings.random_seeds,
        retrain_seeds=settings.retrain_seeds,
        num_retrained=len(audit["retrained"]),
        device_hours=hours,
        disjoint=not audit["leaks"],
        baselines=["fixed slicing", "random search", "trivial predictions"],
    )
