"""Streams on endpoints whose answers are checked: the answer is asked for whole, and sent as a stream once it has passed.

What came bit by bit could not be taken back.
"""

import json
from collections.abc import Iterator
from typing import Any

from paddock_mlflow.usage import Protocol as Words


def whole_request(body: dict[str, Any]) -> dict[str, Any]:
    """The request without its wish for a stream."""
    return {name: value for name, value in body.items() if name not in ("stream", "stream_options")}


def as_stream(words: Words, response: dict[str, Any]) -> bytes:
    """A whole answer as the server-sent events of its protocol, each part in one piece, with the usage."""
    match words:
        case "anthropic_messages":
            return b"".join(_named(one) for one in _message(response))
        case "openai_responses":
            events = _response(response)
            return b"".join(_named({**one, "sequence_number": number}) for number, one in enumerate(events))
        case "gemini":
            return _event(response)
        case _:
            return b"".join(map(_event, _chunks(response))) + b"data: [DONE]\n\n"


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def _named(data: dict[str, Any]) -> bytes:
    return f"event: {data['type']}\n".encode() + _event(data)


def _chunks(response: dict[str, Any]) -> Iterator[dict[str, Any]]:
    common = {name: value for name, value in response.items() if name not in ("choices", "usage", "object")}
    common["object"] = "chat.completion.chunk"
    for choice in response.get("choices") or []:
        delta = {name: value for name, value in (choice.get("message") or {}).items() if value is not None}
        if calls := delta.get("tool_calls"):
            delta["tool_calls"] = [{**call, "index": index} for index, call in enumerate(calls)]
        index = choice.get("index", 0)
        begun = {"index": index, "delta": delta, "finish_reason": None}
        ended = {"index": index, "delta": {}, "finish_reason": choice.get("finish_reason")}
        yield {**common, "choices": [begun]}
        yield {**common, "choices": [ended]}
    if response.get("usage"):
        yield {**common, "choices": [], "usage": response["usage"]}


def _message(response: dict[str, Any]) -> Iterator[dict[str, Any]]:
    begun = {**response, "content": [], "stop_reason": None}
    yield {"type": "message_start", "message": begun}
    for index, block in enumerate(response.get("content") or []):
        empty, deltas = _block(block)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    delta = {name: response.get(name) for name in ("stop_reason", "stop_sequence")}
    yield {"type": "message_delta", "delta": delta, "usage": response.get("usage") or {}}
    yield {"type": "message_stop"}


def _block(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A content block as it begins, and what is added to it."""
    match block.get("type"):
        case "text":
            return {**block, "text": ""}, [{"type": "text_delta", "text": block.get("text", "")}]
        case "tool_use":
            text = json.dumps(block.get("input") or {}, ensure_ascii=False)
            return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": text}]
        case "thinking":
            deltas = [{"type": "thinking_delta", "thinking": block.get("thinking", "")}]
            if block.get("signature"):
                deltas.append({"type": "signature_delta", "signature": block["signature"]})
            return {"type": "thinking", "thinking": "", "signature": ""}, deltas
        case _:
            return block, []


def _response(response: dict[str, Any]) -> Iterator[dict[str, Any]]:
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(response.get("output") or []):
        place = {"output_index": index, "item_id": item.get("id", "")}
        added = {**item, **({"content": []} if item.get("type") == "message" else {})}
        if item.get("type") == "function_call":
            added["arguments"] = ""
        yield {"type": "response.output_item.added", "output_index": index, "item": added}
        if item.get("type") == "message":
            yield from _parts(place, item.get("content") or [])
        elif item.get("type") == "function_call":
            text = item.get("arguments", "")
            yield {"type": "response.function_call_arguments.delta", **place, "delta": text}
            name = item.get("name", "")
            yield {
                "type": "response.function_call_arguments.done",
                **place,
                "name": name,
                "arguments": text,
            }
        yield {"type": "response.output_item.done", "output_index": index, "item": item}
    ended = "incomplete" if response.get("status") == "incomplete" else "completed"
    yield {"type": f"response.{ended}", "response": response}


def _parts(place: dict[str, Any], parts: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for number, part in enumerate(parts):
        where = {**place, "content_index": number}
        kind = "text" if part.get("type") == "output_text" else "refusal"
        text = part.get(kind, "")
        name = "output_text" if kind == "text" else "refusal"
        yield {"type": "response.content_part.added", **where, "part": {**part, kind: ""}}
        more = {"logprobs": []} if kind == "text" else {}
        yield {"type": f"response.{name}.delta", **where, "delta": text, **more}
        yield {"type": f"response.{name}.done", **where, kind: text, **more}
        yield {"type": "response.content_part.done", **where, "part": part}
