"""Whose status it is that lies in a run folder: told by the attempt's number, no longer by its time.

What a folder holds from before attempts were numbered counts as 0, and so for a row that has NULL.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    # Not in a batch: SQLite would copy the table, and dropping the old copy empties events.
    op.add_column("searches", sa.Column("left_attempt", sa.Integer))
    op.drop_column("searches", "left_status_at")


def downgrade() -> None:
    op.add_column("searches", sa.Column("left_status_at", sa.DateTime))
    op.drop_column("searches", "left_attempt")
