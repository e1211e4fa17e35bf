"""What becomes of a call: attempts, answers, and what the ledger is told, with the ledger in its database."""

import inspect
import json
import socket
import threading
import zlib
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import anyio
import provider_answers as answers
import pytest
from gateway_calls import CHAT, HELLO, PROVIDER_KEY, Gateway, gateway_on
from identities import ADMIN
from scripted_provider import Answer
from sqlalchemy import select, text

from paddock_mlflow.ledger.types import Usage

USAGE = Usage(input=1000, output=300)
GOOD = Answer(answers.chat("gpt-4o-mini", USAGE))
STREAM = Answer(answers.chat_stream("gpt-4o-mini", USAGE))
COST = Decimal("0.00033")
"""Of USAGE on gpt-4o-mini: 1000 × $0.15 and 300 × $0.60 a million."""


def fault(status: int, message: str = "not now") -> Answer:
    return Answer({"error": {"message": message, "type": "a_type", "code": None, "param": None}}, status)


@pytest.fixture(scope="module")
def gateway(server: Any) -> Iterator[Gateway]:
    with gateway_on(server) as made:
        yield made


def last_call(gateway: Gateway, endpoint: str) -> Any:
    """The ledger's row of the endpoint's latest call."""
    from paddock_mlflow.database import calls

    with gateway.server.store.engine.connect() as connection:
        rows = connection.execute(
            select(calls).where(calls.c.endpoint_name == endpoint).order_by(calls.c.started_at.desc())
        )
        return rows.mappings().first()


def last_record(gateway: Gateway) -> dict[str, Any]:
    with gateway.server.store.engine.connect() as connection:
        found = connection.execute(
            text("SELECT record FROM paddock_usage_outbox ORDER BY id DESC LIMIT 1")
        ).scalar_one()
    record: dict[str, Any] = json.loads(zlib.decompress(found))
    return record


def test_a_call_is_settled_at_its_cost(gateway: Gateway) -> None:
    name = gateway.endpoint("openai/gpt-4o-mini", tracked=True)
    gateway.answers(GOOD)
    answer = gateway.chat(name, headers={"user-agent": "a-tool/1.0"})
    assert answer.headers["x-paddock-attempts"] == "1"
    assert int(answer.headers["x-mlflow-gateway-duration-ms"]) >= 0
    row = last_call(gateway, name)
    assert (row["outcome"], row["status"], row["attempts"], row["cost_usd"]) == ("ok", 200, 1, COST)
    assert (row["provider"], row["model"], row["username"]) == ("openai", "gpt-4o-mini", ADMIN[0])
    assert (row["input_tokens"], row["output_tokens"]) == (1000, 300)
    assert row["reserved_usd"] > COST
    record = last_record(gateway)
    assert (record["v"], record["protocol"], record["caller"]) == (1, "openai_chat", "a-tool")
    assert (record["status"], record["error"], Decimal(record["cost"])) == (200, None, COST)
    assert record["response"]["choices"][0]["message"]["content"] == answers.TEXT
    assert record["request"]["messages"] == HELLO
    assert record["usage"]["output"] == 300


def test_a_stream_is_settled_at_its_cost(gateway: Gateway) -> None:
    name = gateway.endpoint("openai/gpt-4o-mini", tracked=True)
    gateway.answers(STREAM)
    answer = gateway.chat(name, stream=True)
    row = last_call(gateway, name)
    assert (row["outcome"], row["cost_usd"]) == ("ok", COST)
    assert last_record(gateway)["stream"] == answer.text


def test_an_answer_without_usage_is_charged_its_bound(gateway: Gateway) -> None:
    name = gateway.endpoint("openai/gpt-4o-mini")
    body = {key: value for key, value in GOOD.body.items() if key != "usage"}  # type: ignore[union-attr]
    gateway.answers(Answer(body))
    assert gateway.chat(name, max_tokens=100).status_code == 200
    row = last_call(gateway, name)
    assert (row["outcome"], row["cost_usd"]) == ("ok", row["reserved_usd"])
    assert row["cost_usd"] > 0


def test_an_untracked_endpoint_leaves_no_trace_on_any_route(gateway: Gateway) -> None:
    # Tracked once: it keeps the experiment that it was traced into.
    name = gateway.endpoint("openai/gpt-4o-mini", tracked=True)
    listed = gateway.admin("endpoints/list", {}, "GET")["endpoints"]
    target = next(one["endpoint_id"] for one in listed if one["name"] == name)
    gateway.admin("endpoints/update", {"endpoint_id": target, "usage_tracking": False})
    import mlflow

    # Those of other modules, which MLflow's own handlers made.
    mlflow.flush_trace_async_logging()
    count = "SELECT (SELECT count(*) FROM trace_info) + (SELECT count(*) FROM paddock_usage_outbox)"
    with gateway.server.store.engine.connect() as connection:
        before = connection.execute(text(count)).scalar_one()
    gateway.answers(GOOD)
    for path in (CHAT, "/gateway/openai/v1/chat/completions", f"/gateway/proxy/{name}/v1/chat/completions"):
        body = {"model": name if "proxy" not in path else "gpt-4o-mini", "messages": HELLO}
        assert gateway.server.http.post(path, json=body, auth=ADMIN).status_code == 200
    mlflow.flush_trace_async_logging()
    with gateway.server.store.engine.connect() as connection:
        assert connection.execute(text(count)).scalar_one() == before


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 529, 401, 403])
@pytest.mark.parametrize("stream", [False, True])
def test_another_model_answers_where_the_first_one_fails(gateway: Gateway, status: int, stream: bool) -> None:
    name = _fallback(gateway)
    gateway.answers(fault(status), STREAM if stream else GOOD)
    answer = gateway.chat(name, stream=stream)
    assert answer.status_code == 200
    assert answers.TEXT in answer.text or stream
    assert (answer.headers["x-paddock-model"], answer.headers["x-paddock-attempts"]) == (
        "openai/gpt-4o-mini",
        "2",
    )
    row = last_call(gateway, name)
    # A refusal is not billed.
    assert (row["outcome"], row["attempts"], row["cost_usd"], row["model"]) == ("ok", 2, COST, "gpt-4o-mini")


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_a_callers_mistake_is_not_tried_again(gateway: Gateway, status: int) -> None:
    name = _fallback(gateway)
    gateway.answers(fault(status, f"you did it with {PROVIDER_KEY}"), GOOD)
    answer = gateway.chat(name)
    assert (answer.status_code, len(gateway.provider.requests)) == (status, 1)
    assert answer.json()["error"]["message"] == "you did it with ***"
    row = last_call(gateway, name)
    assert (row["outcome"], row["status"], row["cost_usd"]) == ("error", status, 0)


def test_all_models_fail(gateway: Gateway) -> None:
    name = _fallback(gateway)
    gateway.answers(fault(503, "first"), fault(429, "second"))
    answer = gateway.chat(name)
    assert (answer.status_code, len(gateway.provider.requests)) == (429, 2)
    assert "all 2 models failed; the last one: second" in answer.json()["error"]["message"]
    assert last_call(gateway, name)["attempts"] == 2


def test_a_refused_connection_is_not_billed(gateway: Gateway) -> None:
    name = gateway.endpoint("closed/gpt-4o", "openai/gpt-4o-mini")
    gateway.answers(GOOD)
    answer = gateway.chat(name)
    assert (answer.status_code, answer.headers["x-paddock-attempts"]) == (200, "2")
    assert last_call(gateway, name)["cost_usd"] == COST
    alone = gateway.endpoint("closed/gpt-4o")
    answer = gateway.chat(alone)
    assert (answer.status_code, answer.json()["error"]["type"]) == (503, "provider_unavailable")
    assert answer.headers["retry-after"] == "5"
    assert last_call(gateway, alone)["cost_usd"] == 0


def test_what_may_have_been_billed_is_charged_with_what_was(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that takes a request and says nothing may send a bill for it."""
    monkeypatch.setenv("MLFLOW_GATEWAY_ROUTE_TIMEOUT_SECONDS", "1")
    name = _fallback(gateway, tracked=True)
    free = threading.Event()
    calls = []

    def silent_first(path: str, body: dict[str, Any]) -> Answer:
        calls.append(body["model"])
        if len(calls) == 1:
            free.wait(10)
        return GOOD

    gateway.provider.answer = silent_first
    answer = gateway.chat(name, max_tokens=100)
    free.set()
    assert (answer.status_code, calls) == (200, ["gpt-4o", "gpt-4o-mini"])
    row = last_call(gateway, name)
    record = last_record(gateway)
    assert [one["maybe_billed"] for one in record["attempts"]] == [True, False]
    assert record["attempts"][0]["error"]["type"] == "provider_timeout"
    # 100 tokens of answer at $10 a million, and the prompt's bytes at $2.50.
    assert row["cost_usd"] > COST + Decimal("0.001")
    # The second attempt was reserved beside the first one, and the charge stays below both.
    assert COST < row["cost_usd"] <= row["reserved_usd"]


def test_weights_split_the_traffic(gateway: Gateway) -> None:
    name = gateway.endpoint("openai/gpt-4o-mini", "openai/gpt-4o", split=True)
    gateway.answers(GOOD)
    served = {gateway.chat(name).headers["x-paddock-model"] for _ in range(40)}
    assert served == {"openai/gpt-4o-mini", "openai/gpt-4o"}


def test_a_model_without_a_price_is_refused_by_its_name(gateway: Gateway) -> None:
    gateway.answers(GOOD)
    answer = gateway.chat(gateway.endpoint("openai/nobody-s-model"))
    assert (answer.status_code, len(gateway.provider.requests)) == (403, 0)
    error = answer.json()["error"]
    assert error["type"] == "unpriced_model"
    assert "'nobody-s-model'" in error["message"]
    assert "mlflow/prices/openai.json" in error["message"]
    assert answer.headers["x-should-retry"] == "false"


def test_a_spent_budget_stops_clients_for_good(gateway: Gateway) -> None:
    name = gateway.endpoint("openai/gpt-4o-mini", tracked=True)
    listed = gateway.admin("endpoints/list", {}, "GET")["endpoints"]
    target = next(one["endpoint_id"] for one in listed if one["name"] == name)
    policy = {
        "budget_unit": "USD",
        "budget_amount": 0.0001,
        "duration": {"unit": "DAYS", "value": 1},
        "target_scope": "ENDPOINT",
        "target_value": target,
        "budget_action": "REJECT",
    }
    made = gateway.admin("budgets/create", policy)["budget_policy"]["budget_policy_id"]
    gateway.answers(GOOD)
    answer = gateway.chat(name)
    assert (answer.status_code, len(gateway.provider.requests)) == (429, 0)
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    assert "budget_exceeded" in error["message"]
    assert "it resets at" in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert Decimal(answer.headers["x-paddock-budget-remaining-usd"]) == Decimal("0.0001")
    assert last_record(gateway)["status"] == 429
    body = {"model": name, "messages": HELLO, "max_tokens": 10}
    answer = gateway.server.http.post("/gateway/anthropic/v1/messages", json=body, auth=ADMIN)
    assert answer.json()["type"] == "error"
    gateway.admin(
        "budgets/update", {"budget_policy_id": made, "budget_amount": 1.0, **_but(policy, "budget_amount")}
    )
    answer = gateway.chat(name)
    assert answer.status_code == 200
    assert Decimal(answer.headers["x-paddock-budget-remaining-usd"]) < 1


class Client:
    """A client at the ASGI interface: it decides when it leaves."""

    def __init__(self, body: dict[str, Any], leaves_after: int) -> None:
        self.body = json.dumps(body).encode()
        self.leaves_after = leaves_after
        self.sent: list[dict[str, Any]] = []
        self.left = anyio.Event()
        self.asked = False

    async def receive(self) -> dict[str, Any]:
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": self.body}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        if len(self.sent) > self.leaves_after:
            self.left.set()


def slow_provider(closed: threading.Event) -> tuple[int, threading.Thread]:
    """A provider that streams one token, and then nothing until its client closes the connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(20)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, listener:
            connection.settimeout(20)
            connection.recv(65536)
            connection.sendall(
                b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
                b'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"gpt-4o-mini",'
                b'"choices":[{"index":0,"delta":{"content":"one"}}]}\n\n'
            )
            try:
                while connection.recv(65536):
                    pass
            except OSError:
                pass
            closed.set()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return int(listener.getsockname()[1]), thread


def test_a_client_that_leaves_a_stream_is_charged_its_bound(gateway: Gateway) -> None:
    from paddock_mlflow import settings, upstreams

    closed = threading.Event()
    port, thread = slow_provider(closed)
    allowed = settings.load().private_upstreams
    upstreams.allow(allowed | {gateway.provider.address, ("127.0.0.1", port)})
    url, gateway.provider.url = gateway.provider.url, f"http://127.0.0.1:{port}/v1"
    try:
        name = gateway.endpoint("openai/gpt-4o-mini", tracked=True)
    finally:
        gateway.provider.url = url
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": CHAT,
        "raw_path": CHAT.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1:5000"), (b"authorization", _basic().encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 5000),
    }

    async def call() -> Client:
        client = Client({"model": name, "messages": HELLO, "stream": True}, leaves_after=1)
        with anyio.fail_after(20):
            await gateway.server.http.app(scope, client.receive, client.send)
        return client

    client = gateway.server.http.portal.call(call)
    assert client.sent[0]["status"] == 200
    assert b"one" in client.sent[1]["body"]
    assert closed.wait(20)
    thread.join(20)
    row = last_call(gateway, name)
    assert (row["outcome"], row["cost_usd"]) == ("abandoned", row["reserved_usd"])
    assert last_record(gateway)["attempts"][0]["maybe_billed"]


def test_few_connections_serve_many_calls(gateway: Gateway) -> None:
    """Stock MLflow opens one a call (`test_stock.py`)."""
    name = gateway.endpoint("openai/gpt-4o-mini")
    gateway.answers(GOOD)
    gateway.chat(name)
    ports = set()
    original = gateway.provider.answer
    from scripted_provider import ThreadingHTTPServer

    stock = ThreadingHTTPServer.process_request

    def counted(self: Any, request: Any, client_address: Any) -> None:
        ports.add(client_address)
        stock(self, request, client_address)

    ThreadingHTTPServer.process_request = counted  # type: ignore[method-assign]
    try:
        for _ in range(30):
            assert gateway.chat(name).status_code == 200
    finally:
        ThreadingHTTPServer.process_request = stock  # type: ignore[method-assign]
        gateway.provider.answer = original
    assert len(ports) <= 2


def test_the_function_that_sends_for_mlflows_classes_takes_what_theirs_takes(gateway: Gateway) -> None:
    from mlflow.gateway.providers import utils

    from paddock_mlflow.gateway import connections

    assert utils._aiohttp_post is not connections.stock_post
    ours, theirs = (
        inspect.signature(one).parameters for one in (utils._aiohttp_post, connections.stock_post)
    )
    assert {name: (one.kind, one.default) for name, one in ours.items()} == {
        name: (one.kind, one.default) for name, one in theirs.items()
    }


def _fallback(gateway: Gateway, *, tracked: bool = False) -> str:
    return gateway.endpoint("openai/gpt-4o", "openai/gpt-4o-mini", tracked=tracked)


def _but(body: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != name}


def _basic() -> str:
    import base64

    return "Basic " + base64.b64encode(":".join(ADMIN).encode()).decode()
