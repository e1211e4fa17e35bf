"""Prices that the declared configuration names: kept in the database, and written over the catalogue of every process.

`config apply` writes the table; each server and the jobs' process look every second whether it changed, and write their
own catalogue anew. So a new price counts within a few seconds, everywhere, without a restart.
"""

import logging
import os
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from sqlalchemy import Column, Connection, Engine, String, Table, select
from sqlalchemy.exc import SQLAlchemyError

from paddock_mlflow import prices
from paddock_mlflow.database import Usd, engine, metadata
from paddock_mlflow.pricing import CATALOG_ENV, catalog_file

_logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
_IN_CATALOGUE = {
    "input": "input",
    "output": "output",
    "cache_read": "cache_read",
    "cache_write": "cache_write",
    "cache_write_1h": "cache_write_1hr",
    "reasoning": "reasoning",
}
"""Column → how the catalogue names that kind of token."""

table = Table(
    "paddock_prices",
    metadata,
    Column("kind", String(64), primary_key=True),
    Column("model", String(200), primary_key=True),
    Column("input", Usd, nullable=False),
    Column("output", Usd, nullable=False),
    Column("cache_read", Usd, nullable=True),
    Column("cache_write", Usd, nullable=True),
    Column("cache_write_1h", Usd, nullable=True),
    Column("reasoning", Usd, nullable=True),
)
"""USD per million tokens, by MLflow's name of the protocol and the provider's of the model."""


def read(connection: Connection) -> list[dict[str, Any]]:
    """Every declared price; amounts as Decimal or None."""
    rows = connection.execute(select(table).order_by(table.c.kind, table.c.model)).mappings()
    return [dict(row) for row in rows]


def as_extra(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """The rows in the form of `prices.write_catalog`'s `extra`."""
    extra: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        pricing = {
            f"{name}_per_million_tokens": float(amount)
            for kind, name in _IN_CATALOGUE.items()
            if isinstance(amount := row[kind], Decimal)
        }
        extra.setdefault(catalog_file(row["kind"]), {})[row["model"]] = pricing
    return extra


class Watch:
    """Keeps a process's catalogue as the table says, in a thread that ends with the process."""

    @classmethod
    def of_environment(cls, database: str) -> "Watch":
        """Over the catalogue that this process was given.

        Args:
            database: SQLAlchemy URL of MLflow's database.
        """
        return cls(engine(database), os.environ[CATALOG_ENV])

    def __init__(self, database: Engine, catalog_uri: str) -> None:
        """
        Args:
            database: an engine of MLflow's database.
            catalog_uri: the folder that `prices.write_catalog` made, as `file://…`.
        """
        self._engine = database
        self._folder = Path(unquote(urlparse(catalog_uri).path))
        self._written: list[dict[str, Any]] = []
        self._stop = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._run, name="declared-prices", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def look(self) -> bool:
        """Write the catalogue where the table changed; returns whether it did."""
        with self._engine.connect() as connection:
            rows = read(connection)
        if rows == self._written:
            return False
        prices.write_catalog(self._folder, extra=as_extra(rows))
        self._written = rows
        return True

    def _run(self) -> None:
        while True:
            try:
                self.look()
            except (SQLAlchemyError, OSError) as error:
                # The database is away, or not migrated yet: the prices of before hold until it is back.
                _logger.debug("declared prices could not be read: %s", error)
            if self._stop.wait(LOOK_SECONDS):
                return
