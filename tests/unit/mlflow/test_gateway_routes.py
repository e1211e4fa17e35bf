"""Which requests the gateway's middleware takes, and which rules of MLflow hold for them too."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest
from gateway_calls import CHAT, HELLO, Gateway, gateway_on
from identities import ADMIN
from provider_answers import chat
from scripted_provider import Answer
from sqlalchemy import text

from paddock_mlflow.ledger.types import Usage

ANSWER = Answer(chat("gpt-4o-mini", Usage(input=10, output=5)))


@pytest.fixture(scope="module")
def gateway(server: Any) -> Iterator[Gateway]:
    with gateway_on(server) as made:
        yield made


@pytest.fixture(scope="module")
def endpoint(gateway: Gateway) -> str:
    return gateway.endpoint("openai/gpt-4o-mini")


def test_every_post_route_of_mlflows_gateway_is_taken(server: Any) -> None:
    """A route that a release adds would be served without the ledger: give it a line in `routes`."""
    from mlflow.server.gateway_api import gateway_router

    from paddock_mlflow.gateway import routes

    paths = [
        path.replace("{endpoint_name}", "coder").replace("{path:path}", "v1/chat")
        for route in gateway_router.routes
        for path in [route.path]
        if "POST" in route.methods
    ]
    assert len(paths) >= 11
    assert [path for path in paths if routes.match(path) is None] == []
    for path in paths:
        found = routes.match(path)
        assert found is not None
        assert found.endpoint == ("coder" if "coder" in path else None)


@pytest.mark.parametrize(
    "path",
    [
        "/gateway/mlflow/v1/models",
        "/gateway/mlflow/v1/chat/completions/",
        "/gateway//mlflow/invocations",
        "/gateway/a/b/mlflow/invocations",
        "/gateway/gemini/v1beta/models/x:countTokens",
        "/gateway/proxy/x",
        "/api/3.0/mlflow/gateway/endpoints/create",
    ],
)
def test_other_paths_are_not(server: Any, path: str) -> None:
    from paddock_mlflow.gateway import routes

    assert routes.match(path) is None


def test_a_foreign_host_header_is_refused(gateway: Gateway, endpoint: str) -> None:
    gateway.answers(ANSWER)
    assert gateway.chat(endpoint).status_code == 200
    answer = gateway.chat(endpoint, headers={"host": "evil.example.com"})
    assert (answer.status_code, len(gateway.provider.requests)) == (403, 1)
    assert "Invalid Host header" in answer.text


def test_a_page_on_this_machine_may_read_the_answer(gateway: Gateway, endpoint: str) -> None:
    gateway.answers(ANSWER)
    answer = gateway.chat(endpoint, headers={"origin": "http://localhost:3000"})
    assert answer.headers["access-control-allow-origin"] == "http://localhost:3000"
    assert answer.headers["x-content-type-options"] == "nosniff"
    answer = gateway.chat(endpoint, headers={"origin": "https://evil.example.com"})
    assert "access-control-allow-origin" not in answer.headers


def test_the_gateway_can_be_switched_off(
    gateway: Gateway, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.answers(ANSWER)
    monkeypatch.setenv("MLFLOW_ENABLE_AI_GATEWAY", "false")
    answer = gateway.chat(endpoint)
    assert (answer.status_code, answer.json()["error"]["type"]) == (501, "gateway_disabled")
    assert not gateway.provider.requests


def test_a_disallowed_provider_stays_closed(
    gateway: Gateway, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.answers(ANSWER)
    monkeypatch.setenv("MLFLOW_GATEWAY_ALLOWED_PROVIDERS", "anthropic")
    gateway.admin("endpoints/set-tag", {"endpoint_id": _id(gateway, endpoint), "key": "a", "value": "b"})
    answer = gateway.chat(endpoint)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "endpoint_misconfigured")
    monkeypatch.delenv("MLFLOW_GATEWAY_ALLOWED_PROVIDERS")
    assert gateway.chat(endpoint).status_code == 200


def test_an_edit_acts_at_once(gateway: Gateway) -> None:
    """MLflow's own cache of decrypted endpoints lasts for 60 s."""
    name = gateway.endpoint("openai/gpt-4o-mini")
    gateway.answers(ANSWER)
    assert gateway.chat(name).status_code == 200
    # As another server does it: MLflow's cache of this process hears nothing of it.
    with gateway.server.store.engine.begin() as connection:
        connection.execute(
            text("UPDATE model_definitions SET model_name = 'gpt-4o' WHERE name = :name"),
            {"name": f"{name}-0"},
        )
    assert gateway.chat(name).headers["x-paddock-model"] == "openai/gpt-4o"
    assert [body["model"] for _, body in gateway.provider.requests] == ["gpt-4o-mini", "gpt-4o"]
    gateway.admin("endpoints/delete", {"endpoint_id": _id(gateway, name)}, "DELETE")
    assert gateway.chat(name).status_code == 404


def test_a_new_endpoint_works_at_once_and_wrong_names_cost_little(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paddock_mlflow.gateway import endpoints

    reads = []
    stock = endpoints.get_endpoint_config

    def counted(endpoint_name: str, store: Any) -> Any:
        reads.append(endpoint_name)
        return stock(endpoint_name=endpoint_name, store=store)

    monkeypatch.setattr(endpoints, "get_endpoint_config", counted)
    for _ in range(5):
        answer = gateway.chat("not-there-yet")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "endpoint_not_found")
    assert reads == ["not-there-yet"]
    gateway.answers(ANSWER)
    made = gateway.endpoint("openai/gpt-4o-mini")
    gateway.admin("endpoints/update", {"endpoint_id": _id(gateway, made), "name": "not-there-yet"})
    assert gateway.chat("not-there-yet").status_code == 200


def test_what_the_client_says_of_itself_does_not_reach_the_provider(
    gateway: Gateway, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key of ours that looks like an agent's own subscription would go to the provider in stock MLflow."""
    from paddock_mlflow.gateway import lean

    seen = []
    stock = lean._exchange

    def kept(request: Any, model: Any) -> Any:
        exchange = stock(request, model)
        seen.append({name.lower(): value for name, value in exchange.headers.items()})
        return exchange

    monkeypatch.setattr(lean, "_exchange", kept)
    gateway.answers(ANSWER)
    headers = {
        "user-agent": "codex_cli_rs/1.0",
        "cookie": "session=1",
        "x-api-key": "mine",
        "x-of-the-client": "yes",
        "x-paddock-run": "r",
    }
    body = {"model": endpoint, "messages": HELLO}
    answer = gateway.server.http.post(
        "/gateway/openai/v1/chat/completions", json=body, headers=headers, auth=ADMIN
    )
    assert answer.status_code == 200
    assert seen[0]["authorization"] == "Bearer sk-the-provider-s-own-key"
    assert seen[0]["x-of-the-client"] == "yes"
    assert not {"cookie", "x-api-key", "x-paddock-run", "host"} & seen[0].keys()


@pytest.mark.parametrize(
    ("own", "forwarded"), [("Bearer sk-my-subscription", True), ("Bearer pdk_ours", False)]
)
def test_an_agents_own_subscription_is_used_but_never_a_key_of_ours(
    gateway: Gateway, endpoint: str, own: str, forwarded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As upstream lets some agents: with MLflow's credentials in the header that it has for them."""
    from paddock_mlflow.gateway import lean

    seen = []
    stock = lean._exchange

    def kept(request: Any, model: Any) -> Any:
        exchange = stock(request, model)
        seen.append(exchange.headers["authorization"])
        return exchange

    monkeypatch.setattr(lean, "_exchange", kept)
    gateway.answers(ANSWER)
    password = base64.b64encode(":".join(ADMIN).encode()).decode()
    headers = {
        "user-agent": "codex_cli_rs/1.0",
        "authorization": own,
        "x-mlflow-authorization": f"Basic {password}",
    }
    body = {"model": endpoint, "messages": HELLO}
    answer = gateway.server.http.post("/gateway/openai/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200
    assert seen == [own if forwarded else "Bearer sk-the-provider-s-own-key"]


def test_a_fault_of_ours_is_an_error_body(
    gateway: Gateway, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paddock_mlflow.gateway import bounds

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a secret thought")

    monkeypatch.setattr(bounds, "of_body", broken)
    answer = gateway.chat(endpoint)
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "internal_error")
    assert "secret thought" not in answer.text


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b'{"model": ', 400, "Invalid JSON payload"),
        (b"[1]", 400, "expected an object"),
        (b"\xff", 400, "Invalid JSON payload"),
    ],
)
def test_a_stranger_learns_nothing_of_a_malformed_request(
    gateway: Gateway, content: bytes, status: int, message: str
) -> None:
    headers = {"content-type": "application/json"}
    known = gateway.server.http.post(CHAT, content=content, headers=headers, auth=ADMIN)
    assert (known.status_code, message in known.json()["error"]["message"]) == (status, True)
    stranger = gateway.server.http.post(
        CHAT, content=content, headers=headers | {"authorization": "Bearer pdk_unknown"}
    )
    assert (stranger.status_code, stranger.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("path", [CHAT, "/gateway/openai/v1/chat/completions"])
@pytest.mark.parametrize("lean", [True, False], ids=["lean", "by MLflow's class"])
@pytest.mark.parametrize("escape", ["", "\u00e9"])
def test_a_body_that_is_nested_too_deeply_is_a_mistake_and_is_settled(
    gateway: Gateway, path: str, lean: bool, escape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paddock_mlflow.gateway import lean as lean_module

    if not lean:
        monkeypatch.setattr(lean_module, "serves", lambda *_: False)
    name = gateway.endpoint("openai/gpt-4o-mini", tracked=True)
    gateway.answers(ANSWER)
    deep: Any = escape
    for _ in range(300):
        deep = [deep]
    body = {"model": name, "messages": HELLO, "metadata": deep}
    answer = gateway.server.http.post(path, json=body, auth=ADMIN)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    assert "250 levels" in answer.json()["error"]["message"]
    assert gateway.provider.requests == []
    with gateway.server.store.engine.connect() as connection:
        query = text(
            "SELECT count(*), count(ended_at), sum(cost_usd) FROM paddock_calls WHERE endpoint_name = :name"
        )
        made, ended, cost = connection.execute(query, {"name": name}).one()
    assert (made, cost or 0) == (ended, 0)


@pytest.mark.parametrize(
    "more",
    [
        {"n": 10**30},
        {"max_tokens": 10**30, "n": 10**30},
        {"tools": [{"type": {"a": "function"}}]},
        {"tools": [{"type": ["function"]}]},
        {"tools": {"a": 1}, "service_tier": []},
    ],
    ids=str,
)
def test_fields_of_no_sense_reserve_and_reach_the_provider(
    gateway: Gateway, endpoint: str, more: Any
) -> None:
    """Whether it is a mistake, the provider says."""
    gateway.answers(ANSWER)
    body = {"model": endpoint, "messages": HELLO} | more
    answer = gateway.server.http.post("/gateway/openai/v1/chat/completions", json=body, auth=ADMIN)
    assert answer.status_code == 200, answer.text
    assert len(gateway.provider.requests) == 1


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (CHAT, ("error", "code", "request_too_large")),
        ("/gateway/anthropic/v1/messages", ("error", "type", "request_too_large")),
    ],
)
def test_an_oversized_request_is_413(
    gateway: Gateway, endpoint: str, path: str, kind: tuple[str, str, str]
) -> None:
    answer = gateway.server.http.post(
        path, content=b"{}", headers={"content-length": str(10**10)}, auth=ADMIN
    )
    assert answer.status_code == 413
    assert answer.json()[kind[0]][kind[1]] == kind[2]
    assert "expected a body of at most" in answer.text
    assert "spans" not in answer.text


def _id(gateway: Gateway, name: str) -> str:
    listed = gateway.admin("endpoints/list", {}, "GET")["endpoints"]
    found: str = next(one["endpoint_id"] for one in listed if one["name"] == name)
    return found
