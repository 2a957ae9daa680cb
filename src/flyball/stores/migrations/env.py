"""Alembic's environment: it only ever runs on a connection that we hand it."""

from alembic import context

from flyball.stores.metadata import meta

context.configure(connection=context.config.attributes["connection"], target_metadata=meta)
with context.begin_transaction():
    context.run_migrations()
