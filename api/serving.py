"""Starts the service in this process."""

from __future__ import annotations

import logging
import socket
from threading import Event
from types import FrameType

import uvicorn

from api.main import create_app
from api.settings import Settings
from cluster.jobs import check_cluster
from slicemamba.errors import InputError

SHUTDOWN_SECONDS = 5


def serve(settings: Settings, *, allow_remote: bool) -> None:
    """Serves until it is interrupted. The first line on standard output is ``serving on http://host:port``.

    Raises:
        InputError: the host is open to other machines, or Ray, the port or the database is not to be had.
    """
    if not settings.is_loopback and not allow_remote:
        raise InputError(
            f"host {settings.host} can be reached from other machines, and this service has no authentication yet; "
            "stay on 127.0.0.1 (with an SSH tunnel to it), or give --allow-remote where the network can be trusted"
        )
    check_cluster(settings.ray_address)
    app = create_app(settings)
    with _listen(settings.host, settings.port) as listener:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        config = uvicorn.Config(
            app, log_config=None, access_log=False, timeout_graceful_shutdown=SHUTDOWN_SECONDS, server_header=False
        )
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        print(f"serving on http://{host}:{listener.getsockname()[1]} (documentation at /docs)", flush=True)
        _Server(config, app.state.parts.closing).run(sockets=[listener])


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
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise InputError(
            f"cannot listen on {host} port {port} ({error.strerror or error}); choose another with --port"
        ) from None
