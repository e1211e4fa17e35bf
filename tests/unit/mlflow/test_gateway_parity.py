"""What MLflow's own handlers answer and send to a provider, and what ours do, call by call."""

import json
from collections.abc import Iterator
from typing import Any

import provider_answers as answers
import pytest
from gateway_calls import PROVIDER_KEY, Gateway, gateway_on
from identities import ADMIN
from scripted_provider import Answer

from paddock_mlflow.ledger.types import Usage

USAGE = Usage(input=1000, output=300, cache_read=600, reasoning=100)
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "where", "enum": ["Oslo", "Rom"]}},
            "required": ["city"],
        },
    },
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Wörld?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    {"role": "user", "content": [{"type": "text", "text": "And now?"}]},
]
CALLED = answers.chat("gpt-4o-mini", USAGE) | {
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "tool_calls": [CALL], "annotations": []},
            "finish_reason": "tool_calls",
        }
    ],
    "system_fingerprint": "fp",
}


def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
    }


CALLED_STREAM = answers.events(
    chunk({"role": "assistant", "content": None}),
    chunk(
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": ""},
                }
            ]
        }
    ),
    chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"city":"Oslo"}'}}]}),
    chunk({}, "tool_calls"),
    done=True,
)
UNIFIED = "/gateway/mlflow/v1/chat/completions"
OPENAI = "/gateway/openai/v1"
MESSAGES = "/gateway/anthropic/v1/messages"
ASKED = {
    "messages": TALK,
    "tools": [TOOL],
    "tool_choice": "auto",
    "temperature": 0.5,
    "max_tokens": 50,
    "seed": 7,
}
CLAUDE = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 64}
EMBEDDED = answers.embeddings("text-embedding-3-small", USAGE)

SAME: dict[str, tuple[str, str, dict[str, Any], Answer]] = {
    "chat": ("openai", UNIFIED, {"messages": TALK}, Answer(answers.chat("gpt-4o-mini", USAGE))),
    "chat, everything": ("openai", UNIFIED, ASKED, Answer(CALLED)),
    "chat, by path": ("openai", "/gateway/{}/mlflow/invocations", ASKED, Answer(CALLED)),
    "chat, groq": ("groq", UNIFIED, ASKED, Answer(CALLED)),
    "stream": (
        "openai",
        UNIFIED,
        ASKED | {"stream": True},
        Answer(answers.chat_stream("gpt-4o-mini", USAGE)),
    ),
    "stream of a tool call": ("openai", UNIFIED, ASKED | {"stream": True}, Answer(CALLED_STREAM)),
    "stream without usage": (
        "openai",
        UNIFIED,
        {"messages": TALK, "stream": True, "stream_options": {"include_usage": False}},
        Answer(CALLED_STREAM),
    ),
    "embeddings, by path": (
        "openai",
        "/gateway/{}/mlflow/invocations",
        {"input": ["a", "b"], "dimensions": 3},
        Answer(EMBEDDED),
    ),
    "chat, Anthropic": (
        "anthropic",
        UNIFIED,
        ASKED | {"response_format": {"type": "json_object"}},
        Answer(answers.messages("claude-sonnet-4-5", USAGE)),
    ),
    "stream, Anthropic": (
        "anthropic",
        UNIFIED,
        {"messages": TALK, "stream": True},
        Answer(answers.messages_stream("claude-sonnet-4-5", USAGE)),
    ),
    "openai": ("openai", f"{OPENAI}/chat/completions", ASKED | {"logprobs": True}, Answer(CALLED)),
    "openai stream": (
        "openai",
        f"{OPENAI}/chat/completions",
        ASKED | {"stream": True},
        Answer(answers.chat_stream("gpt-4o-mini", USAGE)),
    ),
    "openai, groq": ("groq", f"{OPENAI}/chat/completions", ASKED | {"stream": True}, Answer(CALLED_STREAM)),
    "responses": (
        "openai",
        f"{OPENAI}/responses",
        {"input": "Hi", "instructions": "Be short."},
        Answer(answers.responses("gpt-4o-mini", USAGE)),
    ),
    "responses stream": (
        "openai",
        f"{OPENAI}/responses",
        {"input": "Hi", "stream": True},
        Answer(answers.responses_stream("gpt-4o-mini", USAGE)),
    ),
    "responses/compact": (
        "openai",
        f"{OPENAI}/responses/compact",
        {"input": "Hi"},
        Answer(answers.responses("gpt-4o-mini", USAGE)),
    ),
    "embeddings": ("openai", f"{OPENAI}/embeddings", {"input": "a"}, Answer(EMBEDDED)),
    "messages": ("anthropic", MESSAGES, CLAUDE, Answer(answers.messages("claude-sonnet-4-5", USAGE))),
    "messages stream": (
        "anthropic",
        MESSAGES,
        CLAUDE | {"stream": True},
        Answer(answers.messages_stream("claude-sonnet-4-5", USAGE)),
    ),
    "proxy": (
        "openai",
        "/gateway/proxy/{}/v1/chat/completions?x=1",
        {"model": "gpt-4o", "messages": TALK},
        Answer(CALLED),
    ),
    "proxy stream": (
        "openai",
        "/gateway/proxy/{}/v1/chat/completions",
        {"model": "gpt-4o", "messages": TALK, "stream": True},
        Answer(CALLED_STREAM),
    ),
}

FAULT = {"error": {"message": "expected less", "type": "the_type", "code": "the_code", "param": None}}
REFUSED: dict[str, tuple[str, str, dict[str, Any] | str, Answer | None, str]] = {
    **{
        f"{name} {status}": (provider, path, body, Answer(FAULT, status), "expected less")
        for status in (400, 401, 403, 404, 413, 422, 429, 500, 503)
        for name, provider, path, body in (
            ("unified", "openai", UNIFIED, {"messages": TALK}),
            ("openai", "openai", f"{OPENAI}/chat/completions", {"messages": TALK}),
            ("messages", "anthropic", MESSAGES, CLAUDE),
        )
    },
    "malformed": ("openai", UNIFIED, '{"model": "{}", "messages": [', None, "Invalid JSON payload"),
    "no model": ("openai", UNIFIED, {"model": None, "messages": TALK}, None, "Missing required 'model'"),
    "no messages": ("openai", UNIFIED, {}, None, "Invalid chat payload"),
    "empty messages": ("openai", UNIFIED, {"messages": []}, None, "Invalid chat payload"),
    "wrong kind": ("openai", UNIFIED, {"messages": TALK, "n": 0}, None, "Invalid chat payload"),
    "neither": ("openai", "/gateway/{}/mlflow/invocations", {"x": 1}, None, "either chat or embeddings"),
    "model and path": (
        "openai",
        "/gateway/{}/mlflow/invocations",
        {"model": "x", "messages": TALK},
        None,
        "'model' is not permitted",
    ),
    "another protocol": ("openai", MESSAGES, CLAUDE, None, "Unsupported passthrough endpoint"),
    "compact stream": (
        "openai",
        f"{OPENAI}/responses/compact",
        {"input": "a", "stream": True},
        None,
        "stream=true is not supported",
    ),
    "two answers of Anthropic": ("anthropic", UNIFIED, {"messages": TALK, "n": 2}, None, "'n' must be '1'"),
    "not JSON": (
        "openai",
        UNIFIED,
        {"messages": TALK},
        Answer(b"<html>"),
        "returned data type from the route service is not supported",
    ),
}


@pytest.fixture(scope="module")
def gateway(server: Any) -> Iterator[Gateway]:
    with gateway_on(server) as made:
        yield made


@pytest.fixture(scope="module")
def endpoints(gateway: Gateway) -> dict[str, str]:
    """Provider → an endpoint on it."""
    models = {
        "openai": "gpt-4o-mini",
        "groq": "llama-3.3-70b-versatile",
        "anthropic": "claude-sonnet-4-5",
    }
    return {provider: gateway.endpoint(f"{provider}/{model}") for provider, model in models.items()}


@pytest.fixture(scope="module")
def stock(gateway: Gateway) -> Iterator[Any]:
    """MLflow's own application without authentication, in this process and on the same store."""
    from mlflow.gateway.providers import utils
    from mlflow.server.fastapi_app import app
    from starlette.testclient import TestClient

    from paddock_mlflow.gateway import connections

    ours = utils._aiohttp_post
    with TestClient(app, base_url="http://127.0.0.1:5000", raise_server_exceptions=False) as http:
        utils._aiohttp_post = connections.stock_post
        yield http
        utils._aiohttp_post = ours


def post(http: Any, path: str, endpoint: str, body: dict[str, Any] | str) -> Any:
    if isinstance(body, str):
        content = body.replace("{}", endpoint)
    else:
        named = "{}" in path or "model" in body
        content = json.dumps(body if named else {"model": endpoint, **body})
    headers = {"content-type": "application/json", "x-of-the-client": "yes"}
    return http.post(path.replace("{}", endpoint), content=content, headers=headers, auth=ADMIN)


def events(text: str) -> list[Any]:
    """The events of a stream, but for its end and what has no value."""
    found = [line[5:].strip() for line in text.splitlines() if line.startswith("data:")]
    return [told(json.loads(event)) for event in found if event != "[DONE]"]


def told(value: Any) -> Any:
    """A JSON value without nulls, and without the moment that MLflow's adapters make up."""
    if isinstance(value, dict):
        return {name: told(inner) for name, inner in value.items() if inner is not None and name != "created"}
    return [told(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("case", SAME)
@pytest.mark.parametrize("lean", [True, False], ids=["lean", "by MLflow's class"])
def test_answer_and_request_are_the_same(
    gateway: Gateway,
    endpoints: dict[str, str],
    stock: Any,
    lean: bool,
    case: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not lean:
        # As for providers that have nothing but MLflow's class.
        monkeypatch.setattr("paddock_mlflow.gateway.lean.serves", lambda request, model: False)
    provider, path, body, answer = SAME[case]
    found = []
    for http in (stock, gateway.server.http):
        gateway.answers(answer)
        got = post(http, path, endpoints[provider], body)
        stream = got.headers["content-type"].startswith("text/event-stream")
        found.append(
            (
                got.status_code,
                stream,
                events(got.text) if stream else told(got.json()),
                [(path, told(sent)) for path, sent in gateway.provider.requests],
            )
        )
    assert found[0][0] == 200
    assert len(found[0][3]) == 1
    assert found[1] == found[0]


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_have_the_same_status_and_say_the_same(
    gateway: Gateway, endpoints: dict[str, str], stock: Any, case: str
) -> None:
    provider, path, body, answer, message = REFUSED[case]
    statuses = []
    for http in (stock, gateway.server.http):
        gateway.answers(answer or Answer(CALLED))
        got = post(http, path, endpoints[provider], body)
        assert message in got.text
        assert PROVIDER_KEY not in got.text
        statuses.append((got.status_code, len(gateway.provider.requests)))
    assert statuses[1] == statuses[0]
    error = got.json()["error"]
    assert message in error["message"]
    assert error["type"]
    assert ("param" in error) is (path != MESSAGES)


def test_a_tools_schema_arrives_whole(gateway: Gateway, endpoints: dict[str, str], stock: Any) -> None:
    """Where this fails for the stock server, upstream has closed the gap."""
    nested = {"type": "object", "properties": {"x": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}
    parameters = {"type": "object", "properties": {"deep": {"type": "object", **nested}}}
    tool = {"type": "function", "function": {"name": "t", "description": "d", "parameters": parameters}}
    arrived = []
    for http in (stock, gateway.server.http):
        gateway.answers(Answer(CALLED))
        assert (
            post(http, UNIFIED, endpoints["openai"], {"messages": TALK, "tools": [tool]}).status_code == 200
        )
        arrived.append(gateway.provider.requests[0][1]["tools"][0]["function"]["parameters"])
    assert arrived[1] == parameters
    assert arrived[0] == {"type": "object", "properties": {"deep": {"type": "object"}}}


def test_a_stream_ends_as_openais_do(gateway: Gateway, endpoints: dict[str, str]) -> None:
    gateway.answers(Answer(CALLED_STREAM))
    got = post(gateway.server.http, UNIFIED, endpoints["openai"], ASKED | {"stream": True})
    assert got.text.endswith("data: [DONE]\n\n")
