"""The service below a prefix behind a real nginx with TLS, by the configuration that docs/deployment.md shows."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import httpx
import pytest
from service_helpers import BODY, Bench, serving

from api.client import Client
from api.server.tokens import Scope
from cluster.local import free_ports

PAGE = Path(__file__).parents[2] / "docs" / "deployment.md"
MAIN = """\
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log off;
    include /etc/nginx/mime.types;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {server}
}}
"""


@dataclass
class Place:
    """The service as it is seen from outside; ``http`` sends a token that may do all."""

    url: str
    bench: Bench
    http: httpx.Client
    token: str
    trust: ssl.SSLContext


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    for program in ("nginx", "openssl"):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}; install the package {program}")
    folder = tmp_path_factory.mktemp("nginx")
    bench = Bench(folder / "runs", require_tokens=True)
    token = bench.context.tokens.create("Ada", Scope.ADMIN)[1]
    with serving(bench) as behind, running_nginx(folder, behind) as (url, trust):
        headers = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=url, headers=headers, verify=trust, trust_env=False, timeout=60) as http:
            yield Place(url, bench, http, token, trust)


@contextmanager
def running_nginx(folder: Path, behind: str) -> Iterator[tuple[str, ssl.SSLContext]]:
    """nginx before the service at ``behind``; yields where the service is then found, and whom to trust there."""
    make_certificate(folder)
    port = free_ports(1)[0]
    (folder / "nginx.conf").write_text(MAIN.format(folder=folder, server=shown_server(folder, port, behind)))
    process = subprocess.Popen(["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"])
    try:
        url, trust = f"https://localhost:{port}/nas", ssl.create_default_context(cafile=folder / "fullchain.pem")
        wait_until_it_answers(process, url, trust)
        yield url, trust
    finally:
        process.terminate()
        process.wait(30)


def make_certificate(folder: Path) -> None:
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(folder / "privkey.pem"), "-out", str(folder / "fullchain.pem")]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files]
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def shown_server(folder: Path, port: int, behind: str) -> str:
    """The page's block, with its port, its certificate and the service's address replaced by those of the test."""
    found = re.search(r"^```nginx\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    text = found[1]
    for shown, own in (
        ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
        ("/etc/nginx/tls", str(folder)),
        ("http://127.0.0.1:8000", behind),
    ):
        assert shown in text, shown
        text = text.replace(shown, own)
    return text


def wait_until_it_answers(process: subprocess.Popen[bytes], url: str, trust: ssl.SSLContext) -> None:
    for _ in range(600):
        assert process.poll() is None, "nginx has ended; its messages are above"
        try:
            httpx.get(f"{url}/healthz", verify=trust, trust_env=False).raise_for_status()
        except httpx.ConnectError:
            Event().wait(0.05)
        else:
            return
    raise AssertionError("nginx does not listen")


def test_page_and_all_that_it_loads_lie_below_the_prefix(place: Place) -> None:
    asked = place.http.get(place.url)  # without the last slash
    assert (asked.status_code, asked.headers["Location"]) == (301, f"{place.url}/")
    page = place.http.get("/")
    assert page.headers["Content-Type"].startswith("text/html")
    todo, seen = set(re.findall(r'(?:src|href)="([^"#]+)"', page.text)), set[str]()
    while todo - seen:
        link = (todo - seen).pop()
        seen.add(link)
        answer = place.http.get(f"/{link}")
        assert answer.status_code == 200, link
        if link.endswith(".js") and "plotly" not in link:
            todo |= {f"static/{name}" for name in re.findall(r'from "\./([\w.]+)"', answer.text)}
    assert {"static/main.js", "static/api.js", "static/style.css"} <= seen


def test_locations_and_documents_carry_the_prefix(place: Place) -> None:
    made = place.http.post("/v1/searches", json=BODY)
    assert (made.status_code, made.headers["Location"]) == (202, f"/nas/v1/searches/{made.json()['id']}")
    moved = place.http.get("/v1/searches/")
    assert (moved.status_code, moved.headers["Location"]) == (307, f"{place.url}/v1/searches")
    assert "/nas/openapi.json" in place.http.get("/docs").text
    document = place.http.get("/openapi.json").json()
    assert document["servers"] == [{"url": "/nas"}]
    assert "/v1/searches" in document["paths"]


def test_head_is_answered_and_nobody_comes_in_without_a_token(place: Place) -> None:
    for path in ("/", "/healthz", "/v1/searches", "/static/main.js"):
        answer = place.http.head(path)
        assert (answer.status_code, answer.content) == (200, b""), path
    answer = place.http.get("/v1/searches", headers={"Authorization": ""})
    assert (answer.status_code, answer.headers["Content-Type"]) == (401, "application/problem+json")


def test_client_gets_events_as_they_come(place: Place) -> None:
    search_id = place.bench.context.service.get(place.http.post("/v1/searches", json=BODY).json()["id"]).id
    folder = place.bench.folder(search_id)
    transport = httpx.HTTPTransport(verify=place.trust)
    with Client(place.url, token=place.token, transport=transport) as client:
        events = client.events(search_id)
        for number in range(3):  # each is written only when the one before has come
            folder.emit("trial", number=number)
            assert next(events).data["number"] == number


def test_service_that_asks_for_no_token_is_not_open_to_those_behind_the_proxy(tmp_path: Path, place: Place) -> None:
    """It listens on this machine alone, and a request that nginx passes on seems to come from it."""
    folder = tmp_path / "open"
    folder.mkdir()
    with serving(Bench(folder / "runs")) as behind, running_nginx(folder, behind) as (url, trust):
        answer = httpx.get(f"{url}/v1/searches", headers={"Host": "nas.example.org"}, verify=trust, trust_env=False)
    assert answer.status_code == 403
    assert "SLICEMAMBA_REQUIRE_TOKENS" in answer.json()["detail"]
