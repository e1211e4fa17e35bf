"""The HTTP server: the APIs that it speaks, the model list, health, and the record of calls."""

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from paddock_demo_model.agent import agent_reply
from paddock_demo_model.dialects import CHAT, EMBEDDINGS, GEMINI, MESSAGES, RESPONSES, Asked, Dialect
from paddock_demo_model.errors import RequestError, error_body
from paddock_demo_model.judge import is_judging, judge_reply
from paddock_demo_model.protocol import Answer, ChatRequest, Reply, Usage
from paddock_demo_model.recording import Recorder
from paddock_demo_model.scenarios import Counts, FailedAnswer, Played, Scenarios
from paddock_demo_model.tasks import CAN
from paddock_demo_model.tokens import PromptCache
from paddock_demo_model.transport import CLOSE, RESET

MODEL = "demo"
EMBEDDING_MODEL = "demo-embedding"
MAX_BODY_BYTES = 64 * 1024 * 1024
RESET_DELAY_SECONDS = 0.05
_SECRET_HEADERS = ("authorization", "x-api-key", "x-goog-api-key")
_log = logging.getLogger(__name__)


class _GeminiMethod(Convertor[str]):
    """The last part of Gemini's paths, so that a model's name may hold a colon."""

    regex = "generateContent|streamGenerateContent"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("gemini_method", _GeminiMethod())


class DemoModel:
    """The endpoints and what they share.

    ``key``: what clients must send as Bearer, or None. ``recorder``: None switches /calls off.
    """

    def __init__(
        self, scenarios: Scenarios, *, key: str | None = None, recorder: Recorder | None = None
    ) -> None:
        self._scenarios = scenarios
        self._key = key
        self._recorder = recorder
        self._cache = PromptCache()

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/healthz", self._health, methods=["GET"]),
            Route("/v1/models", self._models, methods=["GET"]),
            self._route("/v1/chat/completions", CHAT),
            self._route("/v1/responses", RESPONSES),
            self._route("/v1/embeddings", EMBEDDINGS),
            self._route("/v1/messages", MESSAGES),
            self._route("/v1beta/models/{model:path}:{method:gemini_method}", GEMINI),
        ]
        if self._recorder is not None:
            routes += [
                Route("/calls", self._calls, methods=["GET"]),
                Route("/calls", self._forget, methods=["DELETE"]),
            ]
        handlers = {RequestError: _refused, HTTPException: _refused_by_framework, Exception: _broken}
        return Starlette(routes=routes, exception_handlers=handlers)

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def _models(self, request: Request) -> Response:
        self._authorize(request)
        names = [MODEL, EMBEDDING_MODEL, *self._scenarios.names()]
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "paddock"} for name in names]
        return JSONResponse({"object": "list", "data": data})

    async def _calls(self, request: Request) -> Response:
        self._authorize(request)
        return JSONResponse(self._recorder.calls() if self._recorder else [])

    async def _forget(self, request: Request) -> Response:
        self._authorize(request)
        if self._recorder:
            self._recorder.clear()
        self._scenarios.forget()
        return Response(status_code=204)

    def _route(self, path: str, dialect: Dialect) -> Route:
        async def endpoint(http: Request) -> Response:
            return await self._serve(http, dialect)

        return Route(path, endpoint, methods=["POST"], name=dialect.name)

    async def _serve(self, http: Request, dialect: Dialect) -> Response:
        started = time.monotonic()
        body = await _read(http)
        record = self._record(http, body)
        status = 0
        try:
            self._authorize(http, dialect)
            answer = await self._answer(http, dialect, dialect.read(http, body))
            status = answer.status_code
        except RequestError as error:
            status = error.status
            answer = _refusal(error, dialect)
        finally:
            if record is not None:
                record["status"] = status
            _log.info("%s %s %d bytes -> %s, %.0f ms", dialect.name, _model_of(body), len(body),
                      status or "no answer", (time.monotonic() - started) * 1000)  # fmt: skip
        return answer

    async def _answer(self, http: Request, dialect: Dialect, asked: Asked) -> Response:
        if not self._scenarios.plays(asked.chat.model):
            reply = _embeddable(asked.chat) if asked.embeds else _reply(asked.chat)
            return self._rendered(asked, Played.of(reply), None)
        try:
            played = self._scenarios.play(asked.chat)
        except FailedAnswer as failed:
            one = failed.failure
            body = one.body
            if body is None:
                message = one.message.replace("{key}", dialect.key(http))
                body = dialect.error(one.status, message, one.type, one.code, None)
            return JSONResponse(body, status_code=one.status, headers=failed.headers)
        await asyncio.sleep(played.delay_seconds)
        if played.reset or played.close:
            _ender(http, RESET if played.reset else CLOSE)()
            return Response(status_code=204)
        end = _ender(http, RESET) if played.reset_after_events is not None else None
        return self._rendered(asked, played, end)

    def _rendered(self, asked: Asked, played: Played, reset: Callable[[], None] | None) -> Response:
        counted: Usage | None = self._cache.usage(asked.chat, played.reply)
        if isinstance(played.usage, Counts):
            counted = played.usage.usage()
        elif played.usage == "none":
            counted = None
        answer = asked.render(played.reply, counted)
        if asked.chat.stream:
            return StreamingResponse(_stream(answer, played, reset), media_type="text/event-stream")
        content = json.dumps(answer.body(), ensure_ascii=False).encode()
        if reset is not None:
            return StreamingResponse(_half(content, reset), media_type="application/json")
        return Response(
            content[: len(content) // 2] if played.cut_body else content, media_type="application/json"
        )

    def _authorize(self, request: Request, dialect: Dialect = CHAT) -> None:
        if self._key is None:
            return
        given = dialect.key(request)
        if not hmac.compare_digest(given.encode(), self._key.encode()):
            raise RequestError(
                401,
                f"Incorrect API key provided: expected this server's key in the header {dialect.key_header!r}"
                f"{' as `Bearer <key>`' if dialect.key_header == 'authorization' else ''}, found "
                f"{'another key' if given else 'no key'}.",
                error_type="authentication_error",
                code="invalid_api_key",
            )

    def _record(self, request: Request, body: bytes) -> dict[str, Any] | None:
        if self._recorder is None:
            return None
        try:
            content: Any = json.loads(body)
        except ValueError:
            content = body[:2000].decode(errors="replace")
        headers = {
            name: "(not recorded)" if name in _SECRET_HEADERS else value
            for name, value in request.headers.items()
        }
        return self._recorder.add(
            size=len(body), path=request.url.path, headers=headers, body=content, status=None
        )


def _reply(request: ChatRequest) -> Reply:
    if request.model != MODEL:
        raise _unknown(request.model, MODEL)
    if is_judging(request):
        return judge_reply(request)
    if request.tools:
        return agent_reply(request)
    return Reply(
        text=f"I was given no tools and no judge's question, so there is nothing that I can do. {CAN}"
    )


def _embeddable(request: ChatRequest) -> Reply:
    if request.model not in (MODEL, EMBEDDING_MODEL):
        raise _unknown(request.model, EMBEDDING_MODEL)
    return Reply()


def _unknown(model: str, known: str) -> RequestError:
    return RequestError(
        404,
        f"The model {model!r} does not exist here. Expected {known!r} or 'scenario/<name>'; GET /v1/models lists them.",
        code="model_not_found",
        param="model",
    )


def _ender(http: Request, how: str) -> Callable[[], None]:
    end: Callable[[], None] | None = http.scope.get("extensions", {}).get(how)
    if end is None:
        raise RequestError(501, "This server cannot end connections by itself.", error_type="server_error")
    return end


async def _stream(answer: Answer, played: Played, reset: Callable[[], None] | None) -> AsyncIterator[bytes]:
    number = 0
    for number, data in enumerate(answer.events()):
        if reset is not None and number == played.reset_after_events:
            break
        if played.cut_body and number == 1:
            yield data[: len(data) // 2] + b"\n\n"
            return
        yield data
    if reset is not None:
        # What was sent must have been read before it: a reset discards what is on its way.
        await asyncio.sleep(RESET_DELAY_SECONDS)
        reset()


async def _half(content: bytes, reset: Callable[[], None]) -> AsyncIterator[bytes]:
    yield content[: len(content) // 2]
    await asyncio.sleep(RESET_DELAY_SECONDS)
    reset()


async def _read(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise RequestError(413, f"Expected a body of at most {MAX_BODY_BYTES} bytes, found more.")
        parts.append(part)
    return b"".join(parts)


def _model_of(body: bytes) -> str:
    try:
        return str(json.loads(body).get("model"))[:80]
    except (ValueError, AttributeError):
        return "(no JSON object)"


def _refusal(error: RequestError, dialect: Dialect) -> Response:
    body = dialect.error(error.status, str(error), error.error_type, error.code, error.param)
    return JSONResponse(body, status_code=error.status)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return JSONResponse(error.body(), status_code=error.status)


async def _refused_by_framework(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = error_body(f"{error.detail}: see GET /v1/models, and POST on /v1/chat/completions, "
                      "/v1/responses, /v1/embeddings, /v1/messages and /v1beta/models/<model>:generateContent.",
                      error_type="invalid_request_error")  # fmt: skip
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _broken(_: Request, error: Exception) -> Response:
    body = error_body(f"The demo model failed: {type(error).__name__}.", error_type="server_error")
    return JSONResponse(body, status_code=500)
