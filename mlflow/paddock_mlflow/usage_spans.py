"""A gateway call's record, as the rows of a usage trace that MLflow itself would have written for the call.

Names, types, attributes, metadata, previews, token counts and costs are those of MLflow 3.17.2
(mlflow/gateway/tracing_utils.py, gateway/providers/base.py), so that its usage pages, its search and its sums find the
same; `tests/unit/mlflow/test_usage_traces.py` makes each call both ways and compares. What differs, on purpose:

- A stream's chunks are in the answer that they add up to, and nowhere else. MLflow keeps each one again as an event of
  both spans, and for OpenAI's own route in place of the answer.
- The provider's span does not repeat the answer that the root has, nor an error's stack trace.
- The trace says which model answered and why: `paddock.answered_by` and `paddock.reason`.
- Nothing of the server's own process (its user, its script, its git commit).
- A refused call has its caller, endpoint and request too.
"""

import base64
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import orjson
from mlflow.gateway import tracing_utils
from mlflow.tracing.constant import (
    TRACE_SCHEMA_VERSION,
    TRACE_SCHEMA_VERSION_KEY,
    SpansLocation,
    TraceMetadataKey,
    TraceTagKey,
)
from mlflow.tracing.utils import _calculate_percentile
from mlflow.tracing.utils.truncation import _get_truncated_preview

from paddock_mlflow.errors import PaddockError
from paddock_mlflow.ledger.types import Usage
from paddock_mlflow.pricing import Prices

VERSION = 1
REFUSED = "paddock.refused"
"""In a trace's metadata: that the call was not made, and the kind of the refusal."""

_METADATA_CHARACTERS = 250
"""MLflow cuts the inputs and outputs that it repeats in a trace's metadata (MAX_CHARS_IN_TRACE_INFO_METADATA)."""
_MODEL_CHARACTERS = 500
_REASON_CHARACTERS = 1000
_DEBUG, _INFO, _ERROR = 10, 20, 40
_HEX = re.compile(r"[0-9a-f]{32}")

# What MLflow's handler of a route writes on the provider's span: attribute, value, value where it streams.
_METHODS: dict[str, tuple[str, str, str]] = {
    "unified/chat": ("method", "chat", "chat_stream"),
    "unified/embeddings": ("method", "embeddings", "embeddings"),
    "passthrough/model/openai-chat": ("action", "openai_chat", "openai_chat"),
    "passthrough/model/openai-embeddings": ("action", "openai_embeddings", "openai_embeddings"),
    "passthrough/model/openai-responses": ("action", "openai_responses", "openai_responses"),
    "passthrough/model/anthropic-messages": ("action", "anthropic_messages", "anthropic_messages"),
    "passthrough/model/gemini-generateContent": (
        "action",
        "gemini_generate_content",
        "gemini_stream_generate_content",
    ),
    "passthrough/model/typesafe-systemone": ("action", "typesafe_system_one", "typesafe_system_one"),
}
_MESSAGE_FORMATS = {
    "passthrough/model/anthropic-messages": "anthropic",
    "passthrough/model/gemini-generateContent": "gemini",
}
_AGGREGATORS: dict[str, Callable[[list[bytes]], dict[str, Any] | None]] = {
    "anthropic_messages": tracing_utils.aggregate_anthropic_messages_stream_chunks,
    "gemini": tracing_utils.aggregate_gemini_stream_generate_content_chunks,
    "openai_responses": tracing_utils.aggregate_openai_responses_stream_chunks,
}


class BadRecord(PaddockError):
    """No trace can be made of a record; the text says why."""


@dataclass
class TraceRows:
    """The rows of one trace, by column, without its experiment's artifact location."""

    trace: dict[str, Any]
    metadata: dict[str, str]
    tags: dict[str, str]
    spans: list[dict[str, Any]] = field(default_factory=list)

    @property
    def trace_id(self) -> str:
        return str(self.trace["request_id"])


def encode(record: Mapping[str, Any]) -> bytes:
    """A record as the outbox keeps it."""
    return zlib.compress(orjson.dumps(record), 1)


def decode(content: bytes) -> dict[str, Any]:
    """Raises:
    BadRecord: these bytes are no record, or one of another version.
    """
    try:
        record = orjson.loads(zlib.decompress(content))
    except (zlib.error, orjson.JSONDecodeError) as error:
        raise BadRecord(
            f"expected a compressed JSON record, found {len(content)} bytes that are none: {error}"
        ) from None
    if not isinstance(record, dict) or record.get("v") != VERSION:
        found = record.get("v") if isinstance(record, dict) else type(record).__name__
        raise BadRecord(f"expected a record of version {VERSION}, found {found!r}; another release wrote it")
    return record


def trace_id_of(call_id: str) -> str:
    """The id of a call's trace: always the same, so that a record that is written twice is one trace."""
    digits = call_id.replace("-", "").lower()
    return f"tr-{digits if _HEX.fullmatch(digits) else hashlib.sha256(call_id.encode()).hexdigest()[:32]}"


def build(record: Mapping[str, Any], prices: Prices, charged: Decimal | None) -> TraceRows:
    """The trace of one call.

    Args:
        record: what `decode` gave.
        prices: to split the cost into the prompt's and the answer's.
        charged: what the ledger charged, in USD; None where nothing was, as for a refused call.

    Raises:
        BadRecord: a part of the record is missing, or of another type than expected.
    """
    try:
        return _Builder(record, prices, charged).rows()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadRecord(
            f"expected a record of a gateway call, found {type(error).__name__}: {error}"
        ) from error


class _Builder:
    def __init__(self, record: Mapping[str, Any], prices: Prices, charged: Decimal | None) -> None:
        self._record = record
        self._prices = prices
        self._charged = charged
        self._trace_id = trace_id_of(record["call_id"])
        self._digest = hashlib.sha256(record["call_id"].encode())
        self._experiment_id = int(record["experiment_id"])
        self._request_type = str(record["request_type"])
        self._start = int(record["start_ns"])
        self._end = max(int(record["end_ns"]), self._start)
        self._attempts: list[Mapping[str, Any]] = record.get("attempts") or []
        self._error: Mapping[str, Any] | None = record.get("error")
        usage = record.get("usage")
        self._usage = _usage(usage) if usage else None
        self._spans: list[dict[str, Any]] = []

    def rows(self) -> TraceRows:
        record = self._record
        inputs = _json({key: value for key, value in record["request"].items() if key != "model"})
        answer = _answer(record)
        outputs = _json(answer) if answer is not None else None
        root = self._span_id(0)
        self._root(root, inputs, outputs, answer)
        for index, attempt in enumerate(self._attempts, 1):
            self._attempt(root, index, attempt)
        for index, guardrail in enumerate(record.get("guardrails") or [], len(self._attempts) + 1):
            self._guardrail(root, index, guardrail)
        sizes = sorted(len(span["content"].encode()) for span in self._spans)
        return TraceRows(
            trace=self._trace(inputs, outputs),
            metadata=self._metadata(inputs, outputs, sizes),
            tags={TraceTagKey.SPANS_LOCATION: SpansLocation.TRACKING_STORE.value},
            spans=self._spans,
        )

    def _trace(self, inputs: str, outputs: str | None) -> dict[str, Any]:
        usage = self._usage
        split = _totals(self._spans) if self._charged is not None else {}
        return {
            "request_id": self._trace_id,
            "experiment_id": self._experiment_id,
            "timestamp_ms": self._start // 1_000_000,
            "execution_time_ms": (self._end - self._start) // 1_000_000,
            "status": "ERROR" if self._error else "OK",
            "request_preview": _preview(inputs, "user"),
            "response_preview": _preview(outputs, "assistant"),
            "trace_name": self._name,
            # As MLflow counts what it writes to a trace: archival and it agree by this number.
            "db_payload_generation": 1,
            "input_tokens": usage.input if usage else None,
            "output_tokens": usage.output if usage else None,
            "total_tokens": usage.input + usage.output if usage else None,
            "cache_read_input_tokens": usage.cache_read or None if usage else None,
            "cache_creation_input_tokens": usage.cache_write or None if usage else None,
            "cache_creation_input_tokens_above_1hr": usage.cache_write_1h or None if usage else None,
            "input_cost": split.get("input_cost"),
            "output_cost": split.get("output_cost"),
            "total_cost": split.get("total_cost"),
        }

    def _metadata(self, inputs: str, outputs: str | None, sizes: Sequence[int]) -> dict[str, str]:
        record = self._record
        total = sum(sizes) + (len(sizes) - 1) * 2
        ordered: list[float] = [*sizes]
        stats = {
            "total_size_bytes": total,
            "num_spans": len(sizes),
            "max": sizes[-1],
            "p25": int(_calculate_percentile(ordered, 0.25)),
            "p50": int(_calculate_percentile(ordered, 0.5)),
            "p75": int(_calculate_percentile(ordered, 0.75)),
        }
        found = {
            TRACE_SCHEMA_VERSION_KEY: str(TRACE_SCHEMA_VERSION),
            TraceMetadataKey.TRACE_INFO_FINALIZED: "true",
            TraceMetadataKey.AUTH_USERNAME: record.get("username"),
            TraceMetadataKey.GATEWAY_ENDPOINT_ID: record["endpoint_id"],
            TraceMetadataKey.GATEWAY_REQUEST_TYPE: self._request_type,
            TraceMetadataKey.GATEWAY_CALLER: record.get("caller"),
            TraceMetadataKey.SIZE_BYTES: str(total),
            TraceMetadataKey.SIZE_STATS: json.dumps(stats),
            TraceMetadataKey.INPUTS: _cut(inputs, _METADATA_CHARACTERS),
            TraceMetadataKey.OUTPUTS: _cut(outputs or "", _METADATA_CHARACTERS),
            "paddock.key_id": record.get("key_id"),
            "paddock.run_id": record.get("run_id"),
            "paddock.fallback": self._reason if len(self._attempts) > 1 else None,
            REFUSED: (self._error.get("type") or "refused") if self._error and not self._attempts else None,
        }
        # MLflow shows an empty output as such; an identity that is not there is left out.
        kept = (TraceMetadataKey.INPUTS, TraceMetadataKey.OUTPUTS)
        return {
            key: _storable(str(value))
            for key, value in found.items()
            if key in kept or value not in (None, "")
        }

    @property
    def _name(self) -> str:
        return f"gateway/{self._record['endpoint_name']}"

    @property
    def _answered(self) -> Mapping[str, Any] | None:
        """The attempt that the caller got the answer of."""
        last = self._attempts[-1] if self._attempts else None
        return last if last is not None and not last.get("error") else None

    @property
    def _reason(self) -> str:
        """Why this model answered, for people."""
        failed = [
            f"{_model_of(attempt)} failed: {_message(attempt.get('error'))}"
            for attempt in self._attempts
            if attempt.get("error")
        ]
        return _cut("; ".join(failed), _REASON_CHARACTERS) if failed else "first choice"

    def _root(self, span_id: str, inputs: str, outputs: str | None, answer: Any) -> None:
        record = self._record
        attributes: dict[str, Any] = {
            "mlflow.experimentId": _json(str(self._experiment_id)),
            "mlflow.spanType": '"UNKNOWN"',
            "endpoint_id": _json(record["endpoint_id"]),
            "endpoint_name": _json(record["endpoint_name"]),
        }
        if server_url := record.get("server_url"):
            attributes["server_url"] = _json(server_url)
        if message_format := _MESSAGE_FORMATS.get(self._request_type):
            attributes["mlflow.message.format"] = _json(message_format)
        attributes["mlflow.spanInputs"] = inputs
        if outputs is not None:
            attributes["mlflow.spanOutputs"] = outputs
        attributes["mlflow.spanLogLevel"] = str(_ERROR if self._error else _DEBUG)
        model = answer.get("model") if isinstance(answer, Mapping) else None
        if isinstance(model, str) and model:
            attributes["mlflow.llm.model"] = _json(model)
        if self._attempts:
            if self._answered is not None:
                attributes["paddock.answered_by"] = _json(_model_of(self._answered))
            attributes["paddock.reason"] = _json(self._reason)
        self._add(
            span_id, None, self._name, "UNKNOWN", self._start, self._end, attributes, self._error, model=model
        )

    def _attempt(self, parent: str, index: int, attempt: Mapping[str, Any]) -> None:
        provider, model = str(attempt["provider"]), str(attempt["model"])
        error = attempt.get("error")
        streaming = self._record.get("stream") is not None or bool(self._record["request"].get("stream"))
        attributes: dict[str, Any] = {
            "mlflow.spanType": '"LLM"',
            "mlflow.llm.provider": _json(provider),
            "mlflow.llm.model": _json(model),
        }
        if self._request_type in _METHODS:
            name, once, streamed = _METHODS[self._request_type]
            attributes[name] = _json(streamed if streaming else once)
            if streaming and name == "method":
                attributes["streaming"] = "true"
        if attempt is self._attempts[-1] and self._usage is not None:
            attributes["mlflow.chat.tokenUsage"] = _json(_token_usage(self._usage))
            if self._usage.reasoning:
                attributes["gen_ai.usage.reasoning.output_tokens"] = str(self._usage.reasoning)
        attributes["mlflow.spanLogLevel"] = str(_ERROR if error else _INFO)
        if error and attempt.get("maybe_billed"):
            attributes["paddock.maybe_billed"] = "true"
        cost = self._cost_of(index - 1)
        if cost is not None:
            attributes["mlflow.llm.cost"] = _json(cost)
        start = max(int(attempt["start_ns"]), self._start)
        end = min(max(int(attempt["end_ns"]), start), max(self._end, start))
        self._add(
            self._span_id(index), parent, f"provider/{provider}/{model}", "LLM", start, end, attributes, error,
            model=model, provider=provider, cost=cost,
        )  # fmt: skip

    def _guardrail(self, parent: str, index: int, guardrail: Mapping[str, Any]) -> None:
        before = str(guardrail.get("stage", "")).upper() == "BEFORE"
        at = self._start if before else self._end
        passed = bool(guardrail.get("passed"))
        error = None
        if not passed and str(guardrail.get("action", "")).upper() == "VALIDATION":
            error = {"type": "GuardrailViolation", "message": guardrail.get("rationale") or ""}
        told = {key: guardrail.get(key) for key in ("stage", "action", "passed", "rationale")}
        attributes = {
            "mlflow.spanType": '"GUARDRAIL"',
            "mlflow.spanOutputs": _json(told),
            "mlflow.spanLogLevel": str(_ERROR if error else _INFO),
        }
        name = f"guardrail/{guardrail['name']}"
        self._add(self._span_id(index), parent, name, "GUARDRAIL", at, at, attributes, error)

    def _cost_of(self, index: int) -> dict[str, float] | None:
        """What the ledger charged, on the spans of the attempts that it was charged for: their sum is exactly that.

        The answer has the price of its tokens, and a failed attempt that the provider may bill has the rest. Where
        there is no answer, or no rest to give, it is all on one span.
        """
        if self._charged is None:
            return None
        billed = [
            i
            for i, attempt in enumerate(self._attempts)
            if attempt.get("error") and attempt.get("maybe_billed")
        ]
        answered = len(self._attempts) - 1 if self._answered is not None else None
        price = None
        if answered is not None and self._usage is not None:
            price = self._prices.cost(
                self._attempts[answered]["provider"], self._attempts[answered]["model"], self._usage
            )
        if answered is None:
            if not self._charged:
                return None
            return _cost(self._charged) if index == (billed or [len(self._attempts) - 1])[-1] else None
        rest = self._charged - price.total if price is not None else Decimal(0)
        if billed and rest > 0 and price is not None:
            if index == answered:
                return _cost(price.total, price.input)
            return _cost(rest) if index == billed[-1] else None
        if index != answered:
            return None
        # A price that changed between the call and now: what was charged counts, split as it would be now.
        share = price.input / price.total if price is not None and price.total else Decimal(0)
        exact = price is not None and price.total == self._charged
        return _cost(self._charged, price.input if exact and price is not None else self._charged * share)

    def _span_id(self, index: int) -> str:
        digest = self._digest.copy()
        digest.update(b"/%d" % index)
        return digest.hexdigest()[:16]

    def _add(
        self,
        span_id: str,
        parent: str | None,
        name: str,
        kind: str,
        start: int,
        end: int,
        attributes: dict[str, Any],
        error: Mapping[str, Any] | None,
        *,
        model: Any = None,
        provider: str | None = None,
        cost: dict[str, float] | None = None,
    ) -> None:
        events = []
        if error:
            told = {
                "exception.message": str(error.get("message", "")),
                "exception.type": str(error.get("type", "")),
            }
            events = [{"name": "exception", "time_unix_nano": end, "attributes": told}]
        content = {
            "trace_id": base64.b64encode(bytes.fromhex(self._trace_id[3:])).decode(),
            "span_id": base64.b64encode(bytes.fromhex(span_id)).decode(),
            "parent_span_id": base64.b64encode(bytes.fromhex(parent)).decode() if parent else None,
            "name": name,
            "start_time_unix_nano": start,
            "end_time_unix_nano": end,
            "events": events,
            "status": {
                "code": "STATUS_CODE_ERROR" if error else "STATUS_CODE_OK",
                "message": _message(error) if error else "",
            },
            "attributes": {"mlflow.traceRequestId": _json(self._trace_id), **attributes},
            "links": [],
        }
        self._spans.append(
            {
                "trace_id": self._trace_id,
                "experiment_id": self._experiment_id,
                "span_id": span_id,
                "parent_span_id": parent,
                "name": _storable(name),
                "type": kind,
                "status": "ERROR" if error else "OK",
                "start_time_unix_nano": start,
                "end_time_unix_nano": end,
                "content": _json(content),
                "input_cost": cost and cost["input_cost"],
                "output_cost": cost and cost["output_cost"],
                "total_cost": cost and cost["total_cost"],
                "model_name": _storable(model)[:_MODEL_CHARACTERS]
                if isinstance(model, str) and model
                else None,
                "model_provider": provider and provider[:_MODEL_CHARACTERS],
            }
        )


def _answer(record: Mapping[str, Any]) -> Any:
    """The whole answer; a stream's is put together by MLflow's own functions."""
    response, stream = record.get("response"), record.get("stream")
    if response is not None or not stream:
        return response
    aggregate = _AGGREGATORS.get(record["protocol"])
    found = aggregate([stream.encode()]) if aggregate is not None else _chat_answer(stream)
    # Nothing that makes an answer, as after an early end: better the text itself than nothing.
    return found if found is not None else stream


def _chat_answer(stream: str) -> dict[str, Any] | None:
    chunks: list[Any] = []
    for line in stream.splitlines():
        if not line.startswith("data:") or line.endswith("[DONE]"):
            continue
        try:
            chunk = orjson.loads(line[5:])
        except orjson.JSONDecodeError:
            continue
        if isinstance(chunk, dict) and isinstance(chunk.get("choices"), list):
            chunks.append(_View(chunk | {"choices": [_choice(choice) for choice in chunk["choices"]]}))
    return tracing_utils.aggregate_chat_stream_chunks(chunks) if chunks else None


def _choice(choice: dict[str, Any]) -> dict[str, Any]:
    return {"index": 0} | choice | {"delta": choice.get("delta") or {}}


class _View:
    """A JSON object with its keys as attributes: what MLflow's function reads, without a schema's check of each chunk."""

    __slots__ = ("_content",)

    def __init__(self, content: dict[str, Any]) -> None:
        self._content = content

    def __getattr__(self, name: str) -> Any:
        value = self._content.get(name)
        if isinstance(value, dict):
            return _View(value) if value or name == "delta" else None
        if isinstance(value, list):
            return [_View(item) if isinstance(item, dict) else item for item in value]
        return value


def _usage(found: Mapping[str, Any]) -> Usage:
    known = Usage.__dataclass_fields__
    return Usage(**{key: value for key, value in found.items() if key in known and value is not None})


def _token_usage(usage: Usage) -> dict[str, int]:
    found = {
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation_input_tokens": usage.cache_write,
        "cache_creation_input_tokens_above_1hr": usage.cache_write_1h,
    }
    return {key: value for key, value in found.items() if value or not key.startswith("cache")}


def _cost(total: Decimal, given: Decimal | None = None) -> dict[str, float]:
    """Where only the sum is known, it stands for the prompt: nothing was generated that anyone got."""
    given = total if given is None else given
    return {"input_cost": float(given), "output_cost": float(total - given), "total_cost": float(total)}


def _totals(spans: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    priced = [span for span in spans if span["total_cost"] is not None]
    keys = ("input_cost", "output_cost", "total_cost")
    return {key: sum(span[key] for span in priced) for key in keys} if priced else {}


def _model_of(attempt: Mapping[str, Any]) -> str:
    return f"{attempt['provider']}/{attempt['model']}"


def _message(error: Any) -> str:
    if not isinstance(error, Mapping):
        return str(error or "")
    kind, message = error.get("type") or "", error.get("message") or ""
    return f"{kind}: {message}" if kind and message else str(kind or message)


def _preview(text: str | None, role: str) -> str | None:
    preview = _get_truncated_preview(text, role=role) if text is not None else None
    return _storable(preview) if preview is not None else None


def _json(value: Any) -> str:
    # With the spaces of json.dumps: MLflow's search for a span's attribute looks for them.
    return json.dumps(value, ensure_ascii=False)


def _cut(text: str, characters: int) -> str:
    return text if len(text) <= characters else text[: characters - 3] + "..."


def _storable(text: str) -> str:
    # PostgreSQL refuses a text with NUL.
    return text.replace("\x00", "")
