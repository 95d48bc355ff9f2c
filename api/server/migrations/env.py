"""Run by Alembic: applies the steps over the connection that it is given."""

from alembic import context

from api.server.migrations import VERSION_TABLE
from api.server.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
