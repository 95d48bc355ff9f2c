"""Access tokens: made and revoked on the server, hashed at rest, each with one scope.

A token is ``smt_<id>_<secret>``. The id finds the row, so nothing is searched by hash; the secret is 256 random bits,
for which one SHA-256 is as good as a slow hash.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum

from sqlalchemy import select, update
from sqlalchemy.exc import SQLAlchemyError

from api.server.database import Sessions
from api.server.models import Token, utc_now
from slicemamba.errors import InputError

logger = logging.getLogger(__name__)

_PREFIX = "smt"
_USED_EVERY = timedelta(minutes=1)  # a row is not written with every request


class Scope(StrEnum):
    """What a token's holder may do; each includes those before it.

    ``read`` sees everything, ``submit`` starts, stops and extends searches, ``admin`` deletes them.
    """

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"

    def includes(self, other: Scope) -> bool:
        order = list(Scope)
        return order.index(self) >= order.index(other)


class Tokens:
    """Tokens in the run database."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def create(self, name: str, scope: Scope, lifetime: timedelta | None = None) -> tuple[Token, str]:
        """Makes a token, for ever or for a time. Returns its row, and its text, which cannot be had again."""
        if not 0 < len(name) <= 100:
            raise InputError(f"a token's name must have 1 to 100 characters; got {len(name)}")
        secret, now = secrets.token_hex(32), utc_now()
        row = Token(
            id=secrets.token_hex(4),
            name=name,
            scope=scope.value,
            secret_hash=_hash(secret),
            created_at=now,
            expires_at=None if lifetime is None else now + lifetime,
        )
        with self._sessions.begin() as session:
            session.add(row)
        return row, f"{_PREFIX}_{row.id}_{secret}"

    def list(self) -> Sequence[Token]:
        """All tokens, revoked and expired ones too, oldest first."""
        with self._sessions() as session:
            return session.scalars(select(Token).order_by(Token.created_at)).all()

    def any_active(self) -> bool:
        """Whether there is one that was not revoked. An expired one counts: time alone opens a service to nobody."""
        with self._sessions() as session:
            return session.scalar(select(Token.id).where(Token.revoked_at.is_(None)).limit(1)) is not None

    def is_valid(self, token_id: str) -> bool:
        """Whether a token that was once checked is still valid."""
        with self._sessions() as session:
            row = session.get(Token, token_id)
        return row is not None and row.revoked_at is None and not row.expired

    def revoke(self, token_id: str) -> Token:
        """Ends a token's validity at once. Raises InputError for an unknown id."""
        with self._sessions.begin() as session:
            row = session.get(Token, token_id)
            if row is None:
                raise InputError(f"there is no token {token_id!r}; `slicemamba token list` lists all")
            row.revoked_at = row.revoked_at or utc_now()
        return row

    def check(self, text: str) -> Token | None:
        """The token of this text, which may have expired; None when there is none, or it was revoked."""
        prefix, _, rest = text.partition("_")
        token_id, _, secret = rest.partition("_")
        with self._sessions() as session:
            row = session.get(Token, token_id) if prefix == _PREFIX else None
        # Compared even when there is no row, so that the time taken does not tell which ids exist.
        same = hmac.compare_digest(_hash(secret), row.secret_hash if row else _hash(""))
        if row is None or not same or row.revoked_at is not None:
            return None
        if not row.expired:
            self._note_use(row)
        return row

    def _note_use(self, row: Token) -> None:
        now = utc_now()
        if row.used_at is not None and now - row.used_at <= _USED_EVERY:
            return
        try:
            with self._sessions.begin() as session:
                session.execute(update(Token).where(Token.id == row.id).values(used_at=now))
        except SQLAlchemyError:  # a full disk, a locked database: no reason not to answer
            logger.exception("could not record the use of token %s", row.id)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
