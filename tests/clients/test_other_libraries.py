"""LiteLLM's library and LangChain's ChatOpenAI against the gateway."""

from typing import Any

import litellm
import openai
import pytest
from counting import CountingRelay
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from processes import Gateway, Model
from pydantic import SecretStr
from test_openai import HELLO, TASK, TOOL


@pytest.fixture
def endpoint(gateway: Gateway) -> str:
    """An endpoint on the demo model."""
    return gateway.endpoint("demo", Model("demo"))


def by_litellm(gateway: Gateway, endpoint: str, url: str = "", key: str = "", **more: Any) -> Any:
    base = f"{url or gateway.url}/gateway/mlflow/v1"
    asked = {"messages": HELLO, **more}
    return litellm.completion(
        model=f"openai/{endpoint}", api_base=base, api_key=key or gateway.key(endpoint), **asked
    )


def by_langchain(gateway: Gateway, endpoint: str, url: str = "", key: str = "", **more: Any) -> ChatOpenAI:
    base = f"{url or gateway.url}/gateway/openai/v1"
    return ChatOpenAI(model=endpoint, base_url=base, api_key=SecretStr(key or gateway.key(endpoint)), **more)


class TestLiteLLM:
    def test_chat_and_stream(self, gateway: Gateway, endpoint: str) -> None:
        whole = by_litellm(gateway, endpoint).choices[0].message.content
        assert "demo model" in whole
        chunks = list(by_litellm(gateway, endpoint, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole

    @pytest.mark.parametrize("streamed", [False, True])
    def test_tool_calls(self, gateway: Gateway, endpoint: str, streamed: bool) -> None:
        task = [{"role": "user", "content": TASK}]
        made = by_litellm(gateway, endpoint, messages=task, tools=[TOOL], stream=streamed)
        if streamed:
            made = litellm.stream_chunk_builder(list(made), messages=task)
        (call,) = made.choices[0].message.tool_calls
        assert call.function.name == "terminal"

    def test_responses_and_embeddings(self, gateway: Gateway, endpoint: str) -> None:
        where: Any = {"api_base": f"{gateway.url}/gateway/openai/v1", "api_key": gateway.key(endpoint)}
        answer = litellm.responses(model=f"openai/{endpoint}", input="Hello, who are you?", **where)
        assert "demo model" in answer.output[0].content[0].text  # type: ignore[union-attr,index]
        made = litellm.embedding(
            model=f"openai/{endpoint}", input=["a tide"], encoding_format="float", **where
        )
        assert len(made.data[0]["embedding"]) == 256

    def test_anthropic_messages(self, gateway: Gateway) -> None:
        endpoint = gateway.endpoint("demo-anthropic", Model("demo", "anthropic"))
        base = f"{gateway.url}/gateway/anthropic"
        made: Any = litellm.completion(
            model=f"anthropic/{endpoint}", messages=HELLO, api_base=base, api_key=gateway.key(endpoint)
        )
        assert "demo model" in made.choices[0].message.content

    def test_a_spent_budget_is_not_tried_again(
        self, gateway: Gateway, priced: str, relay: CountingRelay
    ) -> None:
        spent = gateway.key(priced, budget={"usd": "0.0000001"})
        with pytest.raises(litellm.RateLimitError, match="budget"):
            by_litellm(gateway, priced, relay.url, spent)
        assert len(relay.posts) == 1
        assert gateway.upstream() == []

    def test_retry_after_is_waited_for(self, gateway: Gateway, relay: CountingRelay) -> None:
        busy = gateway.endpoint("busy", Model("scenario/busy-once"))
        messages = [{"role": "user", "content": "Hello by LiteLLM"}]
        answer = by_litellm(gateway, busy, relay.url, messages=messages, max_retries=2)
        assert answer.choices[0].message.content == "Now I have time."
        first, second = relay.posts
        assert second - first >= 1.0


class TestLangChain:
    def test_chat_and_stream(self, gateway: Gateway, endpoint: str) -> None:
        model = by_langchain(gateway, endpoint)
        whole = model.invoke("Hello, who are you?")
        assert "demo model" in whole.content
        assert whole.usage_metadata and whole.usage_metadata["input_tokens"] > 0
        assert "".join(str(chunk.content) for chunk in model.stream("Hello, who are you?")) == whole.content

    def test_tool_calls(self, gateway: Gateway, endpoint: str) -> None:
        model = by_langchain(gateway, endpoint).bind_tools([TOOL])
        messages: list[Any] = [HumanMessage(TASK)]
        first = model.invoke(messages)
        (call,) = first.tool_calls
        assert call["name"] == "terminal"
        second = model.invoke([*messages, first, ToolMessage("nothing", tool_call_id=call["id"])])
        assert second.tool_calls[0]["id"] != call["id"]

    def test_the_responses_api(self, gateway: Gateway, endpoint: str) -> None:
        answer = by_langchain(gateway, endpoint, use_responses_api=True).invoke("Hello, who are you?")
        assert "demo model" in answer.text

    def test_embeddings(self, gateway: Gateway, endpoint: str) -> None:
        embedder = OpenAIEmbeddings(
            model=endpoint,
            base_url=f"{gateway.url}/gateway/openai/v1",
            api_key=SecretStr(gateway.key(endpoint)),
            # What counts tokens would fetch its tables from the Internet.
            check_embedding_ctx_length=False,
        )
        first, same = embedder.embed_documents(["a tide", "a tide"])
        assert first == same

    def test_a_spent_budget_is_not_tried_again(
        self, gateway: Gateway, priced: str, relay: CountingRelay
    ) -> None:
        spent = gateway.key(priced, budget={"usd": "0.0000001"})
        with pytest.raises(openai.RateLimitError, match="budget"):
            by_langchain(gateway, priced, relay.url, spent).invoke("Hello!")
        assert len(relay.posts) == 1
        assert gateway.upstream() == []

    def test_retry_after_is_waited_for(self, gateway: Gateway, relay: CountingRelay) -> None:
        busy = gateway.endpoint("busy", Model("scenario/busy-once"))
        answer = by_langchain(gateway, busy, relay.url).invoke("Hello by LangChain")
        assert answer.content == "Now I have time."
        first, second = relay.posts
        assert second - first >= 1.0
