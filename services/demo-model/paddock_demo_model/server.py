"""The HTTP server: OpenAI's chat completions and model list, health, and the record of calls."""

import asyncio
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from paddock_demo_model.agent import agent_reply
from paddock_demo_model.errors import RequestError, error_body
from paddock_demo_model.judge import is_judging, judge_reply
from paddock_demo_model.protocol import ChatRequest, Completion, Reply, event, parse_request
from paddock_demo_model.recording import Recorder
from paddock_demo_model.scenarios import PREFIX, FailedAnswer, Played, Scenarios
from paddock_demo_model.tasks import CAN
from paddock_demo_model.tokens import PromptCache
from paddock_demo_model.transport import RESET

MODEL = "demo"
MAX_BODY_BYTES = 64 * 1024 * 1024
_log = logging.getLogger(__name__)


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
            Route("/v1/chat/completions", self._chat, methods=["POST"]),
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
        names = [MODEL, *self._scenarios.names()]
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

    async def _chat(self, http: Request) -> Response:
        started = time.monotonic()
        body = await _read(http)
        record = self._record(http, body)
        answer: Response | None = None
        try:
            self._authorize(http)
            request = parse_request(body)
            answer = await self._answer(http, request)
        except RequestError as error:
            answer = await _refused(http, error)
            raise
        finally:
            status = answer.status_code if answer else 0
            if record is not None:
                record["status"] = status
            _log.info("chat %s %d bytes -> %s, %.0f ms", _model_of(body), len(body), status or "no answer",
                      (time.monotonic() - started) * 1000)  # fmt: skip
        return answer

    async def _answer(self, http: Request, request: ChatRequest) -> Response:
        if not request.model.startswith(PREFIX):
            return self._completion(request, _reply(request))
        try:
            played = self._scenarios.play(request)
        except FailedAnswer as failed:
            return JSONResponse(failed.body, status_code=failed.status, headers=failed.headers)
        return await self._play(http, request, played)

    async def _play(self, http: Request, request: ChatRequest, played: Played) -> Response:
        await asyncio.sleep(played.delay_seconds)
        if played.reset:
            reset = http.scope.get("extensions", {}).get(RESET)
            if reset is None:
                raise RequestError(501, "This server cannot reset connections.", error_type="server_error")
            reset()
            return Response(status_code=204)
        return self._completion(request, played.reply, cut=played.cut_body)

    def _completion(self, request: ChatRequest, reply: Reply, *, cut: bool = False) -> Response:
        completion = Completion(request, reply, self._cache.usage(request, reply))
        if request.stream:
            return StreamingResponse(_stream(completion, cut=cut), media_type="text/event-stream")
        content = json.dumps(completion.body(), ensure_ascii=False).encode()
        return Response(content[: len(content) // 2] if cut else content, media_type="application/json")

    def _authorize(self, request: Request) -> None:
        if self._key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(given.strip().encode(), self._key.encode())
        if scheme.lower() != "bearer" or not same:
            raise RequestError(
                401,
                "Incorrect API key provided: expected `Authorization: Bearer <key>` with this server's key, found "
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
            name: "(not recorded)" if name == "authorization" else value
            for name, value in request.headers.items()
        }
        return self._recorder.add(size=len(body), headers=headers, body=content, status=None)


def _reply(request: ChatRequest) -> Reply:
    if request.model != MODEL:
        raise RequestError(
            404,
            f"The model {request.model!r} does not exist here. Expected {MODEL!r} or 'scenario/<name>'; "
            "GET /v1/models lists them.",
            code="model_not_found",
            param="model",
        )
    if is_judging(request):
        return judge_reply(request)
    if request.tools:
        return agent_reply(request)
    return Reply(
        text=f"I was given no tools and no judge's question, so there is nothing that I can do. {CAN}"
    )


async def _stream(completion: Completion, *, cut: bool) -> AsyncIterator[bytes]:
    for number, chunk in enumerate(completion.chunks()):
        data = event(chunk)
        if cut and number == 1:
            yield data[: len(data) // 2] + b"\n\n"
            return
        yield data
    yield event("[DONE]")


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


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return JSONResponse(error.body(), status_code=error.status)


async def _refused_by_framework(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    body = error_body(f"{error.detail}: see GET /v1/models and POST /v1/chat/completions.",
                      error_type="invalid_request_error")  # fmt: skip
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _broken(_: Request, error: Exception) -> Response:
    body = error_body(f"The demo model failed: {type(error).__name__}.", error_type="server_error")
    return JSONResponse(body, status_code=500)
