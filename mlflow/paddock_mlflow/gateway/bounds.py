"""An upper bound of the tokens that a call may take, from its body alone.

A token is at least one byte of UTF-8, so the body's bytes bound the prompt's text; `MESSAGE_TOKENS` are the marks that
models put around each message, `IMAGE_TOKENS` an image that the body only names (OpenAI's and Anthropic's dearest sizes
stay below). What neither bounds, because it is kept at the provider's or fetched by it, counts as `CONTEXT_TOKENS`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from paddock_mlflow.pricing import Prices

MESSAGE_TOKENS = 16
IMAGE_TOKENS = 4096
CONTEXT_TOKENS = 1_000_000
"""The longest context of any model that is sold by tokens today."""

DEFAULT_OUTPUT_TOKENS = 16_384
"""Reserved for an answer where the request sets no maximum, or less where the model can't make so much. An answer may
exceed it: then the real cost is charged all the same. Agents do well to set a maximum."""

_MEDIA = (b"image", b"file", b"document", b"video", b"audio")
_REMOTE = re.compile(rb'"(?:https?:|gs:|s3:)|"file_id"|"fileUri"|"file_uri"')
_CLIENT_TOOLS = frozenset({"function", "custom", "uc_function"})
_PROVIDER_STATE = ("previous_response_id", "conversation", "prompt", "cachedContent", "container")


@dataclass(frozen=True)
class Bound:
    """At most so many tokens; `output` is by model, since where the request sets no maximum the model has one."""

    input: int
    requested: int | None
    """The request's own maximum of one answer."""
    answers: int
    service_tier: str
    cache_write: bool

    def output(self, prices: Prices, provider: str, model: str) -> int:
        """Tokens that a model may generate in all answers together."""
        able = prices.max_output(provider, model)
        if self.requested is None:
            one = min(able or DEFAULT_OUTPUT_TOKENS, DEFAULT_OUTPUT_TOKENS)
        else:
            one = min(self.requested, able) if able else self.requested
        return one * self.answers

    def cost(self, prices: Prices, provider: str, model: str) -> Decimal | None:
        """USD that one attempt costs at most; None where the model has no price."""
        return prices.bound(
            provider,
            model,
            self.input,
            self.output(prices, provider, model),
            service_tier=self.service_tier,
            cache_write=self.cache_write,
        )


def of_body(raw: bytes, body: Mapping[str, Any], *, generates: bool = True) -> Bound:
    """
    Args:
        raw: the body as JSON, without escapes of ASCII characters.
        body: the same, parsed.
        generates: whether the route makes text; embeddings are input alone.
    """
    messages = body.get("messages") or body.get("input") or body.get("contents")
    count = len(messages) if isinstance(messages, list) else 1
    tokens = len(raw) + MESSAGE_TOKENS * (count + 1)
    if any(word in raw for word in _MEDIA):
        tokens += IMAGE_TOKENS * len(_REMOTE.findall(raw))
    if any(body.get(name) for name in _PROVIDER_STATE) or _has_provider_tools(body):
        tokens += CONTEXT_TOKENS
    configured = body.get("generationConfig") or body.get("generation_config")
    configured = configured if isinstance(configured, dict) else {}
    tier = body.get("service_tier")
    return Bound(
        input=tokens,
        requested=_requested(body, configured) if generates else 0,
        answers=max(_positive(body.get("n")) or 1, _positive(configured.get("candidateCount")) or 1),
        service_tier=tier.lower() if isinstance(tier, str) and tier not in ("auto", "default") else "",
        # Anthropic writes to its cache where it is told to; other providers' caches cost nothing to write, or cannot
        # be switched off, and have no such price.
        cache_write=b"cache_control" in raw,
    )


def _requested(body: Mapping[str, Any], configured: Mapping[str, Any]) -> int | None:
    found = [
        number
        for place, name in (
            (body, "max_completion_tokens"),
            (body, "max_tokens"),
            (body, "max_output_tokens"),
            (configured, "maxOutputTokens"),
            (configured, "max_output_tokens"),
        )
        if (number := _positive(place.get(name))) is not None
    ]
    return max(found) if found else None


def _positive(value: Any) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
        return None
    return int(value)


def _has_provider_tools(body: Mapping[str, Any]) -> bool:
    """Whether the provider itself runs a tool, whose results become input of the same call."""
    tools = body.get("tools")
    if body.get("web_search_options"):
        return True
    if not isinstance(tools, list):
        return False
    return any(
        isinstance(tool, dict)
        and (kind := tool.get("type")) is not None
        and kind not in _CLIENT_TOOLS
        # Anthropic's tools that the client runs have a date in their type.
        and not str(kind).startswith(("bash_", "text_editor_", "computer_", "memory_"))
        for tool in tools
    )
