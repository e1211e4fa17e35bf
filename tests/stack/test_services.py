"""What the services are: hardened, secret, reachable only as they should be."""

import json
import re
from datetime import UTC, datetime

import httpx
import pytest
from stack_under_test import StackUnderTest

ONE_SHOTS = {"secrets", "object-store-setup", "mlflow-migrate", "mlflow-setup"}
SERVICES = {"postgres", "object-store", "mlflow", "mlflow-jobs", "gate", "tls", "collector", "demo-model"}


@pytest.fixture(scope="module")
def config(stack: StackUnderTest) -> dict:
    return json.loads(stack.compose("--profile", "*", "config", "--format", "json").stdout)


def test_everything_runs_and_every_one_shot_succeeded(stack: StackUnderTest) -> None:
    assert stack.containers().keys() == SERVICES | ONE_SHOTS
    for service in SERVICES:
        assert stack.inspect(service)["State"]["Health"]["Status"] == "healthy", service
    for service in ONE_SHOTS:
        state = stack.inspect(service)["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", 0), service


def test_every_service_is_hardened(config: dict) -> None:
    assert config["services"].keys() == SERVICES | ONE_SHOTS | {"agent", "agent-browser", "check", "egress"}
    for name, service in config["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["mem_limit"]) > 0, name
        assert service["pids_limit"] > 0, name
        assert service["logging"]["options"]["max-size"], name
        assert not service.get("privileged"), name
        assert set(service.get("cap_add", [])) <= (
            {"CHOWN", "DAC_OVERRIDE"} if name == "secrets" else set()
        ), name
        sources = [volume.get("source", "") for volume in service.get("volumes", [])]
        assert not any("docker.sock" in source for source in sources), name


def test_every_container_but_the_one_without_a_network_runs_unprivileged(stack: StackUnderTest) -> None:
    for service in SERVICES:
        status = stack.execute(service, "cat", "/proc/1/status").stdout
        assert re.search(r"^Uid:\t(\d+)", status, re.M)[1] != "0", service
        assert re.search(r"^CapEff:\t0+$", status, re.M), service
        assert re.search(r"^NoNewPrivs:\t1$", status, re.M), service
    assert stack.inspect("secrets")["HostConfig"]["NetworkMode"] == "none"


def test_only_the_ui_is_published_and_only_on_loopback(stack: StackUnderTest) -> None:
    published = {
        service: bindings
        for service in SERVICES
        if (
            bindings := [
                b for b in (stack.inspect(service)["HostConfig"]["PortBindings"] or {}).values() if b
            ]
        )
    }
    assert published.keys() == {"mlflow", "tls"}
    addresses = {one["HostIp"] for service in published.values() for bindings in service for one in bindings}
    assert addresses == {"127.0.0.1"}


def test_no_secret_shows_in_inspect_config_or_logs(stack: StackUnderTest) -> None:
    vault = 'for f in /run/secrets/*; do echo "$(basename $f) $(cat $f)"; done'
    secrets = {}
    for service in (
        "mlflow",
        "mlflow-jobs",
        "postgres",
        "object-store",
        "gate",
        "tls",
        "collector",
        "demo-model",
    ):
        lines = stack.execute(service, "bash", "-c", vault).stdout.splitlines()
        secrets |= dict(line.split(" ", 1) for line in lines)
    assert len(secrets) == 16
    shown = stack.compose("--profile", "*", "config").stdout + stack.logs(tail=0)
    for service in SERVICES | ONE_SHOTS:
        shown += json.dumps(stack.inspect(service))
    leaked = [name for name, value in secrets.items() if value in shown]
    assert not leaked


def test_each_service_holds_its_own_secrets_alone(stack: StackUnderTest) -> None:
    held = {
        service: set(stack.execute(service, "ls", "-A", "/run/secrets").stdout.split())
        for service in ("postgres", "object-store", "gate", "tls", "collector", "demo-model", "mlflow-jobs")
    }
    assert held == {
        "postgres": {"postgres_superuser_password", "postgres_mlflow_password"},
        "object-store": {"s3_root_user", "s3_root_password"},
        "gate": {"agent_key", "gate_secret"},
        "tls": {"tls_secret"},
        "collector": {"collector_key"},
        "demo-model": {"demo_api_key"},
        "mlflow-jobs": {"internal_token", "postgres_mlflow_password", "s3_access_key", "s3_secret_key"},
    }


def test_postgres_is_set_up_as_promised(stack: StackUnderTest) -> None:
    def ask(query: str) -> str:
        return stack.execute(
            "postgres",
            "psql",
            "--username=postgres",
            "--no-psqlrc",
            "--tuples-only",
            "--no-align",
            "mlflow",
            "-c",
            query,
        ).stdout.strip()

    assert ask("show server_version").startswith("17.")
    assert ask("show data_checksums") == "on"
    assert ask("show default_toast_compression") == "lz4"
    passwords = ask(
        "select string_agg(distinct left(rolpassword, 14), ',') from pg_authid where rolpassword <> ''"
    )
    assert passwords == "SCRAM-SHA-256$"
    # Over the network the superuser can't log in at all, whatever the password.
    refused = stack.execute(
        "postgres",
        "env",
        "PGPASSWORD=x",
        "psql",
        "-h",
        "127.0.0.1",
        "-U",
        "postgres",
        "-c",
        "select 1",
        check=False,
    )
    assert refused.returncode
    assert "no pg_hba.conf entry" in refused.stderr


def test_a_healthcheck_of_postgres_leaves_nothing_in_its_log(stack: StackUnderTest, config: dict) -> None:
    """Every three seconds a refused login would bury what there is to see."""
    since = datetime.now(UTC).isoformat()
    stack.execute("postgres", *config["services"]["postgres"]["healthcheck"]["test"][1:])
    assert "FATAL" not in stack.compose("logs", "--since", since, "postgres").stdout


def test_mlflows_account_reaches_its_bucket_and_no_other(stack: StackUnderTest) -> None:
    code = """
import boto3, os, pathlib
from botocore.exceptions import ClientError
read = lambda name: pathlib.Path('/run/secrets', name).read_text()
client = boto3.client('s3', endpoint_url=os.environ['S3_ENDPOINT_URL'], region_name='us-east-1',
                      aws_access_key_id=read('s3_access_key'), aws_secret_access_key=read('s3_secret_key'))
client.put_object(Bucket='mlflow', Key='probe', Body=b'x')
print(client.get_object(Bucket='mlflow', Key='probe')['Body'].read())
client.delete_object(Bucket='mlflow', Key='probe')
for name, call in (('create', lambda: client.create_bucket(Bucket='other')), ('list', client.list_buckets)):
    try:
        print(name, [b['Name'] for b in call().get('Buckets', [])])
    except ClientError as error:
        print(name, error.response['Error']['Code'])
"""
    told = stack.execute("mlflow", "python", "-c", code).stdout
    assert "b'x'" in told
    assert "create AccessDenied" in told
    assert "other" not in told


def test_the_object_store_tells_which_version_it_is(stack: StackUnderTest) -> None:
    version = stack.execute("object-store", "minio", "--version").stdout
    assert "RELEASE.2026-02-12T20-18-48Z" in version
    assert "DEVELOPMENT" not in version


def test_the_ui_wants_a_password_and_a_known_host_name(stack: StackUnderTest) -> None:
    assert httpx.get(stack.url).status_code == 401
    assert httpx.get(stack.url, auth=("admin", "password1234")).status_code == 401
    login = ("admin", stack.password)
    assert httpx.get(stack.url, auth=login).status_code == 200
    for host in ("localhost:5000", "127.0.0.1:1", "mlflow:5000"):
        assert httpx.get(stack.url, auth=login, headers={"Host": host}).status_code == 200, host
    # A name that an attacker's page points at 127.0.0.1 (DNS rebinding).
    assert httpx.get(stack.url, auth=login, headers={"Host": "evil.example"}).status_code == 403


def test_a_private_address_is_no_provider(stack: StackUnderTest) -> None:
    """A user who may make gateway secrets must not reach the database through the gateway."""
    for base in (
        "http://postgres:5432/v1",
        "http://169.254.169.254/v1",
        "https://10.0.0.1/v1",
        # A named host at another port than the named one.
        "http://demo-model:9/v1",
    ):
        body = {
            "secret_name": "probe",
            "secret_value": {"api_key": "k"},
            "provider": "openai",
            "auth_config": {"api_base": base},
        }
        answer = httpx.post(
            stack.url + "/api/3.0/mlflow/gateway/secrets/create",
            json=body,
            auth=("admin", stack.password),
            timeout=30,
        )
        assert answer.status_code == 400, (base, answer.text)
        assert "api_base" in answer.text


def test_the_agents_key_opens_the_gateway_and_the_ingest_alone(stack: StackUnderTest) -> None:
    key = {"Authorization": f"Bearer {stack.agent_key}"}
    body = {"model": "coder", "messages": [{"role": "user", "content": "Hello"}]}
    chat = f"{stack.url}/gateway/mlflow/v1/chat/completions"
    assert httpx.post(chat, json=body, headers=key, timeout=60).status_code == 200
    assert httpx.post(chat, json=body, timeout=60).status_code == 401
    for closed in ("judge", "nope"):
        refused = httpx.post(chat, json=body | {"model": closed}, headers=key, timeout=60)
        assert (refused.status_code, refused.json()["error"]["type"]) == (404, "endpoint_not_found")
    for path in (
        "/api/2.0/mlflow/experiments/get?experiment_id=1",
        "/ajax-api/3.0/mlflow/gateway/secrets/list",
        "/",
    ):
        assert httpx.get(stack.url + path, headers=key).status_code == 401, path
