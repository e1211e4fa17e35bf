"""What runs inside the database: triggers on MLflow's tables, and in PostgreSQL the ledger's functions.

They are put in anew after every migration, ours or MLflow's: upstream rebuilds tables in SQLite, which drops their
triggers, and functions belong to the release that calls them.
"""

from pathlib import Path

from sqlalchemy import Connection

CONFIGURATION_TABLES = (
    "secrets",
    "model_definitions",
    "endpoints",
    "endpoint_model_mappings",
    "endpoint_tags",
    "guardrails",
    "guardrail_configs",
)
"""MLflow's tables that a snapshot of an endpoint is made from."""

FUNCTIONS = Path(__file__).with_name("functions.sql")


def install(connection: Connection) -> None:
    """Put triggers and functions in, over those of an earlier release."""
    if connection.dialect.name == "sqlite":
        _install_sqlite(connection)
    else:
        _install_postgres(connection)


def _install_sqlite(connection: Connection) -> None:
    for table in CONFIGURATION_TABLES:
        for event in ("INSERT", "UPDATE", "DELETE"):
            name = f"paddock_config_{table}_{event.lower()}"
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}")
            connection.exec_driver_sql(
                f"CREATE TRIGGER {name} AFTER {event} ON {table} BEGIN"
                " UPDATE paddock_config_version SET version = version + 1; END"
            )


def _install_postgres(connection: Connection) -> None:
    # Percent signs in the file are the functions' own, not places for parameters.
    connection.exec_driver_sql(FUNCTIONS.read_text(), execution_options={"no_parameters": True})
    for table in CONFIGURATION_TABLES:
        connection.exec_driver_sql(
            f"CREATE OR REPLACE TRIGGER paddock_config AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION paddock_raise_config_version()"
        )
