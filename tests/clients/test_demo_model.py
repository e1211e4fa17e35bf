"""The providers' own libraries against the demo model itself: what it speaks is what they understand."""

from typing import Any

import anthropic
import openai
import pytest
from processes import Gateway
from test_anthropic import TOOL as ANTHROPIC_TOOL
from test_openai import HELLO, TASK, TOOL


@pytest.fixture
def openai_client(gateway: Gateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.model_url}/v1", api_key=gateway.model_key, max_retries=0)


@pytest.fixture
def anthropic_client(gateway: Gateway) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gateway.model_url, api_key=gateway.model_key, max_retries=0)


def test_chat_completions(openai_client: openai.OpenAI) -> None:
    whole = openai_client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
    assert whole.usage and whole.usage.prompt_tokens_details and whole.usage.completion_tokens_details
    assert whole.usage.prompt_tokens_details.cached_tokens == 400
    assert whole.usage.completion_tokens_details.reasoning_tokens == 20
    asked: Any = {"model": "demo", "messages": [{"role": "user", "content": TASK}], "tools": [TOOL]}
    with openai_client.chat.completions.stream(**asked) as stream:
        streamed = stream.get_final_completion().choices[0].message.tool_calls
    made = openai_client.chat.completions.create(**asked).choices[0].message.tool_calls
    assert made and streamed and streamed[0].function.arguments == made[0].function.arguments


def test_responses(openai_client: openai.OpenAI) -> None:
    whole = openai_client.responses.create(model="gpt-4o-mini", input="Hello!")
    assert [item.type for item in whole.output] == ["reasoning", "message"]
    assert whole.usage and whole.usage.output_tokens_details.reasoning_tokens == 20
    with openai_client.responses.stream(model="gpt-4o-mini", input="Hello!") as stream:
        assert stream.get_final_response().output_text == whole.output_text


def test_messages(anthropic_client: anthropic.Anthropic) -> None:
    asked: Any = {
        "model": "demo",
        "max_tokens": 4000,
        "messages": [{"role": "user", "content": TASK}],
        "tools": [ANTHROPIC_TOOL],
    }
    whole = anthropic_client.messages.create(**asked)
    with anthropic_client.messages.stream(**asked) as stream:
        streamed = stream.get_final_message()
    assert whole.content[-1].type == "tool_use"
    assert [block.to_dict() | {"parsed_output": None} for block in streamed.content] == [
        block.to_dict() | {"parsed_output": None} for block in whole.content
    ]
    assert streamed.usage.output_tokens == whole.usage.output_tokens


def test_its_errors_are_the_libraries_own(
    openai_client: openai.OpenAI, anthropic_client: anthropic.Anthropic
) -> None:
    with pytest.raises(openai.InternalServerError):
        openai_client.chat.completions.create(model="scenario/fail-503", messages=HELLO)
    with pytest.raises(openai.BadRequestError) as wrong:
        openai_client.responses.create(model="scenario/bad-request", input="Hello!")
    assert wrong.value.code == "invalid_value"
    with pytest.raises(anthropic.RateLimitError):
        anthropic_client.messages.create(model="scenario/fail-429", max_tokens=1, messages=HELLO)
    with pytest.raises(anthropic.APIStatusError) as overloaded:
        anthropic_client.messages.create(model="scenario/fail-529", max_tokens=1, messages=HELLO)
    assert overloaded.value.status_code == 529
    assert overloaded.value.body == {
        "type": "error",
        "error": {"type": "overloaded_error", "message": "The scenario makes this request fail."},
    }
    for scenario in ("reset", "close"):
        with pytest.raises(openai.APIConnectionError):
            openai_client.chat.completions.create(model=f"scenario/{scenario}", messages=HELLO)
