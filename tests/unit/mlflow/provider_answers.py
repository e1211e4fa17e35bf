"""What model providers send, in each protocol, whole and as a stream, with the tokens that the test wants reported."""

import json
from typing import Any

from paddock_mlflow.ledger.types import Usage

WORDS = ("Hel", "lo ", "wörld")
TEXT = "".join(WORDS)


def events(*bodies: Any, named: bool = False, done: bool = False) -> bytes:
    """Server-sent events."""
    parts = [
        (f"event: {body['type']}\n" if named else "") + f"data: {json.dumps(body)}\n\n" for body in bodies
    ]
    return "".join([*parts, "data: [DONE]\n\n"] if done else parts).encode()


def chat(model: str, usage: Usage) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": TEXT}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": usage.input,
            "completion_tokens": usage.output,
            "total_tokens": usage.input + usage.output,
            "prompt_tokens_details": {"cached_tokens": usage.cache_read},
            "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
        },
    }


def chat_stream(model: str, usage: Usage) -> bytes:
    whole = chat(model, usage)

    def chunk(choices: list[dict[str, Any]], reported: Any = None) -> dict[str, Any]:
        return {
            "id": whole["id"],
            "object": "chat.completion.chunk",
            "created": whole["created"],
            "model": model,
            "choices": choices,
            "usage": reported,
        }

    deltas = [{"role": "assistant", "content": WORDS[0]}, *({"content": word} for word in WORDS[1:])]
    return events(
        *(chunk([{"index": 0, "delta": delta, "finish_reason": None}]) for delta in deltas),
        chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}]),
        chunk([], whole["usage"]),
        done=True,
    )


def responses(model: str, usage: Usage) -> dict[str, Any]:
    content = [{"type": "output_text", "text": TEXT}]
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": "completed",
        "model": model,
        "output": [{"type": "message", "role": "assistant", "content": content}],
        "usage": {
            "input_tokens": usage.input,
            "input_tokens_details": {"cached_tokens": usage.cache_read},
            "output_tokens": usage.output,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning},
            "total_tokens": usage.input + usage.output,
        },
    }


def responses_stream(model: str, usage: Usage) -> bytes:
    return events(
        {"type": "response.created", "response": {"id": "resp_1", "usage": None}},
        *({"type": "response.output_text.delta", "delta": word} for word in WORDS),
        {"type": "response.completed", "response": responses(model, usage)},
        named=True,
    )


def embeddings(model: str, usage: Usage) -> dict[str, Any]:
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}],
        "model": model,
        "usage": {"prompt_tokens": usage.input, "total_tokens": usage.input},
    }


def messages(model: str, usage: Usage) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [{"type": "text", "text": TEXT}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": usage.input - usage.cache_read - usage.cache_write,
            "cache_read_input_tokens": usage.cache_read,
            "cache_creation_input_tokens": usage.cache_write,
            "output_tokens": usage.output,
        },
    }


def messages_stream(model: str, usage: Usage) -> bytes:
    whole = messages(model, usage)
    return events(
        {
            "type": "message_start",
            "message": whole
            | {"content": [], "stop_reason": None, "usage": whole["usage"] | {"output_tokens": 1}},
        },
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
            for word in WORDS
        ),
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": usage.output},
        },
        {"type": "message_stop"},
        named=True,
    )
