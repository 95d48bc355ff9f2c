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

SANDBOX = {"Content-Security-Policy": "sandbox allow-scripts allow-downloads"}
"""Of pages of runs: their scripts run in a place of its own, from where neither service nor token can be reached."""


def install(app: FastAPI) -> None:
    """Adds ``/``, ``/static`` and ``/view``, where the dashboard shows pages of runs."""

    @app.get("/static/plotly.min.js", include_in_schema=False)
    def plotly() -> FileResponse:
        path = Path(str(files("plotly") / "package_data" / "plotly.min.js"))
        return FileResponse(path, media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})

    @app.get("/", include_in_schema=False)
    def index() -> FileResponse:
        headers = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        return FileResponse(STATIC / "index.html", media_type="text/html; charset=utf-8", headers=headers)

    @app.get("/view", include_in_schema=False)
    def view() -> FileResponse:
        return FileResponse(STATIC / "view.html", media_type="text/html; charset=utf-8", headers=SANDBOX)

    app.mount("/static", StaticFiles(directory=STATIC), name="static")
