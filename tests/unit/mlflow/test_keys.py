"""Keys: made, shown once, stored as a hash, ended; who may do that; and in which headers they come."""

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from identities import ADMIN, AGENT_KEY
from otlp_recordings import recording
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

KEYS = "/api/3.0/paddock/keys"
MODELS = "/gateway/mlflow/v1/models"
CHAT = "/gateway/mlflow/v1/chat/completions"
HELLO = {"model": "no-such-endpoint", "messages": [{"role": "user", "content": "Hello"}]}


def make(server: Any, **wanted: Any) -> dict[str, Any]:
    body = {"user": "ada", "endpoints": ["coder"], "experiments": []} | wanted
    answer = server.http.post(KEYS, json=body, auth=ADMIN)
    assert answer.status_code == 200, answer.text
    return answer.json()


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def models(server: Any, headers: dict[str, str]) -> Any:
    return server.http.get(MODELS, headers=headers)


def execute(statement: str, **values: Any) -> list[Any]:
    from paddock_mlflow.database import engine
    from paddock_mlflow.settings import load

    with engine(load().tracking_database).begin() as connection:
        result = connection.execute(text(statement), values)
        return list(result) if result.returns_rows else []


def test_a_key_is_256_random_bits_and_its_hash_is_all_that_is_stored(server: Any) -> None:
    made = make(server)
    key = made["key"]

    assert key.startswith("pdk_")
    assert len(base64.urlsafe_b64decode(key.removeprefix("pdk_") + "=")) == 32
    assert make(server)["key"] != key
    (row,) = execute("SELECT * FROM paddock_keys WHERE id = :id", id=made["id"])
    assert row.sha256 == hashlib.sha256(key.encode()).digest()
    assert key not in str(row)
    for answer in (server.http.get(KEYS, auth=ADMIN), server.http.get(f"{KEYS}/{made['id']}", auth=ADMIN)):
        assert made["id"] in answer.text
        assert key not in answer.text
        assert row.sha256.hex() not in answer.text


def test_a_new_key_tells_what_it_opens_and_how_long(server: Any) -> None:
    made = make(
        server,
        user="grace",
        name="for the report",
        budget={"usd": "5.25", "unit": "DAYS", "count": 2},
        expires_in=86400,
        requests_per_minute=60,
    )

    assert made["new_user"] is True
    assert made["budget"] == {"usd": "5.25", "unit": "DAYS", "count": 2, "resets_at": None}
    assert (made["requests_per_minute"], made["tokens_per_minute"]) == (60, None)
    assert (made["state"], made["spent_usd"], made["created_by"]) == ("active", "0", "admin")
    ends = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=23) < ends <= timedelta(days=1)
    assert make(server, user="grace")["new_user"] is False


def test_the_user_of_a_key_may_by_mlflows_rules_what_the_key_opens(server: Any, experiment: str) -> None:
    make(server, user="edsger", experiments=[server.client.get_experiment(experiment).name])

    endpoints = server.http.get("/api/3.0/mlflow/gateway/endpoints/list", auth=ADMIN).json()["endpoints"]
    coder = next(endpoint["endpoint_id"] for endpoint in endpoints if endpoint["name"] == "coder")
    for kind, identifier, permission in (
        ("gateway_endpoint", coder, "USE"),
        ("experiment", experiment, "EDIT"),
    ):
        query = {"username": "edsger", "resource_type": kind, "resource_id": identifier}
        found = server.http.get("/api/3.0/mlflow/users/permissions/get", params=query, auth=ADMIN).json()
        assert found["permission"] == permission


def test_what_a_user_may_already_is_not_taken_away(server: Any, experiment: str) -> None:
    make(server, user="barbara")
    grant = {"username": "barbara", "resource_type": "experiment", "resource_id": experiment}
    path = "/api/3.0/mlflow/users/permissions"
    body = grant | {"permission": "MANAGE"}
    assert server.http.post(f"{path}/grant", json=body, auth=ADMIN).status_code == 200

    make(server, user="barbara", experiments=[server.client.get_experiment(experiment).name])

    assert server.http.get(f"{path}/get", params=grant, auth=ADMIN).json()["permission"] == "MANAGE"


@pytest.mark.parametrize(
    ("wanted", "status", "says"),
    [
        ({"endpoints": ["nope"]}, 400, "expected an endpoint of the gateway"),
        ({"endpoints": []}, 422, "endpoints"),
        ({"experiments": ["nope"]}, 400, "expected the name of an experiment"),
        ({"user": "admin"}, 400, "no administrator"),
        ({"user": "a b"}, 422, "user"),
        ({"budget": {"usd": "-1"}}, 422, "usd"),
        ({"budget": {"usd": "0"}}, 422, "usd"),
        ({"budget": {"usd": "1", "unit": "YEARS"}}, 422, "unit"),
        ({"budget": {"usd": "1", "unit": "DAYS", "count": 0}}, 422, "count"),
        ({"expires_in": 0}, 422, "expires_in"),
        ({"requests_per_minute": 0}, 422, "requests_per_minute"),
        ({"is_admin": True}, 422, "is_admin"),
    ],
)
def test_what_makes_no_sense_is_refused_and_makes_nothing(
    server: Any, wanted: dict[str, Any], status: int, says: str
) -> None:
    before = execute("SELECT count(*) FROM paddock_keys")
    body = {"user": "nobody-new", "endpoints": ["coder"], "experiments": []} | wanted

    answer = server.http.post(KEYS, json=body, auth=ADMIN)

    assert answer.status_code == status
    assert says in answer.text
    assert execute("SELECT count(*) FROM paddock_keys") == before
    query = {"username": "nobody-new"}
    assert server.http.get("/api/2.0/mlflow/users/get", params=query, auth=ADMIN).status_code == 404


def test_keys_of_single_runs_are_listed_where_asked_for(server: Any) -> None:
    made = make(server, run_id="run-of-the-test")

    def listed(**query: str) -> set[str]:
        answer = server.http.get(KEYS, params=query, auth=ADMIN)
        return {key["id"] for key in answer.json()["keys"]}

    assert made["id"] not in listed()
    assert made["id"] in listed(runs="true")


def test_wrong_expired_and_revoked_keys_each_have_their_own_words(server: Any) -> None:
    revoked, expired = make(server), make(server, expires_in=60)
    assert models(server, bearer(revoked["key"])).status_code == 200
    assert models(server, bearer(expired["key"])).status_code == 200

    answer = server.http.post(f"{KEYS}/{revoked['id']}/revoke", auth=ADMIN)
    assert (answer.status_code, answer.json()["state"]) == (200, "revoked")
    long_ago = "2020-01-01 00:00:00.000000"
    execute("UPDATE paddock_keys SET expires_at = :at WHERE id = :id", at=long_ago, id=expired["id"])

    told = set()
    for key, words in (
        (revoked["key"], "revoked"),
        (expired["key"], "expired"),
        ("pdk_wrong", "not known"),
    ):
        answer = models(server, bearer(key))
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert words in answer.json()["error"]["message"]
        told.add(answer.text)
        assert server.http.post(CHAT, json=HELLO, headers=bearer(key)).status_code == 401
        assert send_traces(server, "0", key).status_code == 401
    assert len(told) == 3


def send_traces(server: Any, experiment: str, key: str) -> Any:
    headers = {"content-type": "application/x-protobuf", "x-mlflow-experiment-id": experiment}
    body = recording("message").requests[0].SerializeToString()
    return server.http.post("/v1/traces", content=body, headers=headers | bearer(key))


def test_a_second_revocation_keeps_the_moment_of_the_first(server: Any) -> None:
    made = make(server)
    first = server.http.post(f"{KEYS}/{made['id']}/revoke", auth=ADMIN).json()
    long_ago = "2020-01-01 00:00:00.000000"
    execute("UPDATE paddock_keys SET revoked_at = :at WHERE id = :id", at=long_ago, id=made["id"])

    second = server.http.post(f"{KEYS}/{made['id']}/revoke", auth=ADMIN).json()

    assert first["revoked_at"]
    assert second["revoked_at"].startswith("2020-01-01")


def test_unknown_ids_are_404_and_the_stacks_own_key_is_kept(server: Any) -> None:
    assert server.http.get(f"{KEYS}/pk_nope", auth=ADMIN).status_code == 404
    assert server.http.post(f"{KEYS}/pk_nope/revoke", auth=ADMIN).status_code == 404
    assert server.http.post(f"{KEYS}/pk_stack/revoke", auth=ADMIN).status_code == 409
    assert models(server, bearer(AGENT_KEY)).status_code == 200


def test_registering_the_stacks_key_again_changes_only_what_it_opens(server: Any) -> None:
    body = {"endpoints": ["coder"], "experiments": []}
    server.http.put(f"{KEYS}/stack", json=body, auth=ADMIN).raise_for_status()
    execute("UPDATE paddock_keys SET created_at = '2020-01-01 00:00:00.000000' WHERE id = 'pk_stack'")
    before = server.http.get(f"{KEYS}/pk_stack", auth=ADMIN).json()

    assert server.http.put(f"{KEYS}/stack", json=body, auth=ADMIN).json() == before
    assert AGENT_KEY not in str(before)


@pytest.mark.parametrize("who", ["stranger", "user", "key", "stack key", "wrong password"])
def test_only_administrators_reach_the_admin_api(server: Any, who: str) -> None:
    from fastapi.routing import iter_route_contexts

    user = {"username": "plain", "password": "a-plain-password"}
    server.http.post("/api/2.0/mlflow/users/create", json=user, auth=ADMIN)
    arguments: dict[str, Any] = {
        "stranger": {},
        "user": {"auth": ("plain", "a-plain-password")},
        "wrong password": {"auth": ("admin", "wrong")},
        "stack key": {"headers": bearer(AGENT_KEY)},
    }.get(who) or {}
    if who == "key":
        arguments = {"headers": bearer(make(server)["key"])}
    before = execute("SELECT count(*) FROM paddock_keys")
    routes = [
        (method, context.path)
        for context in iter_route_contexts(server.http.app.routes)
        for method in context.methods or ()
        if context.path.startswith("/api/3.0/paddock/")
    ]
    assert len(routes) >= 10

    for method, path in routes:
        body = {"user": "intruder", "endpoints": ["coder"]} if method != "GET" else None
        answer = server.http.request(method, path.replace("{key_id}", "pk_stack"), json=body, **arguments)
        assert answer.status_code == (403 if who == "user" else 401), (method, path)
    assert execute("SELECT count(*) FROM paddock_keys") == before


def test_keys_come_in_every_header_that_clients_use(server: Any) -> None:
    key = make(server)["key"]

    for headers in (
        {"Authorization": f"Bearer {key}"},
        {"authorization": f"bearer   {key} "},
        {"X-MLflow-Authorization": f"Bearer {key}"},
        {"x-api-key": key},
        {"api-key": key},
        {"x-goog-api-key": key},
        # A provider's own key beside ours, as coding agents send it.
        {"Authorization": "Bearer sk-of-a-provider", "x-api-key": key},
        {"Authorization": f"Bearer {key}", "x-api-key": "sk-ant-of-a-provider"},
    ):
        assert models(server, headers).status_code == 200, headers
        # Known: it is the endpoint that is missing.
        assert server.http.post(CHAT, json=HELLO, headers=headers).status_code == 404, headers


def test_a_wrong_password_is_not_mended_by_a_key(server: Any) -> None:
    basic = "Basic " + base64.b64encode(b"admin:wrong").decode()

    assert models(server, {"Authorization": basic, "x-api-key": make(server)["key"]}).status_code == 401


def test_identify_reads_headers_alone(server: Any) -> None:
    from paddock_mlflow.identity import identify
    from paddock_mlflow.keys import digest
    from paddock_mlflow.ledger.types import KeyCredential, UserCredential

    basic = "Basic " + base64.b64encode(":".join(ADMIN).encode()).decode()

    assert identify({"x-api-key": "any"}, CHAT) == KeyCredential(digest("any"))
    assert identify({"authorization": "Bearer any"}, "/v1/traces") == KeyCredential(digest("any"))
    assert identify({"authorization": "Bearer any"}, "/api/2.0/mlflow/experiments/search") is None
    assert identify({"authorization": basic}, CHAT) == UserCredential("admin")
    assert identify({"x-mlflow-authorization": basic, "authorization": "Bearer any"}, CHAT) == UserCredential(
        "admin"
    )
    assert identify({"authorization": "Bearer "}, CHAT) is None
    assert identify({}, CHAT) is None


def test_a_keys_database_that_is_away_is_503(
    server: Any, experiment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paddock_mlflow import keys

    key = make(server)["key"]

    def away(*_: Any) -> Any:
        raise OperationalError("SELECT", {}, Exception("connection refused"))

    monkeypatch.setattr(keys, "find", away)
    for answer in (models(server, bearer(key)), send_traces(server, experiment, key)):
        assert (answer.status_code, answer.headers.get("retry-after")) == (503, "5")


def test_a_deleted_users_keys_end_with_the_user(server: Any) -> None:
    one, two = make(server, user="leaving"), make(server, user="leaving")
    stays = make(server, user="staying")

    gone = server.http.request(
        "DELETE", "/api/2.0/mlflow/users/delete", json={"username": "leaving"}, auth=ADMIN
    )

    assert gone.status_code == 200, gone.text
    for key in (one, two):
        assert server.http.get(f"{KEYS}/{key['id']}", auth=ADMIN).json()["state"] == "revoked"
        assert models(server, bearer(key["key"])).status_code == 401
    assert models(server, bearer(stays["key"])).status_code == 200


def test_the_key_of_a_user_who_became_administrator_gives_no_more_than_before(server: Any) -> None:
    key = make(server, user="rising")["key"]
    assert models(server, bearer(key)).status_code == 200

    body = {"username": "rising", "is_admin": True}
    path = "/api/2.0/mlflow/users/update-admin"
    assert server.http.patch(path, json=body, auth=ADMIN).status_code == 200

    assert models(server, bearer(key)).status_code == 403
    assert server.http.get(KEYS, headers=bearer(key)).status_code == 401
