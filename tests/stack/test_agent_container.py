"""An agent in its container: any user, the user's files, no set-up of its own."""

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from stack_under_test import StackUnderTest


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A folder with a space in its name that any uid may write."""
    folder = tmp_path / "my project"
    folder.mkdir()
    folder.chmod(0o777)
    for parent in folder.parents:
        if parent.is_relative_to(tmp_path.parent.parent):
            parent.chmod(parent.stat().st_mode | 0o055)
    return folder


@pytest.mark.parametrize("uid", [1000, 4321])
def test_git_and_whoami_work_for_any_uid(stack: StackUnderTest, workspace: Path, uid: int) -> None:
    script = (
        "whoami && git init -q . && echo x >a && git add a && git commit -q -m one && git log --format=%an"
    )
    told = stack.agent(
        *["exec", "bash", "-c", script],
        workspace=workspace,
        variables={"AGENT_UID": str(uid), "AGENT_GID": str(uid)},
    ).stdout.split("\n")
    assert told[0]
    assert told[1]
    assert (workspace / "a").stat().st_uid == uid


def test_a_task_leaves_files_that_belong_to_the_user_and_obey_the_umask(
    stack: StackUnderTest, workspace: Path
) -> None:
    (workspace / "README.md").write_text("# Umbrella\n")
    stack.agent(
        "Write 3 facts about the current project into FACTS.txt.",
        workspace=workspace,
        variables={"AGENT_UID": "4321", "AGENT_GID": "4321", "AGENT_UMASK": "027"},
    )
    facts = workspace / "FACTS.txt"
    assert "Umbrella" in facts.read_text()
    status = facts.stat()
    assert (status.st_uid, status.st_gid) == (4321, 4321)
    assert stat.filemode(status.st_mode) == "-rw-r-----"


def test_a_run_starts_no_migration_and_no_set_up(stack: StackUnderTest, workspace: Path) -> None:
    def started() -> dict[str, str]:
        return {
            name: stack.inspect(name)["State"]["StartedAt"]
            for name in ("mlflow-migrate", "mlflow-setup", "secrets")
        }

    before = started()
    stack.agent("exec", "true", workspace=workspace)
    assert started() == before


def test_a_stack_that_was_not_set_up_is_named(stack: StackUnderTest) -> None:
    image = stack.compose("--profile", "agent", "config", "--images").stdout.split()
    agent = next(name for name in image if name.startswith("paddock/agent:"))
    done = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", agent, "a task"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 78
    assert "docker compose up -d --wait" in done.stderr


def test_exactly_three_variables_say_where_traces_go(stack: StackUnderTest) -> None:
    told = stack.agent("exec", "env").stdout.splitlines()
    variables = dict(line.partition("=")[::2] for line in told)
    assert {name for name in variables if name.startswith(("OTEL_", "LMNR_", "MLFLOW_"))} == {
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    }
    headers = variables["OTEL_EXPORTER_OTLP_HEADERS"].split(",")
    assert f"x-mlflow-experiment-id={stack.experiment_id}" in headers
    assert variables["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"


def test_the_root_is_read_only_and_no_capability_is_left(stack: StackUnderTest) -> None:
    told = stack.agent(
        "exec", "bash", "-c", "touch /opt/x; touch /usr/x; grep CapEff /proc/self/status"
    ).stdout
    assert "0000000000000000" in told
    done = stack.agent("exec", "touch", "/opt/paddock/x", check=False)
    assert done.returncode
    assert "Read-only file system" in done.stderr


def test_an_unknown_endpoint_is_named_and_traced(stack: StackUnderTest, workspace: Path) -> None:
    done = stack.agent("--output", "jsonl", "--endpoint", "nope", "a task", workspace=workspace, check=False)
    result = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, result["outcome"]) == (9, "unknown_endpoint")
    assert "expected an endpoint 'nope'" in result["message"]
    assert stack.ended_trace(result["trace_id"])["state"] == "ERROR"


@pytest.mark.skipif(os.getuid() != 0, reason="gives a folder to another user")
def test_a_workspace_that_the_agent_may_not_write_is_named(stack: StackUnderTest, tmp_path: Path) -> None:
    folder = tmp_path / "closed"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    for parent in folder.parents:
        if parent.is_relative_to(tmp_path.parent.parent):
            parent.chmod(0o755)
    done = stack.agent("a task", workspace=folder, check=False)
    assert done.returncode == 2
    assert "/workspace" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
