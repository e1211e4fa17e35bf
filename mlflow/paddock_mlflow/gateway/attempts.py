"""One attempt at one model: what goes in, what comes out, and how it may fail."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from mlflow.gateway import ssrf

from paddock_mlflow.gateway.routes import Route
from paddock_mlflow.ledger.types import Usage
from paddock_mlflow.usage import StreamUsage

UNREACHABLE = 503
TIMED_OUT = 504
_CALLERS_MISTAKES = range(400, 500)
_NOT_THE_CALLERS = frozenset({401, 403, 408, 429})


@dataclass(frozen=True)
class Request:
    """A call as the attempts see it. `payload` is the body as it goes out, without `model`; not to be changed."""

    route: Route
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    payload: dict[str, Any]
    stream: bool
    own_auth: bool
    """Whether the client's `Authorization` and the like are its own at the provider, not for us."""
    rest: str = ""
    """A raw proxy's path, with its query."""


@dataclass(frozen=True)
class Whole:
    """An answer in one piece, as the client gets it. No usage where the provider reports none."""

    body: bytes
    usage: Usage | None


@dataclass
class Streamed:
    """An answer in pieces, the first of which is there already. `usage` grows with the pieces that are read."""

    first: bytes
    pieces: AsyncIterator[bytes]
    usage: StreamUsage
    content_type: str = "text/event-stream; charset=utf-8"

    async def close(self) -> None:
        """Let go of the provider, whether or not it has finished."""
        close = getattr(self.pieces, "aclose", None)
        if close is not None:
            await close()


class AttemptFailed(Exception):
    """The model did not answer, or refused.

    `again` says whether another model may do better; `maybe_billed` whether this one may be paid for all the same;
    `body` is the provider's error where it is in the client's protocol; `kind` its type or code.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        *,
        again: bool | None = None,
        maybe_billed: bool = False,
        body: Mapping[str, Any] | None = None,
        retry_after: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.again = worth_another(status) if again is None else again
        self.maybe_billed = maybe_billed
        self.body = body
        self.retry_after = retry_after


def as_json(body: Any) -> bytes:
    """A body that was read, or a part of it, written again.

    Raises:
        AttemptFailed: it is nested so deeply that it can be read, but not written.
    """
    try:
        return orjson.dumps(body)
    except TypeError as error:
        raise AttemptFailed(
            400, "invalid_request_error", "expected a body of at most 250 levels, found more; nest it less"
        ) from error


def worth_another(status: int) -> bool:
    """Whether another model may do better: not where the caller's request is at fault. A refused key is ours."""
    return status not in _CALLERS_MISTAKES or status in _NOT_THE_CALLERS


def of_connection(error: BaseException) -> AttemptFailed | None:
    """What a failed connection means; None where the error is another matter.

    Nothing is billed for what was never sent. What broke off afterwards may have been: no answer says that it was not.
    """
    reason = str(error) or type(error).__name__
    if isinstance(error, ssrf.GatewaySSRFProtectionError):
        return AttemptFailed(502, "provider_address_refused", reason)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return _unreachable(f"no connection in time ({reason})")
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ClientConnectorDNSError):
        return _unreachable(reason)
    if isinstance(error, TimeoutError):
        return AttemptFailed(
            TIMED_OUT,
            "provider_timeout",
            "expected the model provider to answer in time, found it still silent; it is overloaded or down",
            maybe_billed=True,
        )
    if isinstance(error, aiohttp.InvalidURL):
        return AttemptFailed(502, "provider_unavailable", f"the provider's address is wrong: {reason}")
    if isinstance(error, aiohttp.ClientConnectionError | aiohttp.ClientPayloadError | OSError):
        return _unreachable(f"the connection broke off ({reason})", maybe_billed=True)
    if isinstance(error, aiohttp.ClientError):
        return AttemptFailed(
            502, "provider_error", f"the provider's answer is not HTTP: {reason}", maybe_billed=True
        )
    return None


def _unreachable(reason: str, *, maybe_billed: bool = False) -> AttemptFailed:
    return AttemptFailed(
        UNREACHABLE,
        "provider_unavailable",
        f"expected the model provider to answer, found: {reason}; it is down, or its address is wrong",
        maybe_billed=maybe_billed,
    )
