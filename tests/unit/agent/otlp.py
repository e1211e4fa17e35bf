"""A receiver for OTLP traces over HTTP on loopback, and what it got."""

import gzip
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

UNSET, OK, ERROR = 0, 1, 2


@dataclass(frozen=True)
class Span:
    """A received span; ids as hexadecimal digits."""

    name: str
    trace: str
    id: str
    parent: str
    status: int
    message: str
    attributes: dict[str, Any]


@dataclass
class Received:
    """The spans and the headers they came with."""

    url: str
    status: int = 200
    spans: list[Span] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)

    def trace(self, trace_id: str, seconds: float = 5) -> dict[str, list[Span]]:
        """The spans of a trace by name, once its root is there; `trace_id` is MLflow's."""
        deadline = time.monotonic() + seconds
        while True:
            spans = [span for span in list(self.spans) if span.trace == trace_id.removeprefix("tr-")]
            if any(not span.parent for span in spans) or time.monotonic() > deadline:
                break
            time.sleep(0.02)
        named: dict[str, list[Span]] = {}
        for span in spans:
            named.setdefault(span.name, []).append(span)
        return named

    def root(self, trace_id: str) -> Span:
        """The root span of a trace."""
        roots = [span for spans in self.trace(trace_id).values() for span in spans if not span.parent]
        assert len(roots) == 1, f"expected one root span of {trace_id}, found {len(roots)}"
        return roots[0]


def _plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(item) for item in value.array_value.values]
    return getattr(value, kind) if kind else None


@contextmanager
def receiver() -> Iterator[Received]:
    """A receiver on a port of its own."""
    received = Received("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            received.headers.append(dict(self.headers))
            if received.status == 200:
                request = ExportTraceServiceRequest.FromString(body)
                received.spans += [
                    Span(
                        span.name,
                        span.trace_id.hex(),
                        span.span_id.hex(),
                        span.parent_span_id.hex(),
                        span.status.code,
                        span.status.message,
                        {item.key: _plain(item.value) for item in span.attributes},
                    )
                    for resource in request.resource_spans
                    for scope in resource.scope_spans
                    for span in scope.spans
                ]
            self.send_response(received.status)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()
