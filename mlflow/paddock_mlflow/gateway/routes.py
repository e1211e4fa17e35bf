"""The invocation routes of the gateway, as MLflow has them (mlflow/server/gateway_api.py), without its router."""

import re
from dataclasses import dataclass
from enum import Enum, auto

from mlflow.gateway.config import GatewayRequestType
from mlflow.gateway.providers.base import PassthroughAction

from paddock_mlflow.usage import Protocol


class Kind(Enum):
    """What a route does with a body."""

    UNIFIED_CHAT = auto()
    UNIFIED_EMBEDDINGS = auto()
    PASSTHROUGH = auto()
    PROXY = auto()


@dataclass(frozen=True)
class Route:
    """`protocol` is what the client speaks; `request_type` is MLflow's name of it in usage traces."""

    kind: Kind
    protocol: Protocol
    request_type: str
    action: PassthroughAction | None = None
    always_streams: bool = False
    """Whether the path says so, not the body."""
    never_streams: bool = False


@dataclass(frozen=True)
class Match:
    """A route with what the path says: the endpoint's name, and the rest of a raw proxy's path."""

    route: Route
    endpoint: str | None = None
    rest: str = ""


def _passthrough(
    action: PassthroughAction,
    protocol: Protocol,
    request_type: GatewayRequestType,
    *,
    always_streams: bool = False,
    never_streams: bool = False,
) -> Route:
    return Route(Kind.PASSTHROUGH, protocol, request_type.value, action, always_streams, never_streams)


UNIFIED_CHAT = Route(Kind.UNIFIED_CHAT, "openai_chat", GatewayRequestType.UNIFIED_CHAT.value)
UNIFIED_EMBEDDINGS = Route(
    Kind.UNIFIED_EMBEDDINGS,
    "openai_embeddings",
    GatewayRequestType.UNIFIED_EMBEDDINGS.value,
    never_streams=True,
)
PROXY = Route(Kind.PROXY, "unknown", GatewayRequestType.RAW_PROXY.value)

_RESPONSES = GatewayRequestType.PASSTHROUGH_MODEL_OPENAI_RESPONSES
_GEMINI = GatewayRequestType.PASSTHROUGH_MODEL_GEMINI_GENERATE_CONTENT

NAMED_IN_BODY = {
    "/gateway/mlflow/v1/chat/completions": UNIFIED_CHAT,
    "/gateway/openai/v1/chat/completions": _passthrough(
        PassthroughAction.OPENAI_CHAT, "openai_chat", GatewayRequestType.PASSTHROUGH_MODEL_OPENAI_CHAT
    ),
    "/gateway/openai/v1/embeddings": _passthrough(
        PassthroughAction.OPENAI_EMBEDDINGS,
        "openai_embeddings",
        GatewayRequestType.PASSTHROUGH_MODEL_OPENAI_EMBEDDINGS,
        never_streams=True,
    ),
    "/gateway/openai/v1/responses": _passthrough(
        PassthroughAction.OPENAI_RESPONSES, "openai_responses", _RESPONSES
    ),
    "/gateway/openai/v1/responses/compact": _passthrough(
        PassthroughAction.OPENAI_RESPONSES_COMPACT, "openai_responses", _RESPONSES, never_streams=True
    ),
    "/gateway/anthropic/v1/messages": _passthrough(
        PassthroughAction.ANTHROPIC_MESSAGES,
        "anthropic_messages",
        GatewayRequestType.PASSTHROUGH_MODEL_ANTHROPIC_MESSAGES,
    ),
    "/gateway/typesafe/v1/systemone": _passthrough(
        PassthroughAction.TYPESAFE_SYSTEM_ONE,
        "unknown",
        GatewayRequestType.PASSTHROUGH_MODEL_TYPESAFE_SYSTEM_ONE,
        never_streams=True,
    ),
}
"""Path → route; the body's `model` names the endpoint."""

_INVOCATIONS = re.compile(r"/gateway/([^/]+)/mlflow/invocations")
_GEMINI_PATH = re.compile(r"/gateway/gemini/v1beta/models/([^/:]+):(generateContent|streamGenerateContent)")
_PROXY_PATH = re.compile(r"/gateway/proxy/([^/]+)/(.*)", re.DOTALL)

_GEMINI_ROUTES = {
    "generateContent": _passthrough(
        PassthroughAction.GEMINI_GENERATE_CONTENT, "gemini", _GEMINI, never_streams=True
    ),
    "streamGenerateContent": _passthrough(
        PassthroughAction.GEMINI_STREAM_GENERATE_CONTENT, "gemini", _GEMINI, always_streams=True
    ),
}


def match(path: str) -> Match | None:
    """The route of a path; None where it is no invocation. Which of the two unified kinds `invocations` is, its body
    says: it comes as chat."""
    if route := NAMED_IN_BODY.get(path):
        return Match(route)
    if found := _INVOCATIONS.fullmatch(path):
        return Match(UNIFIED_CHAT, found.group(1))
    if found := _GEMINI_PATH.fullmatch(path):
        return Match(_GEMINI_ROUTES[found.group(2)], found.group(1))
    if found := _PROXY_PATH.fullmatch(path):
        return Match(PROXY, found.group(1), found.group(2))
    return None


GEMINI_WHOLE = _GEMINI_ROUTES["generateContent"]
