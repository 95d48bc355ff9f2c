from __future__ import annotations

from pathlib import Path

import pytest

from api.server.database import open_database
from api.server.settings import Settings
from slicemamba.errors import InputError


def test_variables_are_read_and_options_go_before() -> None:
    environ = {"SLICEMAMBA_PORT": "9000", "SLICEMAMBA_DATA": "/data", "SLICEMAMBA_URL": "x", "SLICEMAMBA_HOST": ""}
    settings = Settings.from_env(environ, port=9001, host=None)
    assert (settings.port, settings.data_root, settings.host) == (9001, Path("/data"), "127.0.0.1")
    assert not settings.tokens_required
    assert Settings(host="0.0.0.0").tokens_required
    assert Settings.from_env({"SLICEMAMBA_REQUIRE_TOKENS": "true"}).tokens_required
    assert settings.database.startswith("sqlite:////")


def test_bad_variable_is_named() -> None:
    with pytest.raises(InputError, match="/port"):
        Settings.from_env({"SLICEMAMBA_PORT": "many"})


@pytest.mark.parametrize("url", ["nonsense", "nodb://x", "sqlite:////proc/none/searches.db"])
def test_database_that_cannot_be_opened_is_told(url: str) -> None:
    with pytest.raises(InputError, match="database"):
        open_database(url)


@pytest.mark.parametrize(
    ("values", "dashboard"),
    [
        ({}, "http://127.0.0.1:8265"),
        ({"SLICEMAMBA_HOST": "0.0.0.0"}, None),
        ({"SLICEMAMBA_HOST": "0.0.0.0", "SLICEMAMBA_RAY_DASHBOARD": "https://ray.lab"}, "https://ray.lab"),
    ],
)
def test_rays_dashboard_is_linked_where_browsers_find_it(values: dict[str, str], dashboard: str | None) -> None:
    assert Settings.from_env(values).dashboard == dashboard
