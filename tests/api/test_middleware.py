"""What every request passes: ids, limits, safe headers, the log and the figures for Prometheus."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from service_helpers import BODY, Bench

from api.middleware import MAX_BODY_BYTES, RateLimit


def test_request_has_an_id_and_a_line_in_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "api.access"):
        own = bench.http.get("/v1/version", headers={"X-Request-ID": "my-1"})
        made = bench.http.get("/v1/searches/s-none", headers={"X-Request-ID": "bad id\x7f"})
    assert own.headers["X-Request-ID"] == "my-1"
    assert len(made.headers["X-Request-ID"]) == 32
    first, second = (json.loads(record.message) for record in caplog.records if record.name == "api.access")
    assert (first["request_id"], first["status"], first["path"]) == ("my-1", 200, "/v1/version")
    assert (second["request_id"], second["status"]) == (made.headers["X-Request-ID"], 404)


def test_answers_have_safe_headers_and_no_cors(bench: Bench) -> None:
    for path in ("/v1/version", "/docs", "/nothing"):
        answer = bench.http.get(path, headers={"Origin": "https://example.org"})
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize("in_pieces", [False, True])
def test_body_over_the_limit_is_refused(bench: Bench, in_pieces: bool) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 1000 + 2):
            yield b" " * 1000

    content = pieces() if in_pieces else b" " * (MAX_BODY_BYTES + 1)
    answer = bench.http.post("/v1/searches", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert str(MAX_BODY_BYTES) in answer.json()["detail"]


def test_changes_are_limited_and_reads_are_not(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "runs", writes_per_minute=3)
    assert [bench.http.post("/v1/searches", json=BODY).status_code for _ in range(4)] == [202, 202, 202, 429]
    refused = bench.http.post("/v1/searches", json=BODY)
    assert 1 <= int(refused.headers["Retry-After"]) <= 21
    assert "try again in" in refused.json()["detail"]
    assert all(bench.http.get("/v1/searches").status_code == 200 for _ in range(10))
    other = bench.http.post("/v1/searches", json=BODY, headers={"Authorization": "Bearer other"})
    assert other.status_code == 202


def test_rate_limit_refills_with_time() -> None:
    limit = RateLimit(per_minute=2)
    assert [limit.seconds_to_wait("a", 0.0) for _ in range(3)] == [0, 0, 30]
    assert limit.seconds_to_wait("b", 0.0) == 0
    assert limit.seconds_to_wait("a", 15.0) == pytest.approx(15)
    assert limit.seconds_to_wait("a", 30.0) == 0
    assert [limit.seconds_to_wait("a", 1000.0) for _ in range(3)] == [0, 0, 30]


def test_figures_for_prometheus(bench: Bench) -> None:
    bench.submit()
    bench.running()
    bench.http.get("/v1/searches/s-none")
    families = {f.name: f for f in text_string_to_metric_families(bench.http.get("/metrics").text)}
    searches = {sample.labels["state"]: sample.value for sample in families["slicemamba_searches"].samples}
    assert (searches["STARTING"], searches["RUNNING"], searches["FAILED"]) == (1, 1, 0)
    requests = {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"]): sample.value
        for sample in families["slicemamba_http_requests"].samples
        if sample.name.endswith("_total")
    }
    assert requests["POST", "/v1/searches", "202"] == 2
    assert requests["GET", "/v1/searches/{search_id}", "404"] == 1  # by route, so that ids make no series of their own
