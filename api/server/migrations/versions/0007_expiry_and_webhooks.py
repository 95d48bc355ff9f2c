"""Tokens that end by themselves, and changes of state that webhooks are to be told."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("tokens", sa.Column("expires_at", sa.DateTime))
    op.add_column("events", sa.Column("untold", sa.Boolean, nullable=False, server_default=sa.false()))


def downgrade() -> None:
    op.drop_column("events", "untold")
    op.drop_column("tokens", "expires_at")
