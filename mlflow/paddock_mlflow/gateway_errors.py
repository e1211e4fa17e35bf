"""What the gateway refuses, it refuses in the words of OpenAI's error bodies, which every client can show.

Upstream answers a provider that can't be reached with a bare "Internal Server Error", and a caller whom it does not know,
or who may not use an endpoint, with a line of text that names neither.
"""

import json
import logging

import aiohttp
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 5

_REFUSALS = {
    401: (
        401,
        "authentication",
        "expected a valid key, found none that the gateway knows; set LLM_API_KEY to the key that `./paddock env` prints",
    ),
    # Not found rather than forbidden: clients then name the endpoint instead of their key, and nobody learns which
    # endpoints there are.
    403: (
        404,
        "endpoint_not_found",
        (
            "expected the name of an endpoint that this key may use, found one that does not exist or is closed to it;"
            " `coder` is there from the start, the others are in MLflow's UI under AI Gateway"
        ),
    ),
}


def error_body(message: str, kind: str) -> dict[str, dict[str, str | None]]:
    """An error as OpenAI's API writes it."""
    return {"error": {"message": message, "type": kind, "code": kind, "param": None}}


def register(app: FastAPI) -> None:
    """Answer for providers that refuse a connection, break it off, or let it time out."""
    app.add_exception_handler(aiohttp.ClientConnectionError, _unreachable)
    app.add_exception_handler(TimeoutError, _unreachable)


class RefusalMiddleware:
    """Turns the text of a 401 or 403 on /gateway/ into an error body. Goes outside of MLflow's authentication."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http" or not scope["path"].startswith("/gateway/"):
            await self._app(scope, receive, send)
            return
        replaced = False

        async def send_in_words(message: Message) -> None:
            nonlocal replaced
            # A JSON body is a provider's own refusal, which stays as it is.
            if (
                message["type"] == "http.response.start"
                and message["status"] in _REFUSALS
                and not _is_json(message)
            ):
                replaced = True
                status, kind, text = _REFUSALS[message["status"]]
                body = json.dumps(error_body(text, kind)).encode()
                dropped = (b"content-length", b"content-type")
                headers = [(name, value) for name, value in message["headers"] if name.lower() not in dropped]
                headers += [
                    (b"content-type", b"application/json"),
                    (b"content-length", str(len(body)).encode()),
                ]
                await send({**message, "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": body})
            elif not replaced:
                await send(message)

        await self._app(scope, receive, send_in_words)


def _is_json(message: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"application/json")
        for name, value in message["headers"]
    )


async def _unreachable(request: Request, error: Exception) -> JSONResponse:
    reason = str(error) or type(error).__name__
    _logger.warning("%s: the provider does not answer: %s", request.url.path, reason)
    message = (
        f"expected the model provider to answer, found: {reason}; it is down, or its address in .env is wrong"
    )
    return JSONResponse(
        error_body(message, "provider_unavailable"),
        status_code=503,
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )
