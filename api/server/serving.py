"""Starts the service in this process."""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from subprocess import Popen
from threading import Event, Thread
from types import FrameType
from urllib.parse import urlsplit

import uvicorn

from api.server.app import create_app
from api.server.connections import LimitedConnection, raise_file_limit
from api.server.settings import Settings, is_loopback
from cluster.jobs import check_cluster
from cluster.local import StartedHead, num_cores, ray_head
from slicemamba.errors import InputError

SHUTDOWN_SECONDS = 5
_LOOK_SECONDS = 3.0
KEEP_ALIVE_SECONDS = 60  # longer than dashboards wait between two looks, so that a look needs no new connection


def serve(settings: Settings, *, local: bool = False) -> None:
    """Serves until it is interrupted. The first line on standard output is ``serving on http://host:port``.

    Args:
        settings: of the service.
        local: starts a Ray head at ``ray_address`` on this machine where none answers, and stops that at the end;
            searches that were under way then go on when this is called again.

    Raises:
        InputError: tokens are needed and there is none, or Ray, the port, the database or the folder of data sets is
            not available.
        RunFailedError: the Ray that was started here has stopped.
    """
    if settings.data_root is not None and not settings.data_root.expanduser().is_dir():
        raise InputError(
            f"there is no folder {settings.data_root} with data sets (--data, SLICEMAMBA_DATA); create it, give "
            "another one, or leave it out to offer the synthetic set alone"
        )
    raise_file_limit()
    with (
        _listen(settings.host, settings.port) as listener,
        _ray_here(settings) if local else nullcontext() as head,
    ):
        check_cluster(settings.ray_address)
        app = create_app(settings)
        if settings.tokens_required and not app.state.context.tokens.any_active():
            raise InputError(
                f"requests to {settings.host} need a token, and there is none; create one with `slicemamba token "
                "create NAME --scope admin` and the same --runs-dir or --database-url, or stay on 127.0.0.1"
            )
        if head is not None:
            app.state.context.service.continue_all("Ray was stopped and started anew")
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        config = uvicorn.Config(
            app,
            http=LimitedConnection,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            server_header=False,
        )
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{host}:{listener.getsockname()[1]}"
        print(f"serving on {url} (documentation at /docs)", flush=True)
        if local:
            token = f" (asks for the token {head.environment['RAY_AUTH_TOKEN']})" if head is not None else ""
            print(f"Ray's dashboard: {settings.ray_address}{token}\nCtrl-C stops what was started here", flush=True)
            _open_page(f"{url}{settings.root_path}/")
        # What was imported stays, and need not be looked through again: each full collection, every ten seconds or so
        # under load, would halt all requests for more than 100 ms.
        gc.collect()
        gc.freeze()
        server = _Server(config, app.state.context.closing)
        if head is not None:
            Thread(target=server.end_with, args=(head.process,), daemon=True).start()
        server.run(sockets=[listener])
        if head is not None:
            head.check()


@contextmanager
def _ray_here(settings: Settings) -> Iterator[StartedHead | None]:
    """A Ray head on this machine, which is stopped at the end; None where somebody listens at its address already.

    Raises InputError: the address is that of another machine, or the head does not come up.
    """
    parts = urlsplit(settings.ray_address)
    host, port = parts.hostname, parts.port
    if parts.scheme != "http" or host is None or port is None or not is_loopback(host):
        raise InputError(
            "--local starts Ray on this machine, so --ray-address must look like http://127.0.0.1:8265; got "
            f"{settings.ray_address!r}; leave out --local to use the Ray of another machine"
        )
    if _is_taken(host, port):
        yield None
        return
    cores = num_cores()
    print(f"starting Ray on {cores} cores ...", file=sys.stderr, flush=True)
    with ray_head(num_cpus=cores, log=settings.runs_path / "ray.log", dashboard_port=port) as head:
        try:
            yield head
        finally:
            print("stopping Ray; searches under way continue at the next start ...", file=sys.stderr, flush=True)


def _is_taken(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=_LOOK_SECONDS).close()
    except OSError:
        return False
    return True


def _open_page(url: str) -> None:
    """Shows it to somebody who sits at a screen; a script and a login from afar get the address alone."""
    screen = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if screen and sys.stdout.isatty():
        webbrowser.open(url)


class _Server(uvicorn.Server):
    """Tells open streams that the server stops; uvicorn tells the app only after all connections are closed."""

    def __init__(self, config: uvicorn.Config, closing: Event) -> None:
        super().__init__(config)
        self._closing = closing

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._closing.set()
        super().handle_exit(sig, frame)

    def end_with(self, process: Popen[bytes]) -> None:
        """Stops when the process does."""
        process.wait()
        self._closing.set()
        self.should_exit = True


def _listen(host: str, port: int) -> socket.socket:
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host} port {port} ({error.strerror or error}); choose another with --port"
        ) from None
    # Connections inherit it. asyncio sets it only on sockets that were made for TCP by number, and without it the body
    # of an answer waits some 40 ms for the other side to acknowledge its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
