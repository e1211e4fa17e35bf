"""Bring both databases to the schema of this release: MLflow's tables, MLflow's users, and our own.

One process does it, before any server starts: two `mlflow db upgrade` at once on an empty database fail on each other,
since upstream's lock is a file in a temporary folder.
"""

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import make_url

from paddock_mlflow import exposure
from paddock_mlflow.settings import Settings

_logger = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"


def migrate(settings: Settings) -> None:
    """Create or upgrade every table. Running it again changes nothing."""
    from mlflow.server.auth.db.utils import migrate as migrate_auth
    from mlflow.store.db.utils import (
        _initialize_tables,
        _is_empty_database,
        _upgrade_db,
        create_sqlalchemy_engine_with_retry,
    )

    # Before anything is changed: what is refused here leaves the database as it was.
    exposure.require_safe(settings)

    for url in (settings.tracking_database, settings.auth_database):
        _make_sqlite_folder(url)

    # What `mlflow db upgrade` does; its migrations start from tables that only the first call below makes.
    tracking = create_sqlalchemy_engine_with_retry(settings.tracking_database)
    if _is_empty_database(tracking):
        _initialize_tables(tracking)
    else:
        _upgrade_db(tracking)
    tracking.dispose()
    _logger.info("MLflow's tables are up to date")

    users = create_sqlalchemy_engine_with_retry(settings.auth_database)
    migrate_auth(users, "head")
    users.dispose()
    _logger.info("the users' tables are up to date")

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = settings.tracking_database
    command.upgrade(config, "head")
    _logger.info("Paddock's tables are up to date")


def _make_sqlite_folder(url: str) -> None:
    parts = make_url(url)
    if parts.get_backend_name() == "sqlite" and parts.database:
        Path(parts.database).parent.mkdir(parents=True, exist_ok=True)
