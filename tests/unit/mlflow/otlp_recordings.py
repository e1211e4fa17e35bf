"""Traces as the real OpenHands SDK sent them; `record.py` makes them anew."""

import lzma
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

DATA = Path(__file__).parent / "data"
CASES = ("finish", "user", "message", "limit", "signal", "wrong-key", "tool-error", "mcp", "stream", "twice")
TASK = "Write 3 facts about the current project into FACTS.txt."
ANSWER = "I wrote 3 facts into FACTS.txt."


@dataclass
class Recording:
    """What the SDK sent for one trace, request by request."""

    requests: list[ExportTraceServiceRequest] = field(default_factory=list)

    @property
    def spans(self) -> list[Span]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def root(self) -> Span:
        return next(span for span in self.spans if not span.parent_span_id)

    @property
    def trace_id(self) -> str:
        """As MLflow names the trace."""
        return f"tr-{self.spans[0].trace_id.hex()}"

    def together(self) -> "Recording":
        """The same spans in one request."""
        whole = ExportTraceServiceRequest()
        for request in self.requests:
            whole.MergeFrom(request)
        return Recording([whole])

    def reordered(self, order: Sequence[int]) -> "Recording":
        return Recording([self.requests[index] for index in order])


def recording(case: str) -> Recording:
    """One of `data/`, as a trace of its own: the trace id is new each time."""
    content = lzma.decompress((DATA / f"{case}.otlp.xz").read_bytes())
    requests = []
    while content:
        length = int.from_bytes(content[:4])
        requests.append(ExportTraceServiceRequest.FromString(content[4 : 4 + length]))
        content = content[4 + length :]
    found = Recording(requests)
    trace_id = os.urandom(16)
    for span in found.spans:
        span.trace_id = trace_id
    return found
