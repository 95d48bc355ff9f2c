"""Access tokens: who gets in, who may do what, and what is kept of a secret."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from service_helpers import BODY, Bench, FakeJobs
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from api.cli import app
from api.server import serving
from api.server.database import open_database
from api.server.models import Token, utc_now
from api.server.routes import streams
from api.server.settings import Settings
from api.server.tokens import Scope, Tokens
from slicemamba.errors import InputError


@pytest.fixture
def guarded(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "runs", require_tokens=True)


def header(guarded: Bench, scope: Scope) -> dict[str, str]:
    return {"Authorization": f"Bearer {guarded.context.tokens.create('somebody', scope)[1]}"}


def test_request_without_a_valid_token_is_refused(guarded: Bench) -> None:
    valid = header(guarded, Scope.ADMIN)["Authorization"]
    for value in (
        None,
        "Bearer nonsense",
        "Basic abc",
        f"{valid}0",
        valid[:-1],
        "Bearer smt_00000000_",
        "Bearer smt__",
    ):
        response = guarded.http.get("/v1/searches", headers={"Authorization": value} if value else {})
        assert response.status_code == 401, value
        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert response.headers["Content-Type"] == "application/problem+json"
        assert "token" in response.json()["detail"]
    assert guarded.http.get("/v1/searches", headers={"Authorization": valid}).status_code == 200


def test_every_route_under_v1_needs_a_token_and_health_none(guarded: Bench) -> None:
    paths = guarded.app.openapi()["paths"]
    assert len(paths) > 15
    for path, operations in paths.items():
        for method in operations:
            response = guarded.http.request(method, path.replace("{search_id}", "s-1").replace("{number}", "0"))
            assert (response.status_code == 401) == path.startswith("/v1/"), (method, path)


@pytest.mark.parametrize(
    ("scope", "may"), [(Scope.READ, (200, 403, 403)), (Scope.SUBMIT, (200, 202, 403)), (Scope.ADMIN, (200, 202, 404))]
)
def test_scope_decides_what_may_be_done(guarded: Bench, scope: Scope, may: tuple[int, int, int]) -> None:
    headers = header(guarded, scope)
    got = (
        guarded.http.get("/v1/searches", headers=headers).status_code,
        guarded.http.post("/v1/searches", json=BODY, headers=headers).status_code,
        guarded.http.delete("/v1/searches/s-none", headers=headers).status_code,
    )
    assert got == may


def test_refusal_for_the_scope_says_which_one_is_needed(guarded: Bench) -> None:
    refused = guarded.http.post("/v1/searches", json=BODY, headers=header(guarded, Scope.READ)).json()
    assert "needs the scope 'submit'; this token has 'read'" in refused["detail"]


def test_revoked_token_is_refused_at_once(guarded: Bench) -> None:
    headers = header(guarded, Scope.READ)
    assert guarded.http.get("/v1/version", headers=headers).status_code == 200
    (row,) = guarded.context.tokens.list()
    guarded.context.tokens.revoke(row.id)
    assert guarded.http.get("/v1/version", headers=headers).status_code == 401
    assert not guarded.context.tokens.any_active()


@pytest.mark.parametrize("path", ["events", "logs?follow=true"])
def test_stream_ends_when_its_token_is_revoked(guarded: Bench, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = header(guarded, Scope.SUBMIT)
    search_id = guarded.http.post("/v1/searches", json=BODY, headers=headers).json()["id"]
    guarded.jobs.logs[search_id] = "one\n"
    guarded.folder(search_id).emit("phase", phase="search")
    is_valid = guarded.context.tokens.is_valid

    def revoke_and_go_on(token_id: str) -> bool:
        found = is_valid(token_id)
        guarded.context.tokens.revoke(token_id)
        guarded.folder(search_id).emit("phase", phase="retrain")
        guarded.jobs.logs[search_id] += "two\n"
        return found

    monkeypatch.setattr(guarded.context.tokens, "is_valid", revoke_and_go_on)
    monkeypatch.setattr(streams, "CHECK_TOKEN_SECONDS", 0.0)
    answer = guarded.http.get(f"/v1/searches/{search_id}/{path}", headers=headers)
    assert "event: end" not in answer.text
    assert answer.text.count("event: ") == 1


def test_secret_is_not_kept_and_use_is_noted(guarded: Bench) -> None:
    headers = header(guarded, Scope.READ)
    guarded.http.get("/v1/version", headers=headers)
    (row,) = guarded.context.tokens.list()
    assert row.used_at is not None
    assert utc_now() - row.used_at < timedelta(minutes=1)
    secret = headers["Authorization"].rpartition("_")[2]
    with create_engine(guarded.settings.database).connect() as connection:
        assert secret not in str(connection.execute(text("SELECT * FROM tokens")).all())


def test_revocation_is_not_undone_by_a_use_at_the_same_time(guarded: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    headers, note_use = header(guarded, Scope.READ), Tokens._note_use

    def revoke_first(tokens: Tokens, row: Token) -> None:
        tokens.revoke(row.id)
        note_use(tokens, row)

    with monkeypatch.context() as patch:
        patch.setattr(Tokens, "_note_use", revoke_first)
        guarded.http.get("/v1/version", headers=headers)
    assert guarded.http.get("/v1/version", headers=headers).status_code == 401


def test_use_that_cannot_be_noted_keeps_nobody_from_reading(guarded: Bench) -> None:
    headers = header(guarded, Scope.READ)

    def fail(_: Session) -> None:
        raise OperationalError("", {}, Exception("database or disk is full"))

    event.listen(Session, "before_commit", fail)
    try:
        assert guarded.http.get("/v1/searches", headers=headers).status_code == 200
    finally:
        event.remove(Session, "before_commit", fail)


def test_tokens_on_the_command_line(tmp_path: Path) -> None:
    where = ["--runs-dir", str(tmp_path)]
    runner = CliRunner()
    assert "no tokens in this run database" in runner.invoke(app, ["token", "list", *where]).stderr
    made = runner.invoke(app, ["token", "create", "Ada", "--scope", "read", *where])
    assert made.exit_code == 0
    text = made.stdout.strip().splitlines()[-1]
    tokens = Tokens(open_database(Settings(runs_dir=tmp_path).database))
    row = tokens.check(text)
    assert row is not None
    assert (row.name, row.scope) == ("Ada", "read")
    assert "Ada" in runner.invoke(app, ["token", "list", *where]).stdout
    assert runner.invoke(app, ["token", "revoke", row.id, *where]).exit_code == 0
    assert tokens.check(text) is None
    assert isinstance(runner.invoke(app, ["token", "revoke", "none", *where]).exception, InputError)
    refused = runner.invoke(app, ["token", "create", "Ada", "--scope", "root", *where]).exception
    assert "read, submit, admin; got 'root'" in str(refused)


def test_service_for_other_machines_does_not_start_without_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "check_cluster", FakeJobs().check_cluster)
    with pytest.raises(InputError, match="slicemamba token create"):
        serving.serve(Settings(runs_dir=tmp_path, host="0.0.0.0", port=0))


def test_expired_token_is_refused_by_name_and_opens_the_service_to_nobody(
    guarded: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = guarded.context.tokens
    row, secret = tokens.create("guest", Scope.READ, timedelta(days=1))
    headers = {"Authorization": f"Bearer {secret}"}
    assert guarded.http.get("/v1/searches", headers=headers).status_code == 200
    assert tokens.is_valid(row.id)
    later = utc_now() + timedelta(days=2)
    monkeypatch.setattr("api.server.models.utc_now", lambda: later)
    refused = guarded.http.get("/v1/searches", headers=headers)
    assert refused.status_code == 401
    assert f"has expired ({row.expires_at:%Y-%m-%d %H:%M} UTC)" in refused.json()["detail"]
    assert not tokens.is_valid(row.id), "a stream ends, too"
    assert tokens.any_active()


@pytest.mark.parametrize("days", ["0", "nan", "1e9"])
def test_lifetime_must_be_one(tmp_path: Path, days: str) -> None:
    done = CliRunner().invoke(app, ["token", "create", "x", "--days", days, "--runs-dir", str(tmp_path)])
    assert isinstance(done.exception, InputError)
    assert "--days must lie above 0" in str(done.exception)


def test_lifetime_is_told(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["token", "create", "x", "--days", "30", "--runs-dir", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "(submit) for x, until " in done.stderr
    assert "expires" in CliRunner().invoke(app, ["token", "list", "--runs-dir", str(tmp_path)]).output
