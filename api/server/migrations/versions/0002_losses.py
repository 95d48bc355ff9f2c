"""How often a search's Ray job vanished, apart from how often it was submitted: a paused search is submitted again."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    with op.batch_alter_table("searches") as table:
        table.add_column(sa.Column("losses", sa.Integer, nullable=False, server_default="0"))
    op.execute("UPDATE searches SET losses = attempt - 1")


def downgrade() -> None:
    with op.batch_alter_table("searches") as table:
        table.drop_column("losses")
