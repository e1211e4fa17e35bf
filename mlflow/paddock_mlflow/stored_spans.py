"""The spans of a trace that MLflow has stored already."""

import json
from collections.abc import Sequence

from mlflow.entities import SpanStatusCode
from mlflow.server.handlers import _get_tracking_store
from mlflow.store.tracking.dbmodels.models import SqlSpan
from sqlalchemy import select

from paddock_mlflow.spans import SpanContent, SpanView


def earlier_spans(trace_id: str) -> Sequence[SpanView]:
    """Views of a trace's stored spans: one query, and one more for each span whose content is asked for.

    A long run has megabytes in its spans (each model call repeats the whole conversation), of which two or three are
    ever asked for.

    Args:
        trace_id: OTLP's, 32 hex digits.

    Raises:
        mlflow.exceptions.MlflowException: the database does not answer.
    """
    request_id = f"tr-{trace_id}"
    columns = (
        SqlSpan.name,
        SqlSpan.span_id,
        SqlSpan.parent_span_id,
        SqlSpan.start_time_unix_nano,
        SqlSpan.status,
    )
    with _get_tracking_store().ManagedSessionMaker() as session:
        rows = session.execute(select(*columns).where(SqlSpan.trace_id == request_id)).all()
    return [_view(request_id, *row) for row in rows]


def _view(
    request_id: str, name: str | None, span_id: str, parent_id: str | None, start_ns: int, status: str
) -> SpanView:
    return SpanView(
        name=name or "",
        span_id=span_id,
        parent_id=parent_id or "",
        start_ns=start_ns,
        error=status == SpanStatusCode.ERROR,
        load=lambda: _content(request_id, span_id),
    )


def _content(request_id: str, span_id: str) -> SpanContent:
    query = select(SqlSpan.content).where(SqlSpan.trace_id == request_id, SqlSpan.span_id == span_id)
    with _get_tracking_store().ManagedSessionMaker() as session:
        content = session.execute(query).scalar_one_or_none()
    # Empty where MLflow has moved an old trace's payload to the archive.
    span = json.loads(content) if content else {}
    # MLflow stores each value as JSON, inside the JSON document.
    attributes = {key: json.loads(value) for key, value in (span.get("attributes") or {}).items()}
    return SpanContent(attributes, str((span.get("status") or {}).get("message") or ""))
