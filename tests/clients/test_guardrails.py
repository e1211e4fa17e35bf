"""Guardrails over the wire, configured by MLflow's own REST API: what the caller, the provider and the trace see."""

import json
from typing import Any

import httpx
import pytest
from processes import Body, Gateway, Model, eventually

CARD = "4111 1111 1111 1111"
KEY = "AKIAIOSFODNN7EXAMPLE"
TASK = f"Write 3 facts about the current project into FACTS.txt. The card is {CARD}, the key {KEY}."
TERMINAL: Body = {
    "type": "function",
    "function": {
        "name": "terminal",
        "parameters": {"type": "object", "properties": {"command": {"type": "string"}}},
    },
}
PII: Body = {
    "name": "pii_detection",
    "mlflow_version": "3.17.2",
    "serialization_version": 1,
    "builtin_scorer_class": "PIIDetection",
    "builtin_scorer_pydantic_data": {"name": "pii_detection", "pii_types": ["credit_card"]},
}
SAFETY: Body = {
    "name": "safety",
    "mlflow_version": "3.17.2",
    "serialization_version": 1,
    "builtin_scorer_class": "Safety",
    "builtin_scorer_pydantic_data": {"name": "safety", "model": "gateway:/judge"},
}


def agent_step(gateway: Gateway, endpoint: str, result: str = "nothing") -> httpx.Response:
    """The second step of an agent's task: the task and a tool's result hold what must not go out."""
    call = {
        "id": "call_1",
        "type": "function",
        "function": {"name": "terminal", "arguments": '{"command": "cat x"}'},
    }
    messages: list[Body] = [
        {"role": "system", "content": "You are an agent."},
        {"role": "user", "content": [{"type": "text", "text": TASK}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": result},
    ]
    body = {"model": endpoint, "messages": messages, "tools": [TERMINAL]}
    return gateway.call("mlflow/v1/chat/completions", body, gateway.key(endpoint))


@pytest.fixture(scope="module")
def refusing(served: Gateway) -> str:
    endpoint = served.endpoint("guarded-refusing", Model("demo"))
    served.guard(endpoint, PII, "BEFORE", "VALIDATION", "no-cards")
    served.guard(endpoint, served.secret_scorer, "BEFORE", "VALIDATION", "no-keys", order=2)
    return endpoint


@pytest.fixture(scope="module")
def masking(served: Gateway) -> str:
    endpoint = served.endpoint("guarded-masking", Model("demo"))
    served.guard(endpoint, PII, "BEFORE", "SANITIZATION", "mask-cards")
    served.guard(endpoint, served.secret_scorer, "BEFORE", "SANITIZATION", "mask-keys", order=2)
    return endpoint


@pytest.fixture(scope="module")
def judged(served: Gateway) -> str:
    """Its answers must be safe; the model behind it says what is not."""
    endpoint = served.endpoint("guarded-judged", Model("scenario/careless"))
    served.guard(endpoint, SAFETY, "AFTER", "VALIDATION", "safe-answers")
    return endpoint


def raw_values_in(*found: Any) -> list[str]:
    text = json.dumps(found)
    return [value for value in (CARD, KEY) if value in text]


def test_a_refusal_names_the_guardrail_and_never_the_value(gateway: Gateway, refusing: str) -> None:
    answer = agent_step(gateway, refusing)

    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "content_policy_violation"
    assert "'no-cards'" in error["message"] and "credit_card (1)" in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert gateway.upstream() == []
    (trace,) = gateway.traces(refusing)
    assert trace["trace_info"]["state"] == "ERROR"
    assert "no-cards" in json.dumps(trace)
    assert raw_values_in(error, trace) == []


def test_what_is_masked_reaches_nobody(gateway: Gateway, masking: str) -> None:
    answer = agent_step(gateway, masking, result=f"{KEY}\n{json.dumps({'card': CARD})}")

    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "terminal"
    (asked,) = gateway.upstream()
    assert raw_values_in(asked) == []
    task, result = asked["body"]["messages"][1]["content"], asked["body"]["messages"][3]["content"]
    assert "The card is [CREDIT_CARD], the key [AWS_ACCESS_KEY]." in json.dumps(task)
    assert result == '[AWS_ACCESS_KEY]\n{"card": "[CREDIT_CARD]"}'
    (trace,) = gateway.traces(masking)
    assert trace["trace_info"]["state"] == "OK"
    assert raw_values_in(trace) == []
    assert "mask-cards" in json.dumps(trace) and "[CREDIT_CARD]" in json.dumps(trace)


@pytest.mark.parametrize("header", ["1", "true"])
def test_no_header_leads_past_a_guardrail(gateway: Gateway, refusing: str, header: str) -> None:
    """Stock MLflow skips all guardrails for whoever sends this one."""
    body = {"model": refusing, "messages": [{"role": "user", "content": CARD}]}
    headers = {"X-MLflow-Guardrail-Bypass": header}
    answer = gateway.call("mlflow/v1/chat/completions", body, gateway.key(refusing), **headers)
    assert answer.status_code == 400
    assert gateway.upstream() == []


ROUTES: dict[str, Body] = {
    "openai/v1/chat/completions": {"messages": [{"role": "user", "content": CARD}]},
    "openai/v1/responses": {"input": CARD},
    "openai/v1/embeddings": {"input": ["harmless", CARD]},
    "guarded-refusing/mlflow/invocations": {"model": None, "input": CARD},
    "proxy/guarded-refusing/chat/completions": {
        "model": "demo",
        "messages": [{"role": "user", "content": CARD}],
    },
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("path", ROUTES)
def test_every_route_is_guarded(gateway: Gateway, refusing: str, path: str, streamed: bool) -> None:
    body = {"model": refusing, **ROUTES[path], "stream": streamed}
    answer = gateway.call(path, body, gateway.key(refusing))
    assert answer.status_code == 400, answer.text
    assert "'no-cards'" in answer.text
    assert CARD not in answer.text
    assert gateway.upstream() == []


def test_anthropics_clients_read_it_in_their_words(gateway: Gateway) -> None:
    endpoint = gateway.endpoint("guarded-anthropic", Model("demo", "anthropic"))
    gateway.guard(endpoint, PII, "BEFORE", "VALIDATION", "no-cards-anthropic")
    body = {"model": endpoint, "max_tokens": 10, "messages": [{"role": "user", "content": CARD}]}
    answer = gateway.call("anthropic/v1/messages", body, gateway.key(endpoint))
    assert answer.status_code == 400
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert "'no-cards-anthropic'" in answer.json()["error"]["message"]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_judge_stops_an_unsafe_answer(gateway: Gateway, judged: str, streamed: bool) -> None:
    answer = gateway.chat(judged, stream=streamed)

    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["code"] == "content_policy_violation"
    assert "'safe-answers' refused the answer" in error["message"]
    assert "idiot" not in answer.text
    models = [call["body"]["model"] for call in gateway.upstream()]
    assert models == ["scenario/careless", "demo"], "the judge is asked once, and by nobody judged"


def test_a_judge_lets_a_safe_answer_pass(gateway: Gateway) -> None:
    endpoint = gateway.endpoint("guarded-safe", Model("scenario/primary"))
    gateway.guard(endpoint, SAFETY, "AFTER", "VALIDATION", "safe-answers-too")
    answer = gateway.chat(endpoint)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"] == "Answered by the primary."

    def judged() -> list[Body]:
        return [row for row in gateway.rows("judge") if row["username"] == "judge" and row["ended_at"]]

    assert eventually(judged, 10, "the judge's call in the ledger"), "the judge's own call is accounted for"


def test_the_judge_is_not_guarded_by_itself(gateway: Gateway, judged: str) -> None:
    """A guardrail on the judges' endpoint holds for callers, and not for the guardrails' own questions."""
    listed = gateway.admin("GET", "/api/3.0/mlflow/gateway/endpoints/list")["endpoints"]
    judge = next(one["endpoint_id"] for one in listed if one["name"] == "judge")
    gateway.adopt("judge", judge)
    remove = gateway.guard("judge", SAFETY, "BEFORE", "VALIDATION", "loop")
    try:
        answer = gateway.chat(judged)
        assert answer.status_code == 400, answer.text
        assert "'safe-answers'" in answer.json()["error"]["message"]
        assert len(gateway.upstream()) == 2
    finally:
        remove()


def test_a_judge_that_says_nothing_of_use_lets_nothing_pass(gateway: Gateway) -> None:
    babbling = gateway.endpoint("judge-babbling", Model("scenario/primary"))
    gateway.grant("judge", babbling)
    scorer = {**SAFETY, "name": "safety_babbling"}
    scorer["builtin_scorer_pydantic_data"] = {"name": "safety_babbling", "model": f"gateway:/{babbling}"}
    endpoint = gateway.endpoint("guarded-by-nobody", Model("scenario/primary"))
    gateway.guard(endpoint, scorer, "AFTER", "VALIDATION", "unheard")
    answer = gateway.chat(endpoint)
    assert answer.status_code == 503, answer.text
    error = answer.json()["error"]
    assert error["code"] == "guardrail_unavailable"
    assert "'unheard'" in error["message"]
    assert "Answered by" not in answer.text


def test_configuring_what_cannot_guard_is_refused(gateway: Gateway) -> None:
    scorer = {**SAFETY, "name": "correct", "builtin_scorer_class": "Correctness"}
    scorer["builtin_scorer_pydantic_data"] = {"name": "correct", "model": "gateway:/judge"}
    endpoint = gateway.endpoint("demo", Model("demo"))
    with pytest.raises(AssertionError, match=r"guardrails/create: 400 .*an expected answer"):
        gateway.guard(endpoint, scorer, "AFTER", "VALIDATION", "wrong")
