"""Alembic's entry: our tables have a version table of their own, so MLflow's migrations never see them."""

from alembic import context

from paddock_mlflow.database import engine, metadata
from paddock_mlflow.ledger import programs

with engine(context.config.attributes["url"]).begin() as connection:
    context.configure(connection, target_metadata=metadata, version_table="paddock_alembic_version")
    with context.begin_transaction():
        context.run_migrations()
        programs.install(connection)
