"""What the escape tests are played with: containers of agents, the world outside, a service of the host's."""

import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from paddock_probes.registry import Finding, Targets

HERE = Path(__file__).resolve().parent
AGENT = 1000
"""The uid of agents; the tests may be root, whose workspaces would make the agent root too."""
ARCHIVE = ".escape/probes.pyz"
INTERNET, INTERNET6, METADATA = "198.51.100.53", "2001:db8:5eed::53", "169.254.169.254"
PORTS = {"mlflow": 5000, "postgres": 5432, "object-store": 9000, "demo-model": 8000}
NEIGHBOUR_PORT = 8123
WALLED_NAME, UNWALLED_NAME = "walled.exfil.example", "unwalled.exfil.example"
EXTRA = (HERE / "bombs.py",)


@dataclass(frozen=True)
class Outside:
    """The played world, by its Compose project."""

    project: str
    variables: dict[str, str]

    def compose(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """A Compose command on it."""
        file = str(HERE / "outside" / "compose.yaml")
        done = subprocess.run(
            [
                "docker",
                "compose",
                "--ansi",
                "never",
                "--project-name",
                self.project,
                "--file",
                file,
                *arguments,
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
            env=os.environ | self.variables,
        )
        if check:
            assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout}\n{done.stderr}"
        return done

    def told(self) -> dict[str, list[str]]:
        """What has come out: `asked`, names; `received`, requests."""
        code = "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:8053/').read().decode())"
        return json.loads(self.compose("exec", "--no-TTY", "internet", "python3", "-I", "-c", code).stdout)


class Listener:
    """A service of the host's, on all of its addresses."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("0.0.0.0", 0), backlog=64)
        self.port: int = self._socket.getsockname()[1]
        self.peers: list[str] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, peer = self._socket.accept()
            except OSError:
                return
            self.peers.append(peer[0])
            connection.close()

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


@dataclass
class Container:
    """A container of the agent's service that waits for commands."""

    name: str
    shipped: bytes = field(repr=False)

    def run(
        self, *command: str, stdin: bytes = b"", user: str = "", seconds: float = 120
    ) -> "subprocess.CompletedProcess[str]":
        """A command in it."""
        done = subprocess.run(
            ["docker", "exec", "--interactive", *(["--user", user] if user else []), self.name, *command],
            input=stdin,
            capture_output=True,
            check=False,
            timeout=seconds,
        )
        return subprocess.CompletedProcess(
            done.args,
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )

    def probe(self, targets: Targets, *names: str, seconds: float = 120) -> dict[str, Finding]:
        """Run probes in it; all that are harmless where none is named."""
        copied = self.run("sh", "-c", "cat >/tmp/probes.pyz", stdin=self.shipped)
        assert copied.returncode == 0, copied.stderr
        aimed = targets.as_json().encode()
        done = self.run(
            "python3", "-I", "/tmp/probes.pyz", "--targets", "-", *names, stdin=aimed, seconds=seconds
        )
        assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
        return findings(done.stdout)

    def inspect(self) -> dict:
        """`docker inspect` of it."""
        done = subprocess.run(["docker", "inspect", self.name], capture_output=True, text=True, check=True)
        return json.loads(done.stdout)[0]

    def remove(self) -> None:
        """Remove it before the tests end."""
        subprocess.run(["docker", "rm", "--force", "--volumes", self.name], capture_output=True, check=False)

    @property
    def address(self) -> str:
        """On its first network."""
        return next(iter(self.inspect()["NetworkSettings"]["Networks"].values()))["IPAddress"]


def findings(lines: str) -> dict[str, Finding]:
    """Probes' JSON lines; other lines are passed over."""
    found = (Finding(**json.loads(line)) for line in lines.splitlines() if line.startswith('{"probe"'))
    return {one.probe: one for one in found}


type Start = Callable[..., Container]


def bridges() -> list[str]:
    """The host's addresses on the engine's networks."""
    numbers = subprocess.run(
        ["docker", "network", "ls", "--quiet"], capture_output=True, text=True, check=True
    ).stdout.split()
    told = subprocess.run(
        ["docker", "network", "inspect", *numbers], capture_output=True, text=True, check=True
    ).stdout
    found = [
        part["Gateway"]
        for network in json.loads(told)
        for part in network["IPAM"].get("Config") or []
        if "Gateway" in part and ":" not in part["Gateway"]
    ]
    return sorted(set(found))


def own(folder: Path) -> Path:
    """Give a workspace to the agents' user."""
    if os.getuid() == 0:
        os.chown(folder, AGENT, AGENT)
        for path in folder.rglob("*"):
            os.chown(path, AGENT, AGENT, follow_symlinks=False)
    return folder


BOMB_MEMORY = {"fork-bomb": "2g", "memory-bomb": "256m", "disk-temporary": "2g", "span-flood": "256m"}
"""Bomb → the memory of the container that it explodes in."""


def explode(start: Start, name: str, without: str = "", memory: str = "") -> Finding:
    """Run a bomb in a container of its own."""
    container = start(
        f"{name}-{without or 'walled'}",
        without=without,
        variables={"AGENT_MEMORY": memory or BOMB_MEMORY[name]},
    )
    found = container.probe(Targets(), name)[name]
    container.remove()
    return found


@dataclass(frozen=True)
class HostileRun:
    """A run whose model is compromised: what its terminal found, what was shown of it, and how its bystander fared."""

    workspace: Path
    host: Path
    """A folder of the host's that links of the workspace lead to."""
    findings: dict[str, Finding]
    bombs: dict[str, Finding]
    """What more hostile containers found out about their limits meanwhile."""
    report: dict
    shown: str
    traces: str
    bystander: dict
    bystander_steps: list[str]
