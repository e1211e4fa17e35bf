"""The gateway as real clients meet it: MLflow with the plugin, its jobs and the demo model, each a process of its own.

They run from the environment that has MLflow's packages (`PADDOCK_TEST_STACK_PYTHON`), the clients from another: a
provider's SDK beside MLflow would change what MLflow does.
"""

import json
import os
import secrets
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = Path(__file__).parent / "scenarios"
GATEWAY = "/api/3.0/mlflow/gateway"
KEYS = "/api/3.0/paddock/keys"
ROUTE_TIMEOUT_SECONDS = 3
START_SECONDS = 120
type Body = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """A model of the demo model's server in MLflow's words. `dead` has an address where nobody listens."""

    name: str
    provider: str = "openai"
    dead: bool = False


@dataclass
class Gateway:
    """A gateway that is up."""

    url: str
    admin_password: str
    model_url: str
    model_key: str
    dead_url: str
    folder: Path
    secret_pattern: str = ""
    _secrets: dict[tuple[str, bool], str] = field(default_factory=dict)
    _models: dict[Model, str] = field(default_factory=dict)
    _endpoints: dict[str, str] = field(default_factory=dict)
    _keys: dict[tuple[str, ...], str] = field(default_factory=dict)

    def admin(self, method: str, path: str, expect: int = 200, **arguments: Any) -> Any:
        """A call of the REST API as its administrator."""
        answer = httpx.request(
            method, self.url + path, auth=("admin", self.admin_password), timeout=30, **arguments
        )
        assert answer.status_code == expect, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json() if answer.content else {}

    def endpoint(self, name: str, *models: Model) -> str:
        """An endpoint on the first model, with the others to fall back to; made where it is missing. Returns its name."""
        if name not in self._endpoints:
            links = [
                {
                    "model_definition_id": self._model(model),
                    "weight": 1.0,
                    **(
                        {"linkage_type": "FALLBACK", "fallback_order": order - 1}
                        if order
                        else {"linkage_type": "PRIMARY"}
                    ),
                }
                for order, model in enumerate(models)
            ]
            body: Body = {"name": name, "usage_tracking": True, "model_configs": links}
            if len(models) > 1:
                body["fallback_config"] = {"strategy": "SEQUENTIAL", "max_attempts": len(models) - 1}
            made = self.admin("POST", f"{GATEWAY}/endpoints/create", json=body)
            self._endpoints[name] = made["endpoint"]["endpoint_id"]
        return name

    def endpoint_id(self, name: str) -> str:
        """The id of an endpoint that `endpoint` made."""
        return self._endpoints[name]

    def make_free(self) -> None:
        """Declare a price for the demo model and for every scenario, in both protocols: a model without one is refused.

        Returns once the server knows.
        """
        names = ["demo", *(f"scenario/{path.stem}" for path in sorted(SCENARIOS.glob("*.yaml")))]
        for provider in ("openai", "anthropic"):
            for name in names:
                if (provider, name) != ("openai", "demo"):
                    body = {"kind": provider, "model": name, "input": 0, "output": 0}
                    self.admin("PUT", "/api/3.0/paddock/prices", json=body)
        last = self.endpoint("priced-last", Model(f"{names[-1]}", "anthropic"), Model("demo"))
        eventually(lambda: self.chat(last).status_code == 200, 30, "the declared prices to count")

    def key(self, *endpoints: str, **limits: Any) -> str:
        """A key that opens these endpoints, with a budget and rates as the admin API takes them."""
        if not limits and endpoints in self._keys:
            return self._keys[endpoints]
        body = {"user": "client", "endpoints": list(endpoints), "experiments": [], **limits}
        text: str = self.admin("POST", KEYS, json=body)["key"]
        if not limits:
            self._keys[endpoints] = text
        return text

    def adopt(self, name: str, endpoint_id: str) -> None:
        """Know an endpoint that the set-up made."""
        self._endpoints[name] = endpoint_id

    def grant(self, user: str, endpoint: str) -> None:
        """Let an MLflow user call an endpoint."""
        body = {
            "username": user,
            "resource_type": "gateway_endpoint",
            "resource_id": self._endpoints[endpoint],
            "permission": "USE",
        }
        self.admin("POST", "/api/3.0/mlflow/users/permissions/grant", json=body)

    def guard(
        self, endpoint: str, scorer: Body, stage: str, action: str, name: str, order: int = 1
    ) -> Callable[[], None]:
        """Put a guardrail on an endpoint, by MLflow's own REST API; returns what takes it away.

        Args:
            scorer: a serialised one.
        """
        found = self.admin("POST", "/api/2.0/mlflow/experiments/search", json={"max_results": 100})[
            "experiments"
        ]
        experiment = next(one["experiment_id"] for one in found if one["name"] == "agents")
        registered = self.admin(
            "POST",
            "/api/3.0/mlflow/scorers/register",
            json={
                "experiment_id": experiment,
                "name": scorer["name"],
                "serialized_scorer": json.dumps(scorer),
            },
        )
        body = {
            "name": name,
            "scorer_id": registered["scorer_id"],
            "scorer_version": registered["version"],
            "stage": stage,
            "action": action,
        }
        made = self.admin("POST", f"{GATEWAY}/guardrails/create", json=body)["guardrail"]
        body = {"endpoint_id": self._endpoints[endpoint], "guardrail_id": made["guardrail_id"]}
        added = {**body, "execution_order": order}
        self.admin("POST", f"{GATEWAY}/guardrails/add-to-endpoint", json=added)
        return lambda: self.admin("DELETE", f"{GATEWAY}/guardrails/remove-from-endpoint", json=body)

    @cached_property
    def secret_scorer(self) -> Body:
        """The scorer that finds keys, as MLflow stores it."""
        return {
            "name": "secret_detection",
            "mlflow_version": "3.17.2",
            "serialization_version": 1,
            "builtin_scorer_class": "RegexMatch",
            "builtin_scorer_pydantic_data": {"name": "secret_detection", "pattern": self.secret_pattern},
        }

    def call(self, path: str, body: Body, key: str, **headers: str) -> httpx.Response:
        """A bare call of the gateway: no library between that would try again."""
        return httpx.post(
            f"{self.url}/gateway/{path}",
            json=body,
            headers={"authorization": f"Bearer {key}", **headers},
            timeout=30,
        )

    def chat(self, endpoint: str, text: str = "Hello!", **more: Any) -> httpx.Response:
        """A chat completion on the unified route."""
        body = {"model": endpoint, "messages": [{"role": "user", "content": text}], **more}
        return self.call("mlflow/v1/chat/completions", body, self.key(endpoint))

    def upstream(self) -> list[Body]:
        """What the providers were asked since `forget`, oldest first."""
        return httpx.get(f"{self.model_url}/calls", headers=self._model_headers()).json()

    def forget(self) -> None:
        """Let the providers forget what they were asked, and how often they failed."""
        httpx.delete(f"{self.model_url}/calls", headers=self._model_headers())

    def rows(self, endpoint: str) -> list[Body]:
        """The ledger's rows of an endpoint, oldest first; amounts in 1e-10 USD, as SQLite holds them."""
        query = "SELECT * FROM paddock_calls WHERE endpoint_name = ? ORDER BY started_at"
        with closing(sqlite3.connect(f"file:{self.folder}/mlflow.db?mode=ro", uri=True)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(query, (endpoint,))]

    def last_row(self, endpoint: str) -> Body:
        """The row of an endpoint's last call, once it is settled: that is a moment after its answer."""

        def settled() -> Body | None:
            row = self.rows(endpoint)[-1]
            return row if row["ended_at"] else None

        found: Body = eventually(settled, 10, f"the settlement of the last call of {endpoint}")
        return found

    def traces(self, endpoint: str, count: int = 1) -> list[Body]:
        """The usage traces of an endpoint, with their spans, once there are so many; the newest first."""
        experiment = self.admin(
            "GET",
            "/api/2.0/mlflow/experiments/get-by-name",
            params={"experiment_name": f"gateway/{endpoint}"},
        )["experiment"]["experiment_id"]
        place = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
        body = {"locations": [place], "max_results": 100}

        def found() -> list[Body]:
            listed = self.admin("POST", "/api/3.0/mlflow/traces/search", json=body).get("traces", [])
            return listed if len(listed) >= count else []

        infos = eventually(found, 30, f"{count} usage trace(s) of {endpoint}")
        return [
            self.admin("GET", "/api/3.0/mlflow/traces/get", params={"trace_id": info["trace_id"]})["trace"]
            for info in infos
        ]

    def logs(self) -> str:
        """The ends of the processes' logs."""
        return "\n".join(
            f"--- {path.stem}\n{path.read_text(errors='replace')[-4000:]}"
            for path in sorted(self.folder.glob("*.log"))
        )

    def _model_headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.model_key}"}

    def _model(self, model: Model) -> str:
        if model not in self._models:
            secret = (model.provider, model.dead)
            if secret not in self._secrets:
                base = self.dead_url if model.dead else self.model_url
                body = {
                    "secret_name": f"{model.provider}-{'dead' if model.dead else 'alive'}",
                    "secret_value": {"api_key": self.model_key},
                    "provider": model.provider,
                    "auth_config": {"api_base": f"{base}/v1"},
                }
                made = self.admin("POST", f"{GATEWAY}/secrets/create", json=body)
                self._secrets[secret] = made["secret"]["secret_id"]
            body = {
                "name": f"{model.provider}-{model.name}{'-dead' if model.dead else ''}".replace("/", "-"),
                "secret_id": self._secrets[secret],
                "provider": model.provider,
                "model_name": model.name,
            }
            made = self.admin("POST", f"{GATEWAY}/model-definitions/create", json=body)
            self._models[model] = made["model_definition"]["model_definition_id"]
        return self._models[model]


def eventually(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true value of a condition. Raises AssertionError where there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.2)
    return value


@contextmanager
def running(folder: Path, python: str) -> Iterator[Gateway]:
    """Start everything in a folder; ends with the `with`."""
    port, model_port, dead_port = (_free_port() for _ in range(3))
    secret_folder = folder / "secrets"
    secret_folder.mkdir()
    names = (
        "admin_password",
        "agent_key",
        "internal_token",
        "kek_passphrase",
        "flask_secret_key",
        "demo_api_key",
    )
    values = {name: secrets.token_urlsafe(24) for name in names}
    for name, value in values.items():
        (secret_folder / name).write_text(value)
    model_url, dead_url = (f"http://127.0.0.1:{one}" for one in (model_port, dead_port))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", str(folder)),
        "PYTHONPATH": f"{ROOT / 'mlflow'}{os.pathsep}{ROOT / 'services' / 'demo-model'}",
        "TMPDIR": str(folder),
        "SECRETS_DIR": str(secret_folder),
        "DATABASE_URL": f"sqlite:///{folder}/mlflow.db",
        "AUTH_DATABASE_URL": f"sqlite:///{folder}/auth.db",
        "ARTIFACTS_DESTINATION": str(folder / "artifacts"),
        "LISTEN_HOST": "127.0.0.1",
        "LISTEN_PORT": str(port),
        "MLFLOW_URL": f"http://127.0.0.1:{port}",
        "RUN_KEYS_NEED_GATE": "false",
        "DEMO_MODEL_URL": f"{model_url}/v1",
        "HEARTBEAT_FILE": str(folder / "heartbeat"),
        "HANDOVER_DIR": str(folder / "handover"),
        "MLFLOW_GATEWAY_ROUTE_TIMEOUT_SECONDS": str(ROUTE_TIMEOUT_SECONDS),
        "DEMO_LISTEN_PORT": str(model_port),
        "DEMO_API_KEY": values["demo_api_key"],
        "DEMO_SCENARIOS": str(SCENARIOS),
        "DEMO_RECORD": "true",
    }
    # Named like a provider of the operator's own, so that the gateway may try its private address.
    serving = environment | {"LLM_BASE_URL": f"{dead_url}/v1"}
    gateway = Gateway(
        f"http://127.0.0.1:{port}",
        values["admin_password"],
        model_url,
        values["demo_api_key"],
        dead_url,
        folder,
    )
    asked = "from paddock_mlflow.guardrails.scorers import secret_pattern; print(secret_pattern(), end='')"
    gateway.secret_pattern = subprocess.check_output(
        [python, "-c", asked], env=environment, cwd=folder, text=True
    )
    started: list[subprocess.Popen[bytes]] = []

    def start(name: str, variables: dict[str, str], *arguments: str) -> "subprocess.Popen[bytes]":
        with open(folder / f"{name}.log", "wb") as log:
            process = subprocess.Popen(
                [python, "-m", *arguments], env=variables, cwd=folder, stdout=log, stderr=log
            )
        started.append(process)
        return process

    try:
        start("model", environment, "paddock_demo_model")
        assert start("migrate", environment, "paddock_mlflow", "migrate").wait(START_SECONDS) == 0, (
            gateway.logs()
        )
        start("serve", serving, "paddock_mlflow", "serve")
        start("jobs", environment, "paddock_mlflow", "jobs")
        _wait(f"{gateway.url}/health", gateway)
        assert start("setup", environment, "paddock_mlflow", "setup").wait(START_SECONDS) == 0, gateway.logs()
        gateway.make_free()
        yield gateway
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(url: str, gateway: Gateway) -> None:
    def answers() -> bool:
        try:
            return httpx.get(url, timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        eventually(answers, START_SECONDS, url)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{gateway.logs()}") from None


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port
