"""OpenAI's chat completions on the wire: requests in, completions and server-sent events out.

Only what the stack's clients use is modelled (messages, tools, response_format, stream); every other request field is
accepted and ignored, as a provider does with fields that a model does not know.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paddock_demo_model.errors import RequestError

CALL_ID_PREFIX = "call_demo_"
_PIECE_CHARACTERS = 400


class Lenient(BaseModel):
    """A part of a request: fields that are not named here are accepted and ignored."""

    model_config = ConfigDict(extra="allow")


class FunctionCall(Lenient):
    """A tool's name and its arguments as a JSON text."""

    name: str
    arguments: str = "{}"


class ToolCall(Lenient):
    """One tool call of an assistant message."""

    id: str = ""
    type: str = "function"
    function: FunctionCall


class Message(Lenient):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    name: str | None = None

    def text(self) -> str:
        """The text parts, joined by newlines; images and other parts are left out."""
        if self.content is None:
            return ""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(str(part["text"]) for part in self.content if part.get("text"))

    def own_words(self) -> str:
        """The first text part: what the user typed. OpenHands puts what its skills add into parts behind it."""
        if isinstance(self.content, list):
            return next((str(part["text"]) for part in self.content if part.get("text")), "")
        return self.text()


class FunctionDefinition(Lenient):
    """What a tool is called and takes (JSON schema)."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Lenient):
    """A tool offered to the model."""

    type: str = "function"
    function: FunctionDefinition


class StreamOptions(Lenient):
    """Options of a streamed answer."""

    include_usage: bool | None = None


class ChatRequest(Lenient):
    """Body of POST /v1/chat/completions."""

    model: str = Field(min_length=1)
    messages: list[Message] = Field(min_length=1)
    tools: list[Tool] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: dict[str, Any] | None = None

    def tool_names(self) -> set[str]:
        """Names of the offered tools."""
        return {tool.function.name for tool in self.tools or []}

    def output_schema(self) -> dict[str, Any] | None:
        """JSON schema of the wanted answer, where the request asks for structured output."""
        if not self.response_format or self.response_format.get("type") != "json_schema":
            return None
        schema = (self.response_format.get("json_schema") or {}).get("schema")
        return schema if isinstance(schema, dict) else None

    def conversation_key(self) -> str:
        """A name for the conversation that stays the same while it grows.

        Clients send no conversation id through a gateway, so this is a digest of what never changes within one: the
        model, the tools, and everything up to the first user message.
        """
        digest = hashlib.sha256(self.model.encode())
        for tool in self.tools or []:
            digest.update(tool.model_dump_json().encode())
        for message in self.messages:
            digest.update(message.model_dump_json().encode())
            if message.role == "user":
                break
        return digest.hexdigest()[:32]

    def step(self) -> int:
        """How many times the model has answered in this conversation."""
        return sum(message.role == "assistant" for message in self.messages)


def parse_request(body: bytes) -> ChatRequest:
    """Read a request body. Raises RequestError 400."""
    return validated(ChatRequest, body, "a chat completions request")


def validated[M: BaseModel](kind: type[M], body: bytes, name: str) -> M:
    """Read a body as a model. Raises RequestError 400 that names the first wrong field."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or None
        at = f" at {where}" if where else ""
        raise RequestError(400, f"Expected {name}, found{at}: {first['msg']}", param=where) from error


@dataclass(frozen=True)
class Call:
    """A tool call that the model wants made. ``arguments`` is an object, or a text sent as it is."""

    name: str
    arguments: dict[str, Any] | str

    def arguments_text(self) -> str:
        """The arguments as they go on the wire."""
        if isinstance(self.arguments, str):
            return self.arguments
        return json.dumps(self.arguments, ensure_ascii=False)


@dataclass(frozen=True)
class Reply:
    """What the model says: a text, tool calls, or both."""

    text: str = ""
    calls: list[Call] = field(default_factory=list)


@dataclass(frozen=True)
class Usage:
    """Token counts of one call."""

    prompt: int
    """All of the prompt, cached and cache-writing tokens included."""
    completion: int
    """All that was generated, reasoning included."""
    cached: int
    cache_write: int = 0
    reasoning: int = 0

    def body(self) -> dict[str, Any]:
        """OpenAI's usage object; `cache_write_tokens`, which OpenAI does not charge, stands in it where it is not 0."""
        written = {"cache_write_tokens": self.cache_write} if self.cache_write else {}
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached, "audio_tokens": 0, **written},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning, "audio_tokens": 0},
        }


class Answer(Protocol):
    """An answer in the words of one API."""

    def body(self) -> dict[str, Any]:
        """The whole answer."""

    def events(self) -> Iterator[bytes]:
        """The answer as server-sent events, with the stream's end."""


class Completion:
    """One answer, ready to be rendered whole or in pieces. Without `usage` it tells no token counts."""

    def __init__(self, request: ChatRequest, reply: Reply, usage: Usage | None) -> None:
        self._reply = reply
        self._usage = usage
        self._model = request.model
        self._created = int(time.time())
        self._id = answer_id(request, "chatcmpl-")
        self._call_ids = call_ids(request, reply)
        options = request.stream_options
        self._stream_usage = bool(options and options.include_usage and usage)

    def _tool_calls(self) -> list[dict[str, Any]]:
        return [
            {
                "id": call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments_text()},
            }
            for call_id, call in zip(self._call_ids, self._reply.calls, strict=True)
        ]

    def _finish_reason(self) -> str:
        return "tool_calls" if self._reply.calls else "stop"

    def body(self) -> dict[str, Any]:
        """The ``chat.completion`` object."""
        message: dict[str, Any] = {"role": "assistant", "content": self._reply.text or None, "refusal": None}
        if self._reply.calls:
            message["tool_calls"] = self._tool_calls()
        elif message["content"] is None:
            message["content"] = ""
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish_reason()}
        return {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created,
            "model": self._model,
            "choices": [choice],
            **({"usage": self._usage.body()} if self._usage else {}),
        }

    def events(self) -> Iterator[bytes]:
        """The stream, with its end."""
        for chunk in self.chunks():
            yield event(chunk)
        yield event("[DONE]")

    def chunks(self) -> Iterator[dict[str, Any]]:
        """The ``chat.completion.chunk`` objects; the last one has the usage, if the request asked for it."""
        yield self._chunk({"role": "assistant", "content": ""})
        for piece in pieces(self._reply.text):
            yield self._chunk({"content": piece})
        for index, call in enumerate(self._tool_calls()):
            function = {"name": call["function"]["name"], "arguments": ""}
            yield self._chunk({"tool_calls": [{**call, "index": index, "function": function}]})
            for piece in pieces(call["function"]["arguments"]):
                yield self._chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield self._chunk({}, finish_reason=self._finish_reason())
        if self._stream_usage and self._usage:
            yield {**self._chunk({}), "choices": [], "usage": self._usage.body()}

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        chunk: dict[str, Any] = {
            "id": self._id,
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": self._model,
            "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
        }
        if self._stream_usage:
            chunk["usage"] = None
        return chunk


def event(data: dict[str, Any] | str) -> bytes:
    """One server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"data: {text}\n\n".encode()


def named_event(data: dict[str, Any]) -> bytes:
    """One server-sent event that carries its type as its name too, as Anthropic and OpenAI's Responses API send it."""
    return f"event: {data['type']}\n".encode() + event(data)


def answer_id(request: ChatRequest, prefix: str) -> str:
    """The same request gets the same ids, so that a recorded run can be compared with a repeated one."""
    return prefix + hashlib.sha256(_seed(request).encode()).hexdigest()[:24]


def call_ids(request: ChatRequest, reply: Reply) -> list[str]:
    """An id for each tool call of an answer."""
    seed = _seed(request)
    return [
        CALL_ID_PREFIX + hashlib.sha256(f"{seed}:{index}".encode()).hexdigest()[:20]
        for index in range(len(reply.calls))
    ]


def _seed(request: ChatRequest) -> str:
    return f"{request.conversation_key()}:{len(request.messages)}"


def pieces(text: str) -> Iterator[str]:
    """A text in the pieces that a stream sends it in."""
    size = max(_PIECE_CHARACTERS, len(text) // 200)
    for start in range(0, len(text), size):
        yield text[start : start + size]
