"""Tokens that end by themselves."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("tokens", sa.Column("expires_at", sa.DateTime))


def downgrade() -> None:
    op.drop_column("tokens", "expires_at")
