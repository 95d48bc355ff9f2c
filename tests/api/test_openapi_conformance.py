"""The service against its own OpenAPI document: requests made from it by schemathesis, sent in this process.

Half of them keep to the document and half break it. They go to searches of several states, with and without trials;
the stateful part follows ids from answers into further requests.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from service_helpers import Bench, write_study

from api.server.tokens import Scope
from cluster.jobs import JobState

pytestmark = pytest.mark.timeout(1800)

ROWS: list[dict[str, float] | None] = [{"dice": 0.5, "hd95": 4.0}, None, {"dice": 0.7, "hd95": 2.0}]


def _stored(bench: Bench) -> list[str]:
    """Ids of searches in all kinds of states; the first has all that an ended search can have."""
    ended = bench.succeeded()
    folder = bench.folder(ended)
    write_study(folder, ROWS)
    (folder.path / "report.html").write_text("<p>report</p>", encoding="utf-8")
    folder.write_json("audit.json", {"verdict": "sound", "gap": float("nan")})
    bench.jobs.logs[ended] = "one line\nanother\n"
    running, paused, failed, cancelled = (bench.running() for _ in range(4))
    write_study(bench.folder(running), ROWS[:1])
    bench.http.post(f"/v1/searches/{paused}/pause")
    bench.jobs.states[failed] = JobState.FAILED
    bench.http.post(f"/v1/searches/{cancelled}/cancel")
    bench.jobs.states[cancelled] = JobState.STOPPED
    bench.round()
    return [ended, running, paused, failed, cancelled, bench.submit()]


def _document(bench: Bench, known: list[str]) -> dict[str, Any]:
    """The service's document, in which ids are known ones: others have nothing but a 404.

    It is without keys, as one that is used again, as they mostly are here, makes of every body a 409.
    """
    document: dict[str, Any] = bench.http.get("/openapi.json").json()
    submit = document["paths"]["/v1/searches"]["post"]
    submit["parameters"] = [item for item in submit["parameters"] if item["name"] != "idempotency-key"]
    for path in document["paths"].values():
        for operation in path.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] == "search_id":
                    parameter["schema"] = {"type": "string", "enum": [*known, "s-unknown"]}
    return document


_OFF = {"enabled": False}
# Configurations are read as pydantic does: "5" and true are numbers too, as on a command line.
_LENIENT = re.compile(r"in body.*(Incorrect type|violates `type`)")


def _config(examples: int, steps: int, *, coverage: bool) -> SchemathesisConfig:
    """What the document cannot say may be refused with 422.

    Args:
        examples: of each operation. steps: of a walk from answer to answer.
        coverage: each value at and over its limits too, which are thousands for the body of a search.
    """
    accepted = ["2xx", "404", "409", "412", "422", "503"]
    return SchemathesisConfig.from_dict(
        {
            "seed": 20240710,
            "continue-on-failure": True,
            "request-timeout": 120,
            "generation": {"max-examples": examples, "deterministic": True, "no-shrink": True, "database": "none"},
            "phases": {"stateful": {"max-steps": steps}, "coverage": {"enabled": coverage}},
            "checks": {
                "positive_data_acceptance": {"expected-statuses": accepted},
                "ensure_resource_availability": _OFF,  # a new search has no result, report or audit yet, which is a 404
            },
            # To the router, GET …/validate asks for a search of that name, and 404 is right.
            "operations": [{"include-path": "/v1/searches/validate", "checks": {"unsupported_method": _OFF}}],
        }
    )


class Run:
    """What came of a run: cases by status code, and everything that was found wrong."""

    def __init__(self, bench: Bench, config: SchemathesisConfig) -> None:
        self.statuses: Counter[int] = Counter()
        self.operations: set[str] = set()
        self.faults: dict[str, str] = {}
        bench.context.closing.set()  # event streams of searches that go on end at once
        _, token = bench.context.tokens.create("schemathesis", Scope.ADMIN)
        bench.http.headers["Authorization"] = f"Bearer {token}"
        document = _document(bench, _stored(bench))
        config.projects.default.headers = {"Authorization": f"Bearer {token}"}
        schema = schemathesis.openapi.from_dict(document, config=config)
        schema.app = bench.app
        for event in from_schema(schema).execute():
            if isinstance(event, (events.NonFatalError, events.FatalError)):
                self.faults[f"error {event}"] = str(getattr(event, "value", None) or getattr(event, "exception", ""))
            if isinstance(event, (events.ScenarioFinished, events.FuzzScenarioFinished)):
                self._read(event.recorder)

    def _read(self, recorder: Any) -> None:
        for node in recorder.cases.values():
            self.operations.add(node.value.operation.label)
        for interaction in recorder.interactions.values():
            if interaction.response is not None:
                self.statuses[interaction.response.status_code] += 1
        for case_id, checks in recorder.checks.items():
            for check in checks:
                if check.failure_info is not None:
                    label = recorder.cases[case_id].value.operation.label
                    failure = check.failure_info.failure
                    if check.name == "negative_data_rejection" and _LENIENT.search(failure.message):
                        continue
                    title = f"{label}: {failure.title}"
                    self.faults.setdefault(title, f"{failure.message}\n{check.failure_info.code_sample}")


def _check(run: Run, least: int) -> None:
    assert not run.faults, "\n\n".join(f"{title}\n{text}" for title, text in run.faults.items())
    assert sum(run.statuses.values()) >= least
    assert {200, 422} <= set(run.statuses), run.statuses


def test_service_keeps_to_its_document(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    bench = Bench(tmp_path / "runs", require_tokens=True)
    _check(Run(bench, _config(examples=4, steps=3, coverage=False)), 60)


@pytest.mark.slow
def test_service_keeps_to_its_document_in_thousands_of_cases(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    bench = Bench(tmp_path / "runs", require_tokens=True)
    run = Run(bench, _config(examples=40, steps=6, coverage=True))
    print(f"{sum(run.statuses.values())} cases over {len(run.operations)} operations: {dict(run.statuses)}")
    _check(run, 1000)
    assert {200, 202, 404, 409, 422} <= set(run.statuses), run.statuses  # a deletion that succeeds is seldom drawn
