"""What an agent's container reaches: the gate's few routes, and nothing else."""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import raw_http as raw
from raw_http import Request
from stack_under_test import StackUnderTest

KEYS = "/api/3.0/paddock/keys"
CHAT = "http://gate:8080/gateway/mlflow/v1/chat/completions"
HELLO = {"model": "coder", "messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def agent(stack: StackUnderTest) -> Iterator[str]:
    """A container of the agent's image and network that waits; its id."""
    name = f"{stack.project}-probe"
    stack.agent("exec", "sleep", "600", options=("--detach", "--name", name))
    yield name
    subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=True)


def curl(agent: str, *arguments: str, seconds: int = 20) -> tuple[int, str]:
    """HTTP status (0: no answer) and body."""
    done = subprocess.run(
        [
            "docker",
            "exec",
            agent,
            "curl",
            "--silent",
            "--max-time",
            str(seconds),
            "--write-out",
            "\n%{http_code}",
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds + 30,
    )
    body, _, status = done.stdout.rpartition("\n")
    return int(status or 0), body


def post(agent: str, url: str, body: object, *arguments: str) -> tuple[int, str]:
    return curl(
        agent, "--header", "Content-Type: application/json", "--data", json.dumps(body), *arguments, url
    )


def test_models_are_reached_without_any_key(agent: str) -> None:
    status, body = post(agent, CHAT, HELLO)
    assert status == 200
    assert json.loads(body)["choices"]


def test_a_claimed_identity_counts_for_nothing(agent: str, stack: StackUnderTest) -> None:
    """With the administrator's password in hand, the judges' endpoint stays closed: the gate drops it."""
    for header in ("Authorization", "X-MLflow-Authorization", "x-mlflow-authorization"):
        basic = ["--user", f"admin:{stack.password}"] if header == "Authorization" else []
        status, body = post(
            agent, CHAT, HELLO | {"model": "judge"}, *basic, "--header", f"{header}: Basic YWRtaW46eA=="
        )
        assert (status, json.loads(body)["error"]["type"]) == (404, "endpoint_not_found"), header


def test_a_key_goes_on_and_is_all_that_counts(agent: str, stack: StackUnderTest) -> None:
    wanted = {"user": "gate", "endpoints": ["judge"], "experiments": []}
    key = stack.api("POST", "/api/3.0/paddock/keys", json=wanted)
    for header in (
        f"Authorization: Bearer {key['key']}",
        f"x-api-key: {key['key']}",
        f"api-key: {key['key']}",
        f"x-goog-api-key: {key['key']}",
    ):
        # The stack's own key opens the one and not the other; this one the other way round.
        assert post(agent, CHAT, HELLO | {"model": "judge"}, "--header", header)[0] == 200, header
        assert post(agent, CHAT, HELLO, "--header", header)[0] == 404, header

    stack.api("POST", f"/api/3.0/paddock/keys/{key['id']}/revoke")
    status, body = post(agent, CHAT, HELLO | {"model": "judge"}, "--header", header)
    assert (status, json.loads(body)["error"]["code"]) == (401, "invalid_api_key")
    assert "revoked" in body

    # Not a key of our form: as if there were none.
    assert post(agent, CHAT, HELLO, "--header", "Authorization: Bearer sk-of-a-provider")[0] == 200


RUN = {"user": "agent", "endpoints": ["coder"], "experiments": []}


@pytest.fixture
def run_key(stack: StackUnderTest) -> Iterator[dict[str, Any]]:
    """A key as `./paddock run` makes it; its budget holds short answers, and not the longest that the model can give."""
    budget = {"usd": "0.005"}
    wanted = RUN | {"run_id": "run-of-the-test", "budget": budget, "expires_in": 3600}
    made = stack.api("POST", KEYS, json=wanted)
    yield made
    stack.api("POST", f"{KEYS}/{made['id']}/revoke")


def bearer(key: dict[str, Any]) -> tuple[str, str]:
    return ("--header", f"Authorization: Bearer {key['key']}")


def error(answer: tuple[int, str]) -> tuple[int, str]:
    status, body = answer
    return status, json.loads(body)["error"]["code"]


def test_a_runs_key_opens_its_endpoint_alone_and_ends_with_its_run(
    agent: str, stack: StackUnderTest, run_key: dict[str, Any]
) -> None:
    assert post(agent, CHAT, HELLO | {"max_tokens": 10}, *bearer(run_key))[0] == 200
    assert error(post(agent, CHAT, HELLO | {"model": "judge"}, *bearer(run_key))) == (
        404,
        "endpoint_not_found",
    )

    stack.api("POST", f"{KEYS}/{run_key['id']}/revoke")
    answer = post(agent, CHAT, HELLO | {"max_tokens": 10}, *bearer(run_key))
    assert error(answer) == (401, "invalid_api_key")
    assert "revoked" in answer[1]


def test_a_runs_key_spends_no_more_than_its_budget(agent: str, run_key: dict[str, Any]) -> None:
    answer = post(agent, CHAT, HELLO, *bearer(run_key))
    assert error(answer) == (429, "insufficient_quota")
    assert "budget_exceeded" in answer[1]
    assert post(agent, CHAT, HELLO | {"max_tokens": 10}, *bearer(run_key))[0] == 200


def test_a_runs_key_ends_by_itself(agent: str, stack: StackUnderTest) -> None:
    made = stack.api("POST", KEYS, json=RUN | {"run_id": "run-of-the-test", "expires_in": 0.001})
    answer = post(agent, CHAT, HELLO, *bearer(made))
    assert error(answer) == (401, "invalid_api_key")
    assert "expired" in answer[1]


def test_a_runs_key_is_worth_nothing_anywhere_else(stack: StackUnderTest, run_key: dict[str, Any]) -> None:
    """On MLflow's own port, whatever is claimed; the key of a program works there."""
    program = stack.api("POST", KEYS, json=RUN | {"user": "ada"})
    for key, status in ((run_key, 403), (program, 200)):
        for claim in (
            {},
            {"X-Paddock-Gate": "guess"},
            {"X-Forwarded-For": "127.0.0.1", "X-Paddock-Gate": ""},
        ):
            headers = {"Authorization": f"Bearer {key['key']}"} | claim
            answer = httpx.post(
                f"{stack.url}/gateway/mlflow/v1/chat/completions", json=HELLO, headers=headers, timeout=30
            )
            assert answer.status_code == status, (claim, answer.text)
        listed = httpx.get(f"{stack.url}/gateway/mlflow/v1/models", headers=headers, timeout=30)
        assert listed.status_code == status
    stack.api("POST", f"{KEYS}/{program['id']}/revoke")


def test_the_gates_secret_can_be_changed_while_everything_runs(
    agent: str, stack: StackUnderTest, run_key: dict[str, Any]
) -> None:
    def secret() -> str:
        return stack.execute("gate", "cat", "/run/secrets/gate_secret").stdout

    before = secret()
    stack.compose("run", "--rm", "--no-TTY", "--no-deps", "secrets", "rotate-proxies")
    assert secret() not in ("", before)
    assert secret() == stack.execute("mlflow", "cat", "/run/secrets/gate_secret").stdout
    assert post(agent, CHAT, HELLO | {"max_tokens": 10}, *bearer(run_key))[0] == 200


WORST = (
    "/gateway/proxy/coder/../../mlflow/v1/chat/completions",
    "/gateway/proxy/coder/%2e%2e/%2e%2e/mlflow/v1/chat/completions",
    "/gateway/..%2f..%2fapi/2.0/mlflow/experiments/search",
    "/gateway/%252e%252e/api/2.0/mlflow/experiments/search",
    "/gateway/..;/api/2.0/mlflow/experiments/search",
    "http://mlflow:5000/api/2.0/mlflow/experiments/search",
    "//mlflow:5000/api/2.0/mlflow/experiments/search",
)


def test_tricks_with_targets_end_at_the_gate(agent: str) -> None:
    """tests/stack/test_gate_requests.py has many more, and looks at what comes out behind."""
    key = "Authorization: Bearer pdk_" + "a" * 43
    asked = [
        Request(raw.post(target, *more)) for target in WORST for more in ((), (key,), ("X-HTTP-Method: GET",))
    ]
    for answer in raw.send(agent, asked):
        assert answer.status in (400, 404)
        assert b"The gate serves" in answer.body or answer.status == 400


def test_a_call_inside_a_call_never_arrives(agent: str, stack: StackUnderTest) -> None:
    inner = raw.post("/api/3.0/paddock/keys", body=json.dumps(RUN | {"user": "smuggler"}).encode())
    outer = raw.post(
        "/gateway/mlflow/v1/chat/completions",
        "Transfer-Encoding: chunked",
        f"Content-Length: {len(inner) + 5}",
        body=b"0\r\n\r\n" + inner,
    )
    raw.send(agent, [Request(outer)])
    users = {key["user"] for key in stack.api("GET", KEYS)["keys"]}
    assert "smuggler" not in users


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/health",
        "/healthz",
        "/api/2.0/mlflow/experiments/search",
        "/ajax-api/3.0/mlflow/gateway/secrets/list",
        "/gateway/mlflow/v1/models",
        "/gateway/mlflow/v1/chat/completions/../../../../api/2.0/mlflow/experiments/search",
        "/gateway/%2e%2e/api/2.0/mlflow/experiments/search",
        "/GATEWAY/mlflow/v1/chat/completions",
        "/v1/traces",
    ],
)
def test_every_other_path_does_not_exist(agent: str, path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE"):
        status, _ = curl(agent, "--path-as-is", "--request", method, f"http://gate:8080{path}")
        assert status == 404, method


def test_no_other_service_host_or_name_is_reached(agent: str, stack: StackUnderTest) -> None:
    targets = [
        "http://mlflow:5000/health",
        "http://object-store:9000/minio/health/ready",
        "http://demo-model:8000/healthz",
    ]
    for service in ("mlflow", "postgres", "object-store", "demo-model"):
        networks = stack.inspect(service)["NetworkSettings"]["Networks"]
        port = {"mlflow": 5000, "postgres": 5432, "object-store": 9000, "demo-model": 8000}[service]
        targets += [f"http://{network['IPAddress']}:{port}/" for network in networks.values()]
    targets += ["http://169.254.169.254/", "http://host.docker.internal/"]
    reached = [target for target in targets if curl(agent, target, seconds=3)[0]]
    assert not reached


def test_the_container_knows_no_secret(agent: str, stack: StackUnderTest) -> None:
    environment = subprocess.run(
        ["docker", "exec", agent, "env"], capture_output=True, text=True, check=True
    ).stdout + json.dumps(
        subprocess.run(["docker", "inspect", agent], capture_output=True, text=True, check=True).stdout
    )
    for secret in (stack.agent_key, stack.password):
        assert secret not in environment


def test_exactly_three_otel_variables_are_preloaded(stack: StackUnderTest) -> None:
    told = stack.agent("exec", "env").stdout
    variables = dict(line.split("=", 1) for line in told.splitlines() if line.startswith("OTEL_"))
    assert variables == {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-mlflow-experiment-id={stack.experiment_id}",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
    }
