"""What every request passes: ids, limits, safe headers, the log and the figures for Prometheus."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from service_helpers import BODY, Bench

from api.server.middleware import MAX_BODY_BYTES
from api.server.rate_limit import RateLimit
from api.server.tokens import Scope


def test_request_has_an_id_and_a_line_in_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "api.server.access"):
        own = bench.http.get("/v1/version", headers={"X-Request-ID": "my-1"})
        made = bench.http.get("/v1/searches/s-none", headers={"X-Request-ID": "bad id\x7f"})
    assert own.headers["X-Request-ID"] == "my-1"
    assert len(made.headers["X-Request-ID"]) == 32
    first, second = (json.loads(record.message) for record in caplog.records if record.name == "api.server.access")
    assert (first["request_id"], first["status"], first["path"]) == ("my-1", 200, "/v1/version")
    assert (second["request_id"], second["status"]) == (made.headers["X-Request-ID"], 404)


def test_answers_have_safe_headers_and_no_cors(bench: Bench) -> None:
    for path in ("/v1/version", "/docs", "/nothing"):
        answer = bench.http.get(path, headers={"Origin": "https://example.org"})
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_head_is_get_without_the_body(bench: Bench) -> None:
    for path in ("/healthz", "/", "/v1/searches"):
        asked, got = bench.http.head(path), bench.http.get(path)
        assert (asked.status_code, asked.content) == (200, b"")
        assert asked.headers["content-type"] == got.headers["content-type"]
    assert bench.http.head("/v1/searches/none").status_code == 404


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
    assert other.status_code == 429  # nobody has looked at what it says


def test_each_token_has_its_own_limit_however_it_is_written(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "runs", writes_per_minute=2, require_tokens=True)
    ada, eve = (bench.context.tokens.create(name, Scope.SUBMIT)[1] for name in ("Ada", "Eve"))
    written = [f"Bearer {ada}", f"bearer {ada}", f"BEARER   {ada}", f"Bearer {eve}", "Bearer other"]
    answers = [bench.http.post("/v1/searches", json=BODY, headers={"Authorization": text}) for text in written]
    assert [answer.status_code for answer in answers] == [202, 202, 429, 202, 401]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:8000"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:80", "Origin": "http://[::1]:80"}, 200),
        ({"Host": "localhost:1", "Origin": "https://localhost:1"}, 200),
        ({"Host": "rebound.example:8000"}, 403),
        ({"Host": "127.0.0.1.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Host": "127.0.0.1:8000", "Origin": "https://example.org"}, 403),
        ({"Host": "127.0.0.1:8000", "Origin": "http://127.0.0.1:9000"}, 403),
        ({"Host": "127.0.0.1:8000", "Origin": "null"}, 403),
    ],
)
def test_pages_of_other_sites_reach_nothing_where_nobody_is_asked_for_a_token(
    bench: Bench, tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    search_id = bench.submit()
    answer = bench.http.get("/v1/searches", headers=headers)
    assert answer.status_code == status
    assert status == 200 or "SLICEMAMBA_REQUIRE_TOKENS" in answer.json()["detail"]
    changed = bench.http.post(f"/v1/searches/{search_id}/cancel", headers=headers)
    assert (changed.status_code == 202) == (status == 200)
    for others in (Bench(tmp_path / "asks", require_tokens=True), Bench(tmp_path / "open", require_tokens=False)):
        assert others.http.get("/healthz", headers=headers).status_code == 200


def test_rate_limit_refills_with_time() -> None:
    limit = RateLimit(per_minute=2)
    assert [limit.seconds_to_wait("a", 0.0) for _ in range(3)] == [0, 0, 30]
    assert limit.seconds_to_wait("b", 0.0) == 0
    assert limit.seconds_to_wait("a", 15.0) == pytest.approx(15)
    assert limit.seconds_to_wait("a", 30.0) == 0
    assert [limit.seconds_to_wait("a", 1000.0) for _ in range(3)] == [0, 0, 30]


def test_less_than_one_request_a_minute_lets_one_pass_now_and_then() -> None:
    limit = RateLimit(per_minute=0.5)
    assert [limit.seconds_to_wait("a", 0.0) for _ in range(2)] == [0, 120]
    assert limit.seconds_to_wait("a", 60.0) == pytest.approx(60)
    assert [limit.seconds_to_wait("a", 500.0) for _ in range(2)] == [0, 120]


def test_figures_for_prometheus(bench: Bench) -> None:
    bench.submit()
    bench.running()
    bench.http.get("/v1/searches/s-none")
    for i in range(3):
        bench.http.request(f"X{i}", "/healthz")
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
    assert requests["other", "/healthz", "405"] == 3  # nor does what anybody makes up


@pytest.mark.parametrize("by_header", [True, False])
@pytest.mark.parametrize("cut", [True, False])
def test_service_below_a_prefix(tmp_path: Path, by_header: bool, cut: bool) -> None:
    """Behind a proxy that takes the prefix off, as nginx does for ``proxy_pass http://…/``, and one that does not."""
    bench = Bench(tmp_path / "runs", root_path="" if by_header else "/tools/nas")
    headers = {"X-Forwarded-Prefix": "/tools/nas/"} if by_header else {}
    below = "" if cut else "/tools/nas"
    made = bench.http.post(f"{below}/v1/searches", json=BODY, headers=headers)
    assert made.status_code == 202
    assert made.headers["Location"] == f"/tools/nas/v1/searches/{made.json()['id']}"
    assert bench.http.get(f"{below}/v1/searches", headers=headers).status_code == 200
    page = bench.http.get(f"{below}/", headers=headers)
    links = re.findall(r'(?:src|href)="([^"#]*)"', page.text)
    assert "static/main.js" in links
    for link in links:
        assert not link.startswith("/")  # from the folder of the page, wherever it is shown
        assert bench.http.get(f"{below}/{link}", headers=headers).status_code == 200, link
    refused = bench.http.put(f"{below}/v1/searches", headers=headers)
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, POST")
    assert "/tools/nas/openapi.json" in bench.http.get(f"{below}/docs", headers=headers).text


@pytest.mark.parametrize("prefix", ["//evil.example", "/a b", "nas", "/<b>", "/nas\r\nX: y"])
def test_prefix_of_another_form_is_passed_over(bench: Bench, prefix: str) -> None:
    made = bench.http.post("/v1/searches", json=BODY, headers={"X-Forwarded-Prefix": prefix.replace("\r\n", " ")})
    assert made.headers["Location"] == f"/v1/searches/{made.json()['id']}"
