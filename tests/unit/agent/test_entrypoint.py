"""The container's entrypoint, as far as it can be tried outside a container."""

import os
import subprocess
from pathlib import Path

from conftest import ROOT

HANDOVER = Path("/run/handover/experiment_id")


def _enter(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / "agent" / "entrypoint.sh"), *arguments],
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/tmp"), **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_not_set_up() -> None:
    assert not HANDOVER.exists(), "this test is for a machine, not for the agent's container"
    ended = _enter("a task")
    assert (ended.returncode, ended.stdout) == (78, "")
    assert f"expected the experiment's id in {HANDOVER}, found none" in ended.stderr
    assert "docker compose up" in ended.stderr


def test_other_command_with_the_users_umask() -> None:
    ended = _enter(
        *("exec", "sh", "-c", "umask; echo $OTEL_EXPORTER_OTLP_HEADERS; echo $PATH"),
        PADDOCK_AGENT_UMASK="0027",
        OTEL_EXPORTER_OTLP_HEADERS="x-mlflow-experiment-id=7",
    )
    assert ended.returncode == 0, ended.stderr
    umask, headers, path = ended.stdout.splitlines()
    assert (umask, headers) == ("0027", "x-mlflow-experiment-id=7")
    assert path.startswith("/opt/venv/bin:")


def test_odd_umask() -> None:
    ended = _enter("exec", "true", PADDOCK_AGENT_UMASK="rwx")
    assert ended.returncode == 78
    assert "expected an octal umask such as 022 in PADDOCK_AGENT_UMASK, found 'rwx'" in ended.stderr


def test_exec_without_a_command() -> None:
    ended = _enter("exec", OTEL_EXPORTER_OTLP_HEADERS="x-mlflow-experiment-id=7")
    assert ended.returncode == 78
    assert "expected a command after 'exec'" in ended.stderr
