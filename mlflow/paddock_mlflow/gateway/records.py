"""The record of a call, from which the job process makes its usage trace (`paddock_mlflow.usage_traces`)."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from paddock_mlflow.ledger.types import Usage

VERSION = 1
_FASTEST = 1


@dataclass
class Attempted:
    """One attempt, for the trace. Times in nanoseconds since the epoch."""

    provider: str
    model: str
    start_ns: int
    end_ns: int = 0
    status: int = 200
    error: dict[str, str] | None = None
    maybe_billed: bool = False


def compressed(
    fields: Mapping[str, Any],
    *,
    request: Mapping[str, Any],
    response: bytes | None,
    stream: bytes | None,
    attempts: list[Attempted],
    usage: Usage | None,
    cost: str | None,
) -> bytes:
    """
    Args:
        fields: whatever is known of the call before it is made, by the record's own names.
        response: the answer's JSON.
        stream: the answer's server-sent events.
    """
    record = {
        "v": VERSION,
        **fields,
        "request": request,
        "response": orjson.Fragment(response) if response is not None else None,
        "stream": stream.decode(errors="replace") if stream is not None else None,
        "attempts": [vars(one) for one in attempts],
        "usage": usage
        and {
            "input": usage.input,
            "output": usage.output,
            "cache_read": usage.cache_read,
            "cache_write": usage.cache_write,
            "reasoning": usage.reasoning,
            "cache_write_1h": usage.cache_write_1h,
            "service_tier": usage.service_tier,
        },
        "cost": cost,
    }
    try:
        written = orjson.dumps(record, default=str)
    except TypeError:
        # A request of 250 levels: the call must be settled all the same.
        written = orjson.dumps(record | {"request": {}}, default=str)
    return zlib.compress(written, _FASTEST)
