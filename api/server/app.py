"""The FastAPI app: its parts put together, nothing more. Imports neither torch nor Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from threading import Event
from typing import Any

from anyio import CapacityLimiter
from fastapi import Depends, FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.openapi.utils import get_openapi
from fastapi_offline import FastAPIOffline

from api.schemas import Problem
from api.server import dashboard, problems
from api.server.access import authorize
from api.server.database import open_database
from api.server.dependencies import AppContext
from api.server.eta import Etas
from api.server.feeds import Feeds
from api.server.follow_ups import FollowUps
from api.server.middleware import Gate
from api.server.rate_limit import RateLimit
from api.server.reconciler import Jobs, Reconciler
from api.server.routes import artifacts, health, searches, server, streams, trials
from api.server.routes import jobs as job_routes
from api.server.service import SearchService
from api.server.settings import Settings
from api.server.studies import Studies
from api.server.telemetry import Telemetry
from api.server.tokens import Tokens
from api.server.webhooks import Webhooks
from cluster import jobs as ray_jobs
from slicemamba import __version__

EVENTS_SECONDS = 0.5
LOGS_SECONDS = 2.0
"""Between two looks for what is new; Ray gives a log as a whole only."""
LOG_READERS = 10
DATA_CHECKERS = 8
DESCRIPTION = (
    "Submit a search over REST and get a Pareto frontier of slicings for your data set. "
    "Errors are problem+json (RFC 9457)."
)


REFUSED: dict[int | str, dict[str, Any]] = {
    401: {"model": Problem, "description": "No valid token, where one is needed"},
    403: {"model": Problem, "description": "The token's scope does not suffice"},
}


def create_app(settings: Settings, jobs: Jobs = ray_jobs) -> FastAPI:
    """The app with its database opened. Its reconciler runs from start-up to shut-down.

    Args:
        settings: of the service.
        jobs: how jobs reach Ray; another one for tests.

    Raises:
        InputError: the run database cannot be opened.
    """
    context = _assemble(settings, jobs)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        context.reconciler.start()
        context.webhooks.start()
        yield
        await run_in_threadpool(context.reconciler.stop)
        await run_in_threadpool(context.webhooks.stop)

    # Its pages bring their scripts along: a cluster is often cut off from the internet.
    app = FastAPIOffline(title="SliceMamba NAS", version=__version__, description=DESCRIPTION, lifespan=lifespan)
    app.state.context = context
    for module in (searches, trials, job_routes, artifacts, streams, server):
        app.include_router(module.router, dependencies=[Depends(authorize)], responses=REFUSED)
    app.include_router(health.router)
    dashboard.install(app)
    problems.install(app)
    app.add_middleware(Gate, telemetry=context.telemetry, local=settings.local, root_path=settings.root_path)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _assemble(settings: Settings, jobs: Jobs) -> AppContext:
    wake = Event()
    sessions = open_database(settings.database)
    service = SearchService(sessions, settings, wake)
    telemetry = Telemetry(service.count_by_state)
    reconciler = Reconciler(service, jobs, settings, wake, lambda outcome: telemetry.rounds.labels(outcome).inc())
    studies = Studies()
    closing = Event()
    return AppContext(
        settings=settings,
        service=service,
        tokens=Tokens(sessions),
        studies=studies,
        etas=Etas(service),
        follow_ups=FollowUps(service, studies),
        telemetry=telemetry,
        reconciler=reconciler,
        webhooks=Webhooks(sessions, settings),
        jobs=jobs,
        event_feeds=Feeds(EVENTS_SECONDS, closing),
        log_feeds=Feeds(LOGS_SECONDS, closing),
        writes=RateLimit(settings.writes_per_minute),
        log_readers=CapacityLimiter(LOG_READERS),
        data_checkers=CapacityLimiter(DATA_CHECKERS),
        closing=closing,
    )


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's document, with errors under the media type they are really sent with."""
    if app.openapi_schema is None:
        document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        for operation in (op for path in document["paths"].values() for op in path.values()):
            if "requestBody" in operation:
                refused = operation["responses"]["401"]
                operation["responses"]["400"] = {**refused, "description": "The body is not text"}
            for status, response in operation["responses"].items():
                content = response.get("content", {})
                if status[0] in "45" and content:  # FastAPI puts them under the type of the route's good answer
                    response["content"] = {problems.MEDIA_TYPE: next(iter(content.values()))}
        app.openapi_schema = document
    return app.openapi_schema
