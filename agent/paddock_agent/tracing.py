"""The run's root span, and whether its spans were delivered.

OpenHands opens one root span a conversation and closes it with the conversation. What MLflow reads from the root
alone (previews, session, user, state) is put there; what every OpenHands user needs is done at ingest instead.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from .masking import Mask

if TYPE_CHECKING:
    from openhands.sdk.conversation.impl.local_conversation import LocalConversation
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span

_TRACE_NAME_LENGTH = 80
# The instrumentations that a run needs: the others only cost start-up time.
INSTRUMENTS = "litellm,mcp"

_HEADERS = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_HEADERS")
"""Where lmnr looks for them: the first that is set counts."""
_RUN_KEY = "pdk_"


def present(key: str) -> None:
    """Send a run's key along with its spans, by which the collector knows whose they are.

    Call before the SDK is imported. Spans that have an identity keep it, and a key of another form is none of ours.
    """
    name = next((name for name in _HEADERS if os.environ.get(name)), _HEADERS[1])
    given = os.environ.get(name, "")
    if key.startswith(_RUN_KEY) and not re.search(r"(?i)(^|,)\s*authorization\s*=", given):
        os.environ[name] = ",".join(filter(None, [given, f"authorization=Bearer%20{key}"]))


class OpenSpans:
    """Knows the spans that have not ended, so that a run that is cut off leaves no gap in its tree.

    lmnr's decorator ends a span when its function returns or raises an `Exception`; what a signal raises is none.
    """

    def __init__(self) -> None:
        self._spans: dict[int, Span] = {}

    def watch(self) -> None:
        """From now on, beside the exporter's own processor."""
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
        from opentelemetry.trace import get_tracer_provider

        spans = self._spans

        class Processor(SpanProcessor):
            def on_start(self, span: Span, parent_context: Context | None = None) -> None:
                spans[id(span)] = span

            def on_end(self, span: ReadableSpan) -> None:
                # `span` is a copy; its context is the original's.
                for key, known in list(spans.items()):
                    if known.get_span_context() == span.get_span_context():
                        del spans[key]

        provider = get_tracer_provider()
        if isinstance(provider, TracerProvider):
            provider.add_span_processor(Processor())

    def end(self, why: str) -> None:
        """Ends what is open, the innermost first, as an error."""
        from opentelemetry.trace import Status, StatusCode

        for span in reversed(list(self._spans.values())):
            span.set_status(Status(StatusCode.ERROR, why))
            span.end()


class Delivery:
    """Counts the spans that the collector took and those it did not; none leaves with a secret in it."""

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        self.sent = 0
        self.lost = 0
        self.reason: str | None = None
        self._lock = threading.Lock()

    def watch(self) -> None:
        """Hooks in after the SDK has set up its exporter; without an exporter nothing is counted."""
        from lmnr.opentelemetry_lib.tracing import TracerWrapper

        processor = getattr(TracerWrapper, "instance", None) and TracerWrapper.instance._span_processor
        exporter = getattr(processor, "exporter", None)
        if exporter is None:
            return
        logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter").addHandler(_Reason(self))
        exporter.export = self._counting(exporter.export)

    def _counting(self, export: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def counted(spans: list[ReadableSpan]) -> Any:
            from opentelemetry.sdk.trace.export import SpanExportResult

            result = SpanExportResult.FAILURE
            try:
                result = export([_masked(span, self._mask) for span in spans])
            finally:
                with self._lock:
                    if result is SpanExportResult.SUCCESS:
                        self.sent += len(spans)
                    else:
                        self.lost += len(spans)
            return result

        return counted


def _masked(span: ReadableSpan, mask: Mask) -> ReadableSpan:
    """The span without secrets; itself where it has none."""
    from opentelemetry.sdk.trace import Event, ReadableSpan
    from opentelemetry.trace import Status

    if not mask.forms:
        return span
    name, attributes = mask.text(span.name), mask.value(dict(span.attributes or {}))
    events = [(event.name, dict(event.attributes or {}), event.timestamp) for event in span.events]
    masked_events = [(mask.text(name), mask.value(told), moment) for name, told, moment in events]
    said = span.status.description
    masked_said = None if said is None else mask.text(said)
    if (name, attributes, masked_events, masked_said) == (
        span.name,
        dict(span.attributes or {}),
        events,
        said,
    ):
        return span
    return ReadableSpan(
        name=name,
        context=span.get_span_context(),
        parent=span.parent,
        resource=span.resource,
        attributes=attributes,
        events=[Event(name, told, moment) for name, told, moment in masked_events],
        links=span.links,
        kind=span.kind,
        status=Status(span.status.status_code, masked_said),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


class _Reason(logging.Handler):
    """Keeps what the exporter logs about its last failure; there is no other way to learn it."""

    def __init__(self, delivery: Delivery) -> None:
        super().__init__(logging.WARNING)
        self._delivery = delivery

    def emit(self, record: logging.LogRecord) -> None:
        self._delivery.reason = " ".join(record.getMessage().split())[:300]


class RootSpan:
    """The conversation's root span as MLflow is to see it. Does nothing where no traces are sent."""

    def __init__(self, conversation: LocalConversation, open_spans: OpenSpans) -> None:
        self._open_spans = open_spans
        # No public way leads to it; a test fails should the SDK name it otherwise.
        root = conversation._observability_root_span
        self._root = root
        self._span = None if root is None else root.span
        self._lock = threading.Lock()
        self._ended = False

    @property
    def trace_id(self) -> str | None:
        """MLflow's id of the trace, `tr-` and 32 hexadecimal digits."""
        return None if self._span is None else f"tr-{self._span.get_span_context().trace_id:032x}"

    def begin(
        self,
        *,
        task: str,
        run_id: str,
        user: str | None,
        endpoint: str,
        isolation: str,
        tags: Mapping[str, str],
    ) -> None:
        """What is known from the start; the root is stored when it ends."""
        name = " ".join(task.split())
        if len(name) > _TRACE_NAME_LENGTH:
            name = name[: _TRACE_NAME_LENGTH - 1] + "…"
        attributes = {
            # First, so that a tag of the caller's can't take the place of what follows.
            **{f"mlflow.traceTag.{key}": value for key, value in tags.items()},
            "session.id": run_id,
            "mlflow.spanInputs": json.dumps(task, ensure_ascii=False),
            "mlflow.traceTag.mlflow.traceName": name,
            "mlflow.traceTag.paddock.run_id": run_id,
            "mlflow.traceTag.paddock.endpoint": endpoint,
            "mlflow.traceTag.paddock.isolation": isolation,
        }
        if user:
            attributes["user.id"] = user
        if self._span is not None:
            for key, value in attributes.items():
                self._span.set_attribute(key, value)

    def end(self, *, outcome: str, finished: bool, output: str) -> None:
        """Closes the trace with its outcome: OK for a finished run, ERROR for every other. Later calls do nothing."""
        with self._lock:
            if self._ended or self._span is None or self._root is None:
                return
            self._ended = True
            from opentelemetry.trace import Status, StatusCode

            # The root is the SDK's own object and not among these: it began before they were watched.
            self._open_spans.end(outcome)
            self._span.set_attribute("mlflow.spanOutputs", json.dumps(output, ensure_ascii=False))
            self._span.set_attribute("mlflow.traceTag.paddock.outcome", outcome)
            status = (
                Status(StatusCode.OK) if finished else Status(StatusCode.ERROR, f"{outcome}: {output}"[:500])
            )
            self._span.set_status(status)
            self._root.end()


def flush(seconds: float) -> bool:
    """Sends what is still held; False where that took longer than `seconds` or failed."""
    from lmnr import Laminar

    done: list[bool] = []
    worker = threading.Thread(target=lambda: done.append(Laminar.flush()), daemon=True, name="flush")
    worker.start()
    worker.join(seconds)
    return bool(done and done[0])
