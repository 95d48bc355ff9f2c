"""The dashboard: pages without a build step, with the plotly.js of the installed package, so it works offline."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"

# Plotly sets styles on what it draws; scripts come from this service alone, and nobody may frame the page.
POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def install(app: FastAPI) -> None:
    """Adds ``/`` and ``/static``."""

    @app.get("/static/plotly.min.js", include_in_schema=False)
    def plotly() -> FileResponse:
        path = Path(str(files("plotly") / "package_data" / "plotly.min.js"))
        return FileResponse(path, media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})

    @app.get("/", include_in_schema=False)
    def index() -> FileResponse:
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        return FileResponse(STATIC / "index.html", media_type="text/html; charset=utf-8", headers=headers)

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
