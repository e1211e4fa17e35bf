"""Our own tables, beside MLflow's in the tracking database.

`paddock_judged_traces` has a row for each finished trace that was handed to the judges, or passed over for a reason
that its note tells; its primary key is what keeps a trace from being judged twice.
"""

from datetime import UTC, datetime
from functools import cache

from sqlalchemy import Column, DateTime, Engine, Index, MetaData, String, Table, Text, create_engine

metadata = MetaData()

judged_traces = Table(
    "paddock_judged_traces",
    metadata,
    Column("trace_id", String(50), primary_key=True),
    Column("experiment_id", String(32), nullable=False),
    Column("taken_at", DateTime(timezone=True), nullable=False),
    Column("job_id", String(50), nullable=True),
    Column("note", Text, nullable=False, default=""),
    Index("ix_paddock_judged_traces_taken_at", "taken_at"),
)


def now() -> datetime:
    return datetime.now(UTC)


@cache
def engine(url: str) -> Engine:
    """A small pool for our own tables, apart from MLflow's."""
    if url.startswith("sqlite"):
        return create_engine(url, connect_args={"timeout": 30})
    return create_engine(
        url, pool_size=4, max_overflow=4, pool_pre_ping=True, connect_args={"connect_timeout": 5}
    )
