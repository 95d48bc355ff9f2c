"""The queue: priorities, places among those that run, and who asked for what."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

ADDED: tuple[tuple[str, str, Any, dict[str, Any]], ...] = (
    ("searches", "priority", sa.Integer, {"nullable": False, "server_default": "0"}),
    ("searches", "admitted", sa.Boolean, {"nullable": False, "server_default": sa.false()}),
    ("searches", "submitted_by", sa.String(100), {}),
    ("events", "by", sa.String(100), {}),
)


def upgrade() -> None:
    for table, name, kind, options in ADDED:
        op.add_column(table, sa.Column(name, kind, **options))


def downgrade() -> None:
    for table, name, _, _ in reversed(ADDED):
        op.drop_column(table, name)
