"""The run database's schema, step by step (Alembic). ``upgrade`` brings a database to what the
tables of ``api.server.models`` expect.

A new step: change ``api.server.models`` and write ``versions/NNNN_what.py``; a test compares the two on each database.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, text

from slicemamba.errors import InputError

VERSION_TABLE = "slicemamba_version"
"""Not Alembic's usual name: Optuna's studies may be in the same database, and theirs has that one."""

_ADVISORY_LOCK = 7_351_904_118  # any number that nothing else in the database locks


def upgrade(engine: Engine) -> None:
    """Makes or upgrades the tables. Of several processes that start at once one does it, and the others wait.

    Raises:
        InputError: the database was written by a newer version of this package.
    """
    with _alone(engine), engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        config = make_config(connection)
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            newest = ScriptDirectory.from_config(config).get_current_head()
            raise InputError(
                f"the run database has a schema that this version does not know ({error}; newest known: {newest}); "
                "start the version that wrote it, or a newer one"
            ) from None


def make_config(connection: Connection) -> Config:
    """Alembic's configuration for one connection; there is no ``alembic.ini``."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    return config


@contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    """SQLite has no locks of its own that last over changes of the schema."""
    path = engine.url.database
    if engine.dialect.name != "sqlite" or not path or path == ":memory:":
        yield
        return
    with Path(f"{path}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
