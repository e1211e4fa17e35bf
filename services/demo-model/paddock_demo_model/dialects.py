"""The APIs that the demo model speaks: how each reads a request, writes an answer or a refusal, and is sent the key."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from paddock_demo_model.embeddings_api import EmbeddingsAnswer, parse_embeddings
from paddock_demo_model.errors import error_body
from paddock_demo_model.gemini_api import GeminiAnswer, gemini_error, parse_gemini
from paddock_demo_model.messages_api import MessagesAnswer, messages_error, parse_messages
from paddock_demo_model.protocol import Answer, ChatRequest, Completion, Reply, Usage, parse_request
from paddock_demo_model.responses_api import ResponsesAnswer, parse_responses

type Render = Callable[[Reply, Usage | None], Answer]


@dataclass(frozen=True)
class Asked:
    """A request in the words that all APIs share, and how to answer it in its own."""

    chat: ChatRequest
    render: Render
    embeds: bool = False
    """Wants vectors, so that no text has to be made up."""


@dataclass(frozen=True)
class Dialect:
    """One API."""

    name: str
    read: Callable[[Request, bytes], Asked]
    error: Callable[[int, str, str | None, str | None, str | None], dict[str, Any]]
    """Error body of status, message, type, code and param."""
    key_header: str = "authorization"

    def key(self, request: Request) -> str:
        """The key that the client sent, or an empty text."""
        if self.key_header != "authorization" and (own := request.headers.get(self.key_header)):
            return own
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        return given.strip() if scheme.lower() == "bearer" else ""


def _read_chat(_: Request, body: bytes) -> Asked:
    chat = parse_request(body)
    return Asked(chat, lambda reply, usage: Completion(chat, reply, usage))


def _read_responses(_: Request, body: bytes) -> Asked:
    chat = parse_responses(body)
    return Asked(chat, lambda reply, usage: ResponsesAnswer(chat, reply, usage))


def _read_embeddings(_: Request, body: bytes) -> Asked:
    chat, request = parse_embeddings(body)
    return Asked(chat, lambda _, usage: EmbeddingsAnswer(request, usage), embeds=True)


def _read_messages(_: Request, body: bytes) -> Asked:
    chat, caches = parse_messages(body)
    return Asked(chat, lambda reply, usage: MessagesAnswer(chat, reply, usage, caches=caches))


def _read_gemini(request: Request, body: bytes) -> Asked:
    stream = request.path_params["method"] == "streamGenerateContent"
    chat = parse_gemini(body, request.path_params["model"], stream=stream)
    return Asked(chat, lambda reply, usage: GeminiAnswer(chat, reply, usage))


def _openai_error(
    status: int, message: str, kind: str | None, code: str | None, param: str | None
) -> dict[str, Any]:
    known = kind or _OPENAI_TYPES.get(status, "server_error")
    return error_body(message, error_type=known, code=code, param=param)


def _messages_error(
    status: int, message: str, kind: str | None, code: str | None, param: str | None
) -> dict[str, Any]:
    # OpenAI's names of an error's type and code mean nothing to Anthropic's clients.
    return messages_error(status, message, kind if kind and kind.endswith("_error") and not code else None)


def _gemini_error(
    status: int, message: str, kind: str | None, code: str | None, param: str | None
) -> dict[str, Any]:
    return gemini_error(status, message)


_OPENAI_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
                 404: "not_found_error", 429: "rate_limit_error"}  # fmt: skip

CHAT = Dialect("chat", _read_chat, _openai_error)
RESPONSES = Dialect("responses", _read_responses, _openai_error)
EMBEDDINGS = Dialect("embeddings", _read_embeddings, _openai_error)
MESSAGES = Dialect("messages", _read_messages, _messages_error, "x-api-key")
GEMINI = Dialect("gemini", _read_gemini, _gemini_error, "x-goog-api-key")
