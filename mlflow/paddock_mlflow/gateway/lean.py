"""Attempts at providers of OpenAI's and Anthropic's protocol, without MLflow's provider classes.

A body is parsed once and written once; answers of passthrough routes go on as they came. What goes out and what comes
back is what MLflow's classes send and give (`tests/unit/mlflow/test_gateway_parity.py` compares).
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import aiohttp
import orjson
from mlflow.gateway.exceptions import AIGatewayException
from mlflow.gateway.providers.base import PassthroughAction
from yarl import URL

from paddock_mlflow.gateway import unified
from paddock_mlflow.gateway.attempts import AttemptFailed, Request, Streamed, Whole, as_json, of_connection
from paddock_mlflow.gateway.connections import Connections, timeout
from paddock_mlflow.gateway.endpoints import Model
from paddock_mlflow.gateway.routes import Kind
from paddock_mlflow.gateway.upstreams import CHAT_PATHS, EMBEDDINGS_PATH, Upstream
from paddock_mlflow.usage import Protocol, StreamUsage, from_response

UNANSWERED = 502
_ERROR_CHARACTERS = 2000
_ANTHROPIC_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "overloaded_error": 529,
}


@dataclass(frozen=True)
class Exchange:
    """What is sent, and how the answer is read. `speaks` is the provider's protocol."""

    url: URL
    headers: dict[str, str]
    body: bytes
    speaks: Protocol
    same_words: bool
    """Whether provider and client speak the same: errors go on as they are."""
    whole: Callable[[dict[str, Any]], bytes] | None = None
    """Makes the client's answer of the provider's; None where it goes on as it is."""
    events: Callable[[], unified.Events] | None = None


def serves(request: Request, model: Model) -> bool:
    """Whether this module can make the attempt."""
    upstream = model.upstream
    if upstream is None:
        return False
    match request.route.kind:
        case Kind.UNIFIED_CHAT:
            return upstream.unified
        case Kind.UNIFIED_EMBEDDINGS:
            return upstream.unified and upstream.dialect == "openai"
        case Kind.PASSTHROUGH:
            return upstream.passthrough and request.route.action in upstream.paths
    return False


async def attempt(connections: Connections, request: Request, model: Model) -> Whole | Streamed:
    """Ask the model once.

    Raises:
        AttemptFailed: it did not answer.
    """
    exchange = _exchange(request, model)
    session = connections.session(model.guarded)
    try:
        response = await session.post(
            exchange.url,
            data=exchange.body,
            headers=exchange.headers,
            allow_redirects=False,
            timeout=timeout(),
        )
        if response.status >= 300:
            await _refuse(response, exchange, model)
        if request.stream:
            return await _streamed(response, exchange)
        return _whole(await response.read(), response.headers.get("Content-Type") or "", exchange)
    except AttemptFailed:
        raise
    except Exception as error:
        failure = of_connection(error)
        if failure is None:
            raise
        raise failure from error


def _exchange(request: Request, model: Model) -> Exchange:
    upstream = model.upstream
    assert upstream is not None
    match request.route.kind:
        case Kind.PASSTHROUGH:
            return _passthrough(request, upstream)
        case Kind.UNIFIED_EMBEDDINGS:
            return Exchange(
                url=upstream.urls[EMBEDDINGS_PATH],
                headers={**upstream.headers, "content-type": "application/json"},
                body=as_json(_named(upstream, request.payload)),
                speaks="openai_embeddings",
                same_words=True,
                whole=unified.embeddings_answer,
            )
    if upstream.dialect == "anthropic":
        return _anthropic_chat(request, upstream)
    payload = unified.with_usage(request.payload) if request.stream else request.payload
    shown = upstream.shown
    return Exchange(
        url=upstream.urls[CHAT_PATHS["openai"]],
        headers={**upstream.headers, "content-type": "application/json"},
        body=as_json(_named(upstream, payload)),
        speaks="openai_chat",
        same_words=True,
        whole=lambda answer: unified.chat_answer(answer, shown),
        events=lambda: unified.Events(lambda event: unified.chat_chunk(event, shown), unified.DONE),
    )


def _passthrough(request: Request, upstream: Upstream) -> Exchange:
    action = request.route.action
    assert action is not None
    payload = request.payload
    if request.stream and action is PassthroughAction.OPENAI_CHAT:
        payload = unified.with_usage(payload)
    return Exchange(
        url=upstream.urls[upstream.paths[action]],
        headers={
            **upstream.client_headers(request.headers, request.own_auth),
            "content-type": "application/json",
        },
        body=as_json(_named(upstream, payload)),
        speaks=request.route.protocol,
        same_words=True,
    )


def _named(upstream: Upstream, payload: dict[str, Any]) -> dict[str, Any]:
    return {"model": upstream.config.model.name, **payload} if upstream.model_in_body else payload


def _anthropic_chat(request: Request, upstream: Upstream) -> Exchange:
    # MLflow's adapter changes what it is given.
    payload = orjson.loads(as_json(request.payload))
    try:
        sent = upstream.adapter.chat_to_model(payload, upstream.config)
    except AIGatewayException as error:
        raise AttemptFailed(error.status_code, "invalid_request_error", str(error.detail)) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise AttemptFailed(
            400,
            "invalid_request_error",
            f"expected a request that Anthropic's protocol can say, found one that it can't: {type(error).__name__}:"
            f" {error}; send it to /gateway/anthropic/v1/messages, or mend it",
        ) from error
    return Exchange(
        url=upstream.urls[CHAT_PATHS["anthropic"]],
        headers={**upstream.headers, "content-type": "application/json"},
        body=as_json(sent),
        speaks="anthropic_messages",
        same_words=False,
        whole=lambda answer: _shown(upstream.adapter.model_to_chat(answer, upstream.config), upstream),
        events=lambda: unified.Events(_AnthropicEvents(upstream), unified.DONE),
    )


class _AnthropicEvents:
    """Anthropic's events as chunks of chat, as `AnthropicProvider._chat_stream` makes them."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._tools: dict[int, int] = {}
        self._message: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}

    def __call__(self, event: dict[str, Any]) -> bytes:
        kind = event.get("type")
        if kind == "message_start":
            message = event["message"]
            self._message = {"id": message["id"], "model": message["model"]}
            self._usage |= {
                name: value
                for name, value in (message.get("usage") or {}).items()
                if name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
                and value is not None
            }
            return b""
        if kind == "error":
            return b"data: %b\n\n" % orjson.dumps({"error": event.get("error")})
        if kind not in ("message_delta", "content_block_start", "content_block_delta"):
            return b""
        index = event.get("index")
        if kind == "content_block_start" and event["content_block"].get("type") == "tool_use":
            self._tools[index] = len(self._tools)
        if index in self._tools:
            event["_tool_index"] = self._tools[index]
        event.update(self._message)
        if kind == "message_delta":
            if usage := event.get("usage"):
                self._usage["output_tokens"] = usage.get("output_tokens")
            event["_usage_data"] = self._usage
        chunk = self._upstream.adapter.model_to_chat_streaming(event, self._upstream.config)
        shown = _shown(chunk, self._upstream)
        if b'"tool_calls":[' in shown:
            made = orjson.loads(shown)
            for choice in made["choices"]:
                if calls := choice["delta"].get("tool_calls"):
                    choice["delta"]["tool_calls"] = [unified.without_nulls(call) for call in calls]
            shown = orjson.dumps(made)
        return b"data: %b\n\n" % shown


def _shown(made: Any, upstream: Upstream) -> bytes:
    made.provider = upstream.shown
    text: str = made.model_dump_json()
    return text.encode()


def _whole(raw: bytes, content_type: str, exchange: Exchange) -> Whole:
    if "application/json" not in content_type:
        if "text/plain" in content_type and exchange.whole is None:
            return Whole(orjson.dumps({"message": raw.decode(errors="replace")}), None)
        raise AttemptFailed(
            502,
            "provider_error",
            f"The returned data type from the route service is not supported. Received content type: {content_type}",
            maybe_billed=True,
        )
    try:
        answer = orjson.loads(raw)
        body = raw if exchange.whole is None else exchange.whole(answer)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise AttemptFailed(
            502,
            "provider_error",
            f"expected an answer of the provider's protocol, found another: {type(error).__name__}: {error}",
            maybe_billed=True,
        ) from error
    return Whole(body, from_response(exchange.speaks, answer))


async def _streamed(response: aiohttp.ClientResponse, exchange: Exchange) -> Streamed:
    usage = StreamUsage(exchange.speaks)
    events = exchange.events() if exchange.events is not None else None
    pieces = _pieces(response, usage, events)
    try:
        first = await anext(pieces)
    except StopAsyncIteration:
        raise AttemptFailed(
            UNANSWERED, "provider_error", "the provider's stream ended before it began", maybe_billed=True
        ) from None
    except BaseException:
        await pieces.aclose()
        raise
    content_type = response.headers.get("Content-Type") or "text/event-stream"
    return Streamed(first, pieces, usage) if events else Streamed(first, pieces, usage, content_type)


async def _pieces(
    response: aiohttp.ClientResponse, usage: StreamUsage, events: unified.Events | None
) -> AsyncIterator[bytes]:
    """The client's bytes; closing it before its end closes the connection, so that the provider stops.

    What comes before the first token (the role, an id, a ping) is held back: as long as nothing has gone out, another
    model can answer in this one's place.
    """
    begun, held = False, b""
    try:
        while piece := await response.content.readany():
            usage.feed(piece)
            if not begun:
                _raise_if_error(piece)
            try:
                out = piece if events is None else events.feed(piece)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise AttemptFailed(
                    502,
                    "provider_error",
                    f"expected an event of the provider's protocol, found another: {type(error).__name__}: {error}",
                    maybe_billed=True,
                ) from error
            held += out
            if held and (begun or _has_token(held)):
                begun = True
                yield held
                held = b""
        if events is not None and (begun or held or usage.usage is not None):
            held += events.finish()
        if held:
            yield held
    finally:
        # Gives the connection back where the body has ended, and closes it where it has not.
        response.close() if not response.content.at_eof() else response.release()


_WITHOUT_TOKENS = frozenset(
    {
        # Anthropic's
        "message_start",
        "ping",
        "content_block_start",
        # of OpenAI's Responses API
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    }
)
_MOST_HELD_BYTES = 64 * 1024


def _has_token(held: bytes) -> bool:
    """Whether a stream has said something yet. In doubt, it has."""
    if len(held) > _MOST_HELD_BYTES:
        return True
    for line in held.split(b"\n"):
        if not line.startswith(b"data:"):
            continue
        try:
            event = orjson.loads(line[5:])
        except orjson.JSONDecodeError:
            # `[DONE]`, or half an event: its other half tells, unless this is no JSON at all.
            if not line[5:].lstrip().startswith(b"{"):
                return True
            continue
        if not isinstance(event, dict) or "error" in event:
            return True
        if event.get("type") in _WITHOUT_TOKENS:
            continue
        choices = event.get("choices")
        if not isinstance(choices, list) or any(_tells(choice) for choice in choices):
            return True
    return False


def _tells(choice: Any) -> bool:
    if not isinstance(choice, dict) or choice.get("finish_reason"):
        return True
    delta = choice.get("delta")
    return not isinstance(delta, dict) or any(value for name, value in delta.items() if name != "role")


def _raise_if_error(piece: bytes) -> None:
    """Raise where a stream begins with an error: nothing has gone out yet, and another model may do better."""
    if b'"error"' not in piece[:4096]:
        return
    for line in piece.split(b"\n"):
        if not line.startswith(b"data:"):
            continue
        try:
            event = orjson.loads(line[5:])
        except orjson.JSONDecodeError:
            return
        error = event.get("error") if isinstance(event, dict) else None
        if not isinstance(error, dict) or "choices" in event:
            return
        kind = str(error.get("type") or error.get("code") or "provider_error")
        code = error.get("code")
        known = code if isinstance(code, int) and 400 <= code < 600 else 502
        status = _ANTHROPIC_STATUSES.get(kind, known)
        raise AttemptFailed(status, kind, str(error.get("message") or kind))


async def _refuse(response: aiohttp.ClientResponse, exchange: Exchange, model: Model) -> NoReturn:
    """Raise what a provider's refusal means."""
    raw = await response.read()
    text = model.redact(raw.decode(errors="replace"))
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError:
        body = None
    message, kind = _told(body)
    if not message:
        message = text[:_ERROR_CHARACTERS] or response.reason or "no reason given"
    status = response.status if response.status >= 400 else 502
    speaks = (
        exchange.same_words
        and isinstance(body, dict)
        and isinstance(body.get("error"), dict)
        and (exchange.speaks != "anthropic_messages" or body.get("type") == "error")
    )
    raise AttemptFailed(
        status,
        kind or ("rate_limit_exceeded" if status == 429 else "provider_error"),
        message,
        body=body if speaks else None,
        retry_after=response.headers.get("Retry-After"),
    )


def _told(body: Any) -> tuple[str, str]:
    """Message and type of a provider's error. Providers disagree about its shape."""
    error = body.get("error") if isinstance(body, dict) else None
    for place in (error, body):
        if isinstance(place, dict) and isinstance(message := place.get("message"), str) and message:
            return message, str(place.get("type") or place.get("code") or "")
    return (error, "") if isinstance(error, str) else ("", "")
