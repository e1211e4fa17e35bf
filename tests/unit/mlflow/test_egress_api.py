"""What the egress proxy learns of a key, and that nobody else learns it."""

import hashlib
from typing import Any

import pytest
from identities import ADMIN, AGENT_KEY, EGRESS_TOKEN, INTERNAL_TOKEN
from sqlalchemy.exc import OperationalError
from test_keys import KEYS, execute, make

from paddock_mlflow.egress_api import PATH

PROXY = {"Authorization": f"Bearer {EGRESS_TOKEN}"}
HOSTS = ["index.example", "*.files.example"]


def ask(server: Any, key: str, headers: dict[str, str] | None = None) -> Any:
    sha256 = hashlib.sha256(key.encode()).hexdigest()
    return server.http.post(PATH, json={"sha256": sha256}, headers=PROXY if headers is None else headers)


def test_a_runs_key_tells_its_run_and_what_it_may_reach(server: Any) -> None:
    made = make(server, run_id="run-7", egress_allow=[*HOSTS, HOSTS[0]])
    assert made["egress_allow"] == HOSTS
    assert ask(server, made["key"]).json() == {
        "run_id": "run-7",
        "key_id": made["id"],
        "state": "active",
        "allow": HOSTS,
    }
    assert ask(server, make(server, run_id="run-8")["key"]).json()["allow"] == []


def test_a_revoked_and_an_expired_key_say_so_at_once(server: Any) -> None:
    made = make(server, run_id="run-7", egress_allow=HOSTS)
    server.http.post(f"{KEYS}/{made['id']}/revoke", auth=ADMIN)
    assert ask(server, made["key"]).json()["state"] == "revoked"
    made = make(server, run_id="run-7", expires_in=60)
    execute("UPDATE paddock_keys SET expires_at = '2020-01-01 00:00:00.000000' WHERE id = :id", id=made["id"])
    assert ask(server, made["key"]).json()["state"] == "expired"


def test_other_keys_are_unknown(server: Any) -> None:
    """The stack's own and people's keys open models; the way out is for runs."""
    for key in (make(server)["key"], AGENT_KEY, "pdk_" + "x" * 43):
        answer = ask(server, key)
        assert answer.status_code == 404
        assert "expected the key of a run" in answer.json()["detail"]


def test_nobody_else_is_answered(server: Any) -> None:
    key = make(server, run_id="run-7")["key"]
    for value in (
        "",
        f"Bearer {key}",
        f"Bearer {AGENT_KEY}",
        f"Bearer {INTERNAL_TOKEN}",
        "Bearer ",
        f"Basic {EGRESS_TOKEN}",
    ):
        answer = ask(server, key, {"Authorization": value} if value else {})
        assert answer.status_code == 401, value
        assert "run-7" not in answer.text
    assert server.http.post(PATH, json={"sha256": "0" * 64}, auth=ADMIN).status_code == 401


def test_without_a_token_the_route_is_closed(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGRESS_TOKEN", "")
    monkeypatch.setenv("SECRETS_DIR", "/nonexistent")
    assert ask(server, "x", {"Authorization": "Bearer "}).status_code == 401


def test_the_token_opens_nothing_else(server: Any) -> None:
    for method, path in (
        ("GET", KEYS),
        ("POST", KEYS),
        ("GET", "/api/2.0/mlflow/experiments/search"),
        ("GET", "/gateway/mlflow/v1/models"),
    ):
        assert server.http.request(method, path, headers=PROXY).status_code == 401, path


@pytest.mark.parametrize(
    "entry",
    ["10.0.0.1", "mlflow", "*.example", "https://a.example", "a.example:443", "A.example", "*", "a.example/"],
)
def test_what_no_list_can_hold_is_refused(server: Any, entry: str) -> None:
    body = {"user": "ada", "endpoints": ["coder"], "run_id": "run-7", "egress_allow": [entry]}
    answer = server.http.post(KEYS, json=body, auth=ADMIN)
    assert answer.status_code == 422
    assert "egress_allow" in answer.json()["detail"]


def test_a_list_is_for_a_run(server: Any) -> None:
    answer = server.http.post(
        KEYS, json={"user": "ada", "endpoints": ["coder"], "egress_allow": HOSTS}, auth=ADMIN
    )
    assert answer.status_code == 422
    assert "run_id" in answer.json()["detail"]


def test_a_malformed_question_is_refused(server: Any) -> None:
    for body in ({}, {"sha256": "x"}, {"sha256": "0" * 64, "more": 1}):
        assert server.http.post(PATH, json=body, headers=PROXY).status_code == 422


def test_a_database_that_is_away_is_said(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from paddock_mlflow import keys

    def away(*_: object) -> None:
        raise OperationalError("SELECT", {}, Exception("gone"))

    monkeypatch.setattr(keys, "find", away)
    answer = ask(server, "pdk_" + "x" * 43)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")


def test_the_form_of_names_is_the_proxys() -> None:
    """Two images, one grammar."""
    import sys
    from pathlib import Path

    sys.path.append(str(Path(__file__).resolve().parents[3] / "services" / "egress"))
    from paddock_egress.config.hosts import LIST_PATTERN, LONGEST
    from paddock_mlflow.admin_api.keys import HostEntry

    (constraint,) = HostEntry.__metadata__
    assert (constraint.pattern, constraint.max_length) == (LIST_PATTERN, LONGEST)
