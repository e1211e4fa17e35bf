"""What of MLflow's traces judges may look at, found without reading their spans."""

import re
from collections import defaultdict
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from mlflow.entities import AssessmentSourceType
from mlflow.entities.trace_state import TraceState
from mlflow.store.tracking.dbmodels import models
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracing.constant import TraceMetadataKey, TraceTagKey
from sqlalchemy import ColumnElement, Connection, LargeBinary, and_, case, cast, func, or_, select

from paddock_mlflow.database import trace_owners
from paddock_mlflow.judges.queue import Subject

# MLflow's models have no types.
infos: Any = models.SqlTraceInfo.__table__
_metadata: Any = models.SqlTraceMetadata.__table__
_tags: Any = models.SqlTraceTag.__table__
_spans: Any = models.SqlSpan.__table__
_assessments: Any = models.SqlAssessments.__table__

ENDED = (TraceState.OK.value, TraceState.ERROR.value)
SESSION_TRACES = 200
"""Of a longer session these, the earliest, are judged."""

_CHUNK = 100
_SEARCHABLE = re.compile(r"[\w-]{1,50}")
"""Ids that can stand in MLflow's search language: a client of its API may choose any text."""


def ended_ms() -> ColumnElement[int]:
    """When a trace ended, in milliseconds since 1970."""
    ended: ColumnElement[int] = infos.c.timestamp_ms + func.coalesce(infos.c.execution_time_ms, 0)
    return ended


def moment(milliseconds: int) -> datetime:
    """Of MLflow's time."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def milliseconds(at: datetime) -> int:
    """MLflow's time of a moment."""
    return int(at.timestamp() * 1000)


def judgeable() -> ColumnElement[bool]:
    """That a trace is neither the gateway's record of a call, nor a judge's own, nor made by an evaluation run.

    Judges call the gateway: judging what that leaves would never end. A scorer's trace is known by a tag; one that an
    agent sets on its own trace does not take it away from the judges.
    """
    marked = select(_metadata.c.request_id).where(
        _metadata.c.request_id == infos.c.request_id,
        _metadata.c.key.in_([TraceMetadataKey.SOURCE_RUN, TraceMetadataKey.GATEWAY_ENDPOINT_ID]),
    )
    scorers = select(_tags.c.request_id).where(
        _tags.c.request_id == infos.c.request_id, _tags.c.key == TraceTagKey.SOURCE_SCORER_NAME
    )
    owned = select(trace_owners.c.trace_id).where(trace_owners.c.trace_id == infos.c.request_id)
    return and_(~marked.exists(), or_(~scorers.exists(), owned.exists()))


def sizes(connection: Connection, trace_ids: Collection[str]) -> dict[str, int]:
    """Bytes of the traces' spans as they are stored; what has no span is missing."""
    if connection.dialect.name == "postgresql":
        # Known without unpacking what is stored compressed.
        size = func.octet_length(_spans.c.content)
    else:
        size = func.length(cast(_spans.c.content, LargeBinary))
    query = (
        select(_spans.c.trace_id, func.sum(size).label("bytes"))
        .where(_spans.c.trace_id.in_(list(trace_ids)))
        .group_by(_spans.c.trace_id)
    )
    return {row.trace_id: int(row.bytes) for row in connection.execute(query)}


def is_expectation() -> ColumnElement[bool]:
    """Of an assessment: that it is one which judges take; upstream takes people's alone."""
    return and_(
        _assessments.c.assessment_type == "expectation",
        _assessments.c.source_type == AssessmentSourceType.HUMAN,
        _assessments.c.valid.is_(True),
    )


def expectations(connection: Connection, trace_ids: Collection[str]) -> dict[str, dict[str, int]]:
    """Trace → name of an expectation → when it was last changed, in milliseconds."""
    query = (
        select(
            _assessments.c.trace_id,
            _assessments.c.name,
            func.max(_assessments.c.last_updated_timestamp).label("changed"),
        )
        .where(_assessments.c.trace_id.in_(list(trace_ids)), is_expectation())
        .group_by(_assessments.c.trace_id, _assessments.c.name)
    )
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for row in connection.execute(query):
        found[row.trace_id][row.name] = row.changed
    return found


def has_expectation(trace_id: ColumnElement[str], names: Sequence[str]) -> ColumnElement[bool]:
    """That a trace has one of the named expectations; none named: any."""
    query = select(_assessments.c.trace_id).where(_assessments.c.trace_id == trace_id, is_expectation())
    if names:
        query = query.where(_assessments.c.name.in_(names))
    return query.exists()


def matching(
    store: SqlAlchemyStore, experiment_id: str, trace_ids: Sequence[str], filter_string: str
) -> set[str]:
    """Those of the traces that a filter of MLflow's search language lets through.

    Raises:
        MlflowException: the filter makes no sense.
    """
    found: set[str] = set()
    searchable = [one for one in trace_ids if _SEARCHABLE.fullmatch(one)]
    for start in range(0, len(searchable), _CHUNK):
        chunk = searchable[start : start + _CHUNK]
        listed = ", ".join(f"'{one}'" for one in chunk)
        infos_found, _ = store.search_traces(
            experiment_ids=[experiment_id],
            filter_string=f"trace.request_id IN ({listed}) AND {filter_string}",
            max_results=len(chunk),
        )
        found.update(info.trace_id for info in infos_found)
    return found


def session_traces(connection: Connection, experiment_id: str, session_id: str) -> list[str]:
    """The ids of a session's ended traces, the earliest first, and of a long one these alone."""
    query = (
        select(infos.c.request_id)
        .where(
            infos.c.experiment_id == int(experiment_id),
            infos.c.session_id == session_id,
            infos.c.status.in_(ENDED),
            judgeable(),
        )
        .order_by(infos.c.timestamp_ms, infos.c.request_id)
        .limit(SESSION_TRACES)
    )
    return list(connection.execute(query).scalars())


def sessions(
    connection: Connection, experiment_id: str, session_ids: Collection[str] | Any
) -> list["Session"]:
    """The sessions of these ids that have an ended trace."""
    ended = infos.c.status.in_(ENDED)
    query = (
        select(
            infos.c.session_id,
            func.max(case((ended, ended_ms()))).label("ended"),
            func.max(case((~ended, infos.c.timestamp_ms))).label("running"),
        )
        .where(infos.c.experiment_id == int(experiment_id), infos.c.session_id.in_(session_ids), judgeable())
        .group_by(infos.c.session_id)
    )
    rows = [row for row in connection.execute(query) if row.ended is not None]
    first = (
        select(infos.c.session_id, infos.c.request_id)
        .where(
            infos.c.experiment_id == int(experiment_id),
            infos.c.session_id.in_([row.session_id for row in rows]),
            ended,
            judgeable(),
        )
        .order_by(infos.c.timestamp_ms.desc(), infos.c.request_id.desc())
    )
    # The last one that is written to the mapping is the earliest trace.
    firsts = {row.session_id: row.request_id for row in connection.execute(first)} if rows else {}
    return [
        Session(Subject(row.session_id, firsts[row.session_id], moment(row.ended)), row.running)
        for row in rows
        if row.session_id in firsts
    ]


class Session:
    """A session, and when the newest of its traces began that has not ended, in milliseconds; None where all have."""

    def __init__(self, subject: Subject, running_ms: int | None) -> None:
        self.subject = subject
        self.running_ms = running_ms
