"""What a failing provider means for the caller, for the other models of the endpoint, and for the bill."""

import json
from decimal import Decimal
from typing import Any

import httpx
import pytest
from processes import Body, Gateway, Model

BACKUP = Model("gpt-4.1-mini")
BACKUP_COST = Decimal("0.00048")
"""1000 tokens at $0.40 and 50 at $1.60 a million, by MLflow's own catalogue."""

FAULTS = {
    "429": Model("scenario/fail-429"),
    "500": Model("scenario/fail-500"),
    "503": Model("scenario/fail-503"),
    "529": Model("scenario/fail-529"),
    "refused": Model("demo", dead=True),
    "closed": Model("scenario/close"),
    "reset": Model("scenario/reset"),
}
BROKEN_STREAMS = {
    "at once": Model("gpt-4o-2024-08-06"),
    "before a token": Model("gpt-4o-2024-11-20"),
}
STREAMED = pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])


def name_of(fault: str) -> str:
    return f"falls-back-{fault.replace(' ', '-')}"


def text_of(answer: httpx.Response) -> str:
    """What the model said, streamed or not."""
    if "text/event-stream" not in answer.headers["content-type"]:
        return str(answer.json()["choices"][0]["message"]["content"])
    deltas = [event["choices"][0]["delta"] for event in events(answer) if event.get("choices")]
    return "".join(delta.get("content") or "" for delta in deltas)


def events(answer: httpx.Response) -> list[Body]:
    lines = [
        line.removeprefix("data:").strip() for line in answer.text.splitlines() if line.startswith("data:")
    ]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def asked_models(gateway: Gateway) -> list[str]:
    return [call["body"]["model"] for call in gateway.upstream()]


def cost(row: Body, column: str = "cost_usd") -> Decimal:
    return Decimal(row[column]).scaleb(-10)


@STREAMED
@pytest.mark.parametrize("fault", FAULTS)
def test_the_next_model_answers(gateway: Gateway, fault: str, streamed: bool) -> None:
    endpoint = gateway.endpoint(name_of(fault), FAULTS[fault], BACKUP)
    answer = gateway.chat(endpoint, stream=streamed)

    assert answer.status_code == 200, answer.text
    assert text_of(answer) == "Answered by the backup."
    tried = [] if fault == "refused" else [FAULTS[fault].name]
    assert asked_models(gateway) == [*tried, BACKUP.name], "each model is asked once"
    row = gateway.last_row(endpoint)
    assert (row["outcome"], row["status"], row["attempts"]) == ("ok", 200, 2)
    assert (row["provider"], row["model"]) == ("openai", BACKUP.name)
    assert (row["input_tokens"], row["output_tokens"]) == (1000, 50)
    assert cost(row) == BACKUP_COST, "what an unpriced or refusing model did is not charged"


@STREAMED
def test_a_model_that_is_too_slow_is_given_up(gateway: Gateway, streamed: bool) -> None:
    """It may send a bill for what nobody read: its bound is charged, openly, beside what the backup cost."""
    slow = Model("gpt-4-turbo")
    endpoint = gateway.endpoint("falls-back-slow", slow, BACKUP)
    answer = gateway.chat(endpoint, stream=streamed, max_tokens=10)

    assert answer.status_code == 200, answer.text
    assert text_of(answer) == "Answered by the backup."
    assert asked_models(gateway) == [slow.name, BACKUP.name]
    row = gateway.last_row(endpoint)
    assert (row["attempts"], row["model"]) == (2, BACKUP.name)
    # Ten tokens of answer at $30 a million, and less than 1000 of prompt at $10.
    assert BACKUP_COST + Decimal("0.0003") < cost(row) < BACKUP_COST + Decimal("0.0103")


@pytest.mark.parametrize("where", BROKEN_STREAMS)
def test_a_stream_that_breaks_before_its_first_token(gateway: Gateway, where: str) -> None:
    endpoint = gateway.endpoint(name_of(where), BROKEN_STREAMS[where], BACKUP)
    for path in ("mlflow/v1/chat/completions", "openai/v1/chat/completions"):
        gateway.forget()
        body = {
            "model": endpoint,
            "messages": [{"role": "user", "content": path}],
            "stream": True,
            "stream_options": {"include_usage": True},
            "max_tokens": 10,
        }
        answer = gateway.call(path, body, gateway.key(endpoint))
        assert answer.status_code == 200, answer.text
        assert text_of(answer) == "Answered by the backup."
        assert not any("error" in event for event in events(answer))
        assert asked_models(gateway) == [BROKEN_STREAMS[where].name, BACKUP.name]
        row = gateway.last_row(endpoint)
        assert (row["outcome"], row["attempts"], row["model"]) == ("ok", 2, BACKUP.name)
        assert cost(row) > BACKUP_COST, "the provider had begun to answer, so its bound is charged too"


@pytest.mark.parametrize("route", ["anthropic/v1/messages", "openai/v1/responses"])
def test_other_protocols_begin_without_a_token_too(gateway: Gateway, route: str) -> None:
    """`message_start` and `response.created` have gone out by then in vain, if nothing holds them back."""
    kind = route.partition("/")[0]
    begun = "scenario/stream-reset-before-a-token"
    endpoint = gateway.endpoint(f"begins-{kind}", Model(begun, kind), Model("scenario/backup", kind))
    hello = [{"role": "user", "content": "Hello!"}]
    body = {"model": endpoint, "stream": True} | (
        {"max_tokens": 10, "messages": hello} if kind == "anthropic" else {"input": hello}
    )
    answer = gateway.call(route, body, gateway.key(endpoint))
    assert answer.status_code == 200, answer.text
    assert "Answered by the backup." in answer.text
    kinds = [event["type"] for event in events(answer)]
    assert kinds.count("message_start") + kinds.count("response.created") == 1
    assert "error" not in kinds
    assert asked_models(gateway) == [begun, "scenario/backup"]


def test_a_stream_that_breaks_later_ends_with_an_error(gateway: Gateway) -> None:
    """What was said can't be taken back: no other model goes on with it, and the call is charged its bound."""
    endpoint = gateway.endpoint("breaks-later", Model("gpt-4o"), BACKUP)
    answer = gateway.chat(endpoint, stream=True, max_tokens=50)

    assert answer.status_code == 200
    assert text_of(answer).startswith("The demo model fills its answer")
    assert "error" in events(answer)[-1]
    assert asked_models(gateway) == ["gpt-4o"]
    row = gateway.last_row(endpoint)
    assert (row["outcome"], row["attempts"], row["model"]) == ("error", 1, "gpt-4o")
    assert cost(row) == cost(row, "reserved_usd") > 0


@STREAMED
def test_a_mistake_of_the_caller_is_told_at_once(gateway: Gateway, streamed: bool) -> None:
    endpoint = gateway.endpoint("callers-mistake", Model("scenario/bad-request"), BACKUP)
    answer = gateway.chat(endpoint, stream=streamed)

    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "Expected a lower temperature."
    assert asked_models(gateway) == ["scenario/bad-request"], "another model would not like it better"
    row = gateway.last_row(endpoint)
    assert (row["outcome"], row["status"], row["attempts"]) == ("error", 400, 1)
    assert cost(row) == 0


@STREAMED
def test_all_failed(gateway: Gateway, streamed: bool) -> None:
    endpoint = gateway.endpoint("all-fail", FAULTS["429"], FAULTS["refused"], FAULTS["503"])
    answer = gateway.chat(endpoint, stream=streamed)

    assert answer.status_code == 503
    error = answer.json()["error"]
    assert "3 models failed" in error["message"]
    assert int(answer.headers["retry-after"]) >= 1
    assert asked_models(gateway) == ["scenario/fail-429", "scenario/fail-503"]
    row = gateway.last_row(endpoint)
    assert (row["outcome"], row["status"], row["attempts"]) == ("error", 503, 3)
    assert cost(row) == 0


def test_one_that_is_refused_says_why_and_when_to_come_back(gateway: Gateway) -> None:
    endpoint = gateway.endpoint("only-dead", FAULTS["refused"])
    answer = gateway.chat(endpoint)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "provider_unavailable"
    assert "retry-after" in answer.headers


def test_anthropics_protocol_falls_back_too(gateway: Gateway) -> None:
    endpoint = gateway.endpoint(
        "anthropic-falls-back",
        Model("scenario/fail-529", "anthropic"),
        Model("claude-haiku-4-5", "anthropic"),
    )
    for streamed in (False, True):
        body = {
            "model": endpoint,
            "max_tokens": 100,
            "messages": [{"role": "user", "content": "Hello!"}],
            "stream": streamed,
        }
        answer = gateway.call("anthropic/v1/messages", body, gateway.key(endpoint))
        assert answer.status_code == 200, answer.text
        assert "Answered by the backup." in answer.text
        row = gateway.last_row(endpoint)
        assert (row["provider"], row["model"], row["attempts"]) == ("anthropic", "claude-haiku-4-5", 2)
        # $1 and $5 a million.
        assert cost(row) == Decimal("0.00125")


def test_another_providers_model_answers_on_the_unified_route(gateway: Gateway) -> None:
    endpoint = gateway.endpoint("crosses-providers", Model("scenario/fail-529", "anthropic"), BACKUP)
    for streamed in (False, True):
        answer = gateway.chat(endpoint, stream=streamed)
        assert answer.status_code == 200, answer.text
        assert text_of(answer) == "Answered by the backup."
    assert [call["path"] for call in gateway.upstream()] == ["/v1/messages", "/v1/chat/completions"] * 2


def test_a_stream_without_usage_is_charged_its_bound(gateway: Gateway) -> None:
    """Nobody knows what it cost; zero would be a hole in every budget."""
    endpoint = gateway.endpoint("tells-no-usage", Model("gpt-4.1-nano"))
    answer = gateway.chat(endpoint, stream=True)
    assert text_of(answer) == "Nothing is counted."
    row = gateway.last_row(endpoint)
    assert row["outcome"] == "ok"
    assert cost(row) == cost(row, "reserved_usd") > 0


def test_a_known_answer_costs_what_its_tokens_cost(gateway: Gateway, priced: str) -> None:
    """Cached tokens at their own price, reasoning as a part of the answer: 600 × 0.15 + 400 × 0.075 + 50 × 0.6."""
    for streamed in (False, True):
        assert text_of(gateway.chat(priced, stream=streamed)) == "Answered by the primary."
        row = gateway.last_row(priced)
        assert (row["cache_read_tokens"], row["reasoning_tokens"]) == (400, 20)
        assert cost(row) == Decimal("0.00015")


def test_the_usage_trace_says_which_model_answered_and_why(gateway: Gateway) -> None:
    endpoint = gateway.endpoint("traced-fall-back", FAULTS["503"], BACKUP)
    assert gateway.chat(endpoint).status_code == 200

    (trace,) = gateway.traces(endpoint)
    assert trace["trace_info"]["state"] == "OK"
    spans = {span["name"]: span for span in trace["spans"]}
    failed, served = spans["provider/openai/scenario/fail-503"], spans["provider/openai/gpt-4.1-mini"]
    assert failed["status"]["code"] == "STATUS_CODE_ERROR"
    assert "The scenario makes this request fail." in json.dumps(failed)
    assert served["status"]["code"] != "STATUS_CODE_ERROR"
    attributes = attributes_of(served)
    assert attributes["mlflow.llm.cost"]["total_cost"] == pytest.approx(float(BACKUP_COST))
    assert attributes["mlflow.chat.tokenUsage"]["input_tokens"] == 1000


def attributes_of(span: Body) -> dict[str, Any]:
    """A span's attributes as Python values; OTLP's JSON wraps them."""
    return {item["key"]: plain(item["value"]) for item in span["attributes"]}


def plain(value: Body) -> Any:
    (kind, found), *_ = value.items()
    if kind == "kvlist_value":
        return {item["key"]: plain(item["value"]) for item in found.get("values", [])}
    if kind == "array_value":
        return [plain(item) for item in found.get("values", [])]
    if kind == "int_value":
        return int(found)
    if kind == "string_value":
        try:
            return json.loads(found)
        except ValueError:
            return found
    return found
