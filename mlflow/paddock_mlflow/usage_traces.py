"""Usage traces: written from the outbox, in batches, by the job process.

A settled call leaves a record in `paddock_usage_outbox`, in the ledger's own transaction. Here a batch of records becomes
MLflow traces: taken out and written in one transaction, so that a process which dies in the middle has done neither.
MLflow itself makes these traces in the web worker, with a queue in memory that a kill empties.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Any

from mlflow.store.tracking.dbmodels.models import (
    SqlExperiment,
    SqlSpan,
    SqlTraceInfo,
    SqlTraceMetadata,
    SqlTraceTag,
)
from mlflow.store.tracking.utils.sql_trace_rollups import (
    RollupFamily,
    enqueue_rollup_rebuild_partitions,
    rollups_enabled,
)
from mlflow.utils.mlflow_tags import MLFLOW_ARTIFACT_LOCATION
from mlflow.utils.uri import append_to_uri_path
from sqlalchemy import Connection, Table, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import DataError, IntegrityError
from sqlalchemy.orm import Session

from paddock_mlflow import usage_spans
from paddock_mlflow.database import calls, engine, usage_outbox
from paddock_mlflow.pricing import Prices
from paddock_mlflow.usage_spans import BadRecord, TraceRows

_logger = logging.getLogger(__name__)

BATCH_RECORDS = 100
BACKLOG_RECORDS = 1000
"""More than so many that wait are worth a line in the log."""

_BACKLOG_EVERY = 10
_ROWS_A_STATEMENT = 500
"""SQLite binds at most 32 766 values in one statement."""


@dataclass(frozen=True)
class Backlog:
    """What is in the outbox: records that wait, and records that no trace could be made of."""

    waiting: int
    set_aside: int


@dataclass(frozen=True)
class _Taken:
    id: int
    experiment_id: str
    record: bytes
    created_at: datetime


class UsageTraces:
    """Moves records from the outbox to MLflow's tables. Any number may run at the same time."""

    def __init__(self, database_url: str, prices: Prices | None = None) -> None:
        self._engine = engine(database_url)
        self._prices = prices or Prices.of_environment()
        self._locations: dict[int, str] = {}
        self._full_batches = 0

    def tick(self) -> int:
        """Write all that waits; returns how many traces were made.

        Raises:
            sqlalchemy.exc.OperationalError: the database is away; nothing is lost.
        """
        written = 0
        while True:
            taken, made = self._batch()
            written += made
            if taken < BATCH_RECORDS:
                self._full_batches = 0
                return written
            self._full_batches += 1
            if (
                self._full_batches % _BACKLOG_EVERY == 0
                and (waiting := self.backlog().waiting) > BACKLOG_RECORDS
            ):
                _logger.warning("%d calls wait for their usage traces", waiting)

    def recover(self) -> int:
        """Queue what was set aside once more, as after an upgrade that can read it; returns how many records."""
        with self._engine.begin() as connection:
            query = update(usage_outbox).where(usage_outbox.c.error.is_not(None)).values(error=None)
            return connection.execute(query).rowcount

    def backlog(self) -> Backlog:
        """Count what is in the outbox."""
        with self._engine.connect() as connection:
            return backlog(connection)

    def _batch(self) -> tuple[int, int]:
        """Take a batch and write it; returns how many were taken, and how many traces were made."""
        try:
            with self._engine.begin() as connection:
                taken = self._take(connection)
                good, bad = self._built(connection, taken)
                self._write(connection, good)
                self._set_aside(connection, taken, bad)
                return len(taken), len(good)
        except (DataError, IntegrityError):
            # One of them is refused by the database, which does not say which.
            _logger.info("a batch of usage traces was refused; writing them one by one", exc_info=True)
            return self._one_by_one()

    def _one_by_one(self) -> tuple[int, int]:
        made = 0
        with self._engine.begin() as connection:
            taken = self._take(connection)
            good, bad = self._built(connection, taken)
            for id, rows in good.items():
                try:
                    with connection.begin_nested():
                        self._write(connection, {id: rows})
                    made += 1
                except (DataError, IntegrityError) as error:
                    bad[id] = f"the database refused it: {error.orig}"
            self._set_aside(connection, taken, bad)
        return len(taken), made

    def _take(self, connection: Connection) -> list[_Taken]:
        waiting = (
            select(usage_outbox.c.id)
            .where(usage_outbox.c.error.is_(None))
            .order_by(usage_outbox.c.id)
            .limit(BATCH_RECORDS)
            .with_for_update(skip_locked=True)
        )
        taken = connection.execute(
            delete(usage_outbox)
            .where(usage_outbox.c.id.in_(waiting.scalar_subquery()))
            .returning(*(usage_outbox.c[field.name] for field in fields(_Taken)))
        )
        return sorted((_Taken(*row) for row in taken), key=lambda row: row.id)

    def _built(
        self, connection: Connection, taken: Sequence[_Taken]
    ) -> tuple[dict[int, TraceRows], dict[int, str]]:
        """The traces of those that can be made, and why the others can't."""
        good: dict[int, TraceRows] = {}
        bad: dict[int, str] = {}
        records: dict[int, dict[str, Any]] = {}
        for row in taken:
            try:
                records[row.id] = usage_spans.decode(row.record)
            except BadRecord as error:
                bad[row.id] = str(error)
        # A call that broke off does not know what it was charged.
        unknown = [
            record["call_id"]
            for record in records.values()
            if record.get("cost") is None and record.get("call_id")
        ]
        charged = _charged(connection, unknown)
        for id, record in records.items():
            try:
                cost = record.get("cost")
                good[id] = usage_spans.build(
                    record,
                    self._prices,
                    Decimal(cost) if cost is not None else charged.get(record.get("call_id", "")),
                )
            except (BadRecord, ArithmeticError) as error:
                bad[id] = str(error)
        self._learn_locations(connection, {rows.trace["experiment_id"] for rows in good.values()})
        for id in [id for id, rows in good.items() if rows.trace["experiment_id"] not in self._locations]:
            bad[id] = (
                f"expected experiment {good.pop(id).trace['experiment_id']}, found that it does not exist"
            )
        return good, bad

    def _learn_locations(self, connection: Connection, experiments: set[int]) -> None:
        unknown = experiments - self._locations.keys()
        if unknown:
            query = select(SqlExperiment.experiment_id, SqlExperiment.artifact_location)
            for id, location in connection.execute(query.where(SqlExperiment.experiment_id.in_(unknown))):
                self._locations[int(id)] = location or ""

    def _write(self, connection: Connection, good: dict[int, TraceRows]) -> None:
        traces = list(good.values())
        if not traces:
            return
        _enqueue_rollups(connection, traces)
        _insert(connection, SqlTraceInfo.__table__, [rows.trace for rows in traces])
        _insert(
            connection,
            SqlTraceTag.__table__,
            [
                {"request_id": rows.trace_id, "key": key, "value": value}
                for rows in traces
                for key, value in {**rows.tags, MLFLOW_ARTIFACT_LOCATION: self._artifacts_of(rows)}.items()
            ],
        )
        _insert(
            connection,
            SqlTraceMetadata.__table__,
            [
                {"request_id": rows.trace_id, "key": key, "value": value}
                for rows in traces
                for key, value in rows.metadata.items()
            ],
        )
        _insert(connection, SqlSpan.__table__, [span for rows in traces for span in rows.spans])

    def _artifacts_of(self, rows: TraceRows) -> str:
        location = self._locations[rows.trace["experiment_id"]]
        return append_to_uri_path(location, "traces", rows.trace_id, "artifacts")

    def _set_aside(self, connection: Connection, taken: Sequence[_Taken], bad: dict[int, str]) -> None:
        for row in taken:
            if row.id not in bad:
                continue
            _logger.error(
                "no usage trace could be made of record %d, which is set aside in paddock_usage_outbox: %s",
                row.id,
                bad[row.id],
            )
            connection.execute(
                usage_outbox.insert().values(**asdict(row), error=bad[row.id].replace("\x00", ""))
            )


def backlog(connection: Connection) -> Backlog:
    """Count what is in the outbox."""
    error = usage_outbox.c.error
    row = connection.execute(select(func.count(), func.count(error)).select_from(usage_outbox)).one()
    return Backlog(waiting=row[0] - row[1], set_aside=row[1])


def _charged(connection: Connection, call_ids: Sequence[str]) -> dict[str, Decimal]:
    if not call_ids:
        return {}
    query = select(calls.c.call_id, calls.c.cost_usd).where(
        calls.c.call_id.in_(call_ids), calls.c.cost_usd.is_not(None)
    )
    return {row.call_id: row.cost_usd for row in connection.execute(query)}


def _insert(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Write what is not there yet: a record that comes twice makes the same rows."""
    insert = postgresql_insert if connection.dialect.name == "postgresql" else sqlite_insert
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        connection.execute(insert(table).on_conflict_do_nothing(), rows[start : start + _ROWS_A_STATEMENT])


def _enqueue_rollups(connection: Connection, traces: Sequence[TraceRows]) -> None:
    """MLflow's sums by day, where they are on, have to be made anew for a day that a late trace falls in."""
    if not rollups_enabled():
        return
    partitions = [
        (family, rows.trace["experiment_id"], [rows.trace["timestamp_ms"]])
        for rows in traces
        for family in (RollupFamily.TRACE_METRIC, RollupFamily.ASSESSMENT, RollupFamily.SPAN_COST)
    ]
    with Session(connection) as session:
        enqueue_rollup_rebuild_partitions(session, partitions)
        session.flush()
