"""Two servers with two workers each, on PostgreSQL: what they promise together, and when they are stopped."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import provider_answers as answers
import psutil
import pytest
from gateway_calls import CHAT, HELLO, Gateway
from identities import ADMIN, SECRETS
from postgres import ROOT
from scripted_provider import Answer, scripted_provider
from sqlalchemy import create_engine, text

from paddock_mlflow.ledger.types import Usage

READY_SECONDS = 300
TOKENS = 16_000
USAGE = Usage(input=100, output=TOKENS)
COST = Decimal("0.009615")
"""Of USAGE on gpt-4o-mini: 100 × $0.15 and 16000 × $0.60 a million."""


@dataclass
class Process:
    """A server, reached over HTTP as the tests' own server is."""

    url: str
    process: "subprocess.Popen[bytes]"

    def request(self, method: str, path: str, **given: Any) -> httpx.Response:
        return httpx.request(method, self.url + path, timeout=60, **given)

    def post(self, path: str, **given: Any) -> httpx.Response:
        return self.request("POST", path, **given)

    @property
    def http(self) -> "Process":
        return self

    def kill(self) -> None:
        """As a power cut does."""
        for process in (*psutil.Process(self.process.pid).children(recursive=True), self.process):
            process.kill()
        self.process.wait()


@dataclass
class Pair:
    """Both servers, the provider behind them, and their database."""

    servers: list[Process]
    gateway: Gateway
    url: str

    def sql(self, statement: str, **values: Any) -> Any:
        engine = create_engine(self.url)
        with engine.connect() as connection:
            row = connection.execute(text(statement), values).mappings().first()
        engine.dispose()
        return row


def start(folder: Path, database: str, provider: str) -> Process:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = {
        "LISTEN_HOST": "127.0.0.1",
        "LISTEN_PORT": str(port),
        "WORKERS": "2",
        "MLFLOW_URL": f"http://127.0.0.1:{port}",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "paddock_mlflow", "serve"],
        env=environment(folder, database, provider) | given,
        stdout=(folder / f"{port}.log").open("wb"),
        stderr=subprocess.STDOUT,
    )
    return Process(f"http://127.0.0.1:{port}", process)


def environment(folder: Path, database: str, provider: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "_MLFLOW_"))}
    return kept | {
        "PYTHONPATH": str(ROOT / "mlflow"),
        "SECRETS_DIR": str(folder / "secrets"),
        "DATABASE_URL": database,
        "AUTH_DATABASE_URL": f"sqlite:///{folder}/auth.db",
        "ARTIFACTS_DESTINATION": str(folder / "artifacts"),
        "DEMO_MODEL_URL": provider,
    }


@pytest.fixture(scope="module")
def pair(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("servers")
    (folder / "secrets").mkdir()
    for name, value in SECRETS.items():
        (folder / "secrets" / name).write_text(value)
    with scripted_provider() as provider:
        migrate = [sys.executable, "-m", "paddock_mlflow", "migrate"]
        subprocess.run(migrate, env=environment(folder, postgres_url, provider.url), check=True)
        servers = [start(folder, postgres_url, provider.url) for _ in range(2)]
        try:
            for server in servers:
                wait_for(server, folder)
            yield Pair(servers, Gateway(servers[0], provider), postgres_url)
        finally:
            for server in servers:
                if server.process.poll() is None:
                    server.kill()


def wait_for(server: Process, folder: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            if server.request("GET", "/health").status_code == 200:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > deadline or server.process.poll() is not None:
            logs = "\n".join(path.read_text()[-3000:] for path in folder.glob("*.log"))
            raise TimeoutError(f"{server.url} was not ready after {READY_SECONDS} s:\n{logs}")
        time.sleep(0.2)


def call(server: Process, endpoint: str, *, stream: bool = False) -> httpx.Response:
    body = {"model": endpoint, "messages": HELLO, "max_tokens": TOKENS, "stream": stream}
    return server.post(CHAT, json=body, auth=ADMIN)


def answer(path: str, body: dict[str, Any]) -> Answer:
    """After a moment, so that calls are in flight together."""
    time.sleep(0.05)
    if body.get("stream"):
        return Answer(answers.chat_stream("gpt-4o-mini", USAGE))
    return Answer(answers.chat("gpt-4o-mini", USAGE))


def test_spend_comes_up_to_the_limit_and_never_over_it(pair: Pair) -> None:
    """32 callers, streaming and not, until each is told that nothing is left."""
    gateway = pair.gateway
    gateway.provider.answer = answer
    name = gateway.endpoint("openai/gpt-4o-mini")
    target = pair.sql("SELECT endpoint_id FROM endpoints WHERE name = :name", name=name)["endpoint_id"]
    policy = {
        "budget_unit": "USD",
        "budget_amount": float(COST * Decimal("20.5")),
        "duration": {"unit": "DAYS", "value": 1},
        "target_scope": "ENDPOINT",
        "target_value": target,
        "budget_action": "REJECT",
    }
    made = gateway.admin("budgets/create", policy)["budget_policy"]["budget_policy_id"]
    told: Counter[str] = Counter()

    def caller(number: int) -> None:
        while True:
            got = call(pair.servers[number % 2], name, stream=bool(number // 2 % 2))
            kind = "ok" if got.status_code == 200 else got.json()["error"]["code"]
            told[kind] += 1
            if kind == "rate_limit_exceeded":
                # It would fit once calls in flight are settled.
                time.sleep(0.1)
            elif kind != "ok":
                return

    with ThreadPoolExecutor(32) as pool:
        for _ in pool.map(caller, range(32)):
            pass
    assert told["ok"] == 20
    assert set(told) <= {"ok", "insufficient_quota", "rate_limit_exceeded"}
    assert len(gateway.provider.requests) == 20
    spent = pair.sql("SELECT sum(cost_usd) AS usd FROM paddock_calls WHERE endpoint_id = :id", id=target)
    assert spent["usd"] == 20 * COST
    shown = gateway.admin("budgets/windows", {}, "GET")["windows"]
    window = next(one for one in shown if one["budget_policy_id"] == made)
    assert Decimal(str(window["current_spend"])) == 20 * COST

    # An edit by one server acts on the other one at once, and so does the end of the policy.
    raised = {"budget_policy_id": made, **policy, "budget_amount": float(COST * Decimal("21.5"))}
    gateway.admin("budgets/update", raised)
    assert call(pair.servers[1], name).status_code == 200
    assert call(pair.servers[1], name).status_code == 429
    gateway.admin("budgets/delete", {"budget_policy_id": made}, "DELETE")
    assert call(pair.servers[1], name).status_code == 200


def test_a_server_that_is_stopped_finishes_its_calls_and_one_that_is_killed_keeps_them_reserved(
    pair: Pair,
) -> None:
    gateway = pair.gateway
    name = gateway.endpoint("openai/gpt-4o-mini")
    arrived, go_on = threading.Semaphore(0), threading.Event()

    def held(path: str, body: dict[str, Any]) -> Answer:
        arrived.release()
        go_on.wait(20)
        return answer(path, body)

    gateway.provider.answer = held
    with ThreadPoolExecutor(2) as pool:
        stopped = pool.submit(call, pair.servers[1], name)
        assert arrived.acquire(timeout=20)
        pair.servers[1].process.send_signal(signal.SIGTERM)
        killed = pool.submit(call, pair.servers[0], name)
        assert arrived.acquire(timeout=20)
        pair.servers[0].kill()
        with pytest.raises(httpx.TransportError):
            killed.result(timeout=20)
        go_on.set()
        assert stopped.result(timeout=30).status_code == 200
    assert pair.servers[1].process.wait(timeout=30) in (0, -signal.SIGTERM)
    count = "SELECT count(*) FILTER (WHERE {}) AS calls FROM paddock_calls WHERE endpoint_name = :name"
    assert pair.sql(count.format("outcome = 'ok' AND cost_usd > 0"), name=name)["calls"] == 1
    # Nobody is left to settle it: its bound counts until the lease ends, and for good then.
    assert pair.sql(count.format("ended_at IS NULL AND reserved_usd > 0"), name=name)["calls"] == 1
