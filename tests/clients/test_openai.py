"""OpenAI's own Python library against the gateway: by the passthrough route and by the unified one."""

import time
from typing import Any

import openai
import pytest
from counting import CountingRelay
from processes import Gateway, Model

TASK = "Write 3 facts about the current project into FACTS.txt."
PARAMETERS = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
TOOL: Any = {
    "type": "function",
    "function": {"name": "terminal", "description": "Runs it.", "parameters": PARAMETERS},
}
HELLO: Any = [{"role": "user", "content": "Hello, who are you?"}]
ROUTES = pytest.mark.parametrize("route", ["openai/v1", "mlflow/v1"])


@pytest.fixture
def endpoint(gateway: Gateway) -> str:
    """An endpoint on the demo model."""
    return gateway.endpoint("demo", Model("demo"))


def client(gateway: Gateway, endpoint: str, route: str, url: str = "", **options: Any) -> openai.OpenAI:
    base = f"{url or gateway.url}/gateway/{route}"
    return openai.OpenAI(base_url=base, api_key=options.pop("key", None) or gateway.key(endpoint), **options)


@ROUTES
def test_chat(gateway: Gateway, endpoint: str, route: str) -> None:
    answer = client(gateway, endpoint, route).chat.completions.create(model=endpoint, messages=HELLO)
    assert "demo model" in (answer.choices[0].message.content or "")
    assert answer.usage and answer.usage.prompt_tokens > 0
    assert len(gateway.upstream()) == 1


@ROUTES
def test_a_streamed_chat(gateway: Gateway, endpoint: str, route: str) -> None:
    stream = client(gateway, endpoint, route).chat.completions.create(
        model=endpoint, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "demo model" in text
    assert [chunk.usage.prompt_tokens for chunk in chunks if chunk.usage][-1:] != []


@ROUTES
@pytest.mark.parametrize("streamed", [False, True])
def test_tool_calls(gateway: Gateway, endpoint: str, route: str, streamed: bool) -> None:
    api = client(gateway, endpoint, route)
    messages: Any = [{"role": "user", "content": TASK}]
    called = []
    for _ in range(2):
        if streamed:
            with api.chat.completions.stream(model=endpoint, messages=messages, tools=[TOOL]) as stream:
                message = stream.get_final_completion().choices[0].message
        else:
            made = api.chat.completions.create(model=endpoint, messages=messages, tools=[TOOL])
            message = made.choices[0].message
        (call,) = message.tool_calls or []
        called.append((call.function.name, call.id))  # type: ignore[union-attr]
        messages += [
            message.model_dump(exclude_none=True, exclude={"parsed"}),
            {"role": "tool", "tool_call_id": call.id, "content": "nothing"},
        ]
    assert [name for name, _ in called] == ["terminal", "terminal"]
    assert called[0][1] != called[1][1], "the demo model saw the result and went on"


def test_the_responses_api(gateway: Gateway, endpoint: str) -> None:
    api = client(gateway, endpoint, "openai/v1")
    whole = api.responses.create(model=endpoint, input="Hello, who are you?")
    assert "demo model" in whole.output_text
    assert whole.usage and whole.usage.input_tokens > 0

    with api.responses.stream(model=endpoint, input="Hello, who are you?") as stream:
        streamed = stream.get_final_response()
    assert streamed.output_text == whole.output_text


def test_function_calls_of_the_responses_api(gateway: Gateway, endpoint: str) -> None:
    api = client(gateway, endpoint, "openai/v1")
    tools: Any = [
        {"type": "function", "name": "terminal", "description": "Runs it.", "parameters": PARAMETERS}
    ]
    first = api.responses.create(model=endpoint, input=TASK, tools=tools)
    call = next(item for item in first.output if item.type == "function_call")
    items: Any = [
        {"role": "user", "content": TASK},
        *[item.model_dump(exclude_none=True) for item in first.output],
        {"type": "function_call_output", "call_id": call.call_id, "output": "nothing"},
    ]
    second = api.responses.create(model=endpoint, input=items, tools=tools)
    assert next(item for item in second.output if item.type == "function_call").call_id != call.call_id


def test_embeddings(gateway: Gateway, endpoint: str) -> None:
    made = client(gateway, endpoint, "openai/v1").embeddings.create(
        model=endpoint, input=["a tide", "a tide", "code"]
    )
    first, same, other = (one.embedding for one in made.data)
    assert first == same != other
    assert len(first) == 256


@ROUTES
def test_a_wrong_key_is_refused_at_once(
    gateway: Gateway, endpoint: str, route: str, relay: CountingRelay
) -> None:
    api = client(gateway, endpoint, route, relay.url, key="pdk_wrong")
    with pytest.raises(openai.AuthenticationError) as caught:
        api.chat.completions.create(model=endpoint, messages=HELLO)
    assert caught.value.code == "invalid_api_key"
    assert len(relay.posts) == 1
    assert gateway.upstream() == []


@ROUTES
def test_a_spent_budget_is_not_tried_again(
    gateway: Gateway, priced: str, route: str, relay: CountingRelay
) -> None:
    spent = gateway.key(priced, budget={"usd": "0.0000001"})
    with pytest.raises(openai.RateLimitError) as caught:
        client(gateway, priced, route, relay.url, key=spent).chat.completions.create(
            model=priced, messages=HELLO
        )
    assert caught.value.code == "insufficient_quota"
    assert "budget" in str(caught.value)
    assert len(relay.posts) == 1, "the library must not try again"
    assert gateway.upstream() == []


@ROUTES
def test_retry_after_of_a_busy_provider_is_waited_for(
    gateway: Gateway, route: str, relay: CountingRelay
) -> None:
    busy = gateway.endpoint("busy", Model("scenario/busy-once"))
    answer = client(gateway, busy, route, relay.url).chat.completions.create(
        model=busy, messages=[{"role": "user", "content": f"Hello by {route}"}]
    )
    assert answer.choices[0].message.content == "Now I have time."
    first, second = relay.posts
    assert second - first >= 1.0


def test_retry_after_of_the_gateways_own_rate_limit(
    gateway: Gateway, endpoint: str, relay: CountingRelay
) -> None:
    """20 a minute is one in three seconds, once the allowance is used up."""
    api = client(gateway, endpoint, "openai/v1", relay.url, key=gateway.key(endpoint, requests_per_minute=20))
    refused = None
    for _ in range(40):
        before = len(relay.posts)
        began = time.monotonic()
        api.chat.completions.create(model=endpoint, messages=HELLO)
        if len(relay.posts) > before + 1:
            refused = time.monotonic() - began
            break
    assert refused is not None, "40 calls at once against a limit of 20 a minute"
    # To the next whole second at least: the gateway rounds what is left of three.
    assert refused >= 0.9
    assert len(gateway.upstream()) == len(relay.posts) - 1, "what was refused did not reach the provider"


def test_a_stream_of_a_checked_endpoint(gateway: Gateway) -> None:
    """An endpoint whose answers are checked sends its streams at once, in OpenAI's form."""
    checked = gateway.endpoint("checked-openai", Model("scenario/leaking"))
    gateway.guard(checked, gateway.secret_scorer, "AFTER", "SANITIZATION", "no-keys")
    api = client(gateway, checked, "openai/v1")
    with api.chat.completions.stream(model=checked, messages=HELLO) as stream:
        assert stream.get_final_completion().choices[0].message.content == "The key is [AWS_ACCESS_KEY]."
    with api.responses.stream(model=checked, input="Hello!") as responses:
        assert responses.get_final_response().output_text == "The key is [AWS_ACCESS_KEY]."
