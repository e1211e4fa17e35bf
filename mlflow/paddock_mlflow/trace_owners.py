"""Which key a trace belongs to.

MLflow adds spans to any trace whose id it is given, in whichever experiment that trace is. So the first key that brings
a trace's spans owns it, and other keys' spans for it are refused. A trace that is there without an owner was made by
people, by the gateway or by an earlier release: no key may add to it.
"""

from collections.abc import Collection
from typing import Any

from mlflow.store.tracking.dbmodels.models import SqlTraceInfo
from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from paddock_mlflow.database import now
from paddock_mlflow.database import trace_owners as owners


def claim(connection: Connection, trace_ids: Collection[str], key_id: str, experiment_id: str) -> set[str]:
    """Those of the traces (`tr-…`) that the key may write to in that experiment: its own, and new ones, which become its
    own with this transaction."""
    known = _owned(connection, trace_ids)
    new = set(trace_ids) - known.keys()
    if new:
        stored = select(SqlTraceInfo.request_id).where(SqlTraceInfo.request_id.in_(new))
        new -= set(connection.execute(stored).scalars())
    if new:
        rows = [
            {"trace_id": trace_id, "key_id": key_id, "experiment_id": experiment_id, "claimed_at": now()}
            # In one order, so that two requests can't wait for each other.
            for trace_id in sorted(new)
        ]
        dialect: Any = sqlite if connection.dialect.name == "sqlite" else postgresql
        connection.execute(dialect.insert(owners).on_conflict_do_nothing(), rows)
        # Another request may have been first.
        known |= _owned(connection, new)
    return {trace_id for trace_id, owner in known.items() if owner == (key_id, experiment_id)}


def _owned(connection: Connection, trace_ids: Collection[str]) -> dict[str, tuple[str, str]]:
    query = select(owners.c.trace_id, owners.c.key_id, owners.c.experiment_id).where(
        owners.c.trace_id.in_(trace_ids)
    )
    return {row.trace_id: (row.key_id, row.experiment_id) for row in connection.execute(query)}
