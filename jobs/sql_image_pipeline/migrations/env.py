"""Run migrations on the connection that `database` gives, inside its transaction."""

from __future__ import annotations

from alembic import context

from jobs.sql_image_pipeline.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    transaction_per_migration=False,
)
context.run_migrations()
