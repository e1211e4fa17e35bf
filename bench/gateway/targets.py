"""What is measured: how each gateway is started, told of the provider, and asked.

Every server has one worker, listens on loopback, and forwards to the same instant provider. What a default installation
does is kept, but for what would make a peer slower than it need be: stock MLflow runs without its job processes, LiteLLM
without a database and with its logging off. Telemetry is off everywhere.
"""

import base64
import json
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import processes
from postgres import Postgres
from stack import ROOT

MODEL = "gpt-4o-mini"
"""In MLflow's price catalogue, so that costs and budgets have something to count."""

MESSAGES = [
    {"role": "system", "content": "You are a careful assistant."},
    {"role": "user", "content": "Count to twenty in words, please, and stop there."},
]
GATEWAY = "/api/3.0/mlflow/gateway"


@dataclass
class Target:
    """A gateway, or one way of using it.

    `process` is the tree whose CPU and memory count as the server's; `beside` are counted apart. `arrived` gives the
    number of traces that can be read, for a target that writes one a call.
    """

    name: str
    url: str
    process: processes.Server
    headers: dict[str, str] = field(default_factory=dict)
    model: str = MODEL
    beside: dict[str, processes.Server] = field(default_factory=dict)
    arrived: Callable[[], int] | None = None
    sent: int = 0

    def order(
        self, concurrency: int, stream: bool, warmup: float, seconds: float, at_least: int
    ) -> dict[str, Any]:
        """What the load generator is told."""
        body: dict[str, Any] = {"model": self.model, "messages": MESSAGES, "max_tokens": 64}
        if stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        return {
            "url": self.url,
            "headers": self.headers,
            "body": body,
            "stream": stream,
            "concurrency": concurrency,
            "warmup_seconds": warmup,
            "seconds": seconds,
            "at_least": at_least,
        }


class Provider:
    """The instant provider, with its counts."""

    def __init__(self, tool: Path, folder: Path) -> None:
        port = processes.free_port()
        self.address = f"http://127.0.0.1:{port}"
        self.base = f"{self.address}/v1"
        self.server = processes.Server(
            "provider", [tool, "provider", f"127.0.0.1:{port}"], processes.variables(), folder
        )
        self.server.wait(answers(f"{self.address}/stats"))

    def counts(self) -> tuple[int, int]:
        """Connections and requests so far."""
        told = httpx.get(f"{self.address}/stats").json()
        return told["connections"] - 1, told["requests"]


def answers(url: str) -> Callable[[], bool]:
    """Whether an address answers with success, as a function."""

    def probe() -> bool:
        try:
            return httpx.get(url, timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    return probe


def direct(provider: Provider) -> list[Target]:
    """No gateway: what the provider and the load generator come to by themselves."""
    return [Target("direct", f"{provider.base}/chat/completions", provider.server)]


def portkey(folder: Path, modules: Path, provider: Provider) -> list[Target]:
    """Portkey's gateway: no authentication, the provider's address in a header of each request.

    Its package allows any 1.x of @hono/node-server; with the newest every stream is answered with 500 (TypeError:
    immutable), so package.json holds the oldest that it allows.
    """
    port = processes.free_port()
    start = modules / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    server = processes.Server(
        "portkey",
        ["node", start, "--headless", f"--port={port}"],
        # It refuses private addresses of providers but for those that are named.
        processes.variables({"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}),
        folder,
    )
    server.wait(answers(f"http://127.0.0.1:{port}/"))
    headers = {
        "Authorization": "Bearer none",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": provider.base,
    }
    return [Target("Portkey", f"http://127.0.0.1:{port}/v1/chat/completions", server, headers)]


def litellm(folder: Path, python: Path, provider: Provider) -> list[Target]:
    """LiteLLM's proxy: one strong master key, no database."""
    port, key = processes.free_port(), "sk-" + secrets.token_urlsafe(32)
    config = {
        "model_list": [
            {
                "model_name": MODEL,
                "litellm_params": {
                    "model": f"openai/{MODEL}",
                    "api_base": provider.base,
                    "api_key": "none",
                },
            }
        ],
        "litellm_settings": {"telemetry": False, "set_verbose": False},
        "general_settings": {"master_key": key},
    }
    path = folder / "litellm.json"
    path.write_text(json.dumps(config))
    path.chmod(0o600)
    server = processes.Server(
        "litellm",
        [
            *[python, "-c", "from litellm import run_server; run_server()"],
            *["--config", path, "--host", "127.0.0.1", "--port", port, "--num_workers", "1"],
        ],
        processes.variables(
            {
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "LITELLM_MODE": "PRODUCTION",
                "LITELLM_LOG": "ERROR",
                "DO_NOT_TRACK": "1",
            }
        ),
        folder,
    )
    server.wait(answers(f"http://127.0.0.1:{port}/health/liveliness"))
    headers = {"Authorization": f"Bearer {key}"}
    return [Target("LiteLLM", f"http://127.0.0.1:{port}/v1/chat/completions", server, headers)]


def stock(folder: Path, python: Path, provider: Provider, database: Postgres) -> list[Target]:
    """`mlflow server` of the same release and packages, without authentication."""
    port = processes.free_port()
    address = f"http://127.0.0.1:{port}"
    server = processes.Server(
        "stock",
        [
            *[python, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port, "--workers", "1"],
            *["--backend-store-uri", database.url("stock"), "--artifacts-destination", folder / "artifacts"],
            # As `pip install mlflow` runs: uvloop and httptools are there because Paddock's lock has them.
            *["--uvicorn-opts", "--loop asyncio --http h11 --no-access-log"],
        ],
        processes.variables(
            {
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "MLFLOW_CRYPTO_KEK_PASSPHRASE": secrets.token_hex(16),
                "MLFLOW_GATEWAY_API_BASE_ALLOWED_SCHEMES": "http,https",
                "MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS": "true",
            }
        ),
        folder,
    )
    server.wait(answers(f"{address}/health"))
    api = Api(address)
    experiments = {name: api.endpoint(name, tracked, provider.base) for name, tracked in ENDPOINTS.items()}
    return _mlflow_targets("stock MLflow", address, server, {}, experiments, database, "stock", {})


def paddock(folder: Path, python: Path, provider: Provider, database: Postgres) -> list[Target]:
    """Paddock's server and its job process: a key in each call, and a budget that rejects."""
    port = processes.free_port()
    address = f"http://127.0.0.1:{port}"
    kept = folder / "secrets"
    kept.mkdir(mode=0o700)
    given = {
        name: secrets.token_urlsafe(32)
        for name in ("admin_password", "agent_key", "internal_token", "kek_passphrase", "flask_secret_key")
    }
    for name, value in {**given, "llm_api_key": "none"}.items():
        (kept / name).write_text(value)
    environment = processes.variables(
        {
            "PYTHONPATH": str(ROOT / "mlflow"),
            "SECRETS_DIR": str(kept),
            "TMPDIR": str(folder),
            "DATABASE_URL": database.url("paddock"),
            "AUTH_DATABASE_URL": database.url("paddock_auth"),
            "ARTIFACTS_DESTINATION": str(folder / "paddock-artifacts"),
            "LISTEN_HOST": "127.0.0.1",
            "LISTEN_PORT": str(port),
            "MLFLOW_URL": address,
            "RUN_KEYS_NEED_GATE": "false",
            "LLM_BASE_URL": provider.base,
            "CODER_MODEL": f"custom/{MODEL}",
            "HEARTBEAT_FILE": str(folder / "heartbeat"),
        }
    )
    module = [python, "-m", "paddock_mlflow"]
    processes.once("`paddock_mlflow migrate`", [*module, "migrate"], environment, folder)
    server = processes.Server("paddock", [*module, "serve"], environment, folder)
    jobs = processes.Server("paddock-jobs", [*module, "jobs"], environment, folder)
    server.wait(answers(f"{address}/health"))
    processes.once("`paddock_mlflow setup`", [*module, "setup"], environment, folder)
    api = Api(address, "admin", given["admin_password"])
    experiments = {name: api.endpoint(name, tracked, provider.base) for name, tracked in ENDPOINTS.items()}
    key = api.call("/api/3.0/paddock/keys", {"user": "bench", "endpoints": list(ENDPOINTS)})["key"]
    # Large enough for no call to be refused: what it costs to keep it exact is what counts.
    api.call(
        f"{GATEWAY}/budgets/create",
        {
            "budget_unit": "USD",
            "budget_amount": 100000.0,
            "duration": {"unit": "DAYS", "value": 1},
            "target_scope": "GLOBAL",
            "budget_action": "REJECT",
        },
    )
    headers = {"Authorization": f"Bearer {key}"}
    return _mlflow_targets(
        "Paddock", address, server, headers, experiments, database, "paddock", {"jobs": jobs}
    )


ENDPOINTS = {"bench-plain": False, "bench-tracked": True}


def _mlflow_targets(
    name: str,
    address: str,
    server: processes.Server,
    headers: dict[str, str],
    experiments: dict[str, str],
    database: Postgres,
    store: str,
    beside: dict[str, processes.Server],
) -> list[Target]:
    url = f"{address}/gateway/mlflow/v1/chat/completions"
    beside = beside | {"postgres": database.server}
    written = (
        f"select count(*) from trace_info where experiment_id = {experiments['bench-tracked']}"
        " and status = 'OK' and exists (select from spans where spans.trace_id = trace_info.request_id)"
    )
    return [
        Target(name, url, server, headers, "bench-plain", beside),
        Target(
            f"{name}, tracked",
            url,
            server,
            headers,
            "bench-tracked",
            beside,
            arrived=lambda: int(database.number(store, written)),
        ),
    ]


class Api:
    """The REST API of an MLflow server."""

    def __init__(self, address: str, user: str = "", password: str = "") -> None:
        headers = {}
        if user:
            headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
        self._client = httpx.Client(base_url=address, headers=headers, timeout=30)

    def call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """An answer's document. Raises SystemExit with what was said where it is no success."""
        answer = self._client.request("GET" if body is None else "POST", path, json=body)
        if answer.status_code != 200:
            sys.exit(f"bench: expected {path} to succeed, found {answer.status_code}: {answer.text[:500]}")
        return answer.json()

    def endpoint(self, name: str, tracked: bool, base: str) -> str:
        """Make an endpoint that leads to the provider; returns its experiment, empty where it is not tracked."""
        secret = self.call(
            f"{GATEWAY}/secrets/create",
            {
                "secret_name": f"{name}-key",
                "secret_value": {"api_key": "none"},
                "provider": "openai",
                "auth_config": {"api_base": base},
            },
        )["secret"]
        model = self.call(
            f"{GATEWAY}/model-definitions/create",
            {"name": name, "secret_id": secret["secret_id"], "provider": "openai", "model_name": MODEL},
        )["model_definition"]
        link = {
            "model_definition_id": model["model_definition_id"],
            "linkage_type": "PRIMARY",
            "weight": 1.0,
        }
        made = self.call(
            f"{GATEWAY}/endpoints/create", {"name": name, "usage_tracking": tracked, "model_configs": [link]}
        )["endpoint"]
        return str(made.get("experiment_id") or "")


def settle(target: Target, seconds: float) -> float:
    """Wait until every trace of a target is written.

    Returns:
        seconds that it took from now.

    Raises:
        SystemExit: some are missing in time.
    """
    assert target.arrived
    start = time.monotonic()
    while (found := target.arrived()) < target.sent:
        if time.monotonic() - start > seconds:
            sys.exit(
                f"bench: expected {target.sent} traces of {target.name} in {seconds:.0f} s, found {found};"
                f" {target.process.name} says:\n{target.process.tail()}"
            )
        time.sleep(0.2)
    if found > target.sent:
        sys.exit(
            f"bench: expected {target.sent} traces of {target.name}, found {found}: some are there twice"
        )
    return time.monotonic() - start
