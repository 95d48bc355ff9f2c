"""Opens the run database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from api.server.migrations import upgrade
from slicemamba.errors import InputError

Sessions = sessionmaker[Session]

BUSY_TIMEOUT_MS = 10_000


def open_database(url: str) -> Sessions:
    """Connects, makes or upgrades the tables, and returns the maker of sessions.

    Raises:
        InputError: the URL is none, the database cannot be opened, or a newer version wrote it.
    """
    try:
        engine = _make_engine(url)
        upgrade(engine)
    except (ArgumentError, ImportError) as error:
        raise InputError(f"database_url must be an SQLAlchemy URL with its driver installed: {error}") from None
    except (OSError, SQLAlchemyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the run database cannot be opened: {reason}; check SLICEMAMBA_DATABASE_URL") from None
    return sessionmaker(engine, expire_on_commit=False)


def _make_engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, pool_pre_ping=True)
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(parsed)
    event.listen(engine, "connect", _prepare_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: object) -> None:
    """Readers do not wait for a writer (WAL), a second writer waits for the first, and foreign keys count."""
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", f"busy_timeout={BUSY_TIMEOUT_MS}", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
