"""Starting twice, stopping, and leaving nothing behind."""

import os
import subprocess

import pytest
from stack_under_test import ROOT, StackUnderTest, new_project

SECRETS = "cat /run/secrets/* | sha256sum"


def test_a_second_up_changes_nothing(stack: StackUnderTest) -> None:
    def state() -> dict[str, object]:
        return {
            "containers": stack.containers(every=False),
            "started": {
                name: stack.inspect(name)["State"]["StartedAt"] for name in ("mlflow", "postgres", "gate")
            },
            "secrets": [
                stack.execute(name, "bash", "-c", SECRETS).stdout for name in ("mlflow", "postgres", "gate")
            ],
            "endpoints": stack.api("GET", "/api/3.0/mlflow/gateway/endpoints/list"),
            "scorers": stack.api("GET", f"/api/3.0/mlflow/scorers/list?experiment_id={stack.experiment_id}"),
        }

    before = state()
    stack.start()
    assert state() == before


def test_secrets_of_the_shell_alone_stop_the_start(stack: StackUnderTest) -> None:
    """Compose sees the key, the settings file does not hold it: the demo model must not answer in its place."""
    done = stack.compose(
        "run", "--rm", "--no-TTY", "secrets", check=False, variables={"OPENAI_API_KEY": "sk-canary-1"}
    )
    assert done.returncode == 1
    assert "OPENAI_API_KEY" in done.stderr
    assert "PADDOCK_ENV_FILE=.env" in done.stderr
    assert "sk-canary-1" not in done.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("OPENAI_API_KEY=sk-plain", "sk-plain"),
        ('export OPENAI_API_KEY="sk double"   # mine', "sk double"),
        ("OPENAI_API_KEY = 'sk#single'\r", "sk#single"),
        ("OPENAI_API_KEY=sk-old\nOPENAI_API_KEY=sk-new # later wins", "sk-new"),
    ],
)
def test_provider_keys_reach_the_gateways_set_up_alone(
    stack: StackUnderTest, tmp_path, line: str, expected: str
) -> None:
    """On a project of its own: the keys of the running stack are left alone."""
    settings = tmp_path / "settings.env"
    settings.write_text(f"# a comment with OPENAI_API_KEY=no\n{line}\n")
    settings.chmod(0o600)
    own = StackUnderTest(
        context=str(ROOT),
        project=f"{new_project()}-keys",
        env=stack.env | {"PADDOCK_ENV_FILE": str(settings)},
    )
    try:
        own.compose("run", "--rm", "--no-TTY", "secrets")
        find = 'grep -rl --fixed-strings -- "$0" /out | sort; cat /out/mlflow-setup/openai_api_key'
        told = own.compose(
            "run", "--rm", "--no-TTY", "--entrypoint", "bash", "secrets", "-c", find, expected
        ).stdout
        assert told == f"/out/mlflow-setup/openai_api_key\n{expected}"
    finally:
        own.stop()


def test_down_leaves_nothing(stack: StackUnderTest) -> None:
    own = StackUnderTest(context=str(ROOT), project=f"{new_project()}-gone", env=stack.env)
    own.compose("up", "--no-start", timeout=120)
    # What an agent leaves in volumes of its own, which no other service has a use for.
    own.agent(
        "exec", "touch", "/workspace/x", "/state/x", options=("--env", "OTEL_EXPORTER_OTLP_HEADERS=none")
    )
    kinds = (("container", "ls", "--all"), ("volume", "ls"), ("network", "ls"))

    def left() -> str:
        label = f"label=com.docker.compose.project={own.project}"
        return "".join(
            subprocess.run(
                ["docker", *kind, "--quiet", "--filter", label], capture_output=True, text=True, check=True
            ).stdout
            for kind in kinds
        )

    assert left()
    # As it is typed: with --project-name Compose goes by what is there, without it by the services of the file.
    subprocess.run(
        ["docker", "compose", "down", "--volumes", "--timeout", "5"],
        env=os.environ | own.env | {"COMPOSE_PROJECT_NAME": own.project},
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    assert not left()
