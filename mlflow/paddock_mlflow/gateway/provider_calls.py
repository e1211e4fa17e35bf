"""Attempts by MLflow's own provider classes: Gemini, Bedrock, Vertex AI, Cohere, LiteLLM and whatever else it has, and
the raw proxy of any."""

import logging
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import orjson
from fastapi import HTTPException
from mlflow.exceptions import MlflowException
from mlflow.gateway import ssrf
from mlflow.gateway.exceptions import AIGatewayException
from mlflow.gateway.providers.base import BaseProvider, PassthroughAction
from mlflow.gateway.schemas import chat, embeddings
from pydantic import ValidationError

from paddock_mlflow.gateway import unified
from paddock_mlflow.gateway.attempts import AttemptFailed, Request, Streamed, Whole, as_json, of_connection
from paddock_mlflow.gateway.endpoints import Model
from paddock_mlflow.gateway.routes import Kind
from paddock_mlflow.gateway.upstreams import NOT_FORWARDED
from paddock_mlflow.usage import StreamUsage, from_response

_logger = logging.getLogger(__name__)


async def attempt(request: Request, model: Model) -> Whole | Streamed:
    """Ask the model once.

    Raises:
        AttemptFailed: it did not answer.
    """
    # On the raw proxy the caller chooses the path, so its address is guarded whoever wrote it.
    ssrf.upstream_ssrf_protection.set(model.guarded or request.route.kind is Kind.PROXY)
    try:
        result = await _ask(request, model)
        if isinstance(result, AsyncIterable):
            return await _streamed(request, result)
        body = result if isinstance(result, bytes) else orjson.dumps(result, default=str)
        return Whole(body, from_response(request.route.protocol, orjson.loads(body)))
    except AttemptFailed:
        raise
    except Exception as error:
        raise _failure(error, model) from error


async def _ask(request: Request, model: Model) -> Any:
    # Adapters change what they are given, and another attempt may follow.
    payload = orjson.loads(as_json(request.payload))
    route = request.route
    match route.kind:
        case Kind.UNIFIED_CHAT:
            chat_payload = chat.RequestPayload(**payload)
            if request.stream:
                return _chat_events(model.chat, chat_payload)
            return (await model.chat.chat(chat_payload)).model_dump_json().encode()
        case Kind.UNIFIED_EMBEDDINGS:
            made = await model.embeddings.embeddings(embeddings.RequestPayload(**payload))
            return made.model_dump_json().encode()
        case Kind.PROXY:
            return await model.chat.proxy(request.rest, payload, _headers(request))
    assert route.action is not None
    if request.stream and route.action is PassthroughAction.OPENAI_CHAT:
        # The classes ask for usage only where they trace, and here they don't.
        payload = unified.with_usage(payload)
    return await model.chat.passthrough(route.action, payload, _headers(request))


async def _chat_events(provider: BaseProvider, payload: chat.RequestPayload) -> AsyncIterator[bytes]:
    async for chunk in provider.chat_stream(payload):
        yield b"data: %b\n\n" % chunk.model_dump_json().encode()
    yield unified.DONE


def _headers(request: Request) -> dict[str, str]:
    """The client's, for a provider class to forward. It puts the provider's own key in."""
    if request.own_auth:
        return dict(request.headers)
    return {name: value for name, value in request.headers.items() if name not in NOT_FORWARDED}


async def _streamed(request: Request, stream: AsyncIterable[Any]) -> Streamed:
    usage = StreamUsage(request.route.protocol)
    pieces = _pieces(stream, usage)
    try:
        first = await anext(pieces)
    except StopAsyncIteration:
        raise AttemptFailed(
            502, "provider_error", "the provider's stream ended before it began", maybe_billed=True
        ) from None
    except BaseException:
        await pieces.aclose()
        raise
    return Streamed(first, pieces, usage)


async def _pieces(stream: AsyncIterable[Any], usage: StreamUsage) -> AsyncIterator[bytes]:
    try:
        async for piece in stream:
            data = piece.encode() if isinstance(piece, str) else piece
            usage.feed(data)
            if data:
                yield data
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()


def _failure(error: Exception, model: Model) -> AttemptFailed:
    if isinstance(error, HTTPException):
        return _told(error.status_code, error.detail, model)
    if isinstance(error, AIGatewayException):
        return _told(error.status_code, error.detail, model)
    if isinstance(error, MlflowException):
        return _told(error.get_http_status_code(), error.message, model)
    if (failure := of_connection(error)) is not None:
        return failure
    if isinstance(error, ValidationError | KeyError | TypeError | ValueError | AttributeError):
        _logger.warning("%s/%s: its adapter failed", model.provider, model.name, exc_info=error)
        return AttemptFailed(
            502,
            "provider_error",
            model.redact(
                f"MLflow's adapter of {model.provider} failed on this call: {type(error).__name__}: {error}"
            ),
            maybe_billed=True,
        )
    _logger.exception("%s/%s: the attempt failed", model.provider, model.name, exc_info=error)
    return AttemptFailed(
        500, "provider_error", f"the attempt failed: {type(error).__name__}", maybe_billed=True
    )


def _told(status: int, detail: Any, model: Model) -> AttemptFailed:
    text = detail if isinstance(detail, str) else orjson.dumps(detail, default=str).decode()
    kind = {429: "rate_limit_exceeded"}.get(
        status, "invalid_request_error" if status in (400, 422) else "provider_error"
    )
    return AttemptFailed(status, kind, model.redact(text))
