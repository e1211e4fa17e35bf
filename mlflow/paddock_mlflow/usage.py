"""The tokens that a provider's answer reports, whatever its protocol, in one form (`Usage`).

Providers count differently; what is brought together here:

- Anthropic's `input_tokens` leaves out what was read from and written to the cache; `Usage.input` has it.
  (https://platform.claude.com/docs/en/build-with-claude/prompt-caching)
- Gemini's `candidatesTokenCount` leaves out the thoughts; `Usage.output` has them, and the prompt has the results of its
  built-in tools. (https://ai.google.dev/api/generate-content#UsageMetadata)
- xAI's `completion_tokens` leaves out the reasoning, which only `total_tokens` shows.
- DeepSeek names cached tokens `prompt_cache_hit_tokens`, OpenRouter those that were written `cache_write_tokens`.

An answer that reports no usage gives None, never zero: what it cost is then not known.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import orjson

from paddock_mlflow.ledger.types import Usage

Protocol = Literal[
    "openai_chat", "openai_responses", "openai_embeddings", "anthropic_messages", "gemini", "unknown"
]
"""The words in which client and provider speak. `openai_chat` is also that of MLflow's unified routes; `unknown` is for
the raw proxy, whose protocol shows in the answer alone."""

_MAX_TOKENS = 10**9
"""More in one call is a provider's mistake, and would not fit the ledger's columns."""


def from_response(protocol: Protocol, body: Any) -> Usage | None:
    """The usage that a whole answer reports; None where it reports none, as errors do."""
    if not isinstance(body, Mapping):
        return None
    if protocol == "unknown":
        protocol = _protocol_of(body)
    usage = _object(body, "usageMetadata" if protocol == "gemini" else "usage")
    if not usage:
        return None
    match protocol:
        case "openai_responses":
            return _openai(usage, "input", "output", _tier(body))
        case "anthropic_messages":
            return _anthropic(usage)
        case "gemini":
            return _gemini(usage)
        case _:
            return _openai(usage, "prompt", "completion", _tier(body))


class StreamUsage:
    """The usage that a stream of server-sent events reports, read while it passes.

    Costs little: only events that have the word for it are parsed. Chunks may end anywhere, lines in LF, CRLF or CR.
    """

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._pending = bytearray()
        """The event that has not ended yet."""
        self._held_cr = b""
        self._reported: dict[str, Any] = {}
        """Anthropic's figures, which come in two events."""
        self._usage: Usage | None = None
        self._complete = False

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes of the stream."""
        if self._held_cr or b"\r" in chunk:
            chunk = self._with_line_feeds(chunk)
        seam = max(len(self._pending) - 1, 0)
        self._pending += chunk
        end = self._pending.rfind(b"\n\n", seam)
        if end < 0:
            return
        events = bytes(self._pending[:end])
        del self._pending[: end + 2]
        self._read(events)

    @property
    def usage(self) -> Usage | None:
        """What was reported so far; None where nothing was."""
        self._read(bytes(self._pending))
        return self._usage

    @property
    def complete(self) -> bool:
        """Whether the figures at the end came: before, `usage` may lack what was generated."""
        self._read(bytes(self._pending))
        return self._complete

    def _with_line_feeds(self, chunk: bytes) -> bytes:
        chunk = self._held_cr + chunk
        # A CR at the end may be half of a CRLF.
        self._held_cr = b"\r" if chunk.endswith(b"\r") else b""
        if self._held_cr:
            chunk = chunk[:-1]
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _read(self, events: bytes) -> None:
        if _REPORTS.search(events) is None:
            return
        for event in events.split(b"\n\n"):
            if _REPORTS.search(event) is not None:
                for body in _bodies(event):
                    self._event(body)

    def _event(self, body: Mapping[str, Any]) -> None:
        protocol = self._protocol if self._protocol != "unknown" else _protocol_of(body)
        match protocol:
            case "anthropic_messages":
                self._anthropic_event(body)
            case "openai_responses":
                response = _object(body, "response")
                self._take(from_response(protocol, response or body))
            case _:
                self._take(from_response(protocol, body))

    def _take(self, usage: Usage | None) -> None:
        # Some servers report with every chunk, the sum so far: the last one counts.
        if usage is not None:
            self._usage, self._complete = usage, True

    def _anthropic_event(self, body: Mapping[str, Any]) -> None:
        message = _object(body, "message")
        reported = _object(message or body, "usage")
        if not reported:
            return
        # The figures of message_delta are sums, and repeat some of message_start's.
        self._reported |= {key: value for key, value in reported.items() if value is not None}
        self._usage = _anthropic(self._reported)
        self._complete = self._complete or not message


_REPORTS = re.compile(rb'"usage(?:Metadata)?"\s*:\s*\{')


def _bodies(event: bytes) -> Sequence[Mapping[str, Any]]:
    """The JSON objects of one event: its data lines are one text, but some servers leave out the line between events."""
    lines = [line[5:] for line in event.split(b"\n") if line.startswith(b"data:")]
    for texts in ([b"\n".join(lines)], lines):
        bodies = [body for text in texts if isinstance(body := _parsed(text), dict)]
        if bodies:
            return bodies
    return []


def _parsed(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return None


def _protocol_of(body: Mapping[str, Any]) -> Protocol:
    if "usageMetadata" in body:
        return "gemini"
    if body.get("object") == "response" or _object(body, "response"):
        return "openai_responses"
    if str(body.get("type", "")).startswith("message"):
        return "anthropic_messages"
    return "openai_responses" if "input_tokens" in _object(body, "usage") else "openai_chat"


def _openai(usage: Mapping[str, Any], given: str, made: str, service_tier: str) -> Usage | None:
    if usage.get(f"{given}_tokens") is None and usage.get(f"{made}_tokens") is None:
        return None
    prompt, completion = _tokens(usage, f"{given}_tokens"), _tokens(usage, f"{made}_tokens")
    given_details, made_details = (
        _object(usage, f"{given}_tokens_details"),
        _object(usage, f"{made}_tokens_details"),
    )
    reasoning = _tokens(made_details, "reasoning_tokens")
    if reasoning and prompt + completion + reasoning == _tokens(usage, "total_tokens"):
        completion += reasoning
    return Usage(
        input=prompt,
        output=completion,
        # A gateway before the provider, MLflow's own too, may report Anthropic's names beside OpenAI's.
        cache_read=_first(
            (given_details, "cached_tokens"),
            (usage, "cache_read_input_tokens"),
            (usage, "prompt_cache_hit_tokens"),
        ),
        cache_write=_first((given_details, "cache_write_tokens"), (usage, "cache_creation_input_tokens")),
        reasoning=reasoning,
        cache_write_1h=_tokens(_object(usage, "cache_creation"), "ephemeral_1h_input_tokens"),
        service_tier=service_tier,
    )


def _anthropic(usage: Mapping[str, Any]) -> Usage | None:
    if usage.get("input_tokens") is None and usage.get("output_tokens") is None:
        return None
    read, write = _tokens(usage, "cache_read_input_tokens"), _tokens(usage, "cache_creation_input_tokens")
    return Usage(
        input=_tokens(usage, "input_tokens") + read + write,
        output=_tokens(usage, "output_tokens"),
        cache_read=read,
        cache_write=write,
        cache_write_1h=_tokens(_object(usage, "cache_creation"), "ephemeral_1h_input_tokens"),
        service_tier=_tier(usage),
    )


def _gemini(usage: Mapping[str, Any]) -> Usage | None:
    if usage.get("promptTokenCount") is None and usage.get("candidatesTokenCount") is None:
        return None
    thoughts = _tokens(usage, "thoughtsTokenCount")
    return Usage(
        input=_tokens(usage, "promptTokenCount") + _tokens(usage, "toolUsePromptTokenCount"),
        output=_tokens(usage, "candidatesTokenCount") + thoughts,
        cache_read=_tokens(usage, "cachedContentTokenCount"),
        reasoning=thoughts,
    )


def _tier(body: Mapping[str, Any]) -> str:
    tier = body.get("service_tier")
    return tier.lower() if isinstance(tier, str) else ""


def _object(body: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = body.get(key)
    return value if isinstance(value, dict) else {}


def _tokens(usage: Mapping[str, Any], key: str) -> int:
    value = usage.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    # A negative count would give money back.
    return int(min(max(value, 0), _MAX_TOKENS))


def _first(*places: tuple[Mapping[str, Any], str]) -> int:
    return next((tokens for usage, key in places if (tokens := _tokens(usage, key))), 0)
