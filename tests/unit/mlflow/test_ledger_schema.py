"""The tables of the migrations, and the triggers on MLflow's."""

from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, create_engine, text

NEW_ENDPOINT = (
    "INSERT INTO endpoints (endpoint_id, name, created_at, last_updated_at, usage_tracking)"
    " VALUES ('e-1', 'one', 1, 1, true)"
)
URLS = ["postgres_url", "sqlite_url"]


@pytest.fixture(params=URLS)
def database(request: pytest.FixtureRequest) -> Any:
    made = create_engine(request.getfixturevalue(request.param))
    yield made
    made.dispose()


def test_migrations_make_what_the_code_expects(database: Engine) -> None:
    from paddock_mlflow.declared_prices import metadata

    def ours(_: object, name: str | None, kind: str, *__: object) -> bool:
        return kind != "table" or (str(name).startswith("paddock_") and name != "paddock_alembic_version")

    with database.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"include_object": ours, "version_table": "paddock_alembic_version"}
        )
        assert compare_metadata(context, metadata) == []


@pytest.mark.parametrize(
    ("change", "raises"),
    [
        (NEW_ENDPOINT, True),
        ("UPDATE endpoints SET name = 'two' WHERE endpoint_id = 'e-1'", True),
        ("INSERT INTO endpoint_tags (key, value, endpoint_id) VALUES ('k', 'v', 'e-1')", True),
        ("DELETE FROM endpoint_tags WHERE endpoint_id = 'e-1'", True),
        ("DELETE FROM endpoints WHERE endpoint_id = 'e-1'", True),
        ("INSERT INTO experiments (name, lifecycle_stage) VALUES ('trigger', 'active')", False),
    ],
)
def test_a_change_of_the_configuration_raises_its_version(
    database: Engine, change: str, raises: bool
) -> None:
    def version(connection: Any) -> int:
        return int(connection.execute(text("SELECT version FROM paddock_config_version")).scalar_one())

    with database.begin() as connection:
        before = version(connection)
        connection.execute(text(change))
        assert (version(connection) > before) == raises
