"""What the collector says of whom a batch of spans is from, as it stands in the resource attributes of a request.

services/collector/source writes it, over whatever its sender put there. Anybody else can write the same names into a
request of theirs, so they are read from the collector's requests alone, and taken off all of them.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from paddock_mlflow.spans import plain

PREFIX = "paddock.source."


class Unnamed(Exception):
    """A resource does not say whom it is from; the text says what is missing."""


@dataclass(frozen=True)
class Source:
    """Whom spans are from. No `key_sha256`: no key was presented. `experiment_id` is a claim, `address` the client's."""

    key_sha256: bytes | None
    experiment_id: str
    address: str
    received: datetime


def source_of(resource: Resource) -> Source:
    """Whom the spans of a resource are from.

    Raises:
        Unnamed: the collector did not write it.
    """
    notes = {
        item.key.removeprefix(PREFIX): plain(item.value)
        for item in resource.attributes
        if item.key.startswith(PREFIX)
    }
    try:
        sha256 = notes.get("key_sha256")
        return Source(
            bytes.fromhex(sha256) if sha256 else None,
            str(notes.get("experiment_id", "")),
            str(notes["address"]),
            datetime.fromtimestamp(int(notes["received_unix_nano"]) / 1e9, UTC),
        )
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise Unnamed(repr(error)) from None


def strip(request: ExportTraceServiceRequest) -> bool:
    """Take everything off that stands under the collector's names; returns whether there was any."""
    stripped = False
    for resource_spans in request.resource_spans:
        attributes = resource_spans.resource.attributes
        for index in reversed(range(len(attributes))):
            if attributes[index].key.startswith(PREFIX):
                del attributes[index]
                stripped = True
    return stripped
