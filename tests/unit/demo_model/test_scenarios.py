"""Scripted answers."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from sockets import served
from starlette.testclient import TestClient
from workbench import SCENARIOS

from paddock_demo_model.errors import ConfigurationError
from paddock_demo_model.scenarios import load_scenarios
from paddock_demo_model.server import DemoModel

CHAT = "/v1/chat/completions"


def request(name: str, answers: int = 0, user: str = "Go") -> dict[str, Any]:
    """A request of a conversation in which the model has answered so often."""
    messages = [{"role": "user", "content": user}]
    messages += [{"role": "assistant", "content": "..."}] * answers
    return {"model": f"scenario/{name}", "messages": messages}


def made(tmp_path: Path, text: str) -> TestClient:
    (tmp_path / "mine.yaml").write_text(text)
    return TestClient(DemoModel(load_scenarios(tmp_path)).app())


def call_of(body: dict[str, Any]) -> dict[str, Any]:
    function: dict[str, Any] = body["choices"][0]["message"]["tool_calls"][0]["function"]
    return function


def test_the_step_is_the_number_of_answers(client: TestClient) -> None:
    for answers, text in ((0, "sleep 2; echo 1 >> steps.log"), (9, "sleep 2; echo 10 >> steps.log")):
        call = call_of(client.post(CHAT, json=request("long-run", answers)).json())
        assert text in call["arguments"]
    assert call_of(client.post(CHAT, json=request("long-run", 10)).json())["name"] == "finish"
    over = client.post(CHAT, json=request("long-run", 11)).json()
    assert over["choices"][0]["message"]["content"] == "The scenario has no further step."


def test_a_failure_may_quote_the_key_that_came_with_the_request(client: TestClient) -> None:
    answer = client.post(
        CHAT, json=request("provider-tells-its-key"), headers={"Authorization": "Bearer sk-abc"}
    )
    assert answer.status_code == 401
    assert answer.json()["error"]["message"] == "Incorrect API key provided: sk-abc."


def test_a_step_fails_so_often_and_then_works_and_does_so_again_in_a_new_run(client: TestClient) -> None:
    def status(answers: int, user: str = "Go") -> int:
        return client.post(CHAT, json=request("fail-twice-then-finish", answers, user)).status_code

    assert [status(0) for _ in range(3)] == [500, 500, 200]
    assert status(1) == 200
    assert [status(0) for _ in range(3)] == [500, 500, 200]
    assert status(0) == 500
    assert [status(0, "another conversation") for _ in range(3)] == [500, 500, 200]
    client.delete("/calls")
    assert [status(0) for _ in range(3)] == [500, 500, 200], "forgotten counts start again"


@pytest.mark.parametrize(
    ("name", "status", "where", "value"),
    [
        ("always-500", 500, ("error", "type"), "server_error"),
        ("unauthorized", 401, ("error", "code"), "invalid_api_key"),
        ("budget-exceeded", 429, ("error", "code"), "budget_exceeded"),
    ],
)
def test_lasting_errors(
    client: TestClient, name: str, status: int, where: tuple[str, str], value: str
) -> None:
    for _ in range(3):
        response = client.post(CHAT, json=request(name))
        assert response.status_code == status
        assert response.json()[where[0]][where[1]] == value


def test_a_budget_answer_is_mlflows(client: TestClient) -> None:
    response = client.post(CHAT, json=request("budget"))

    assert response.status_code == 429
    assert response.json()["detail"].startswith("Budget limit exceeded. Limit: $0.00 USD per 1 hour.")
    assert response.json().keys() == {"detail"}


def test_retry_after_is_sent(client: TestClient) -> None:
    assert client.post(CHAT, json=request("rate-limited")).headers["retry-after"] == "1"
    assert client.post(CHAT, json=request("rate-limited")).status_code == 200


def test_stuck_repeats_itself_and_loop_does_not(client: TestClient) -> None:
    def commands(name: str) -> set[str]:
        bodies = [client.post(CHAT, json=request(name, answers)).json() for answers in (0, 1, 500)]
        return {call_of(body)["arguments"] for body in bodies}

    assert len(commands("stuck")) == 1
    assert len(commands("loop")) == 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_malformed_body_is_cut_off(client: TestClient, stream: bool) -> None:
    response = client.post(CHAT, json={**request("malformed"), "stream": stream})

    assert response.status_code == 200
    with pytest.raises(ValueError, match=r"."):
        for line in response.text.splitlines():
            if line:
                httpx.Response(200, text=line.removeprefix("data: ")).json()


def test_malformed_arguments_are_in_a_sound_body(client: TestClient) -> None:
    call = call_of(client.post(CHAT, json=request("malformed-arguments")).json())

    assert call["arguments"].startswith('{"command": ')
    assert not call["arguments"].endswith("}")


def test_a_huge_answer(client: TestClient) -> None:
    body = client.post(CHAT, json=request("huge")).json()

    assert len(body["choices"][0]["message"]["content"]) == 5 * 1024 * 1024
    assert body["usage"]["completion_tokens"] > 1_000_000
    streamed = client.post(CHAT, json={**request("huge"), "stream": True})
    assert len(streamed.content) > 5 * 1024 * 1024


def test_a_question_in_a_plain_message(client: TestClient) -> None:
    message = client.post(CHAT, json=request("waiting")).json()["choices"][0]["message"]

    assert message["content"] == "Which file should I change?"
    assert "tool_calls" not in message


def test_a_connection_is_reset(server: str) -> None:
    with pytest.raises(httpx.ReadError):
        httpx.post(server + CHAT, json=request("reset"))
    assert httpx.get(server + "/healthz").status_code == 200


def test_a_delay_delays(tmp_path: Path) -> None:
    client = made(tmp_path, "steps: [{reply: late, delay_seconds: 0.2}]")
    started = time.monotonic()

    client.post(CHAT, json=request("mine"))

    assert time.monotonic() - started >= 0.2


def test_an_unknown_scenario_names_those_there_are(client: TestClient) -> None:
    response = client.post(CHAT, json=request("nosuch"))

    assert response.status_code == 404
    assert "scenario/stuck" in response.json()["error"]["message"]


def test_every_scenario_of_the_folder_loads_and_says_what_it_is_for() -> None:
    names = load_scenarios(SCENARIOS).names()

    assert len(names) == len(list(SCENARIOS.glob("*.yaml")))
    for path in SCENARIOS.glob("*.yaml"):
        assert path.read_text().startswith("description: "), path


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("steps: [", ["expected a YAML file"]),
        ("- reply: x", ["expected a mapping with the key steps, found list", "Begin the file"]),
        ("steps: []", ["at steps:", "at least 1 item"]),
        ("description: x", ["at steps: Field required"]),
        (
            "steps: [{replay: x}]",
            ["at steps.0.replay: Extra inputs are not permitted", "a step's keys are: reply"],
        ),
        ("steps: [{}]", ["a step needs a reply"]),
        ("steps: [{reply: x, fail: {status: 200}}]", ["at steps.0.fail.status:", "found 200"]),
        ("steps: [{reply: x, repeat: 0}]", ["at steps.0.repeat"]),
        ("steps: [{reply: x, fail: {status: 500, times: never}}]", ["at steps.0.fail.times", "'never'"]),
        ("steps: [{reply: x, malformed: arguments}]", ["needs tool_calls"]),
        ("steps: [{fail: {status: 500, times: 2}}]", ["a step needs a reply"]),
        ("steps: [{huge_mib: 1000}]", ["at steps.0.huge_mib", "found 1000"]),
    ],
)
def test_a_bad_file_is_refused_with_its_place_and_a_remedy(
    tmp_path: Path, text: str, parts: list[str]
) -> None:
    (tmp_path / "bad.yaml").write_text(text)

    with pytest.raises(ConfigurationError) as caught:
        load_scenarios(tmp_path)

    for part in [str(tmp_path / "bad.yaml"), *parts]:
        assert part in str(caught.value)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="expected a folder"):
        load_scenarios(tmp_path / "none")


FAULTS = """
steps:
  - {huge_mib: 0.01, reset_after_events: %s}
"""


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a demo model behind a socket, whose scenarios end connections."""
    folder = tmp_path_factory.mktemp("faults")
    for events in (0, 1, 5):
        (folder / f"after-{events}.yaml").write_text(FAULTS % events)
    (folder / "close.yaml").write_text("steps: [{close: true}]")
    with served(DemoModel(load_scenarios(folder)).app()) as url:
        yield url


@pytest.mark.parametrize("events", [0, 1, 5])
def test_a_stream_is_reset_after_so_many_events(faulty: str, events: int) -> None:
    request = {
        "model": f"scenario/after-{events}",
        "stream": True,
        "messages": [{"role": "user", "content": "Hi"}],
    }
    seen = 0
    with httpx.stream("POST", f"{faulty}/v1/chat/completions", json=request) as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.ReadError):
            for line in answer.iter_lines():
                seen += line.startswith("data: ")
    assert seen == events


def test_a_whole_answer_is_reset_in_its_middle(faulty: str) -> None:
    request = {"model": "scenario/after-1", "messages": [{"role": "user", "content": "Hi"}]}
    with httpx.stream("POST", f"{faulty}/v1/chat/completions", json=request) as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.ReadError):
            answer.read()


def test_a_connection_is_closed_without_an_answer(faulty: str) -> None:
    request = {"model": "scenario/close", "messages": [{"role": "user", "content": "Hi"}]}
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(f"{faulty}/v1/chat/completions", json=request)


def test_a_models_name_belongs_to_one_scenario(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text("{answers_to: [gpt-4o], steps: [{reply: Hi}]}")
    with pytest.raises(ConfigurationError, match=r"one and two.*answers to gpt-4o"):
        load_scenarios(tmp_path)


def test_token_counts_must_fit(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("steps: [{reply: Hi, usage: {input: 1, cache_read: 2}}]")
    with pytest.raises(ConfigurationError, match="parts of input"):
        load_scenarios(tmp_path)
