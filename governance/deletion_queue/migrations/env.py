"""Run the migrations on the connection that ``governance.deletion_queue.database`` hands over."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    transactional_ddl=True,  # also on SQLite, whose transactions are begun by us
)
with context.begin_transaction():
    context.run_migrations()
