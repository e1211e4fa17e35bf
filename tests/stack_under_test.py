"""The Compose stack as the tests run it: a project of its own, random ports, its logs in the report of a failure.

testcontainers' `DockerCompose` has no project name (so it would take down a stack that the user runs), no time limit, and
removes a stack that failed to start before its logs can be read; the subclass mends the three.
"""

import json
import os
import subprocess
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import psutil
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed
from testcontainers.compose import DockerCompose

ROOT = Path(__file__).resolve().parents[1]
PREFIX = "pdktest"
ADMIN = "admin"


def new_project() -> str:
    """A name that tells whose it is: the prefix, this process's pid and its start."""
    own = psutil.Process()
    return f"{PREFIX}-{own.pid}-{int(own.create_time())}"


def sweep() -> list[str]:
    """Remove the stacks of test processes that are gone; those that still run keep theirs. Returns their names."""
    rows = json.loads(_docker("compose", "ls", "--all", "--format", "json"))
    removed = []
    # What belongs to a stack and is called after it goes first: it may be on the stack's networks.
    for name in sorted({row["Name"] for row in rows}, reverse=True):
        prefix, _, rest = name.partition("-")
        pid, _, start = rest.partition("-")
        start = start.partition("-")[0]
        if prefix != PREFIX or not (pid.isdigit() and start.isdigit()) or _lives(int(pid), int(start)):
            continue
        _docker("compose", "--project-name", name, "down", "--volumes", "--remove-orphans", "--timeout", "5")
        removed.append(name)
    return removed


def _lives(pid: int, start: int) -> bool:
    try:
        return int(psutil.Process(pid).create_time()) == start
    except psutil.NoSuchProcess:
        return False


def _docker(*arguments: str) -> str:
    return subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, check=True, timeout=300, cwd=ROOT
    ).stdout


@dataclass
class StackUnderTest(DockerCompose):
    """A stack that is up between `with` and its end."""

    project: str = field(default_factory=new_project)
    wait_timeout: int = 300
    env: dict[str, str] = field(default_factory=dict)

    @cached_property
    def compose_command_property(self) -> list[str]:  # type: ignore[override]
        command = super().compose_command_property
        return [*command[:2], "--ansi", "never", "--project-name", self.project, *command[2:]]

    def compose(
        self,
        *arguments: str,
        check: bool = True,
        timeout: float = 300,
        variables: dict[str, str] | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """A Compose command on this project. Raises AssertionError with its words where it fails."""
        done = subprocess.run(
            [*self.compose_command_property, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            cwd=self.context,
            env={**os.environ, **self.env, **(variables or {})},
            timeout=timeout,
        )
        if check:
            assert done.returncode == 0, (
                f"compose {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def start(self) -> None:
        done = self.compose(
            "up",
            "--detach",
            "--wait",
            "--wait-timeout",
            str(self.wait_timeout),
            check=False,
            timeout=self.wait_timeout + 60,
        )
        if done.returncode:
            raise RuntimeError(f"{done.stderr[-3000:]}\n--- logs\n{self.logs()}")

    def stop(self, down: bool = True) -> None:
        self.compose(
            "--profile", "*", "down", "--timeout", "5", "--remove-orphans", *(["--volumes"] if down else [])
        )

    def logs(self, *services: str, tail: int = 60) -> str:
        """The last lines of the services' logs."""
        return self.compose("logs", "--no-color", "--tail", str(tail), *services, check=False).stdout

    def execute(self, service: str, *command: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """A command in a running service."""
        return self.compose("exec", "--no-TTY", service, *command, check=check)

    def agent(
        self,
        *arguments: str,
        service: str = "agent",
        workspace: Path | None = None,
        options: tuple[str, ...] = (),
        check: bool = True,
        timeout: float = 180,
        variables: dict[str, str] | None = None,
    ) -> "subprocess.CompletedProcess[str]":
        """`docker compose run --rm agent …`, as the README has it."""
        given = {"WORKSPACE": str(workspace)} if workspace else {}
        return self.compose(
            *["--profile", "agent", "run", "--rm", "--no-TTY", *options, service, *arguments],
            check=check,
            timeout=timeout,
            variables={**given, **(variables or {})},
        )

    @property
    def url(self) -> str:
        """Where MLflow is published."""
        return f"http://{self.compose('port', 'mlflow', '5000').stdout.strip()}"

    @cached_property
    def password(self) -> str:
        """The administrator's."""
        return self.execute("mlflow", "cat", "/run/secrets/admin_password").stdout

    @cached_property
    def agent_key(self) -> str:
        """The key that the gate adds, and that agents outside of the stack use."""
        return self.execute("mlflow", "cat", "/run/secrets/agent_key").stdout

    @cached_property
    def experiment_id(self) -> str:
        """Of the experiment that agents' traces go to."""
        path = "/api/2.0/mlflow/experiments/get-by-name"
        return str(self.api("GET", path, params={"experiment_name": "agents"})["experiment"]["experiment_id"])

    def api(self, method: str, path: str, **arguments: Any) -> dict[str, Any]:
        """A call of MLflow's REST API as its administrator."""
        answer = httpx.request(method, self.url + path, auth=(ADMIN, self.password), timeout=30, **arguments)
        assert answer.status_code == 200, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json()

    def trace(self, trace_id: str) -> dict[str, Any]:
        """A trace's state, previews, metadata, tags and assessments."""
        return self.api("GET", f"/api/3.0/mlflow/traces/{trace_id}")["trace"]["trace_info"]

    @retry(
        retry=retry_if_exception_type(AssertionError),
        stop=stop_after_delay(30),
        wait=wait_fixed(0.2),
        reraise=True,
    )
    def ended_trace(self, trace_id: str) -> dict[str, Any]:
        """A trace as `trace` tells it, once the collector has brought its end."""
        found = self.trace(trace_id)
        assert found["state"] != "IN_PROGRESS"
        return found

    def containers(self, *, every: bool = True) -> dict[str, str]:
        """Service → container id."""
        rows = self.compose("ps", *(["--all"] if every else []), "--format", "json").stdout.splitlines()
        return {row["Service"]: row["ID"] for row in map(json.loads, filter(None, rows))}

    def inspect(self, service: str) -> dict[str, Any]:
        """`docker inspect` of a service's container."""
        return json.loads(_docker("inspect", self.containers()[service]))[0]
