"""What the service needs to know of its place: read from ``SLICEMAMBA_*`` variables, never from a request."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any

import httpx
from pydantic import AfterValidator, BeforeValidator, Field, PositiveFloat, PositiveInt, SecretStr, model_validator

from slicemamba.config import Config, validate

DEFAULT_RAY_ADDRESS = "http://127.0.0.1:8265"

SHORTEST_SECRET = 16
PREFIX = r"(?:/[A-Za-z0-9._~-]+)*"
"""Form of a path below which the service is shown: none, ``/nas``, ``/tools/nas``."""

VARIABLES = {
    "database_url": "SLICEMAMBA_DATABASE_URL",
    "runs_dir": "SLICEMAMBA_RUNS_DIR",
    "data_root": "SLICEMAMBA_DATA",
    "ray_address": "SLICEMAMBA_RAY_ADDRESS",
    "ray_dashboard": "SLICEMAMBA_RAY_DASHBOARD",
    "host": "SLICEMAMBA_HOST",
    "port": "SLICEMAMBA_PORT",
    "reconcile_seconds": "SLICEMAMBA_RECONCILE_SECONDS",
    "stale_seconds": "SLICEMAMBA_STALE_SECONDS",
    "require_tokens": "SLICEMAMBA_REQUIRE_TOKENS",
    "writes_per_minute": "SLICEMAMBA_WRITES_PER_MINUTE",
    "max_running": "SLICEMAMBA_MAX_RUNNING",
    "max_unfinished_per_token": "SLICEMAMBA_MAX_UNFINISHED_PER_TOKEN",
    "root_path": "SLICEMAMBA_ROOT_PATH",
    "webhooks": "SLICEMAMBA_WEBHOOKS",
    "webhook_secret": "SLICEMAMBA_WEBHOOK_SECRET",
}


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _check_address(value: str) -> str:
    try:
        url = httpx.URL(value)  # as it is read when it is told
        usable = url.scheme in ("http", "https") and url.host and (url.port or 0) < 1 << 16
    except (httpx.InvalidURL, ValueError):
        usable = False
    if not usable:
        raise ValueError(f"must be an address such as https://example.org/hook; got {value!r}")
    return value


_Address = Annotated[str, AfterValidator(_check_address)]


class Settings(Config):
    """Settings of one API process.

    Attributes:
        database_url: SQLAlchemy URL; null for a SQLite file in ``runs_dir``.
        runs_dir: holds a folder for each search; the cluster's head node must see it under the same path.
        data_root: folder of the data sets that requests may name; null for only the synthetic set.
        ray_address: address of the Ray job server.
        ray_dashboard: address of Ray's dashboard as browsers see it, for links; null: that of the job server if only
            this machine can reach the service, else none.
        host, port: where to listen; port 0 selects a free one.
        reconcile_seconds: time between two checks of the running searches.
        stale_seconds: a driver whose status is older, and whose Ray job is gone, counts as dead.
        require_tokens: whether requests need a token; null: yes, unless only this machine can reach the service.
        writes_per_minute: submissions and other changes per client; more are answered with 429.
        max_running: searches, retrainings and audits that run at the same time, the others wait in the queue; null:
            one for each GPU of the cluster, or for each four CPUs where it has none.
        max_unfinished_per_token: searches and jobs of one token that may wait or run; null: no limit.
        root_path: prefix, such as ``/nas``, under which a reverse proxy shows the service; a proxy may say it in the
            header ``X-Forwarded-Prefix`` instead.
        webhooks: addresses (http or https, with commas between) that are told of each search and job that SUCCEEDED or
            FAILED; none by default.
        webhook_secret: signs what they are told; at least 16 characters.
    """

    database_url: str | None = None
    runs_dir: Path = Path("runs")
    data_root: Path | None = None
    ray_address: str = DEFAULT_RAY_ADDRESS
    ray_dashboard: _Address | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    reconcile_seconds: PositiveFloat = 2.0
    stale_seconds: PositiveFloat = 60.0
    require_tokens: bool | None = None
    writes_per_minute: PositiveFloat = 600.0
    max_running: PositiveInt | None = None
    max_unfinished_per_token: PositiveInt | None = None
    root_path: Annotated[str, Field(pattern=f"^{PREFIX}$")] = ""
    webhooks: Annotated[tuple[_Address, ...], BeforeValidator(_split)] = ()
    webhook_secret: SecretStr | None = None

    @model_validator(mode="after")
    def _signed(self) -> Settings:
        if self.webhooks and self.webhook_secret is None:
            raise ValueError("webhooks need SLICEMAMBA_WEBHOOK_SECRET, by which those who are told know the sender")
        # Not a limit of the field, whose error would show what was given.
        if self.webhook_secret is not None and len(self.webhook_secret.get_secret_value()) < SHORTEST_SECRET:
            raise ValueError(f"SLICEMAMBA_WEBHOOK_SECRET must have at least {SHORTEST_SECRET} characters")
        return self

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None, **given: Any) -> Settings:
        """Reads the variables; what is ``given`` and not None goes before. Raises InputError that names the field."""
        environ = os.environ if environ is None else environ
        values: dict[str, Any] = {field: environ[name] for field, name in VARIABLES.items() if environ.get(name)}
        values |= {field: value for field, value in given.items() if value is not None}
        settings: Settings = validate(cls, values, source="the service's settings")
        return settings

    @cached_property
    def runs_path(self) -> Path:
        """``runs_dir`` made absolute: the driver is started in another folder."""
        return self.runs_dir.expanduser().resolve()

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.runs_path / 'searches.db'}"

    @property
    def dashboard(self) -> str | None:
        """Ray's, where browsers find it."""
        return self.ray_dashboard or (self.ray_address if is_loopback(self.host) else None)

    @property
    def tokens_required(self) -> bool:
        return not is_loopback(self.host) if self.require_tokens is None else self.require_tokens

    @property
    def local(self) -> bool:
        """Nobody is asked for a token, as only this machine can reach the service."""
        return self.require_tokens is None and not self.tokens_required


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is that of this machine alone."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
