"""A provider that can't be reached is 503 with its name and the reason, in the words of OpenAI's error bodies.

Upstream lets the connection's exception pass, and the client gets a bare "Internal Server Error": neither a person nor a
client can tell it from a fault of the gateway.
"""

import logging

import aiohttp
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse

_logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 5


async def _unreachable(request: Request, error: Exception) -> JSONResponse:
    reason = str(error) or type(error).__name__
    _logger.warning("%s: the provider does not answer: %s", request.url.path, reason)
    message = f"expected the model provider to answer, found: {reason}; it is down, or its address in .env is wrong"
    return JSONResponse(
        {"error": {"message": message, "type": "provider_unavailable", "code": "provider_unavailable", "param": None}},
        status_code=503,
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def register(app: FastAPI) -> None:
    """Answer for providers that refuse a connection, break it off, or let it time out."""
    app.add_exception_handler(aiohttp.ClientConnectionError, _unreachable)
    app.add_exception_handler(TimeoutError, _unreachable)
