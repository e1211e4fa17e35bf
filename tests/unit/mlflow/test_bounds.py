"""The upper bound of a call, by its body alone: what it counts, and that answers of each kind stay below it."""

import json
from pathlib import Path
from typing import Any

import pytest

from paddock_mlflow.gateway import bounds
from paddock_mlflow.gateway.bounds import (
    CONTEXT_TOKENS,
    DEFAULT_OUTPUT_TOKENS,
    IMAGE_TOKENS,
    MESSAGE_TOKENS,
    Bound,
)
from paddock_mlflow.ledger.types import Usage
from paddock_mlflow.prices import write_catalog
from paddock_mlflow.pricing import Prices

HELLO = {"model": "coder", "messages": [{"role": "user", "content": "Grüß Gott 😀"}]}
LINK = "https://example.org/a.png"
DATA = "data:image/png;base64," + "A" * 400


@pytest.fixture(scope="module")
def prices(tmp_path_factory: pytest.TempPathFactory) -> Prices:
    folder = tmp_path_factory.mktemp("catalogue")
    write_catalog(
        folder, extra={"openai": {"own": {"input_per_million_tokens": 1.0, "output_per_million_tokens": 2.0}}}
    )
    return Prices(folder)


def of(body: dict[str, Any], **more: Any) -> Bound:
    return bounds.of_body(json.dumps(body, ensure_ascii=False).encode(), body, **more)


def test_the_prompt_is_its_bytes_and_a_few_tokens_a_message() -> None:
    raw = json.dumps(HELLO, ensure_ascii=False).encode()
    assert of(HELLO).text == len(raw) + 2 * MESSAGE_TOKENS
    two = {**HELLO, "messages": HELLO["messages"] * 2}
    assert of(two).text == len(json.dumps(two, ensure_ascii=False).encode()) + 3 * MESSAGE_TOKENS


@pytest.mark.parametrize(
    ("part", "inline"),
    [
        ({"type": "image_url", "image_url": {"url": LINK}}, 0),
        ({"type": "image_url", "image_url": {"url": DATA}}, len(DATA)),
        ({"type": "input_image", "image_url": LINK}, 0),
        ({"type": "input_image", "image_url": DATA}, len(DATA)),
        ({"type": "input_image", "file_id": "file-1"}, 0),
        ({"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": DATA}}, len(DATA)),
        ({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 400}}, 400),
        ({"type": "image", "source": {"type": "url", "url": LINK}}, 0),
        ({"type": "tool_result", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]}, 0),
        ({"inlineData": {"mimeType": "image/png", "data": "A" * 400}}, 400),
        ({"inline_data": {"mime_type": "image/png", "data": "A" * 400}}, 400),
        ({"fileData": {"mimeType": "image/png", "fileUri": "gs://b/a.png"}}, 0),
    ],
    ids=lambda value: json.dumps(value)[:60],
)  # fmt: skip
@pytest.mark.parametrize("place", ["messages", "input", "contents"])
def test_an_image_counts_as_the_dearest_and_not_by_its_bytes(
    part: dict[str, Any], inline: int, place: str
) -> None:
    body = {"model": "coder", place: [{"role": "user", "content": [part, {"type": "text", "text": "?"}]}]}
    bound = of(body)
    assert (bound.text, bound.images) == (len(json.dumps(body)) + 2 * MESSAGE_TOKENS - inline, 1)
    assert bound.input("gpt-4o") == bound.text + IMAGE_TOKENS
    # 2833 + 8 × 5667: the price of an image is that of gpt-4o, in tokens that are cheaper.
    assert bound.input("gpt-4o-mini-2024-07-18") > bound.text + 2833 + 8 * 5667


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "data:application/pdf;base64,AAAA"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}},
        {"type": "input_file", "file_url": "https://example.org/a.pdf"},
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}},
        {"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}},
        {"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}},
        {"fileData": {"mimeType": "video/mp4", "fileUri": "gs://b/film.mp4"}},
        {"fileData": {"mimeType": "audio/mp3", "fileUri": "gs://b/talk.mp3"}},
        {"inlineData": {"mimeType": "application/pdf", "data": "AAAA"}},
    ],
    ids=lambda part: json.dumps(part)[:60],
)
def test_documents_and_films_may_fill_a_context(part: dict[str, Any]) -> None:
    once = of({"messages": [{"role": "user", "content": [part]}]})
    twice = of({"messages": [{"role": "user", "content": [part, part]}]})
    assert (once.images, twice.images) == (0, 0)
    assert CONTEXT_TOKENS < once.text < twice.text < CONTEXT_TOKENS + 1000


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text", "text": f"Look at the image {DATA} of the file"},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x" * 400}},
        {"type": "input_audio", "input_audio": {"data": "A" * 400, "format": "wav"}},
        {"inlineData": {"mimeType": "audio/wav", "data": "A" * 400}},
        {"type": "web_search_result", "url": "https://example.org/image", "title": "image"},
        {"type": "output_text", "text": "file", "annotations": [{"type": "url_citation", "url": LINK}]},
        {"type": ["image"], "image_url": 7, "fileData": "no object"},
    ],
    ids=lambda part: json.dumps(part)[:60],
)
def test_everything_else_counts_by_its_bytes(part: dict[str, Any]) -> None:
    body = {"messages": [{"role": "user", "content": [part]}]}
    assert (of(body).text, of(body).images) == (len(json.dumps(body)) + 2 * MESSAGE_TOKENS, 0)


@pytest.mark.parametrize(
    "more",
    [
        {"previous_response_id": "resp_1"},
        {"conversation": "conv_1"},
        {"cachedContent": "cachedContents/1"},
        {"web_search_options": {"search_context_size": "low"}},
        {"tools": [{"type": "web_search_preview"}]},
        {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
        {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
    ],
    ids=lambda more: json.dumps(more)[:40],
)
def test_what_the_provider_adds_may_fill_a_context(more: dict[str, Any]) -> None:
    assert of(HELLO | more).text > CONTEXT_TOKENS


@pytest.mark.parametrize(
    "tools",
    [
        [{"type": "function", "function": {"name": "terminal"}}],
        [{"name": "terminal", "input_schema": {}}],
        [{"type": "bash_20250124", "name": "bash"}, {"type": "text_editor_20250728", "name": "edit"}],
    ],
)
def test_tools_that_the_client_runs_add_nothing(tools: list[dict[str, Any]]) -> None:
    assert of(HELLO | {"tools": tools}).text < 1000


@pytest.mark.parametrize(
    ("more", "tokens"),
    [
        ({"max_tokens": 100}, 100),
        ({"max_completion_tokens": 100}, 100),
        ({"max_output_tokens": 100}, 100),
        ({"generationConfig": {"maxOutputTokens": 100}}, 100),
        ({"max_tokens": 10, "max_completion_tokens": 100}, 100),
        ({"max_tokens": 100, "n": 3}, 300),
        ({"generationConfig": {"maxOutputTokens": 100, "candidateCount": 4}}, 400),
        # More than the model can make.
        ({"max_tokens": 10**9}, 128_000),
        # No maximum, whatever else stands there.
        ({}, DEFAULT_OUTPUT_TOKENS),
        *(({"max_tokens": value}, DEFAULT_OUTPUT_TOKENS) for value in (0, -1, True, None, "100", [])),
    ],
    ids=json.dumps,
)
def test_the_answer_is_the_requests_maximum(prices: Prices, more: dict[str, Any], tokens: int) -> None:
    assert of(HELLO | more).output(prices, "openai", "gpt-5") == tokens


def test_without_a_maximum_a_model_makes_no_more_than_it_can(prices: Prices) -> None:
    assert of(HELLO).output(prices, "openai", "gpt-4o") == 16_384
    assert of(HELLO).output(prices, "openai", "gpt-4") == 4096
    assert of(HELLO).output(prices, "openai", "own") == DEFAULT_OUTPUT_TOKENS
    assert of(HELLO | {"max_tokens": 10**6}).output(prices, "openai", "own") == 10**6


def test_embeddings_generate_nothing(prices: Prices) -> None:
    body = {"model": "coder", "input": ["a", "b"]}
    bound = of(body, generates=False)
    assert bound.output(prices, "openai", "text-embedding-3-small") == 0
    assert bound.text == len(json.dumps(body)) + 3 * MESSAGE_TOKENS


@pytest.mark.parametrize(
    ("tier", "found"), [("priority", "priority"), ("Flex", "flex"), ("auto", ""), ("default", ""), (7, "")]
)
def test_the_service_tier_that_is_asked_for(tier: object, found: str) -> None:
    assert of(HELLO | {"service_tier": tier}).service_tier == found


def test_writing_to_a_cache_is_counted_where_it_is_asked_for(prices: Prices) -> None:
    asked = {"model": "c", "max_tokens": 10, "system": [{"type": "text", "text": "x" * 4000}], "messages": []}
    cached = {
        **asked,
        "system": [{**asked["system"][0], "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    }  # type: ignore[index,dict-item]
    plain, writing = (of(body) for body in (asked, cached))
    assert (plain.cache_write, writing.cache_write) == (False, True)
    written = Usage(input=4000, output=10, cache_write=4000, cache_write_1h=4000)
    for bound, usage in ((plain, Usage(input=4000, output=10)), (writing, written)):
        most = bound.cost(prices, "anthropic", "claude-sonnet-4-5")
        cost = prices.cost("anthropic", "claude-sonnet-4-5", usage)
        assert most is not None and cost is not None
        assert cost.total < most < cost.total * 2


def test_a_model_without_a_price_has_no_bound(prices: Prices) -> None:
    assert of(HELLO).cost(prices, "openai", "nobody-s-model") is None


def test_the_default_is_documented() -> None:
    told = (Path(__file__).parents[3] / "docs" / "gateway.md").read_text()
    assert f"{DEFAULT_OUTPUT_TOKENS} tokens" in told
