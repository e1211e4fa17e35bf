"""Anthropic's Messages API on the wire (https://docs.anthropic.com/en/api/messages), turned into a chat request.

What the model does with a conversation is the same for every API, so a request is translated to OpenAI's messages, and
only the answer is written in Anthropic's words.
"""

import json
from collections.abc import Iterator
from typing import Any, Literal

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

_ERROR_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
                404: "not_found_error", 413: "request_too_large", 429: "rate_limit_error",
                529: "overloaded_error"}  # fmt: skip

type Content = str | list[dict[str, Any]]


class _Turn(Lenient):
    role: Literal["user", "assistant"]
    content: Content


class _Tool(Lenient):
    name: str
    description: str | None = None
    input_schema: dict[str, Any] | None = None


class MessagesRequest(Lenient):
    """Body of POST /v1/messages."""

    model: str = Field(min_length=1)
    max_tokens: int = Field(ge=1)
    messages: list[_Turn] = Field(min_length=1)
    system: Content | None = None
    tools: list[_Tool] | None = None
    stream: bool | None = None


class MessagesAnswer:
    """A message, whole or in events."""

    def __init__(self, request: ChatRequest, reply: Reply, usage: Usage | None, *, caches: bool) -> None:
        self._reply = reply
        self._usage = usage
        self._model = request.model
        self._id = answer_id(request, "msg_")
        self._call_ids = call_ids(request, reply)
        self._caches = caches

    def body(self) -> dict[str, Any]:
        """The ``message`` object."""
        content: list[dict[str, Any]] = (
            [{"type": "text", "text": self._reply.text}] if self._reply.text else []
        )
        for call_id, call in zip(self._call_ids, self._reply.calls, strict=True):
            content.append({"type": "tool_use", "id": call_id, "name": call.name, "input": call.arguments})
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": "tool_use" if self._reply.calls else "end_turn",
            "stop_sequence": None,
            **self._usage_body(),
        }

    def events(self) -> Iterator[bytes]:
        """``message_start`` to ``message_stop``."""
        whole = self.body()
        begun = {"usage": {**whole["usage"], "output_tokens": 1}} if self._usage else {}
        start = {**whole, "content": [], "stop_reason": None, **begun}
        yield named_event({"type": "message_start", "message": start})
        yield named_event({"type": "ping"})
        for index, block in enumerate(whole["content"]):
            yield from self._block(index, block)
        delta = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
        ended = {"usage": {"output_tokens": self._usage.completion}} if self._usage else {}
        yield named_event({"type": "message_delta", "delta": delta, **ended})
        yield named_event({"type": "message_stop"})

    def _block(self, index: int, block: dict[str, Any]) -> Iterator[bytes]:
        if block["type"] == "text":
            empty: dict[str, Any] = {**block, "text": ""}
            deltas = [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
        else:
            empty = {**block, "input": {}}
            given = block["input"]
            text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces(text)]
        yield named_event({"type": "content_block_start", "index": index, "content_block": empty})
        for delta in deltas:
            yield named_event({"type": "content_block_delta", "index": index, "delta": delta})
        yield named_event({"type": "content_block_stop", "index": index})

    def _usage_body(self) -> dict[str, Any]:
        """Anthropic counts cached tokens apart from `input_tokens`, and only where the request asks for caching."""
        usage = self._usage
        if usage is None:
            return {}
        read = usage.cached if self._caches else 0
        written = usage.cache_write or (usage.prompt - read if self._caches else 0)
        return {
            "usage": {
                "input_tokens": usage.prompt - read - written,
                "cache_creation_input_tokens": written,
                "cache_read_input_tokens": read,
                "output_tokens": usage.completion,
            }
        }


def parse_messages(body: bytes) -> tuple[ChatRequest, bool]:
    """The chat request that a body stands for, and whether it asks for prompt caching. Raises RequestError 400."""
    request = validated(MessagesRequest, body, "a messages request")
    messages = [Message(role="system", content=_text(request.system))] if request.system else []
    for turn in request.messages:
        messages += _messages(turn)
    tools = [
        Tool(function=FunctionDefinition(name=tool.name, description=tool.description, parameters=tool.input_schema))
        for tool in request.tools or []
    ]  # fmt: skip
    chat = ChatRequest(model=request.model, messages=messages, tools=tools or None, stream=request.stream)
    return chat, b'"cache_control"' in body


def messages_error(status: int, message: str, kind: str | None) -> dict[str, Any]:
    """Anthropic's error object (https://docs.anthropic.com/en/api/errors)."""
    return {
        "type": "error",
        "error": {"type": kind or _ERROR_TYPES.get(status, "api_error"), "message": message},
    }


def _messages(turn: _Turn) -> list[Message]:
    if isinstance(turn.content, str):
        return [Message(role=turn.role, content=turn.content)]
    if turn.role == "assistant":
        calls = [
            ToolCall(
                id=str(block.get("id", "")),
                function=FunctionCall(name=str(block.get("name", "")), arguments=json.dumps(block.get("input", {}))),
            )
            for block in turn.content
            if block.get("type") == "tool_use"
        ]  # fmt: skip
        return [Message(role="assistant", content=_text(turn.content) or None, tool_calls=calls or None)]
    found = [
        Message(role="tool", tool_call_id=_result_id(block), content=_text(block.get("content") or ""))
        for block in turn.content
        if block.get("type") == "tool_result"
    ]
    texts = [{"type": "text", "text": block["text"]} for block in turn.content if block.get("type") == "text"]
    return [*found, *([Message(role="user", content=texts)] if texts or not found else [])]


def _result_id(block: dict[str, Any]) -> str:
    found = block.get("tool_use_id")
    if not isinstance(found, str):
        raise RequestError(400, "Expected tool_use_id in a tool_result block, found none.", param="messages")
    return found


def _text(content: Content) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(str(block["text"]) for block in content if block.get("type") == "text")
