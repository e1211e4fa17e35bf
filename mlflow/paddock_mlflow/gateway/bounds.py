"""An upper bound of the tokens that a call may take, from its body alone.

A token is at least one byte of UTF-8, so the body's bytes bound the prompt's text; `MESSAGE_TOKENS` are the marks that
models put around each message. What is no text has more tokens than bytes, or fewer: an image counts as the dearest that
its model reads, wherever it is. What no number bounds, because it is kept at the provider's or fetched or unpacked by it,
counts as `CONTEXT_TOKENS`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from paddock_mlflow.pricing import Prices

MESSAGE_TOKENS = 16
IMAGE_TOKENS = 16_384
"""More than any other model reads of one image, by the documentation of OpenAI, Anthropic and Google: hundreds to about
ten thousand."""
DEAR_IMAGE_TOKENS = 49_152
"""Of gpt-4o-mini, where an image costs as much as with gpt-4o: 2833 tokens, and 5667 for each of up to eight tiles."""
_DEAR_IMAGES = re.compile(r"4o-mini")
CONTEXT_TOKENS = 1_000_000
"""The longest context of any model that is sold by tokens today."""

DEFAULT_OUTPUT_TOKENS = 16_384
"""Reserved for an answer where the request sets no maximum, or less where the model can't make so much. A longer one is
charged what it cost, beyond the limit of a budget too (docs/gateway.md): models that can make eight times as much would
hold a dollar a call otherwise. Agents do well to set a maximum."""

_MEDIA = (b"image", b"file", b"document", b"video", b"audio", b"screenshot", b"inline")
_IMAGES = frozenset({"image", "image_url", "input_image", "computer_screenshot"})
_UNBOUNDED = frozenset(
    {
        "document",
        "document_url",
        "file",
        "input_file",
        "container_upload",
        "video",
        "video_url",
        "input_video",
        "audio_url",
    }
)
"""Pages that are unpacked, and what is fetched: a few bytes may be hours of film."""
_MOST = 10**6
"""Of one answer's tokens, and of answers: ten times as much as any provider takes."""
_CLIENT_TOOLS = frozenset({"function", "custom", "uc_function"})
_PROMPTS = ("messages", "input", "contents", "system", "systemInstruction", "system_instruction", "prompt")
_PROVIDER_STATE = ("previous_response_id", "conversation", "prompt", "cachedContent", "container")


@dataclass(frozen=True)
class Bound:
    """At most so many tokens; some are by model: what an image is read as, and an answer without a maximum."""

    text: int
    images: int
    requested: int | None
    """The request's own maximum of one answer."""
    answers: int
    service_tier: str
    cache_write: bool

    def input(self, model: str) -> int:
        """Tokens of the prompt, for a model of that name."""
        each = DEAR_IMAGE_TOKENS if _DEAR_IMAGES.search(model) else IMAGE_TOKENS
        return self.text + self.images * each

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
            self.input(model),
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
    tokens, images = len(raw) + MESSAGE_TOKENS * (count + 1), 0
    unbounded = any(body.get(name) for name in _PROVIDER_STATE) or _has_provider_tools(body)
    if any(word in raw for word in _MEDIA):
        for medium in _media([body.get(name) for name in _PROMPTS]):
            images += medium.is_image
            unbounded = unbounded or not medium.is_image
            tokens -= medium.inline_bytes
    if unbounded:
        tokens += CONTEXT_TOKENS
    configured = body.get("generationConfig") or body.get("generation_config")
    configured = configured if isinstance(configured, dict) else {}
    tier = body.get("service_tier")
    return Bound(
        text=tokens,
        images=images,
        requested=_requested(body, configured) if generates else 0,
        answers=max(_positive(body.get("n")) or 1, _positive(configured.get("candidateCount")) or 1),
        service_tier=tier.lower() if isinstance(tier, str) and tier not in ("auto", "default") else "",
        # Anthropic writes to its cache where it is told to; other providers' caches cost nothing to write, or cannot
        # be switched off, and have no such price.
        cache_write=b"cache_control" in raw,
    )


@dataclass(frozen=True)
class _Medium:
    """A part of a prompt that is no text; `inline_bytes` of it stand in the body and are no tokens."""

    is_image: bool
    inline_bytes: int = 0


def _media(prompts: list[Any]) -> Iterator[_Medium]:
    """What is no text in a prompt, in the forms of OpenAI's, Anthropic's and Google's protocols."""
    left = [one for one in prompts if isinstance(one, dict | list)]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            medium = _medium(part)
            if medium is not None:
                yield medium
                continue
            part = part.values()
        # Texts are most of it, and are not looked at one by one.
        left += [one for one in part if isinstance(one, dict | list)]


def _medium(part: Mapping[str, Any]) -> _Medium | None:
    kind = part.get("type")
    if not isinstance(kind, str):
        # Google's parts are told by their fields.
        for name in _OF_GOOGLE & part.keys():
            if isinstance(data := part[name], dict):
                return _of_google(data)
        return None
    if kind not in _IMAGES and kind not in _UNBOUNDED:
        return None
    source = part.get("source")
    if kind in _IMAGES:
        if isinstance(source, dict):
            return _inline(source.get("data"))
        # Responses has the address itself where chat has an object around it.
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, dict) else image
        if isinstance(url, str) and url.startswith("data:"):
            return _inline(url) if url.startswith("data:image/") else _Medium(False)
        return _Medium(True)
    if isinstance(source, dict) and source.get("type") in ("text", "content"):
        # Anthropic's documents of plain text, or of parts that are looked at each.
        return None
    return _Medium(False)


_OF_GOOGLE = frozenset({"inlineData", "inline_data", "fileData", "file_data"})


def _of_google(data: Mapping[str, Any]) -> _Medium | None:
    kind = str(data.get("mimeType") or data.get("mime_type") or "")
    inline = data.get("data")
    if kind.startswith("image/"):
        return _inline(inline)
    if kind.startswith(("audio/", "text/")) and isinstance(inline, str):
        # More bytes than tokens.
        return None
    return _Medium(False)


def _inline(data: Any) -> _Medium:
    return _Medium(True, len(data) if isinstance(data, str) else 0)


def _requested(body: Mapping[str, Any], configured: Mapping[str, Any]) -> int | None:
    # Zero is no maximum to some servers, and an error to the others.
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
    if isinstance(value, bool) or not isinstance(value, int | float) or value < 1:
        return None
    # What no provider takes must still be an amount that the ledger's columns hold.
    return int(min(value, _MOST))


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
        and not (isinstance(kind, str) and kind in _CLIENT_TOOLS)
        # Anthropic's tools that the client runs have a date in their type.
        and not str(kind).startswith(("bash_", "text_editor_", "computer_", "memory_"))
        for tool in tools
    )
