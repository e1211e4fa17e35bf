"""What an agent's container reaches: the gate's few routes, and nothing else."""

import json
import subprocess
from collections.abc import Iterator

import pytest
from stack_under_test import StackUnderTest

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
    # Traces go by the stack's identity, whatever the agent's key: what is refused is the batch, which is none.
    otlp = ["--header", "Content-Type: application/x-protobuf", "--data-binary", ""]
    experiment = ["--header", f"x-mlflow-experiment-id: {stack.experiment_id}"]
    status, _ = curl(agent, *otlp, *experiment, "--header", header, "http://gate:8080/v1/traces")
    assert status not in (0, 401, 403, 404, 502)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/health",
        "/api/2.0/mlflow/experiments/search",
        "/ajax-api/3.0/mlflow/gateway/secrets/list",
        "/gateway/mlflow/v1/models",
        "/gateway/mlflow/v1/chat/completions/../../../../api/2.0/mlflow/experiments/search",
        "/gateway/%2e%2e/api/2.0/mlflow/experiments/search",
        "/GATEWAY/mlflow/v1/chat/completions",
        "/V1/traces",
        "/v1/traces/",
        "/v1/traces/x",
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
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://gate:8080",
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-mlflow-experiment-id={stack.experiment_id}",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
    }
