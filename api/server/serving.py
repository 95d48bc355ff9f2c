"""Starts the service in this process."""

from __future__ import annotations

import gc
import logging
import socket
from threading import Event
from types import FrameType

import uvicorn

from api.server.app import create_app
from api.server.settings import Settings
from cluster.jobs import check_cluster
from slicemamba.errors import InputError

SHUTDOWN_SECONDS = 5
KEEP_ALIVE_SECONDS = 60  # longer than dashboards wait between two looks, so that a look needs no new connection


def serve(settings: Settings) -> None:
    """Serves until it is interrupted. The first line on standard output is ``serving on http://host:port``.

    Raises:
        InputError: tokens are needed and there is none, or Ray, the port or the database is not available.
    """
    check_cluster(settings.ray_address)
    app = create_app(settings)
    if settings.tokens_required and not app.state.context.tokens.any_active():
        raise InputError(
            f"requests to {settings.host} need a token, and there is none; create one with `slicemamba token create "
            "NAME --scope admin` and the same --runs-dir or --database-url, or stay on 127.0.0.1"
        )
    with _listen(settings.host, settings.port) as listener:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            server_header=False,
        )
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        print(f"serving on http://{host}:{listener.getsockname()[1]} (documentation at /docs)", flush=True)
        # What was imported stays, and need not be looked through again: each full collection, every ten seconds or so
        # under load, would halt all requests for more than 100 ms.
        gc.collect()
        gc.freeze()
        _Server(config, app.state.context.closing).run(sockets=[listener])


class _Server(uvicorn.Server):
    """Tells open streams that the server stops; uvicorn tells the app only after all connections are closed."""

    def __init__(self, config: uvicorn.Config, closing: Event) -> None:
        super().__init__(config)
        self._closing = closing

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._closing.set()
        super().handle_exit(sig, frame)


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
