"""Where a model is reached without MLflow's provider class: addresses and headers, taken from that very class.

Only classes whose own ways of sending are those of OpenAI's protocol or Anthropic's, method for method; any other, and
any that a release changes, goes by its class (`provider_calls`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mlflow.environment_variables import MLFLOW_ENABLE_UC_FUNCTIONS
from mlflow.gateway import ssrf
from mlflow.gateway.config import EndpointConfig
from mlflow.gateway.providers.anthropic import AnthropicProvider
from mlflow.gateway.providers.base import (
    _CLIENT_AUTH_HEADERS,
    BaseProvider,
    PassthroughAction,
    ProviderAdapter,
    _client_provides_auth,
)
from mlflow.gateway.providers.openai import OpenAIAdapter, OpenAIProvider
from mlflow.gateway.providers.openai_compatible import OpenAICompatibleAdapter, OpenAICompatibleProvider
from mlflow.gateway.providers.openrouter import OpenRouterProvider
from mlflow.gateway.providers.utils import _STRIPPED_HEADERS
from mlflow.utils.uri import append_to_uri_path
from yarl import URL

CHAT_PATHS = {"openai": "chat/completions", "anthropic": "messages"}
EMBEDDINGS_PATH = "embeddings"

NOT_FORWARDED = (
    frozenset(_CLIENT_AUTH_HEADERS)
    | _STRIPPED_HEADERS
    | {
        "host",
        "content-length",
        "content-type",
        "cookie",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
        "proxy-authorization",
        "proxy-connection",
    }
)
"""What a client's headers must not say to a provider: its own credentials, and what holds for its connection alone."""


@dataclass(frozen=True)
class Upstream:
    """An address and what it speaks."""

    dialect: Literal["openai", "anthropic"]
    shown: str
    """The provider's name in unified answers."""
    config: EndpointConfig
    adapter: type[ProviderAdapter]
    model_in_body: bool
    """Azure has it in the address."""
    headers: Mapping[str, str]
    auth_headers: frozenset[str]
    """Those of `headers` that hold a key."""
    urls: Mapping[str, URL]
    paths: Mapping[PassthroughAction, str]
    unified: bool
    passthrough: bool

    def client_headers(self, headers: Mapping[str, str], own_auth: bool) -> dict[str, str]:
        """What a passthrough request says: the client's headers, with the provider's key in place of any of its own.

        Args:
            headers: the client's, names in lower case.
            own_auth: whether the client identified itself in a header of MLflow's own, so that its other credentials
                may be a subscription of its own at the provider (as upstream allows for some agents).
        """
        sent = {
            name: value
            for name, value in headers.items()
            if name not in NOT_FORWARDED and not name.startswith(("x-mlflow-", "x-paddock-", "x-forwarded-"))
        }
        if own_auth and _client_provides_auth(dict(headers)):
            own = {name: headers[name] for name in _CLIENT_AUTH_HEADERS if name in headers}
            kept = {name: value for name, value in self.headers.items() if name not in self.auth_headers}
            return sent | own | kept
        return sent | dict(self.headers)


def of_provider(provider: BaseProvider, guarded: bool) -> Upstream | None:
    """The upstream of a provider's class; None where only the class itself knows how."""
    kind = type(provider)
    if isinstance(provider, OpenAIProvider):
        same = _same(kind, OpenAIProvider, "_chat", "_chat_stream", "_embeddings")
        unified = same and not MLFLOW_ENABLE_UC_FUNCTIONS.get() and provider.adapter_class is OpenAIAdapter
        passthrough = _same(kind, OpenAIProvider, "_passthrough", "_get_headers")
        base, model_in_body = provider.base_url, not _is_azure(provider)
        dialect: Literal["openai", "anthropic"] = "openai"
    elif isinstance(provider, OpenAICompatibleProvider):
        unified = (
            _same(kind, OpenAICompatibleProvider, "_chat", "_chat_stream", "_embeddings")
            and provider.adapter_class is OpenAICompatibleAdapter
        )
        # OpenRouter's differs for TypeSafe's route alone.
        passthrough = _same(kind, OpenAICompatibleProvider, "_get_headers") and (
            kind is OpenRouterProvider or _same(kind, OpenAICompatibleProvider, "_passthrough")
        )
        base, model_in_body, dialect = provider._api_base, True, "openai"
    elif kind is AnthropicProvider:
        unified = passthrough = True
        base, model_in_body, dialect = provider.base_url, True, "anthropic"
    else:
        return None
    if not (unified or passthrough) or _is_forbidden(base, guarded):
        return None
    headers = {name.lower(): value for name, value in provider.headers.items() if value is not None}
    paths = {
        action: path
        for action, path in provider.PASSTHROUGH_PROVIDER_PATHS.items()
        if action is not PassthroughAction.TYPESAFE_SYSTEM_ONE
    }
    return Upstream(
        dialect=dialect,
        shown=provider._provider_name,
        config=provider.config,
        adapter=provider.adapter_class,
        model_in_body=model_in_body,
        headers=headers,
        auth_headers=frozenset(headers) & frozenset(_CLIENT_AUTH_HEADERS),
        urls={
            path: URL(append_to_uri_path(base, path), encoded=True)
            for path in {CHAT_PATHS[dialect], EMBEDDINGS_PATH, *paths.values()}
        },
        paths=paths,
        unified=unified,
        passthrough=passthrough,
    )


def _same(kind: type, base: type, *methods: str) -> bool:
    return all(getattr(kind, method) is getattr(base, method) for method in methods)


def _is_azure(provider: OpenAIProvider) -> bool:
    return provider.openai_config.openai_api_type.value in ("azure", "azuread")


def _is_forbidden(url: str, guarded: bool) -> bool:
    """Whether the address is a private one by its literal. Names are checked where they are resolved."""
    if not guarded:
        return False
    token = ssrf.upstream_ssrf_protection.set(True)
    try:
        ssrf.assert_public_upstream_url(url)
    except ssrf.GatewaySSRFProtectionError:
        return True
    finally:
        ssrf.upstream_ssrf_protection.reset(token)
    return False
