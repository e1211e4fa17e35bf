"""Gemini's generateContent on the wire (https://ai.google.dev/api/generate-content), as a chat request."""

import json
from collections.abc import Iterator
from typing import Any

from pydantic import Field

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
    event,
    pieces,
    validated,
)

_STATUSES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
             429: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE"}  # fmt: skip


class _Content(Lenient):
    role: str = "user"
    parts: list[dict[str, Any]] = Field(default_factory=list)


class GeminiRequest(Lenient):
    """Body of POST /v1beta/models/<model>:generateContent."""

    contents: list[_Content] = Field(min_length=1)
    systemInstruction: _Content | None = None
    tools: list[dict[str, Any]] | None = None


class GeminiAnswer:
    """A response, whole or in events."""

    def __init__(self, request: ChatRequest, reply: Reply, usage: Usage | None) -> None:
        self._model = request.model
        self._id = answer_id(request, "")
        self._usage = usage
        self._text = reply.text
        self._calls: list[dict[str, Any]] = [
            {"functionCall": {"id": call_id, "name": call.name, "args": call.arguments}}
            for call_id, call in zip(call_ids(request, reply), reply.calls, strict=True)
        ]

    def body(self) -> dict[str, Any]:
        """The ``GenerateContentResponse``."""
        parts = [{"text": self._text}] if self._text or not self._calls else []
        return self._response([*parts, *self._calls], last=True)

    def events(self) -> Iterator[bytes]:
        """Responses that each hold a piece; the last one ends it and has the usage."""
        for piece in pieces(self._text):
            yield event(self._response([{"text": piece}], last=False))
        yield event(self._response([*self._calls] or [{"text": ""}], last=True))

    def _response(self, parts: list[dict[str, Any]], *, last: bool) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"parts": parts, "role": "model"}, "index": 0}
        body: dict[str, Any] = {
            "candidates": [candidate],
            "modelVersion": self._model,
            "responseId": self._id,
        }
        if last:
            candidate["finishReason"] = "STOP"
            if self._usage:
                body["usageMetadata"] = _usage_body(self._usage)
        return body


def parse_gemini(body: bytes, model: str, *, stream: bool) -> ChatRequest:
    """The chat request that a body stands for. Raises RequestError 400."""
    request = validated(GeminiRequest, body, "a generateContent request")
    messages: list[Message] = []
    if request.systemInstruction:
        messages.append(Message(role="system", content=_text(request.systemInstruction.parts)))
    for content in request.contents:
        messages += _messages(content)
    declared = [one for tool in request.tools or [] for one in tool.get("functionDeclarations") or []]
    tools = [
        Tool(
            function=FunctionDefinition(
                name=str(one.get("name")),
                description=one.get("description"),
                parameters=one.get("parameters") or one.get("parametersJsonSchema"),
            )
        )
        for one in declared
    ]
    return ChatRequest(model=model, messages=messages, tools=tools or None, stream=stream)


def gemini_error(status: int, message: str) -> dict[str, Any]:
    """Google's error object."""
    return {"error": {"code": status, "message": message, "status": _STATUSES.get(status, "INTERNAL")}}


def _messages(content: _Content) -> list[Message]:
    if content.role == "model":
        calls = [
            ToolCall(
                id=str(part["functionCall"].get("id", "")),
                function=FunctionCall(
                    name=str(part["functionCall"].get("name")),
                    arguments=json.dumps(part["functionCall"].get("args") or {}),
                ),
            )
            for part in content.parts
            if part.get("functionCall")
        ]
        return [Message(role="assistant", content=_text(content.parts) or None, tool_calls=calls or None)]
    results = [
        Message(
            role="tool",
            tool_call_id=str(part["functionResponse"].get("id", "")),
            content=json.dumps(part["functionResponse"].get("response")),
        )
        for part in content.parts
        if part.get("functionResponse")
    ]
    text = _text(content.parts)
    return [*results, *([Message(role="user", content=text)] if text or not results else [])]


def _text(parts: list[dict[str, Any]]) -> str:
    return "\n".join(str(part["text"]) for part in parts if part.get("text"))


def _usage_body(usage: Usage) -> dict[str, int]:
    return {
        "promptTokenCount": usage.prompt,
        "cachedContentTokenCount": usage.cached,
        # Google counts thoughts apart from the candidates.
        "candidatesTokenCount": usage.completion - usage.reasoning,
        "thoughtsTokenCount": usage.reasoning,
        "totalTokenCount": usage.prompt + usage.completion,
    }
