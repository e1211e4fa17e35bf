"""Anthropic's own Python library against the gateway."""

from typing import Any

import anthropic
import pytest
from counting import CountingRelay
from processes import Gateway, Model
from test_openai import HELLO, PARAMETERS, TASK

TOOL: Any = {"name": "terminal", "description": "Runs it.", "input_schema": PARAMETERS}


@pytest.fixture
def endpoint(gateway: Gateway) -> str:
    """An endpoint on the demo model, in Anthropic's protocol."""
    return gateway.endpoint("demo-anthropic", Model("demo", "anthropic"))


def client(gateway: Gateway, endpoint: str, url: str = "", key: str = "") -> anthropic.Anthropic:
    base = f"{url or gateway.url}/gateway/anthropic"
    return anthropic.Anthropic(base_url=base, api_key=key or gateway.key(endpoint))


def test_a_message(gateway: Gateway, endpoint: str) -> None:
    answer = client(gateway, endpoint).messages.create(model=endpoint, max_tokens=100, messages=HELLO)
    assert "demo model" in answer.content[0].text  # type: ignore[union-attr]
    assert answer.usage.input_tokens > 0
    (asked,) = gateway.upstream()
    assert (asked["path"], asked["body"]["model"]) == ("/v1/messages", "demo")


def test_the_key_as_a_bearer_token(gateway: Gateway, endpoint: str) -> None:
    base = f"{gateway.url}/gateway/anthropic"
    api = anthropic.Anthropic(base_url=base, auth_token=gateway.key(endpoint), api_key=None)
    assert api.messages.create(model=endpoint, max_tokens=100, messages=HELLO).role == "assistant"


@pytest.mark.parametrize("streamed", [False, True])
def test_tool_use(gateway: Gateway, endpoint: str, streamed: bool) -> None:
    api = client(gateway, endpoint)
    messages: Any = [{"role": "user", "content": TASK}]
    called = []
    for _ in range(2):
        asked: Any = {"model": endpoint, "max_tokens": 4000, "messages": messages, "tools": [TOOL]}
        if streamed:
            with api.messages.stream(**asked) as stream:
                message = stream.get_final_message()
        else:
            message = api.messages.create(**asked)
        assert message.stop_reason == "tool_use"
        use = message.content[-1]
        called.append((use.name, use.id))  # type: ignore[union-attr]
        messages += [
            {
                "role": "assistant",
                "content": [block.model_dump(exclude_none=True) for block in message.content],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "nothing"}],
            },  # type: ignore[union-attr]
        ]
    assert [name for name, _ in called] == ["terminal", "terminal"]
    assert called[0][1] != called[1][1]


def test_cached_tokens_are_told_and_kept(gateway: Gateway, endpoint: str) -> None:
    system: Any = [
        {"type": "text", "text": "You are careful. " * 300, "cache_control": {"type": "ephemeral"}}
    ]
    api = client(gateway, endpoint)
    first, second = (
        api.messages.create(model=endpoint, max_tokens=100, system=system, messages=HELLO).usage
        for _ in range(2)
    )
    assert first.cache_creation_input_tokens and second.cache_read_input_tokens
    row = gateway.last_row(endpoint)
    assert row["cache_read_tokens"] == second.cache_read_input_tokens
    assert row["input_tokens"] == second.input_tokens + second.cache_read_input_tokens + (
        second.cache_creation_input_tokens or 0
    )


def test_a_wrong_key_is_refused_at_once(gateway: Gateway, endpoint: str, relay: CountingRelay) -> None:
    with pytest.raises(anthropic.AuthenticationError):
        client(gateway, endpoint, relay.url, "pdk_wrong").messages.create(
            model=endpoint, max_tokens=100, messages=HELLO
        )
    assert len(relay.posts) == 1


def test_a_spent_budget_is_not_tried_again(gateway: Gateway, relay: CountingRelay) -> None:
    priced = gateway.endpoint("priced-anthropic", Model("claude-haiku-4-5", "anthropic"))
    spent = gateway.key(priced, budget={"usd": "0.0000001"})
    with pytest.raises(anthropic.RateLimitError, match="budget"):
        client(gateway, priced, relay.url, spent).messages.create(
            model=priced, max_tokens=100, messages=HELLO
        )
    assert len(relay.posts) == 1
    assert gateway.upstream() == []


def test_retry_after_is_waited_for(gateway: Gateway, relay: CountingRelay) -> None:
    busy = gateway.endpoint("busy-anthropic", Model("scenario/busy-once", "anthropic"))
    answer = client(gateway, busy, relay.url).messages.create(model=busy, max_tokens=100, messages=HELLO)
    assert answer.content[0].text == "Now I have time."  # type: ignore[union-attr]
    first, second = relay.posts
    assert second - first >= 1.0


def test_a_stream_of_a_checked_endpoint(gateway: Gateway) -> None:
    """An endpoint whose answers are checked sends its streams at once, in Anthropic's form."""
    checked = gateway.endpoint("checked-anthropic", Model("scenario/leaking", "anthropic"))
    gateway.guard(checked, gateway.secret_scorer, "AFTER", "SANITIZATION", "no-keys-anthropic")
    with client(gateway, checked).messages.stream(model=checked, max_tokens=100, messages=HELLO) as stream:
        message = stream.get_final_message()
    assert message.content[0].text == "The key is [AWS_ACCESS_KEY]."  # type: ignore[union-attr]
    assert message.usage.output_tokens > 0
