"""The APIs beside chat completions: the same model in Anthropic's, Gemini's and OpenAI's other words."""

import json
import math
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from paddock_demo_model.recording import Recorder
from paddock_demo_model.scenarios import Scenario, Scenarios
from paddock_demo_model.server import DemoModel

TASK = "Write 3 facts about the current project into FACTS.txt."
PARAMETERS = {"type": "object", "properties": {"command": {"type": "string"}}}
USAGE = {"input": 1000, "output": 50, "cache_read": 400, "cache_write": 100, "reasoning": 20}


def model(**scenarios: Any) -> TestClient:
    loaded = {name: Scenario.model_validate(content) for name, content in scenarios.items()}
    app = DemoModel(Scenarios(loaded), key="secret", recorder=Recorder()).app()
    return TestClient(app, raise_server_exceptions=False)


def ask(
    client: TestClient, api: str, name: str = "demo", text: str = "Hello!", **more: Any
) -> httpx.Response:
    """The same request in the words of each API."""
    header = {"messages": "x-api-key", "gemini": "x-goog-api-key"}.get(api, "authorization")
    headers = {header: "Bearer secret" if header == "authorization" else "secret"}
    messages = [{"role": "user", "content": text}]
    path, body = {
        "chat": ("/v1/chat/completions", {"model": name, "messages": messages}),
        "responses": ("/v1/responses", {"model": name, "input": text}),
        "messages": ("/v1/messages", {"model": name, "max_tokens": 100, "messages": messages}),
        "embeddings": ("/v1/embeddings", {"model": name, "input": text}),
        "gemini": (f"/v1beta/models/{name}:generateContent", {"contents": [{"parts": [{"text": text}]}]}),
    }[api]
    return client.post(path, headers=headers, json={**body, **more})


def events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [json.loads(line) for line in lines if line != "[DONE]"]


APIS = ("chat", "responses", "messages", "embeddings", "gemini")
ERRORS = {
    "chat": lambda body: body["error"]["type"],
    "responses": lambda body: body["error"]["type"],
    "embeddings": lambda body: body["error"]["type"],
    "messages": lambda body: (body["type"] == "error") and body["error"]["type"],
    "gemini": lambda body: body["error"]["status"],
}


@pytest.mark.parametrize("api", APIS)
def test_each_api_wants_the_key_in_its_own_header(api: str) -> None:
    client = model()
    assert ask(client, api).status_code == 200
    client.headers = {}
    path = {"chat": "chat/completions"}.get(api, api)
    refused = client.post(
        "/v1beta/models/demo:generateContent" if api == "gemini" else f"/v1/{path}", json={}
    )
    assert refused.status_code == 401
    assert ERRORS[api](refused.json()) in ("authentication_error", "UNAUTHENTICATED")


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("status", "kinds"),
    [
        (429, ("rate_limit_error", "RESOURCE_EXHAUSTED")),
        (500, ("server_error", "api_error", "INTERNAL")),
        (529, ("server_error", "overloaded_error", "INTERNAL")),
    ],
)
def test_a_scripted_failure_is_told_in_the_apis_words(api: str, status: int, kinds: tuple[str, ...]) -> None:
    client = model(
        bad={"steps": [{"fail": {"times": 2, "status": status, "retry_after_seconds": 7}, "reply": "Now."}]}
    )
    for _ in range(2):
        answer = ask(client, api, "scenario/bad")
        assert (answer.status_code, answer.headers["retry-after"]) == (status, "7")
        assert ERRORS[api](answer.json()) in kinds
    assert ask(client, api, "scenario/bad").status_code == 200


@pytest.mark.parametrize("api", APIS)
def test_an_unknown_model_is_not_found(api: str) -> None:
    assert ask(model(), api, "gpt-none").status_code == 404


@pytest.mark.parametrize("api", APIS)
def test_a_wrong_body_is_the_callers_mistake(api: str) -> None:
    wrong = {"gemini": {"contents": 3}, "responses": {"input": 3}, "embeddings": {"input": 3.5}}
    answer = ask(model(), api, **wrong.get(api, {"messages": 3}))
    assert answer.status_code == 400
    assert ERRORS[api](answer.json()) in ("invalid_request_error", "INVALID_ARGUMENT")


def test_each_api_counts_tokens_in_its_own_way() -> None:
    client = model(counted={"steps": [{"reply": "Counted.", "usage": USAGE}]})

    def usage(api: str) -> dict[str, Any]:
        body = ask(client, api, "scenario/counted").json()
        return body.get("usage") or body["usageMetadata"]

    chat = usage("chat")
    assert (chat["prompt_tokens"], chat["completion_tokens"], chat["total_tokens"]) == (1000, 50, 1050)
    assert chat["prompt_tokens_details"] == {
        "cached_tokens": 400,
        "audio_tokens": 0,
        "cache_write_tokens": 100,
    }
    assert chat["completion_tokens_details"]["reasoning_tokens"] == 20
    responses = usage("responses")
    assert (responses["input_tokens"], responses["output_tokens"]) == (1000, 50)
    assert responses["input_tokens_details"]["cached_tokens"] == 400
    assert responses["output_tokens_details"] == {"reasoning_tokens": 20}
    # Anthropic: what was read from the cache, and written to it, is no part of input_tokens.
    assert usage("messages") == {
        "input_tokens": 900,
        "cache_creation_input_tokens": 100,
        "cache_read_input_tokens": 0,
        "output_tokens": 50,
    }
    assert usage("gemini") == {
        "promptTokenCount": 1000,
        "cachedContentTokenCount": 400,
        "candidatesTokenCount": 30,
        "thoughtsTokenCount": 20,
        "totalTokenCount": 1050,
    }
    assert usage("embeddings")["prompt_tokens"] == 1000


@pytest.mark.parametrize("api", ["chat", "responses", "messages", "gemini"])
def test_a_scenario_may_tell_no_usage(api: str) -> None:
    client = model(silent={"steps": [{"reply": "Nothing is counted.", "usage": "none"}]})
    body = ask(client, api, "scenario/silent").json()
    assert not body.get("usage") and "usageMetadata" not in body
    if api != "gemini":
        streamed = ask(client, api, "scenario/silent", stream=True, stream_options={"include_usage": True})
        assert streamed.status_code == 200
        assert not any(_reports(event) for event in events(streamed.text))


def _reports(event: dict[str, Any]) -> bool:
    return any(part.get("usage") for part in (event, event.get("response") or {}, event.get("message") or {}))


def test_a_scenario_answers_to_the_names_of_models() -> None:
    client = model(priced={"answers_to": ["gpt-4o-mini"], "steps": [{"reply": "I have a price."}]})
    body = ask(client, "chat", "gpt-4o-mini").json()
    assert (body["model"], body["choices"][0]["message"]["content"]) == ("gpt-4o-mini", "I have a price.")
    listed = client.get("/v1/models", headers={"authorization": "Bearer secret"}).json()["data"]
    assert "gpt-4o-mini" in [one["id"] for one in listed]


def test_anthropics_tool_use_drives_the_same_plan() -> None:
    client = model()
    tools = [{"name": "terminal", "description": "Runs a command.", "input_schema": PARAMETERS}]
    first = ask(client, "messages", text=TASK, tools=tools, max_tokens=1000).json()
    assert first["stop_reason"] == "tool_use"
    call = first["content"][-1]
    assert (call["type"], call["name"]) == ("tool_use", "terminal")

    result = {
        "type": "tool_result",
        "tool_use_id": call["id"],
        "content": [{"type": "text", "text": "nothing"}],
    }
    turns = [
        {"role": "user", "content": TASK},
        {"role": "assistant", "content": first["content"]},
        {"role": "user", "content": [result]},
    ]
    second = ask(client, "messages", tools=tools, messages=turns).json()
    assert second["content"][-1]["id"] != call["id"], "the plan went on"


@pytest.mark.parametrize("cached", [False, True])
def test_anthropics_cache_is_counted_where_it_is_asked_for(cached: bool) -> None:
    client = model()
    system = [{"type": "text", "text": "You are careful. " * 50}]
    if cached:
        system[0]["cache_control"] = {"type": "ephemeral"}  # type: ignore[assignment]
    first, second = (ask(client, "messages", system=system).json()["usage"] for _ in range(2))
    assert bool(first["cache_creation_input_tokens"]) is cached
    assert first["cache_read_input_tokens"] == 0
    assert bool(second["cache_read_input_tokens"]) is cached
    assert sum(first[name] for name in first) == sum(second[name] for name in second)


def test_anthropics_stream_adds_up() -> None:
    client = model(
        long={"steps": [{"huge_mib": 0.002, "tool_calls": [{"name": "look", "arguments": {"a": 1}}]}]}
    )
    whole = ask(client, "messages", "scenario/long").json()
    streamed = ask(client, "messages", "scenario/long", stream=True)
    names = [
        line.removeprefix("event: ") for line in streamed.text.splitlines() if line.startswith("event: ")
    ]
    found = events(streamed.text)
    assert names == [event["type"] for event in found]
    assert names[:2] == ["message_start", "ping"] and names[-2:] == ["message_delta", "message_stop"]
    deltas = [event["delta"] for event in found if event["type"] == "content_block_delta"]
    assert len(deltas) > 3
    assert "".join(delta.get("text", "") for delta in deltas) == whole["content"][0]["text"]
    assert json.loads("".join(delta.get("partial_json", "") for delta in deltas)) == {"a": 1}
    assert found[0]["message"]["usage"]["input_tokens"] == whole["usage"]["input_tokens"]
    assert found[-2]["usage"]["output_tokens"] == whole["usage"]["output_tokens"]


def test_the_responses_api_drives_the_same_plan() -> None:
    client = model()
    tools = [{"type": "function", "name": "terminal", "description": "Runs.", "parameters": PARAMETERS}]
    first = ask(client, "responses", text=TASK, tools=tools).json()
    call = first["output"][-1]
    assert (call["type"], call["name"], first["status"]) == ("function_call", "terminal", "completed")
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "nothing"}
    items = [{"role": "user", "content": [{"type": "input_text", "text": TASK}]}, *first["output"], result]
    second = ask(client, "responses", tools=tools, input=items).json()
    assert second["output"][-1]["call_id"] != call["call_id"], "the plan went on"


def test_the_responses_stream_adds_up() -> None:
    step = {"huge_mib": 0.002, "tool_calls": [{"name": "look", "arguments": {"a": 1}}], "usage": USAGE}
    client = model(long={"steps": [step]})
    whole = ask(client, "responses", "scenario/long").json()
    assert [item["type"] for item in whole["output"]] == ["reasoning", "message", "function_call"]
    found = events(ask(client, "responses", "scenario/long", stream=True).text)
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    assert found[0]["type"] == "response.created" and found[-1]["type"] == "response.completed"
    text = "".join(event["delta"] for event in found if event["type"] == "response.output_text.delta")
    assert text == whole["output"][1]["content"][0]["text"]
    done = [event["item"] for event in found if event["type"] == "response.output_item.done"]
    assert done == whole["output"] == found[-1]["response"]["output"]
    assert found[-1]["response"]["usage"] == whole["usage"]


def test_the_responses_api_keeps_nothing() -> None:
    answer = ask(model(), "responses", previous_response_id="resp_1")
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "previous_response_id"


def test_embeddings_are_the_same_each_time_and_alike_for_like_texts() -> None:
    client = model()
    texts = ["The tide is high.", "the tide is low", "Compilers parse code."]
    body = ask(client, "embeddings", input=texts).json()
    first, near, far = (one["embedding"] for one in body["data"])
    assert first == ask(client, "embeddings", input=texts[0]).json()["data"][0]["embedding"]
    assert math.isclose(sum(value * value for value in first), 1.0, rel_tol=1e-9)
    assert sum(map(float.__mul__, first, near)) > 0.5 > sum(map(float.__mul__, first, far))
    assert len(ask(client, "embeddings", dimensions=32).json()["data"][0]["embedding"]) == 32
    assert ask(client, "embeddings", "demo-embedding", input=[1, 2]).status_code == 200


def test_gemini_streams_and_calls_functions() -> None:
    client = model()
    tools = [
        {"functionDeclarations": [{"name": "terminal", "description": "Runs.", "parameters": PARAMETERS}]}
    ]
    whole = ask(client, "gemini", text=TASK, tools=tools).json()
    parts = whole["candidates"][0]["content"]["parts"]
    assert parts[-1]["functionCall"]["name"] == "terminal"
    path = "/v1beta/models/demo:streamGenerateContent?alt=sse"
    contents = [{"role": "user", "parts": [{"text": TASK}]}]
    headers = {"x-goog-api-key": "secret"}
    found = events(client.post(path, headers=headers, json={"contents": contents, "tools": tools}).text)
    assert found[-1]["candidates"][0]["finishReason"] == "STOP"
    assert found[-1]["candidates"][0]["content"]["parts"] == parts[-1:]
    assert (
        found[-1]["usageMetadata"]["candidatesTokenCount"] == whole["usageMetadata"]["candidatesTokenCount"]
    )


def test_no_key_is_recorded() -> None:
    client = model()
    for api in APIS:
        ask(client, api)
    recorded = client.get("/calls", headers={"authorization": "Bearer secret"})
    assert len(recorded.json()) == len(APIS)
    assert "secret" not in recorded.text
    assert {call["path"] for call in recorded.json()} >= {"/v1/messages", "/v1/responses"}
