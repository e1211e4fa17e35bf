"""OpenAI's Responses API on the wire (https://platform.openai.com/docs/api-reference/responses), as a chat request.

The demo model keeps no conversation, so a request must hold all of it: `previous_response_id` is refused.
"""

import time
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from paddock_demo_model.errors import RequestError
from paddock_demo_model.protocol import (
    ChatRequest,
    FunctionCall,
    FunctionDefinition,
    Lenient,
    Message,
    Reply,
    Tool,
    ToolCall,
    Usage,
    answer_id,
    call_ids,
    named_event,
    pieces,
    validated,
)


class ResponsesRequest(Lenient):
    """Body of POST /v1/responses."""

    model: str = Field(min_length=1)
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    tools: list[dict[str, Any]] | None = None
    text: dict[str, Any] | None = None
    stream: bool | None = None
    previous_response_id: str | None = None


class ResponsesAnswer:
    """A response, whole or in events."""

    def __init__(self, request: ChatRequest, reply: Reply, usage: Usage | None) -> None:
        self._request = request
        self._reply = reply
        self._usage = usage
        self._id = answer_id(request, "resp_")
        self._call_ids = call_ids(request, reply)
        self._created = int(time.time())

    def body(self) -> dict[str, Any]:
        """The ``response`` object."""
        return self._response("completed", self._output(), self._usage)

    def events(self) -> Iterator[bytes]:
        """``response.created`` to ``response.completed``, numbered."""
        for number, data in enumerate(self._events()):
            yield named_event({**data, "sequence_number": number})

    def _events(self) -> Iterator[dict[str, Any]]:
        begun = self._response("in_progress", [], None)
        yield {"type": "response.created", "response": begun}
        yield {"type": "response.in_progress", "response": begun}
        for index, item in enumerate(self._output()):
            yield from _item_events(index, item)
        yield {"type": "response.completed", "response": self.body()}

    def _response(self, status: str, output: list[dict[str, Any]], usage: Usage | None) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "model": self._request.model,
            "output": output,
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "temperature": 1.0,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": _usage_body(usage) if usage else None,
        }

    def _output(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = []
        if self._usage and self._usage.reasoning:
            items.append({"type": "reasoning", "id": self._id.replace("resp_", "rs_"), "summary": []})
        if self._reply.text:
            part = {"type": "output_text", "text": self._reply.text, "annotations": []}
            items.append(
                {
                    "type": "message",
                    "id": self._id.replace("resp_", "msg_"),
                    "role": "assistant",
                    "status": "completed",
                    "content": [part],
                }
            )
        for call_id, call in zip(self._call_ids, self._reply.calls, strict=True):
            items.append(
                {
                    "type": "function_call",
                    "id": call_id.replace("call_", "fc_"),
                    "call_id": call_id,
                    "name": call.name,
                    "arguments": call.arguments_text(),
                    "status": "completed",
                }
            )
        return items


def parse_responses(body: bytes) -> ChatRequest:
    """The chat request that a body stands for. Raises RequestError 400."""
    request = validated(ResponsesRequest, body, "a responses request")
    if request.previous_response_id:
        raise RequestError(
            400,
            "Expected the whole conversation in `input`, found previous_response_id: this server keeps no responses.",
            param="previous_response_id",
        )
    items = [{"role": "user", "content": request.input}] if isinstance(request.input, str) else request.input
    messages = [Message(role="system", content=request.instructions)] if request.instructions else []
    for item in items:
        _add(messages, item)
    if not messages:
        raise RequestError(400, "Expected an input with text, found none.", param="input")
    tools = [
        Tool(
            function=FunctionDefinition(
                name=str(tool.get("name")), description=tool.get("description"), parameters=tool.get("parameters")
            )
        )
        for tool in request.tools or []
        if tool.get("type") == "function"
    ]  # fmt: skip
    wanted = (request.text or {}).get("format") or {}
    schema = (
        {"type": "json_schema", "json_schema": {"schema": wanted.get("schema")}}
        if wanted.get("type") == "json_schema"
        else None
    )
    return ChatRequest(
        model=request.model,
        messages=messages,
        tools=tools or None,
        stream=request.stream,
        response_format=schema,
    )


def _add(messages: list[Message], item: dict[str, Any]) -> None:
    """Add what an input item says. A function call belongs to the assistant's message before it, where there is one."""
    kind = item.get("type", "message")
    if kind == "function_call":
        function = FunctionCall(name=str(item.get("name")), arguments=str(item.get("arguments") or "{}"))
        call = ToolCall(id=str(item.get("call_id", "")), function=function)
        if messages and messages[-1].role == "assistant":
            messages[-1].tool_calls = [*(messages[-1].tool_calls or []), call]
        else:
            messages.append(Message(role="assistant", tool_calls=[call]))
    elif kind == "function_call_output":
        messages.append(
            Message(role="tool", tool_call_id=str(item.get("call_id", "")), content=_text(item.get("output")))
        )
    elif kind == "message":
        role = item.get("role")
        if role not in ("user", "assistant", "system", "developer"):
            raise RequestError(
                400,
                f"Expected a role of user, assistant, system or developer, found {role!r}.",
                param="input",
            )
        content = item.get("content")
        texts = (
            content
            if isinstance(content, str)
            else [{"type": "text", "text": text} for text in _texts(content)]
        )
        messages.append(Message(role=role, content=texts))


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(_texts(content))


def _texts(content: Any) -> list[str]:
    if not isinstance(content, list):
        return []
    return [str(part["text"]) for part in content if isinstance(part, dict) and part.get("text")]


def _usage_body(usage: Usage) -> dict[str, Any]:
    written = {"cache_write_tokens": usage.cache_write} if usage.cache_write else {}
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, **written},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }


def _item_events(index: int, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    place = {"output_index": index, "item_id": item["id"]}
    if item["type"] == "reasoning":
        yield {"type": "response.output_item.added", "output_index": index, "item": item}
    elif item["type"] == "message":
        (part,) = item["content"]
        place |= {"content_index": 0}
        added = {**item, "status": "in_progress", "content": []}
        yield {"type": "response.output_item.added", "output_index": index, "item": added}
        yield {"type": "response.content_part.added", **place, "part": {**part, "text": ""}}
        for piece in pieces(part["text"]):
            yield {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
        yield {"type": "response.output_text.done", **place, "text": part["text"], "logprobs": []}
        yield {"type": "response.content_part.done", **place, "part": part}
    else:
        added = {**item, "status": "in_progress", "arguments": ""}
        yield {"type": "response.output_item.added", "output_index": index, "item": added}
        for piece in pieces(item["arguments"]):
            yield {"type": "response.function_call_arguments.delta", **place, "delta": piece}
        yield {
            "type": "response.function_call_arguments.done",
            **place,
            "name": item["name"],
            "arguments": item["arguments"],
        }
    yield {"type": "response.output_item.done", "output_index": index, "item": item}
