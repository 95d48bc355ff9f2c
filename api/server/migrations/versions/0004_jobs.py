"""Jobs that follow a search (retrain, export, audit, figures), and searches adopted with a Ray job of another id."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    # No foreign key: SQLite can add one to a table by copying it alone, and dropping the old copy empties events.
    with op.batch_alter_table("searches") as table:
        table.add_column(sa.Column("kind", sa.String(16), nullable=False, server_default="search"))
        table.add_column(sa.Column("parent_id", sa.String(40)))
        table.add_column(sa.Column("trial", sa.Integer))
        table.add_column(sa.Column("study", sa.String(16)))
        table.add_column(sa.Column("first_job_id", sa.String(255)))
    op.create_index("ix_searches_parent_id", "searches", ["parent_id"])
    op.create_index("ix_searches_listed", "searches", ["kind", "created_at", "id"])


def downgrade() -> None:
    op.execute("DELETE FROM events WHERE search_id IN (SELECT id FROM searches WHERE kind <> 'search')")
    op.execute("DELETE FROM searches WHERE kind <> 'search'")
    for index in ("ix_searches_listed", "ix_searches_parent_id"):
        op.drop_index(index, "searches")
    with op.batch_alter_table("searches") as table:
        for column in ("first_job_id", "study", "trial", "parent_id", "kind"):
            table.drop_column(column)
