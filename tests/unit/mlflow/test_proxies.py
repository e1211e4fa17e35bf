"""The proxies before the server: a run's key counts through the gate alone, and only the TLS proxy names a client."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from identities import ADMIN, GATE_SECRET, TLS_SECRET
from test_keys import CHAT, HELLO, KEYS, bearer, make, models

GATE = {"X-Paddock-Gate": GATE_SECRET}
MESSAGES = "/gateway/anthropic/v1/messages"
GEMINI = "/gateway/gemini/v1beta/models/no-such-endpoint:generateContent"


def run_key(server: Any, **wanted: Any) -> dict[str, Any]:
    return make(server, run_id="run-of-the-test", **wanted)


def call(server: Any, path: str, headers: Any) -> Any:
    return server.http.post(path, json=HELLO, headers=headers)


def test_the_key_of_a_run_counts_through_the_gate_alone(server: Any) -> None:
    made = run_key(server)
    key = bearer(made["key"])

    # Through the gate it is known: it is the endpoint that is missing.
    assert call(server, CHAT, key | GATE).status_code == 404
    assert models(server, key | GATE).status_code == 200

    for headers in (
        key,
        key | {"X-Paddock-Gate": ""},
        key | {"X-Paddock-Gate": GATE_SECRET[:-1]},
        key | {"X-Paddock-Gate": f"{GATE_SECRET}x"},
        key | {"X-Paddock-Gate": TLS_SECRET},
        key | {"X-Paddock-Tls": GATE_SECRET},
        key | {"X-Paddock-Tls": TLS_SECRET, "X-Forwarded-For": "127.0.0.1"},
        # Werkzeug reads it as the same name.
        key | {"X_Paddock_Gate": GATE_SECRET},
        [*key.items(), ("X-Paddock-Gate", "x"), ("X-Paddock-Gate", GATE_SECRET)],
        {"x-api-key": made["key"]},
        {"X-MLflow-Authorization": f"Bearer {made['key']}"},
    ):
        refused = call(server, CHAT, headers)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied"), headers
        assert made["id"] in refused.json()["error"]["message"]
        assert refused.headers["x-should-retry"] == "false"
        assert models(server, headers).status_code == 403, headers


def test_it_says_so_in_the_words_of_each_protocol(server: Any) -> None:
    key = bearer(run_key(server)["key"])

    anthropic = call(server, MESSAGES, key)
    assert (anthropic.status_code, anthropic.json()["error"]["type"]) == (403, "permission_error")
    gemini = call(server, GEMINI, key)
    assert (gemini.status_code, gemini.json()["error"]["status"]) == (403, "PERMISSION_DENIED")


def test_a_thief_learns_nothing_of_a_key_that_has_ended(server: Any) -> None:
    made = run_key(server)
    assert server.http.post(f"{KEYS}/{made['id']}/revoke", auth=ADMIN).status_code == 200

    assert call(server, CHAT, bearer(made["key"])).status_code == 403
    assert call(server, CHAT, bearer(made["key"]) | GATE).status_code == 401


def test_an_ordinary_key_works_with_the_gate_and_without(server: Any) -> None:
    key = bearer(make(server)["key"])

    for headers in (key, key | GATE, key | {"X-Paddock-Gate": "wrong"}):
        assert models(server, headers).status_code == 200, headers


def test_the_gates_secret_is_no_credential(server: Any) -> None:
    assert models(server, GATE).status_code == 401
    assert models(server, bearer(GATE_SECRET)).status_code == 401


def test_nothing_behind_sees_a_secret_of_a_proxy(server: Any) -> None:
    from paddock_mlflow.proxies import ORIGIN, ProxiesMiddleware

    seen: dict[str, Any] = {}

    async def inner(scope: Any, receive: Any, send: Any) -> None:
        seen.update(scope, origin=ORIGIN.get())

    def arrive(*headers: tuple[bytes, bytes]) -> Any:
        import asyncio

        middleware = ProxiesMiddleware(inner, *_secrets(), on_loopback=True)
        scope = {"type": "http", "client": ("172.18.0.5", 1), "scheme": "http", "headers": list(headers)}
        asyncio.run(middleware(scope, None, None))  # type: ignore[arg-type]
        return seen["origin"]

    def _secrets() -> tuple[Any, Any]:
        from paddock_mlflow.proxies import ProxySecret
        from paddock_mlflow.settings import load

        return tuple(ProxySecret(load().secret_file(name)) for name in ("gate_secret", "tls_secret"))

    arrive(
        (b"x-paddock-gate", GATE_SECRET.encode()), (b"x_paddock_tls", b"anything"), (b"accept", b"text/html")
    )
    assert seen["headers"] == [(b"accept", b"text/html")]

    # Whoever comes straight is who they are, whatever they say.
    origin = arrive((b"x-forwarded-for", b"203.0.113.9"))
    assert (origin.address, origin.local, origin.opens_run_keys) == ("172.18.0.5", True, False)
    # The proxy appends what it saw to what the client said.
    tls = (b"x-paddock-tls", TLS_SECRET.encode())
    origin = arrive(tls, (b"x-forwarded-for", b"127.0.0.1, 203.0.113.9"))
    assert (origin.address, origin.local, origin.opens_run_keys) == ("203.0.113.9", False, False)
    assert (seen["client"][0], seen["scheme"]) == ("203.0.113.9", "https")


def test_a_new_secret_needs_no_restart_and_the_old_one_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paddock_mlflow import proxies

    now = [100.0]
    monkeypatch.setattr(proxies.time, "monotonic", lambda: now[0])
    file = tmp_path / "gate_secret"
    file.write_text("first")
    secret = proxies.ProxySecret(file)
    assert secret.accepts(b"first")
    assert not secret.accepts(b"second")
    assert not secret.accepts(b"")

    # As `secrets` does it: a new file in the old one's place.
    (tmp_path / "new").write_text("second")
    (tmp_path / "new").replace(file)
    assert secret.accepts(b"second")
    assert secret.accepts(b"first")
    now[0] += proxies.OVERLAP_SECONDS + 1
    assert secret.accepts(b"second")
    assert not secret.accepts(b"first")

    # Away for a moment: what was known goes on.
    file.unlink()
    assert secret.accepts(b"second")
    assert not secret.accepts(b"")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "gate_secret"),
        ({"BIND_ADDRESS": "0.0.0.0", "RUN_KEYS_NEED_GATE": "false"}, "expected BIND_ADDRESS"),
    ],
)
def test_a_server_that_would_be_open_does_not_start(
    settings_environment: Path, tmp_path: Path, given: dict[str, str], expected: str
) -> None:
    for name in ("admin_password", "flask_secret_key", "internal_token", "kek_passphrase"):
        (tmp_path / name).write_text("a-secret-of-the-tests")
    done = subprocess.run(
        [sys.executable, "-m", "paddock_mlflow", "serve"],
        env=os.environ
        | {
            "PYTHONPATH": str(Path(__file__).resolve().parents[3] / "mlflow"),
            "SECRETS_DIR": str(tmp_path),
            "LISTEN_HOST": "127.0.0.1",
            "LISTEN_PORT": "0",
        }
        | given,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
