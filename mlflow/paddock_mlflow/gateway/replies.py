"""Answers to clients: their headers, and errors."""

import time

from mlflow.gateway.constants import MLFLOW_GATEWAY_DURATION_HEADER, MLFLOW_GATEWAY_OVERHEAD_HEADER
from starlette.types import Message, Send

from paddock_mlflow.gateway import errors
from paddock_mlflow.gateway.call import Call
from paddock_mlflow.gateway.errors import GatewayError

JSON = b"application/json"
MODEL_HEADER = b"x-paddock-model"
ATTEMPTS_HEADER = b"x-paddock-attempts"
_DURATION = MLFLOW_GATEWAY_DURATION_HEADER.lower().encode()
_OVERHEAD = MLFLOW_GATEWAY_OVERHEAD_HEADER.lower().encode()
_REMAINING = errors.REMAINING_HEADER.lower().encode()


def headers_of(call: Call, *, streaming: bool = False) -> list[tuple[bytes, bytes]]:
    """MLflow's durations, the model that answered, how many were asked, and what the budget has left."""
    took = int((time.perf_counter() - call.started) * 1000)
    headers = [(_DURATION, str(took).encode())]
    provider = int(call.provider_seconds * 1000)
    if provider > 0 and not streaming:
        headers.append((_OVERHEAD, str(max(0, took - provider)).encode()))
    if call.attempts:
        last = call.attempts[-1]
        headers.append((MODEL_HEADER, f"{last.provider}/{last.model}".encode("latin-1", "replace")))
        headers.append((ATTEMPTS_HEADER, str(len(call.attempts)).encode()))
    if call.admitted is not None and call.admitted.remaining is not None:
        headers.append((_REMAINING, errors.usd(call.admitted.remaining).encode()))
    return headers


def start(status: int, headers: list[tuple[bytes, bytes]], length: int | None = None) -> Message:
    """The beginning of an answer; `length` in bytes, where it is known."""
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    return {"type": "http.response.start", "status": status, "headers": headers}


async def refuse(call: Call, error: GatewayError, send: Send) -> None:
    """Send an error in the words of the client's protocol."""
    call.begun = True
    body = error.render(call.route.protocol)
    headers = [*headers_of(call), (b"content-type", JSON)]
    given = {
        name.lower().encode(): value.encode("latin-1", "replace") for name, value in error.headers.items()
    }
    headers = [(name, value) for name, value in headers if name not in given] + list(given.items())
    await send(start(error.status, headers, len(body)))
    await send({"type": "http.response.body", "body": body})
