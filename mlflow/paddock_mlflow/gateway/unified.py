"""MLflow's unified chat and embeddings on OpenAI's protocol: what goes to the provider, and what comes back.

The same as `mlflow.gateway.providers.openai_compatible.OpenAICompatibleAdapter` makes of it, without building pydantic
models from answers. Three differences, all upwards: fields of messages and of tools' schemas that MLflow's models do not
know go on to the provider (MLflow drops nested properties and `anyOf` of a tool's parameters without a word), a stream
ends in `data: [DONE]`, which OpenAI's clients wait for, and the pieces of a tool call hold no nulls, with which OpenAI's
library overwrites what earlier pieces said (`chat.completions.stream` then fails).
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from mlflow.gateway.schemas import chat, embeddings

from paddock_mlflow.gateway.errors import GatewayError

DONE = b"data: [DONE]\n\n"


def chat_payload(body: Mapping[str, Any]) -> dict[str, Any]:
    """The request as a provider gets it, without `model`.

    Raises:
        GatewayError: MLflow's own rules refuse it (400).
    """
    try:
        chat.RequestPayload(**body)
    except (ValueError, TypeError) as error:
        raise GatewayError(400, "invalid_request_error", f"Invalid chat payload: {error!s}") from None
    payload = {name: value for name, value in body.items() if value is not None and name != "model"}
    payload.setdefault("n", 1)
    payload["messages"] = [
        {name: value for name, value in message.items() if value is not None}
        if None in message.values()
        else message
        for message in payload["messages"]
    ]
    return payload


def embeddings_payload(body: Mapping[str, Any]) -> dict[str, Any]:
    """The same for embeddings."""
    try:
        embeddings.RequestPayload(**body)
    except (ValueError, TypeError) as error:
        raise GatewayError(400, "invalid_request_error", f"Invalid embeddings payload: {error!s}") from None
    return {name: value for name, value in body.items() if value is not None and name != "model"}


def with_usage(payload: dict[str, Any]) -> dict[str, Any]:
    """A stream's request that asks for usage in the last chunk, unless the client decided about it."""
    options = payload.get("stream_options")
    if options is None:
        return payload | {"stream_options": {"include_usage": True}}
    if isinstance(options, dict) and "include_usage" not in options:
        return payload | {"stream_options": {**options, "include_usage": True}}
    return payload


def chat_answer(answer: Mapping[str, Any], provider: str) -> bytes:
    """A provider's answer as the unified route gives it.

    Raises:
        KeyError, TypeError: it is no answer of chat.
    """
    return orjson.dumps(
        {
            "id": answer["id"],
            "object": answer["object"],
            "created": answer["created"],
            "model": answer["model"],
            "choices": [
                {
                    "index": index,
                    "message": {
                        "role": choice["message"]["role"],
                        "content": choice["message"].get("content"),
                        "tool_calls": (calls := choice["message"].get("tool_calls")) and [*map(_call, calls)],
                        "refusal": None,
                    },
                    "finish_reason": choice.get("finish_reason"),
                }
                for index, choice in enumerate(answer["choices"])
            ],
            "usage": _usage(answer.get("usage") or {}),
            "provider": provider,
        }
    )


def chat_chunk(chunk: Mapping[str, Any], provider: str) -> bytes:
    """One event of a stream.

    Raises:
        KeyError, TypeError: it is no chunk of chat.
    """
    usage = chunk.get("usage")
    return b"data: %b\n\n" % orjson.dumps(
        {
            "id": chunk["id"],
            "object": chunk["object"],
            "created": chunk["created"],
            "model": chunk["model"],
            "choices": [
                {
                    "index": choice["index"],
                    "finish_reason": choice.get("finish_reason"),
                    "delta": {
                        "role": choice["delta"].get("role"),
                        "content": choice["delta"].get("content"),
                        "tool_calls": (calls := choice["delta"].get("tool_calls")) and [*map(_delta, calls)],
                    },
                }
                for choice in chunk["choices"]
            ],
            "usage": _usage(usage) if usage else None,
            "provider": provider,
        }
    )


def embeddings_answer(answer: Mapping[str, Any]) -> bytes:
    """A provider's embeddings as the unified route gives them."""
    return orjson.dumps(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "embedding": one["embedding"], "index": index}
                for index, one in enumerate(answer["data"])
            ],
            "model": answer["model"],
            "usage": {
                "prompt_tokens": answer["usage"]["prompt_tokens"],
                "total_tokens": answer["usage"]["total_tokens"],
            },
        }
    )


class Events:
    """Reads the data lines of a stream of server-sent events, whatever the pieces that it comes in.

    `translate` makes the client's bytes of one event; an empty answer leaves it out.
    """

    def __init__(self, translate: Callable[[dict[str, Any]], bytes], end: bytes = b"") -> None:
        self._translate = translate
        self._end = end
        self._rest = b""

    def feed(self, piece: bytes) -> bytes:
        """What the client gets for these bytes of the provider's."""
        lines = (self._rest + piece).split(b"\n")
        self._rest = lines.pop()
        return b"".join([self._line(line) for line in lines if line.startswith(b"data:")])

    def finish(self) -> bytes:
        """What the client gets after the provider's last byte."""
        rest, self._rest = self._rest, b""
        return (self._line(rest) if rest.startswith(b"data:") else b"") + self._end

    def _line(self, line: bytes) -> bytes:
        text = line[5:].strip()
        if not text or text == b"[DONE]":
            return b""
        try:
            event = orjson.loads(text)
        except orjson.JSONDecodeError:
            # As upstream: comments and half lines of a provider are no reason to break a stream.
            return b""
        return self._translate(event)


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    made = {"id": call["id"], "type": call.get("type", "function"), "function": _function(call["function"])}
    if signature := call.get("thought_signature"):
        made["thought_signature"] = signature
    return made


def _delta(call: Mapping[str, Any]) -> dict[str, Any]:
    made = {
        "index": call["index"],
        "id": call.get("id"),
        "type": call.get("type"),
        "function": _function(call["function"]),
        "thought_signature": call.get("thought_signature") or None,
    }
    return without_nulls(made)


def without_nulls(call: Mapping[str, Any]) -> dict[str, Any]:
    """A piece of a tool call, with what it says and no more."""
    kept = {name: value for name, value in call.items() if value is not None}
    if function := kept.get("function"):
        kept["function"] = {name: value for name, value in function.items() if value is not None}
    return kept


def _function(function: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": function.get("name"), "arguments": function.get("arguments")}


def _usage(usage: Mapping[str, Any]) -> dict[str, Any]:
    made = {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None, **usage}
    if not made.get("prompt_tokens_details"):
        made.pop("prompt_tokens_details", None)
    elif isinstance(made["prompt_tokens_details"], dict):
        made["prompt_tokens_details"] = {"cached_tokens": None, **made["prompt_tokens_details"]}
    return made
