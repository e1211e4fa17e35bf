"""The tokens that providers report, in the bodies that they send."""

import json
import random
from typing import Any

import pytest

from paddock_mlflow.ledger.types import Usage
from paddock_mlflow.usage import StreamUsage, from_response

CHAT = {
    "prompt_tokens": 1000,
    "completion_tokens": 300,
    "total_tokens": 1300,
    "prompt_tokens_details": {"cached_tokens": 600, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 120},
}
RESPONSES = {
    "input_tokens": 1000,
    "input_tokens_details": {"cached_tokens": 600},
    "output_tokens": 300,
    "output_tokens_details": {"reasoning_tokens": 120},
    "total_tokens": 1300,
}
ANTHROPIC = {
    "input_tokens": 100,
    "cache_read_input_tokens": 600,
    "cache_creation_input_tokens": 300,
    "cache_creation": {"ephemeral_5m_input_tokens": 200, "ephemeral_1h_input_tokens": 100},
    "output_tokens": 50,
    "service_tier": "standard",
}
GEMINI = {
    "promptTokenCount": 1000,
    "cachedContentTokenCount": 600,
    "candidatesTokenCount": 180,
    "thoughtsTokenCount": 120,
    "totalTokenCount": 1300,
}
OPENAI_USAGE = Usage(input=1000, output=300, cache_read=600, reasoning=120)
ANTHROPIC_USAGE = Usage(
    input=1000, output=50, cache_read=600, cache_write=300, cache_write_1h=100, service_tier="standard"
)


class TestResponses:
    @pytest.mark.parametrize(
        ("protocol", "body", "usage"),
        [
            ("openai_chat", {"usage": CHAT}, OPENAI_USAGE),
            ("openai_chat", {"usage": {"prompt_tokens": 5, "completion_tokens": 0}}, Usage(input=5)),
            (
                "openai_chat",
                {"usage": {"prompt_tokens": 5, "completion_tokens": 1}, "service_tier": "priority"},
                Usage(input=5, output=1, service_tier="priority"),
            ),
            ("openai_responses", {"object": "response", "usage": RESPONSES}, OPENAI_USAGE),
            ("openai_embeddings", {"usage": {"prompt_tokens": 8, "total_tokens": 8}}, Usage(input=8)),
            ("anthropic_messages", {"type": "message", "usage": ANTHROPIC}, ANTHROPIC_USAGE),
            ("gemini", {"usageMetadata": GEMINI}, OPENAI_USAGE),
            ("gemini", {"usageMetadata": GEMINI | {"toolUsePromptTokenCount": 7}},
             Usage(input=1007, output=300, cache_read=600, reasoning=120)),
        ],
    )  # fmt: skip
    def test_each_protocol(self, protocol: Any, body: dict[str, Any], usage: Usage) -> None:
        assert from_response(protocol, body) == usage
        # The raw proxy's answers show their protocol themselves.
        assert from_response("unknown", body) == usage

    def test_what_mlflow_leaves_out(self) -> None:
        from mlflow.gateway.providers import anthropic, gemini
        from mlflow.gateway.providers.base import PassthroughAction

        google = gemini.GeminiProvider.__new__(gemini.GeminiProvider)
        action = PassthroughAction.GEMINI_GENERATE_CONTENT
        theirs = google._extract_passthrough_token_usage(action, {"usageMetadata": GEMINI})
        assert theirs is not None
        # 120 thoughts are missing.
        assert theirs["output_tokens"] == 180
        written = anthropic._extract_anthropic_passthrough_token_usage({"usage": ANTHROPIC})
        assert written is not None
        assert written["cache_creation_input_tokens"] == 300
        assert "cache_creation_input_tokens_above_1hr" not in written

    def test_other_words_for_the_cache(self) -> None:
        deepseek = {"prompt_tokens": 10, "completion_tokens": 1, "prompt_cache_hit_tokens": 4}
        assert from_response("openai_chat", {"usage": deepseek}) == Usage(input=10, output=1, cache_read=4)
        # MLflow's unified route, from a model of Anthropic's.
        unified = {
            "prompt_tokens": 10,
            "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": 4},
            "cache_creation_input_tokens": 3,
            "cache_creation": {"ephemeral_1h_input_tokens": 2},
        }
        expected = Usage(input=10, output=1, cache_read=4, cache_write=3, cache_write_1h=2)
        assert from_response("openai_chat", {"usage": unified}) == expected

    def test_reasoning_beside_the_completion_is_counted(self) -> None:
        xai = CHAT | {"completion_tokens": 180, "total_tokens": 1300}
        assert from_response("openai_chat", {"usage": xai}) == OPENAI_USAGE

    @pytest.mark.parametrize(
        "protocol", ["openai_chat", "openai_responses", "anthropic_messages", "gemini", "unknown"]
    )
    @pytest.mark.parametrize(
        "body",
        [{}, {"usage": None}, {"usage": {}}, {"usage": "?"}, {"usageMetadata": {}}, {"error": {"message": "no"}}, []],
    )  # fmt: skip
    def test_none_reported_is_none_not_zero(self, protocol: Any, body: Any) -> None:
        assert from_response(protocol, body) is None

    def test_counts_that_make_no_sense(self) -> None:
        strange = {
            "prompt_tokens": -5,
            "completion_tokens": 10**30,
            "prompt_tokens_details": {"cached_tokens": "4"},
        }
        assert from_response("openai_chat", {"usage": strange}) == Usage(input=0, output=10**9)


def sse(*events: Any, done: bool = False) -> bytes:
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return "".join([*lines, "data: [DONE]\n\n"] if done else lines).encode()


def chunk(text: str | None, **more: Any) -> dict[str, Any]:
    choices = [] if text is None else [{"index": 0, "delta": {"content": text}}]
    return {"object": "chat.completion.chunk", "choices": choices, **more}


WORDS = ["Hel", "lo ", '"usage": {"prompt_tokens": 666}', "\r\n\n", "wörld 🐟"]
STREAMS: dict[str, tuple[bytes, Usage]] = {
    "openai_chat": (
        sse(*(chunk(word, usage=None) for word in WORDS), chunk(None, usage=CHAT), done=True),
        OPENAI_USAGE,
    ),
    "openai_responses": (
        b"".join(
            f"event: {event['type']}\n".encode() + sse(event)
            for event in (
                {"type": "response.created", "response": {"status": "in_progress", "usage": None}},
                *({"type": "response.output_text.delta", "delta": word} for word in WORDS),
                {"type": "response.completed", "response": {"object": "response", "usage": RESPONSES}},
            )
        ),
        OPENAI_USAGE,
    ),
    "anthropic_messages": (
        sse(
            {"type": "message_start", "message": {"type": "message", "usage": ANTHROPIC | {"output_tokens": 1}}},
            *({"type": "content_block_delta", "delta": {"type": "text_delta", "text": word}} for word in WORDS),
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 50}},
            {"type": "message_stop"},
        ),
        ANTHROPIC_USAGE,
    ),
    "gemini": (
        sse(
            *(
                {"candidates": [{"content": {"parts": [{"text": word}]}}], "usageMetadata": {"promptTokenCount": 1000}}
                for word in WORDS
            ),
            {"candidates": [], "usageMetadata": GEMINI},
        ),
        OPENAI_USAGE,
    ),
}  # fmt: skip


def read(protocol: Any, chunks: list[bytes]) -> StreamUsage:
    stream = StreamUsage(protocol)
    for piece in chunks:
        stream.feed(piece)
    return stream


@pytest.mark.parametrize("protocol", STREAMS)
class TestStreams:
    @pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
    @pytest.mark.parametrize("size", [1, 2, 7, 100, 10**6])
    def test_chunks_may_end_anywhere(self, protocol: str, ending: str, size: int) -> None:
        text, usage = STREAMS[protocol]
        text = text.replace(b"\n", ending.encode())
        for named in (protocol, "unknown"):
            stream = read(named, [text[at : at + size] for at in range(0, len(text), size)])
            assert stream.usage == usage
            assert stream.complete

    def test_random_chunks(self, protocol: str) -> None:
        text, usage = STREAMS[protocol]
        source = random.Random(7)
        for _ in range(50):
            cuts = sorted(source.sample(range(len(text)), 9))
            assert (
                read(protocol, [text[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]).usage
                == usage
            )

    def test_an_event_of_several_lines(self, protocol: str) -> None:
        text, usage = STREAMS[protocol]
        events = []
        for event in text.split(b"\n\n"):
            head, separator, data = event.partition(b"data: ")
            lines = data.replace(b', "', b',\ndata: "') if data.startswith(b"{") else data
            events.append(head + separator + lines)
        split = b"\r\n\r\n".join(event.replace(b"\n", b"\r\n") for event in events)
        assert split.count(b"\n") > text.count(b"\n")
        # A literal in the text is cut by it too; the figures are what counts.
        for size in (1, 3, len(split)):
            chunks = [split[at : at + size] for at in range(0, len(split), size)]
            assert read(protocol, chunks).usage == usage

    def test_without_the_empty_line(self, protocol: str) -> None:
        text, usage = STREAMS[protocol]
        assert read(protocol, [text.replace(b"\n\n", b"\n")]).usage == usage
        assert read(protocol, [text.rstrip(b"\n").removesuffix(b"data: [DONE]").rstrip(b"\n")]).usage == usage

    def test_a_stream_that_broke_off(self, protocol: str) -> None:
        text, usage = STREAMS[protocol]
        stream = read(protocol, [text[: text.rfind(b"data: {", 0, text.rfind(b'"usage'))]])
        assert stream.usage != usage
        assert protocol == "gemini" or not stream.complete


def test_usage_with_every_chunk_counts_once() -> None:
    sums = [chunk("a", usage={"prompt_tokens": 5, "completion_tokens": n}) for n in (1, 2, 3)]
    assert read("openai_chat", [sse(*sums)]).usage == Usage(input=5, output=3)


def test_a_stream_that_reports_nothing() -> None:
    stream = read("openai_chat", [sse(chunk("a"), done=True)])
    assert stream.usage is None
    assert not stream.complete
