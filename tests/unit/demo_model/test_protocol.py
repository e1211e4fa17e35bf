"""The wire: completions, streams, usage, errors, keys, records."""

import json
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient
from workbench import Workbench

from paddock_demo_model.recording import Recorder
from paddock_demo_model.scenarios import load_scenarios
from paddock_demo_model.server import DemoModel
from paddock_demo_model.tokens import count_tokens

CHAT = "/v1/chat/completions"


def hello(**more: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": "Hello, who are you?"}], **more}


def test_a_completion_has_openais_shape(client: TestClient) -> None:
    body = client.post(CHAT, json=hello()).json()

    assert body["object"] == "chat.completion"
    assert body["model"] == "demo"
    assert body["choices"][0]["finish_reason"] == "stop"
    assert "demo model" in body["choices"][0]["message"]["content"]
    usage = body["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] == count_tokens(body["choices"][0]["message"]["content"])


def _events(text: str) -> list[str]:
    return [line.removeprefix("data: ") for line in text.splitlines() if line]


@pytest.mark.parametrize("with_usage", [True, False])
def test_a_stream_adds_up_to_the_completion(client: TestClient, workbench: Any, with_usage: bool) -> None:
    bench: Workbench = workbench()
    task = {"role": "user", "content": "Write 3 facts about the current project into FACTS.txt."}
    request = {"model": "demo", "messages": [task], "tools": bench.tools}
    whole = client.post(CHAT, json=request).json()
    options = {"stream": True, "stream_options": {"include_usage": with_usage}}
    response = client.post(CHAT, json={**request, **options})

    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, done = _events(response.text)
    assert done == "[DONE]"
    parsed = [json.loads(chunk) for chunk in chunks]
    assert {chunk["object"] for chunk in parsed} == {"chat.completion.chunk"}
    deltas = [chunk["choices"][0]["delta"] for chunk in parsed if chunk["choices"]]
    assert deltas[0]["role"] == "assistant"
    pieces = [call for delta in deltas for call in delta.get("tool_calls", [])]
    message = whole["choices"][0]["message"]
    assert pieces[0]["id"] == message["tool_calls"][0]["id"]
    assert pieces[0]["function"]["name"] == "task_tracker"
    arguments = "".join(piece["function"]["arguments"] for piece in pieces)
    assert arguments == message["tool_calls"][0]["function"]["arguments"]
    assert "".join(delta.get("content", "") for delta in deltas) == message["content"]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in parsed if chunk["choices"]]
    assert reasons[-1] == "tool_calls"
    if with_usage:
        assert parsed[-1]["choices"] == []
        assert parsed[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    else:
        assert all("usage" not in chunk for chunk in parsed)


def test_cached_tokens_are_the_prefix_that_was_sent_before(client: TestClient) -> None:
    def usage(*contents: str) -> tuple[int, int]:
        roles = ["system", "user", "assistant", "user"]
        messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
        found = client.post(CHAT, json={"model": "demo", "messages": messages}).json()["usage"]
        return found["prompt_tokens"], found["prompt_tokens_details"]["cached_tokens"]

    system = "You are careful. " * 50
    first, cached = usage(system, "One?")
    assert cached == 0
    longer, cached = usage(system, "One?", "Yes.", "Two?")
    assert cached == first
    assert longer > first
    assert usage(system, "One?", "Yes.", "Two?")[1] == longer
    assert usage(system, "One?", "No.", "Two?")[1] == first
    assert usage(system, "Another conversation")[1] == 0, "a system prompt alone is not shared"
    assert usage("x" + system, "One?")[1] == 0


def test_token_counts_grow_with_the_text() -> None:
    assert count_tokens("") == 0
    assert count_tokens("Hello, world!") == 4
    prose = "The harbour office prints the tide tables for the coming year. " * 20
    assert 0.8 < count_tokens(prose) / (len(prose) / 4.6) < 1.25


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"{", None),
        (b"[]", None),
        (b'{"messages": [{"role": "user", "content": "x"}]}', "model"),
        (b'{"model": "demo", "messages": []}', "messages"),
        (b'{"model": "demo", "messages": [{"role": "wizard", "content": "x"}]}', "messages.0.role"),
    ],
)
def test_a_wrong_request_is_refused_in_openais_shape(
    client: TestClient, body: bytes, where: str | None
) -> None:
    response = client.post(CHAT, content=body)

    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == where
    assert "Expected" in error["message"]


def test_an_unknown_model_is_not_found(client: TestClient) -> None:
    response = client.post(CHAT, json=hello(model="gpt-9"))

    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


def test_an_unknown_path_is_not_found_in_openais_shape(client: TestClient) -> None:
    response = client.get("/v2/models")

    assert response.status_code == 404
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_models_and_health(client: TestClient) -> None:
    names = [model["id"] for model in client.get("/v1/models").json()["data"]]

    assert names[0] == "demo"
    assert "scenario/stuck" in names
    assert client.get("/healthz").json() == {"status": "ok"}


@pytest.mark.parametrize("header", [None, "Bearer wrong", "Bearer ", "Basic right", "right", "Bearer gödel"])
def test_with_a_key_nothing_but_health_answers_without_it(header: str | None) -> None:
    client = TestClient(DemoModel(load_scenarios(None), key="right", recorder=Recorder()).app())
    headers = {} if header is None else {"Authorization": header.encode()}

    for method, path in (("GET", "/v1/models"), ("POST", CHAT), ("GET", "/calls"), ("DELETE", "/calls")):
        response = client.request(method, path, headers=headers, json=hello() if method == "POST" else None)
        assert response.status_code == 401, path
        assert response.json()["error"]["code"] == "invalid_api_key"
    assert client.get("/healthz").status_code == 200
    assert client.post(CHAT, json=hello(), headers={"Authorization": "Bearer right"}).status_code == 200


def test_calls_are_recorded_without_the_key_and_forgotten_on_request(client: TestClient) -> None:
    client.post(CHAT, json=hello(temperature=0.5), headers={"Authorization": "Bearer secret-key"})
    client.post(CHAT, content=b"not JSON")

    answered, refused = client.get("/calls").json()
    assert answered["status"] == 200
    assert answered["body"]["temperature"] == 0.5
    assert refused["status"] == 400
    assert refused["body"] == "not JSON"
    assert "secret-key" not in client.get("/calls").text
    assert client.delete("/calls").status_code == 204
    assert client.get("/calls").json() == []


def test_the_record_is_bounded_by_number_and_size() -> None:
    recorder = Recorder(max_calls=3, max_bytes=100)
    for number in range(5):
        recorder.add(size=10, number=number)
    assert [call["number"] for call in recorder.calls()] == [2, 3, 4]
    recorder.add(size=95, number=5)
    assert [call["number"] for call in recorder.calls()] == [5]


def test_no_record_without_the_setting() -> None:
    client = TestClient(DemoModel(load_scenarios(None)).app())

    assert client.get("/calls").status_code == 404


def test_a_body_over_the_limit_is_refused(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("paddock_demo_model.server.MAX_BODY_BYTES", 1000)

    assert client.post(CHAT, json=hello(padding="x" * 1000)).status_code == 413


def test_it_answers_over_a_socket(server: str) -> None:
    with httpx.stream("POST", server + CHAT, json=hello(stream=True)) as response:
        lines = [line for line in response.iter_lines() if line]

    assert lines[-1] == "data: [DONE]"
