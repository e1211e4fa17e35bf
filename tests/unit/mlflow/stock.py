"""MLflow as it is released, beside the plugin: a server without a line of ours, and a provider that it calls.

The gaps that `docs/upstream.md` lists are shown on it. A test that fails here tells that upstream has closed one.
"""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

ADMIN = ("admin", "a-password-of-the-tests")
GATEWAY = "/api/3.0/mlflow/gateway"
MODEL = "gpt-4o-mini"
INPUT_TOKENS = 1_000_000
CALL_USD = 0.15
"""What one call costs by MLflow's own catalogue: a million input tokens of gpt-4o-mini."""


@dataclass
class Provider:
    """An OpenAI-shaped provider that answers after `delay` seconds with `status`, and keeps what it was asked."""

    delay: float = 0.0
    status: int = 200
    requests: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0
    url: str = ""


@pytest.fixture(scope="module")
def stock_provider() -> Iterator[Provider]:
    """On a free port of loopback, for a module."""
    state = Provider()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            state.connections += 1

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.requests.append(body)
            time.sleep(state.delay)
            message = {"role": "assistant", "content": "done"}
            usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": 0, "total_tokens": INPUT_TOKENS}
            answer = {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1760000000,
                "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": usage,
            }
            failed = {"error": {"message": "expected a field", "type": "invalid_request_error"}}
            text = json.dumps(answer if state.status == 200 else failed).encode()
            self.send_response(state.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()


@dataclass
class Stock:
    """A running `mlflow server` of the pinned release, under its own authentication."""

    url: str
    provider: Provider
    process: "subprocess.Popen[bytes]"
    database: Path

    def kill(self) -> None:
        """End the launcher and its worker as a power cut does; nothing answers afterwards."""
        for process in (*psutil.Process(self.process.pid).children(recursive=True), self.process):
            process.kill()
        self.process.wait()

    def api(self, path: str, body: dict[str, Any] | None = None, **arguments: Any) -> Any:
        """A REST call as its administrator."""
        method = "GET" if body is None else "POST"
        answer = httpx.request(method, self.url + path, json=body, auth=ADMIN, timeout=30, **arguments)
        assert answer.status_code == 200, f"{path}: {answer.status_code} {answer.text[:500]}"
        return answer.json()

    def endpoint(self, name: str, *, base: str = "", model: str = MODEL, tracked: bool = True) -> str:
        """Make an endpoint on the provider, or on another address; returns its id."""
        return self.endpoint_of(name, [self.model(name, base=base, model=model)], tracked=tracked)

    def model(self, name: str, *, base: str = "", model: str = MODEL) -> str:
        """Make a model definition with a secret of its own; returns its id."""
        body = {
            "secret_name": f"{name}-key",
            "secret_value": {"api_key": "any"},
            "provider": "openai",
            "auth_config": {"api_base": base or self.provider.url},
        }
        secret = self.api(f"{GATEWAY}/secrets/create", body)["secret"]["secret_id"]
        body = {"name": name, "secret_id": secret, "provider": "openai", "model_name": model}
        made = self.api(f"{GATEWAY}/model-definitions/create", body)
        return made["model_definition"]["model_definition_id"]

    def endpoint_of(self, name: str, models: list[str], *, tracked: bool = True) -> str:
        """Make an endpoint: the first model is its primary, the others its fallbacks in order."""
        links = [
            {
                "model_definition_id": model,
                "linkage_type": "FALLBACK" if order else "PRIMARY",
                "weight": 1.0,
                **({"fallback_order": order - 1} if order else {}),
            }
            for order, model in enumerate(models)
        ]
        body = {"name": name, "usage_tracking": tracked, "model_configs": links}
        if len(models) > 1:
            body["fallback_config"] = {"strategy": "SEQUENTIAL", "max_attempts": len(models)}
        return self.api(f"{GATEWAY}/endpoints/create", body)["endpoint"]["endpoint_id"]

    def budget(self, endpoint_id: str, usd: float) -> None:
        """Refuse calls of an endpoint from this amount a day on."""
        body = {
            "budget_unit": "USD",
            "budget_amount": usd,
            "duration": {"unit": "DAYS", "value": 1},
            "target_scope": "ENDPOINT",
            "target_value": endpoint_id,
            "budget_action": "REJECT",
        }
        self.api(f"{GATEWAY}/budgets/create", body)

    def chat(self, endpoint: str, path: str = "/gateway/mlflow/v1/chat/completions") -> httpx.Response:
        """One model call as the administrator."""
        body = {"model": endpoint, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5}
        return httpx.post(self.url + path, json=body, auth=ADMIN, timeout=60)


@pytest.fixture(scope="module")
def stock(stock_provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stock]:
    """The server, on SQLite, for a module."""
    folder = tmp_path_factory.mktemp("stock")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "auth.ini"
    config.write_text(
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{folder}/auth.db\nadmin_username = {ADMIN[0]}\nadmin_password = {ADMIN[1]}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    # Nothing of the plugin's environment, which other tests of this process have set.
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    environment = kept | {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "flask-key-of-the-tests",
        "MLFLOW_CRYPTO_KEK_PASSPHRASE": "passphrase-of-the-tests",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_GATEWAY_API_BASE_ALLOWED_SCHEMES": "http,https",
        "MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS": "true",
        "MLFLOW_MODEL_CATALOG_URI": "",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "NO_PROXY": "127.0.0.1",
    }
    log = folder / "server.log"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [
                *[sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1"],
                *["--host", "127.0.0.1", "--port", str(port)],
                *["--backend-store-uri", f"sqlite:///{folder}/mlflow.db"],
                *["--artifacts-destination", str(folder / "artifacts")],
            ],
            env=environment,
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(url, process, log)
        yield Stock(url, stock_provider, process, folder / "mlflow.db")
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        said = log.read_text(errors="replace")[-2000:]
        assert process.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(0.2)
