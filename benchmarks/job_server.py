"""A stand-in for Ray's job server: keeps jobs and starts none, so that the service can be tried by itself.

It answers the requests that ``cluster.jobs`` makes, over HTTP, as Ray does: a submission id is taken once, an unknown
one is 404. What a driver would do is left to ``on_submit``.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

_JOB = re.compile(r"/api/jobs/([^/]+)(?:/(stop|logs))?")


class JobServer:
    """The jobs of a cluster, outside the service that submits them.

    Attributes:
        address: of the running server.
        states: Ray's status of each job, by submission id.
        folders: run folder of each job. metadata: what was told of it.
        requests: how often each id was asked for, the refused repetitions included.
        on_submit: called in a thread of the server before a job is kept, and once more when it is, with whether it is;
            a ConnectionError that it raises leaves the request without an answer.
    """

    def __init__(self, on_submit: Callable[[str, bool], None] = lambda *_: None) -> None:
        self.address = ""
        self.states: dict[str, str] = {}
        self.folders: dict[str, Path] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self.requests: Counter[str] = Counter()
        self.on_submit = on_submit
        self._lock = Lock()

    @contextmanager
    def running(self) -> Iterator[JobServer]:
        """Serves on a free port of this machine until the block ends."""
        server = _Server(("127.0.0.1", 0), _Handler)
        server.jobs = self
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        self.address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def submit(self, job: dict[str, Any]) -> tuple[HTTPStatus, Any]:
        job_id = job["submission_id"]
        self.on_submit(job_id, False)
        with self._lock:
            self.requests[job_id] += 1
            if job_id in self.states:
                return HTTPStatus.INTERNAL_SERVER_ERROR, f"Job with submission_id {job_id} already exists."
            self.states[job_id] = "RUNNING"
            self.metadata[job_id] = job.get("metadata") or {}
            self.folders[job_id] = Path(shlex.split(job["entrypoint"])[-1])
        self.on_submit(job_id, True)
        return HTTPStatus.OK, {"job_id": job_id, "submission_id": job_id}

    def look(self, job_id: str) -> tuple[HTTPStatus, Any]:
        if job_id not in self.states:
            return HTTPStatus.NOT_FOUND, f"Job {job_id} does not exist"
        details = {"type": "SUBMISSION", "submission_id": job_id, "status": self.states[job_id], "entrypoint": "-"}
        return HTTPStatus.OK, details

    def stop(self, job_id: str) -> tuple[HTTPStatus, Any]:
        if job_id not in self.states:
            return HTTPStatus.NOT_FOUND, f"Job {job_id} does not exist"
        with self._lock:
            if self.states[job_id] == "RUNNING":
                self.states[job_id] = "STOPPED"
        return HTTPStatus.OK, {"stopped": True}

    def logs(self, job_id: str) -> tuple[HTTPStatus, Any]:
        if job_id not in self.states:
            return HTTPStatus.NOT_FOUND, f"Job {job_id} does not exist"
        return HTTPStatus.OK, {"logs": "".join(f"line {i}\n" for i in range(200))}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    jobs: JobServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # who asked was killed
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        if self.path == "/api/version":
            self._answer(HTTPStatus.OK, {"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""})
            return
        match = _JOB.fullmatch(self.path)
        if match is None:
            self._answer(HTTPStatus.NOT_FOUND, f"nothing at {self.path}")
        elif match[2] == "logs":
            self._answer(*self.server.jobs.logs(match[1]))
        else:
            self._answer(*self.server.jobs.look(match[1]))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        match = _JOB.fullmatch(self.path)
        if self.path == "/api/jobs/":
            self._answer(*self.server.jobs.submit(json.loads(body)))
        elif match is not None and match[2] == "stop":
            self._answer(*self.server.jobs.stop(match[1]))
        else:
            self._answer(HTTPStatus.NOT_FOUND, f"nothing at {self.path}")

    def _answer(self, status: HTTPStatus, content: Any) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass
