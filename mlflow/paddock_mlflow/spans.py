"""OTLP spans as plain values: what a span says, whether it stands in a request or in the database."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status


def plain(value: AnyValue) -> Any:
    """The Python value of an OTLP attribute."""
    match value.WhichOneof("value"):
        case "array_value":
            return [plain(item) for item in value.array_value.values]
        case "kvlist_value":
            return {item.key: plain(item.value) for item in value.kvlist_value.values}
        case None:
            return None
        case kind:
            return getattr(value, kind)


def parsed(value: Any) -> Any:
    """A value that may be JSON text, as what the text says; any other text as it is."""
    if isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


@dataclass(frozen=True)
class SpanContent:
    """The larger part of a span: its attributes as sent, and the message of its status."""

    attributes: Mapping[str, Any]
    status_message: str


@dataclass(frozen=True)
class SpanView:
    """What the translation needs to know of a span. Its content is fetched when it is first asked for."""

    name: str
    span_id: str
    parent_id: str
    start_ns: int
    error: bool
    load: Callable[[], SpanContent]

    @cached_property
    def _content(self) -> SpanContent:
        return self.load()

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Attribute name → value as sent."""
        return self._content.attributes

    @property
    def error_message(self) -> str:
        """What the status says beyond that it is an error; often nothing."""
        return self._content.status_message

    def json(self, key: str) -> Any:
        """What an attribute says: JSON text parsed, any other value as it is, None where there is none."""
        return parsed(self.attributes.get(key))

    @property
    def path(self) -> list[str]:
        """Names of the spans from the root down to this one, as Laminar writes them on each span."""
        path = self.attributes.get("lmnr.span.path")
        return [str(name) for name in path] if isinstance(path, list) else []


def view(span: Span) -> SpanView:
    """A span of a request, as it is now: later changes don't show."""
    content = SpanContent({item.key: plain(item.value) for item in span.attributes}, span.status.message)
    return SpanView(
        name=span.name,
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        start_ns=span.start_time_unix_nano,
        error=span.status.code == Status.STATUS_CODE_ERROR,
        load=lambda: content,
    )


class SpanEditor:
    """Adds what is missing to a span, and never overwrites what its sender said."""

    def __init__(self, span: Span) -> None:
        self.span = span
        self._given = {item.key for item in span.attributes}
        self.changed = False

    def __contains__(self, key: str) -> bool:
        return key in self._given

    def add(self, key: str, value: str) -> None:
        """Add a text attribute unless the span has one of that name."""
        if key not in self._given:
            self.span.attributes.add(key=key).value.string_value = value
            self._given.add(key)
            self.changed = True

    def add_json(self, key: str, value: Any) -> None:
        """Add an attribute as JSON text. MLflow keeps one layer of it, whatever the value's kind."""
        self.add(key, json.dumps(value, ensure_ascii=False))

    def replace_json(self, key: str, value: Any) -> None:
        """Put another value in the place of one that says the same in another form."""
        text = json.dumps(value, ensure_ascii=False)
        for item in self.span.attributes:
            if item.key == key and item.value.string_value != text:
                item.value.string_value = text
                self.changed = True
        self.add(key, text)

    def fail(self, message: str) -> None:
        """Mark the span as failed unless it is."""
        if self.span.status.code != Status.STATUS_CODE_ERROR:
            self.span.status.code = Status.STATUS_CODE_ERROR
            self.span.status.message = message
            self.changed = True
