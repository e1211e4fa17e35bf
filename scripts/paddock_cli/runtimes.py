"""Container runtimes for agents: which ones the engine has, and what one that is not runc needs to find the stack."""

import json
import subprocess
from pathlib import Path

from paddock_cli import preflight
from paddock_cli.errors import BadSettings, NotRunning
from paddock_cli.settings import write_private

AGENT_NETWORK = "agent"


def require(name: str) -> None:
    """That the engine has the runtime which AGENT_RUNTIME names; nothing to check where it names none.

    Raises:
        BadSettings: it has not, with those that it has.
    """
    if not name:
        return
    answer = _docker("info", "--format", "{{json .Runtimes}}")
    try:
        known = sorted(json.loads(answer.stdout) or {})
    except ValueError:
        known = []
    if name not in known:
        raise BadSettings(
            "AGENT_RUNTIME to name a runtime of the Docker engine",
            f"{name!r}; the engine has {', '.join(known) or 'none that it tells'}",
            f"add it to the engine (for gVisor: runsc install, then restart the engine; docker info lists it),"
            f" or unset AGENT_RUNTIME: agents then run in the engine's default runtime, without {name}",
        )


def write_hosts(file: Path, project: str, service: str) -> None:
    """Write a Compose file that gives an agent's service the addresses of what it may reach, as lines of /etc/hosts.

    A runtime with a network stack of its own can't reach the engine's name server, which listens inside the container's
    network namespace on the host (gvisor#7469, gvisor#13980). Addresses hold until the other container is made anew.

    Args:
        file: written, readable by its owner alone.
        project: Compose's name of the stack.
        service: the agent's.

    Raises:
        NotRunning: nothing of the stack is on the agents' network.
    """
    network = f"{project}_{AGENT_NETWORK}"
    filters = [
        f"network={network}",
        f"label=com.docker.compose.project={project}",
        "label=com.docker.compose.oneoff=False",
    ]
    listed = _docker("ps", "--quiet", *[word for one in filters for word in ("--filter", one)]).stdout.split()
    found = json.loads(_docker("inspect", *listed).stdout) if listed else []
    hosts = {
        container["Config"]["Labels"]["com.docker.compose.service"]: container["NetworkSettings"]["Networks"][
            network
        ]["IPAddress"]
        for container in found
    }
    if not hosts:
        raise NotRunning("a running stack", f"no service on the network {network}", "start it: ./paddock up")
    write_private(file, json.dumps({"services": {service: {"extra_hosts": hosts}}}))


def _docker(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [preflight.docker(), *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=60,
    )
