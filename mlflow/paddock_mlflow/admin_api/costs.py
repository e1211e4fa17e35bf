"""What was spent: the ledger's calls, added up by endpoint, user, key, run, day or model.

The ledger has every call that was admitted, whether or not its endpoint is tracked. A call that a budget refused costs
nothing and is not in it; it leaves a usage trace where the endpoint is tracked, and is counted by that.
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query
from pydantic import AwareDatetime
from sqlalchemy import ColumnElement, Connection, Select, case, func, literal, or_, select

from paddock_mlflow.database import DECIMAL_PLACES, calls, engine, keys, now
from paddock_mlflow.ledger.types import Outcome
from paddock_mlflow.settings import load

router = APIRouter(prefix="/costs")

DEFAULT_DAYS = 7
GROUPS = 10_000
"""More groups than this are not listed; the totals have them all the same."""


class By(StrEnum):
    """What the calls are added up by."""

    ENDPOINT = "endpoint"
    USER = "user"
    KEY = "key"
    RUN = "run"
    DAY = "day"
    MODEL = "model"


_FIGURES = (
    "calls",
    "failed",
    "broken_off",
    "in_flight",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)


@router.get("")
def costs(
    by: By = By.ENDPOINT,
    since: Annotated[AwareDatetime | None, Query(description="Default: seven days before `until`.")] = None,
    until: Annotated[
        AwareDatetime | None, Query(description="Default: now. Calls that began before it.")
    ] = None,
) -> dict[str, Any]:
    """Calls, tokens and USD of each group, the dearest first (days in their order), and of all together.

    `failed` calls had no good answer or were stopped by a guardrail, `broken_off` ones were left by their client or lost
    with their server and cost their bound, `refused` ones were not made for want of a budget. USD are decimal strings.
    Days are UTC. 400 where `since` is not before `until`.
    """
    until = until or now()
    since = since or until - timedelta(days=DEFAULT_DAYS)
    if since >= until:
        raise HTTPException(
            400, f"expected since to be before until, found {since.isoformat()} and {until.isoformat()}"
        )
    with engine(load().tracking_database).connect() as connection:
        group = _group(by, connection.dialect.name)
        rows = connection.execute(_sums(group, since, until)).mappings().all()
        refused = _refused(connection, by, since, until)
        names = _key_names(connection) if by is By.KEY else {}
        waiting, set_aside = _outbox(connection)
    groups = [
        _row(dict(row), str(row["group"] or ""), refused.pop(str(row["group"] or ""), 0)) for row in rows
    ]
    groups += [_row({}, name, count) for name, count in refused.items()]
    groups.sort(
        key=lambda row: row["group"] if by is By.DAY else (-row["cost_usd"], -row["calls"], row["group"])
    )
    total = {key: sum(row[key] for row in groups) for key in (*_FIGURES, "refused", "cost_usd")}
    return {
        "by": by,
        "since": since.astimezone(UTC).isoformat(),
        "until": until.astimezone(UTC).isoformat(),
        "groups": [
            _printable(row) | {"label": names.get(row["group"], row["group"])} for row in groups[:GROUPS]
        ],
        "total": _printable(total),
        "usage_traces": {"waiting": waiting, "set_aside": set_aside},
    }


def _group(by: By, dialect: str) -> ColumnElement[Any]:
    match by:
        case By.ENDPOINT:
            return calls.c.endpoint_name
        case By.USER:
            return calls.c.username
        case By.KEY:
            return func.coalesce(calls.c.key_id, "")
        case By.RUN:
            return func.coalesce(calls.c.run_id, "")
        case By.DAY:
            # SQLite keeps UTC; PostgreSQL would give the session's day.
            return func.date(
                func.timezone("UTC", calls.c.started_at) if dialect == "postgresql" else calls.c.started_at
            )
        case By.MODEL:
            # A call without an answer has no model.
            return case((calls.c.model == "", ""), else_=calls.c.provider + literal("/") + calls.c.model)


def _sums(group: ColumnElement[Any], since: datetime, until: datetime) -> Select[Any]:
    def count(condition: ColumnElement[bool]) -> ColumnElement[int]:
        return func.count(case((condition, 1)))

    tokens = [func.sum(calls.c[name]).label(name) for name in _FIGURES if name.endswith("_tokens")]
    return (
        select(
            group.label("group"),
            func.count().label("calls"),
            count(calls.c.outcome == Outcome.ERROR).label("failed"),
            count(or_(calls.c.outcome == Outcome.ABANDONED, calls.c.outcome == Outcome.EXPIRED)).label(
                "broken_off"
            ),
            count(calls.c.ended_at.is_(None)).label("in_flight"),
            *tokens,
            func.sum(calls.c.cost_usd).label("cost_usd"),
        )
        .where(calls.c.started_at >= since, calls.c.started_at < until)
        .group_by(group)
    )


def _refused(connection: Connection, by: By, since: datetime, until: datetime) -> dict[str, int]:
    """How many calls of each group were not even admitted, by their usage traces."""
    # MLflow reads its environment at import.
    from mlflow.store.tracking.dbmodels.models import SqlTraceInfo as Trace
    from mlflow.store.tracking.dbmodels.models import SqlTraceMetadata as Metadata
    from mlflow.tracing.constant import TraceMetadataKey

    from paddock_mlflow.usage_spans import REFUSED

    of_group = {By.USER: TraceMetadataKey.AUTH_USERNAME, By.KEY: "paddock.key_id", By.RUN: "paddock.run_id"}
    marked = select(Metadata.request_id).where(Metadata.key == REFUSED)
    # A call that a guardrail stopped was admitted, and is among the failed ones.
    admitted = select(calls.c.call_id).where(calls.c.call_id == func.substr(Trace.request_id, len("tr-") + 1))
    query = select(func.count()).where(
        Trace.request_id.in_(marked),
        ~admitted.exists(),
        Trace.timestamp_ms >= int(since.timestamp() * 1000),
        Trace.timestamp_ms < int(until.timestamp() * 1000),
    )
    group: ColumnElement[Any]
    if by in of_group:
        named = (
            select(Metadata.value)
            .where(Metadata.request_id == Trace.request_id, Metadata.key == of_group[by])
            .correlate(Trace)
            .scalar_subquery()
        )
        group = func.coalesce(named, "")
    elif by is By.ENDPOINT:
        group = func.coalesce(func.substr(Trace.trace_name, len("gateway/") + 1), "")
    elif by is By.DAY:
        group = Trace.timestamp_ms // 86_400_000
    else:
        count = connection.execute(query).scalar_one()
        return {"": count} if count else {}
    labelled = group.label("group")
    found = connection.execute(query.add_columns(labelled).group_by(labelled))
    return {_day(value) if by is By.DAY else str(value): count for count, value in found}


def _day(days: float | Decimal) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=int(days))).date().isoformat()


def _key_names(connection: Connection) -> dict[str, str]:
    return {row.id: f"{row.name or row.username} ({row.id})" for row in connection.execute(select(keys))}


def _outbox(connection: Connection) -> tuple[int, int]:
    from paddock_mlflow.usage_traces import backlog

    found = backlog(connection)
    return found.waiting, found.set_aside


def _row(row: Mapping[str, Any], group: str, refused: int) -> dict[str, Any]:
    return {
        "group": group,
        **{key: int(row.get(key) or 0) for key in _FIGURES},
        "refused": refused,
        "cost_usd": row.get("cost_usd") or Decimal(0),
    }


def _printable(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"cost_usd": f"{row['cost_usd']:.{DECIMAL_PLACES}f}"}
