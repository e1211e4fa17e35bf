"""What the gateway refuses, in the words of the protocol that the client speaks.

MLflow answers `{"detail": …}` whatever the protocol, a bare "Internal Server Error" where a provider can't be reached,
and lines of text for strangers; SDKs then show nothing, or try again for minutes. Shapes are those of OpenAI
(https://platform.openai.com/docs/guides/error-codes), Anthropic (https://platform.claude.com/docs/en/api/errors) and
Google (https://ai.google.dev/gemini-api/docs/troubleshooting).
"""

import json
import logging
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import aiohttp
import orjson
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from paddock_mlflow.errors import PaddockError
from paddock_mlflow.ledger.types import Admission, Reason, Refused
from paddock_mlflow.logins import TooManyLogins
from paddock_mlflow.usage import Protocol

_logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 5
REMAINING_HEADER = "X-Paddock-Budget-Remaining-USD"
_NO_RETRY = {"x-should-retry": "false"}
"""The SDKs of OpenAI and Anthropic try 429 again by themselves, unless this header tells them not to."""

UNKNOWN_CALLER = (
    "expected a valid key, found none that the gateway knows; set LLM_API_KEY to the key that `./paddock env` prints,"
    " or to one that `./paddock keys create` made"
)
RUN_KEY_ELSEWHERE = (
    "expected the key of a run to be used by its agent, found it elsewhere: {key_id}; it opens nothing but what the agent"
    " calls in its own network. Make a key for other programs: `./paddock keys create`"
)
UNKNOWN_ENDPOINT = (
    "expected the name of an endpoint that this key may use, found one that does not exist or is closed to it;"
    " `coder` is there from the start, the others are in MLflow's UI under AI Gateway"
)

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_GOOGLE_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


class GatewayError(PaddockError):
    """The call ends here: `status` and `message` for the client, `kind` as type and code of the error.

    `body` is a provider's own error, which goes on as it is where it speaks the client's protocol.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        message: str,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.headers = dict(headers or {})
        self.body = body

    def render(self, protocol: Protocol) -> bytes:
        """The answer's body in the words of a protocol."""
        if self.body is not None:
            return orjson.dumps(self.body)
        return orjson.dumps(error_object(protocol, self.status, self.kind, self.message))


def error_object(protocol: Protocol, status: int, kind: str, message: str) -> dict[str, Any]:
    """An error as the API of that protocol writes it."""
    if protocol == "anthropic_messages":
        own = kind in _OWN_KINDS or status not in _ANTHROPIC_TYPES
        name = kind if own else _ANTHROPIC_TYPES[status]
        return {
            "type": "error",
            "error": {"type": name if own or status < 500 else "api_error", "message": message},
        }
    if protocol == "gemini":
        name = _GOOGLE_STATUSES.get(status, "INTERNAL")
        return {"error": {"code": status, "message": message, "status": name, "reason": kind}}
    return error_body(message, kind)


_OWN_KINDS = frozenset({"insufficient_quota", "rate_limit_exceeded", "invalid_api_key"})
"""What clients are told apart by, whatever the protocol."""


def error_body(message: str, kind: str) -> dict[str, dict[str, str | None]]:
    """An error as OpenAI's API writes it."""
    return {"error": {"message": message, "type": kind, "code": kind, "param": None}}


def unknown_caller() -> GatewayError:
    """No credential, or a wrong one."""
    return GatewayError(401, "invalid_api_key", UNKNOWN_CALLER, {"WWW-Authenticate": "Bearer", **_NO_RETRY})


def foreign_page(origin: str) -> GatewayError:
    """A browser sends a person's password along with what any page asks for."""
    return GatewayError(
        403,
        "permission_denied",
        f"expected a password to come from this site's own pages, found one from {origin[:200]!r}; use a key"
        " (`./paddock keys create`), or add the site to ALLOWED_HOSTS",
        _NO_RETRY,
    )


def too_many_logins(error: TooManyLogins) -> GatewayError:
    """The password was not looked at."""
    return GatewayError(429, "rate_limit_exceeded", str(error), {"Retry-After": str(error.retry_after)})


def unknown_endpoint() -> GatewayError:
    """Not found rather than forbidden: clients then name the endpoint instead of their key, and nobody learns which
    endpoints there are."""
    return GatewayError(404, "endpoint_not_found", UNKNOWN_ENDPOINT)


def ledger_away() -> GatewayError:
    """Nobody can say what may be spent: nothing is."""
    return GatewayError(
        503,
        "temporarily_unavailable",
        "expected the gateway's database to answer, found it away; no call is made unaccounted; try again",
        {"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def refusal(refused: Refused, admission: Admission) -> GatewayError:
    """What the ledger refused, with what was expected, what was found, and when to try again."""
    headers: dict[str, str] = {}
    if refused.remaining is not None and refused.reason in (Reason.BUDGET_EXCEEDED, Reason.BUDGET_RESERVED):
        headers[REMAINING_HEADER] = usd(refused.remaining)
    match refused.reason:
        case Reason.UNKNOWN_KEY:
            return unknown_caller()
        case Reason.EXPIRED_KEY:
            return _key(refused, "has expired", "ask for a new one (`./paddock keys create`)")
        case Reason.REVOKED_KEY:
            return _key(refused, "was revoked", "ask an administrator for another one")
        case Reason.RUN_KEY_ELSEWHERE:
            text = RUN_KEY_ELSEWHERE.format(key_id=refused.key_id)
            return GatewayError(403, "permission_denied", text, _NO_RETRY)
        case Reason.FORBIDDEN_ENDPOINT:
            return unknown_endpoint()
        case Reason.UNPRICED_MODEL:
            name = refused.detail or admission.unpriced
            provider, _, model = name.partition("/")
            return GatewayError(
                403,
                "unpriced_model",
                f"expected a price for the model {model or name!r} of {provider or 'its provider'}, found none;"
                f" add the model to mlflow/prices/{provider or 'PROVIDER'}.json, or to its entry in gateway.yaml"
                " (`price: free` is allowed)",
                _NO_RETRY,
            )
        case Reason.BUDGET_EXCEEDED:
            return GatewayError(
                429, "insufficient_quota", _spent(refused, admission), {**headers, **_NO_RETRY}
            )
        case Reason.BUDGET_RESERVED:
            after = _seconds(refused.retry_after)
            return GatewayError(
                429,
                "rate_limit_exceeded",
                f"expected this call to fit what is left of the budget of {refused.scope}, found the rest held for calls"
                f" in flight; try again in {after} s",
                {**headers, "Retry-After": after},
            )
    after = _seconds(refused.retry_after)
    unit = "tokens" if refused.reason is Reason.TOKEN_RATE else "requests"
    limit = f"{refused.limit:f} " if refused.limit is not None else ""
    return GatewayError(
        429,
        "rate_limit_exceeded",
        f"expected at most {limit}{unit} a minute for {refused.scope}, found more; try again in {after} s",
        {"Retry-After": after},
    )


def _seconds(wait: float | None) -> str:
    """Whole ones, as Retry-After has them; rounded down they would be too early."""
    return str(max(1, math.ceil(wait or 1)))


def _key(refused: Refused, what: str, remedy: str) -> GatewayError:
    name = f" {refused.key_id}" if refused.key_id else ""
    return GatewayError(
        401, "invalid_api_key", f"expected a valid key, found one that {what}:{name}; {remedy}", _NO_RETRY
    )


def _spent(refused: Refused, admission: Admission) -> str:
    limit = f"${usd(refused.limit)}" if refused.limit is not None else "its limit"
    period = f" per {refused.period}" if refused.period else ""
    found = "too little left"
    if refused.limit is not None and refused.remaining is not None:
        # Calls in flight count as spent: they hold what they may cost.
        found = f"${usd(refused.limit - refused.remaining)} spent and ${usd(refused.remaining)} left"
    need = f", where it may cost ${usd(admission.bound)}" if admission.bound is not None else ""
    resets = (
        f"; it resets at {_time(refused.resets_at)}" if refused.resets_at else "; it does not reset by itself"
    )
    return (
        f"budget_exceeded: expected this call to fit the budget of {refused.scope} ({limit}{period}), found {found}"
        f"{need}{resets}; lower the request's max_tokens, or ask an administrator to raise the budget"
    )


def usd(amount: Decimal | None) -> str:
    """An amount for people and headers: no exponent, no trailing zeros."""
    text = f"{amount or Decimal(0):f}"
    return text.rstrip("0").rstrip(".") or "0" if "." in text else text


def _time(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def register(app: FastAPI) -> None:
    """Answer for providers that refuse a connection, break it off, or let it time out."""
    app.add_exception_handler(aiohttp.ClientConnectionError, _unreachable)
    app.add_exception_handler(TimeoutError, _unreachable)


_REFUSALS = {
    401: (401, "invalid_api_key", UNKNOWN_CALLER),
    403: (404, "endpoint_not_found", UNKNOWN_ENDPOINT),
}


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
