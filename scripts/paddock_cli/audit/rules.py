"""Rules over what the engine says of the stack's containers and networks (`docker inspect`).

A rule is a function from the stack's state to what is wrong, one text an offender; none means that it holds. References
are to the CIS Docker Benchmark.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from paddock_cli.audit.report import FAIL, PASS, SKIP, Line

Inspected = dict[str, Any]

ON_AGENT_NETWORK = frozenset({"agent", "agent-browser", "gate", "collector", "egress"})
"""Services that may have a leg on the agents' network."""
LOOPBACK = ("127.0.0.1", "::1")
TLS = "tls"
"""The service that is there to be reached from other machines."""
_SERVICE = "com.docker.compose.service"
_AGENTS = ("agent", "agent-browser")
_OWN_MOUNTS = ("/workspace", "/state")
_HANDED_OVER = ("/run/handover", "/run/egress")
_HOST_MODES = ("PidMode", "IpcMode", "UTSMode", "UsernsMode", "CgroupnsMode", "NetworkMode")
_INHIBIT = "com.docker.network.bridge.inhibit_ipv4"
_ISOLATED = "com.docker.network.bridge.gateway_mode_ipv4"


@dataclass(frozen=True)
class State:
    """What the engine says. `secrets` are values that must stand nowhere: name → text."""

    containers: tuple[Inspected, ...]
    networks: dict[str, Inspected]
    """By the name that docker-compose.yml has."""
    secrets: dict[str, str] = field(default_factory=dict, repr=False)


Rule = Callable[[State], Iterator[str]]


@dataclass(frozen=True)
class _Entry:
    name: str
    says: str
    remedy: str
    marks: tuple[str, ...]
    holds: Rule


RULES: list[_Entry] = []


def _rule(name: str, says: str, remedy: str, *marks: str) -> Callable[[Rule], Rule]:
    def register(holds: Rule) -> Rule:
        RULES.append(_Entry(name, says, remedy, marks, holds))
        return holds

    return register


def judge(state: State) -> Iterator[Line]:
    """A line for each rule."""
    for entry in RULES:
        wrong = sorted(set(entry.holds(state)))
        if entry.name == "no-secret-in-inspect" and not state.secrets:
            yield Line(
                entry.name, "stack", SKIP, entry.says, "no secret could be read to look for", "", entry.marks
            )
            continue
        shown = "; ".join(wrong[:6]) + (f"; and {len(wrong) - 6} more" if len(wrong) > 6 else "")
        yield Line(
            entry.name,
            "stack",
            FAIL if wrong else PASS,
            entry.says,
            shown or f"{len(state.containers)} containers",
            entry.remedy if wrong else "",
            entry.marks,
        )


def service(container: Inspected) -> str:
    """The service that a container belongs to."""
    return str(container["Config"]["Labels"].get(_SERVICE, container["Name"].lstrip("/")))


def _running(state: State) -> Iterator[Inspected]:
    return (one for one in state.containers if one["State"]["Status"] == "running")


def _host(container: Inspected) -> Inspected:
    return container["HostConfig"]


@_rule(
    "unprivileged",
    "no container is privileged or has a device of the host",
    "take `privileged` and `devices` out of the override file that adds them",
    "CIS 5.4",
    "CIS 5.17",
)
def unprivileged(state: State) -> Iterator[str]:
    for one in state.containers:
        if _host(one)["Privileged"]:
            yield f"{service(one)} is privileged"
        for device in _host(one).get("Devices") or []:
            yield f"{service(one)} has {device['PathOnHost']}"


@_rule(
    "no-capabilities",
    "every container drops all capabilities; only one without a network may add some",
    "set `cap_drop: [ALL]`, and no `cap_add` on a service that has a network",
    "CIS 5.3",
)
def no_capabilities(state: State) -> Iterator[str]:
    for one in state.containers:
        dropped = {name.upper().removeprefix("CAP_") for name in _host(one).get("CapDrop") or []}
        if "ALL" not in dropped:
            yield f"{service(one)} drops {', '.join(sorted(dropped)) or 'none'}"
        added = _host(one).get("CapAdd") or []
        if added and _host(one)["NetworkMode"] != "none":
            yield f"{service(one)} adds {', '.join(added)}"


@_rule(
    "no-new-privileges",
    "no process can gain privileges, and the engine's seccomp profile holds",
    'set `security_opt: ["no-new-privileges:true"]`, without `seccomp` or `apparmor` unconfined',
    "CIS 5.21",
    "CIS 5.25",
)
def no_new_privileges(state: State) -> Iterator[str]:
    for one in state.containers:
        options = _host(one).get("SecurityOpt") or []
        if not any(option.partition("no-new-privileges")[1] and "false" not in option for option in options):
            yield f"{service(one)} may gain privileges"
        for option in options:
            if "unconfined" in option:
                yield f"{service(one)} has {option}"


@_rule(
    "read-only",
    "every root file system is read-only",
    "set `read_only: true`, and `tmpfs` where the program writes",
    "CIS 5.12",
)
def read_only(state: State) -> Iterator[str]:
    for one in state.containers:
        if not _host(one)["ReadonlyRootfs"]:
            yield f"{service(one)} can change its own programs"


@_rule(
    "unprivileged-user",
    "no container with a network runs as root",
    "leave `user` as the image has it; for agents, give the workspace to an ordinary user",
    "CIS 4.1",
)
def unprivileged_user(state: State) -> Iterator[str]:
    for one in state.containers:
        user = str(one["Config"].get("User") or "0").partition(":")[0]
        if user in ("0", "root") and _host(one)["NetworkMode"] != "none":
            yield f"{service(one)} runs as root"


@_rule(
    "service-limits",
    "every container has a limit of memory and of processes",
    "set `mem_limit` and `pids_limit`; AGENT_MEMORY in .env is the agents'",
    "CIS 5.10",
    "CIS 5.28",
    "LLM10",
)
def limits(state: State) -> Iterator[str]:
    for one in state.containers:
        if not _host(one).get("Memory"):
            yield f"{service(one)} has no memory limit"
        if (_host(one).get("PidsLimit") or 0) <= 0:
            yield f"{service(one)} has no limit of processes"


@_rule(
    "namespaces",
    "no container shares a namespace of the host or of another container",
    "take `pid`, `ipc`, `uts`, `userns_mode`, `network_mode` out of the override file that sets them",
    "CIS 5.9",
    "CIS 5.15",
    "CIS 5.16",
    "CIS 5.20",
    "CIS 5.30",
)
def namespaces(state: State) -> Iterator[str]:
    for one in state.containers:
        for mode in _HOST_MODES:
            value = str(_host(one).get(mode) or "")
            if value == "host" or value.startswith("container:"):
                yield f"{service(one)} has {mode} {value}"


@_rule(
    "no-engine-socket",
    "the engine's socket and the host's system folders are mounted nowhere",
    "take the mount out; nothing of Paddock needs it",
    "CIS 5.5",
    "CIS 5.31",
)
def no_engine_socket(state: State) -> Iterator[str]:
    system = (
        "/",
        "/boot",
        "/dev",
        "/etc",
        "/lib",
        "/proc",
        "/sys",
        "/usr",
        "/root",
        "/var",
        "/var/run",
        "/run",
        "/home",
    )
    for one in state.containers:
        for mount in one.get("Mounts") or []:
            source = str(mount.get("Source") or "")
            if source.rstrip("/").endswith((".sock", "docker.sock")) or (
                mount.get("Type") == "bind" and (source.rstrip("/") or "/") in system
            ):
                yield f"{service(one)} mounts {source}"


@_rule(
    "agent-mounts",
    "an agent has a workspace, its run's state and, read-only, what the stack hands over; nothing else is mounted",
    "take the mount out of the override file that adds it",
    "LLM02",
    "CIS 5.5",
)
def agent_mounts(state: State) -> Iterator[str]:
    for one in state.containers:
        if service(one) not in _AGENTS:
            continue
        for mount in one.get("Mounts") or []:
            target = mount["Destination"]
            if target not in (*_OWN_MOUNTS, *_HANDED_OVER):
                yield f"{service(one)} has {mount.get('Source')} at {target}"
            if target in _HANDED_OVER and mount["RW"]:
                yield f"{service(one)} may write {target}"


@_rule(
    "loopback-ports",
    "nothing is published but on loopback; what has TLS may be elsewhere",
    "publish as 127.0.0.1:PORT; for a team, put TLS in front of it (profile tls)",
    "CIS 5.8",
    "CIS 5.13",
)
def loopback_ports(state: State) -> Iterator[str]:
    for one in state.containers:
        for port, bindings in (_host(one).get("PortBindings") or {}).items():
            for binding in bindings or []:
                if service(one) != TLS and binding.get("HostIp") not in LOOPBACK:
                    yield f"{service(one)} publishes {port} on {binding.get('HostIp') or '0.0.0.0'}"


@_rule(
    "agent-network",
    "the agents' network is internal, has no address on the host, and holds agents, gate and collector alone",
    "set `internal: true` and `com.docker.network.bridge.inhibit_ipv4` on network agent, and no other service on it",
    "CIS 5.29",
    "ASI02",
)
def agent_network(state: State) -> Iterator[str]:
    network = state.networks.get("agent")
    if network is None:
        yield "there is no network agent"
        return
    yield from _closed("agent", network)
    for one in state.containers:
        legs = one["NetworkSettings"]["Networks"] or {}
        if network["Name"] in legs and service(one) not in ON_AGENT_NETWORK:
            yield f"{service(one)} is on the agents' network"
        if service(one) in _AGENTS and (others := sorted(legs.keys() - {network["Name"]})):
            yield f"{service(one)} is on {', '.join(others)} too"


@_rule(
    "core-network",
    "the inner network is internal and has no address on the host",
    "set `internal: true` and `com.docker.network.bridge.inhibit_ipv4` on network core",
    "CIS 5.29",
)
def core_network(state: State) -> Iterator[str]:
    network = state.networks.get("core")
    if network is None:
        yield "there is no network core"
        return
    yield from _closed("core", network)


@_rule(
    "no-secret-in-inspect",
    "no secret stands in what the engine tells of a container: environment, arguments, labels",
    "hand it over as a file; then make it anew, since it was shown",
    "CIS 4.10",
    "LLM02",
)
def no_secret_in_inspect(state: State) -> Iterator[str]:
    for one in state.containers:
        told = json.dumps(one)
        for name, value in state.secrets.items():
            if value in told:
                yield f"{name} in {service(one)}"


@_rule(
    "logs-rotate",
    "no container's log can fill the disk",
    "set `logging` with `max-size` and `max-file`",
    "LLM10",
)
def logs_rotate(state: State) -> Iterator[str]:
    for one in state.containers:
        log = _host(one).get("LogConfig") or {}
        if log.get("Type") == "json-file" and "max-size" not in (log.get("Config") or {}):
            yield f"{service(one)} logs without end"


@_rule(
    "healthy",
    "every service that runs has a healthcheck, and passes it",
    "./paddock status, then ./paddock logs SERVICE",
    "CIS 5.26",
)
def healthy(state: State) -> Iterator[str]:
    for one in _running(state):
        if service(one) in _AGENTS or one["Config"]["Labels"].get("com.docker.compose.oneoff") == "True":
            continue
        health = (one["State"].get("Health") or {}).get("Status", "")
        if health != "healthy":
            yield f"{service(one)} {'is ' + health if health else 'has no healthcheck'}"


def _closed(name: str, network: Inspected) -> Iterator[str]:
    if not network["Internal"]:
        yield f"network {name} is not internal"
    options = network.get("Options") or {}
    if options.get(_INHIBIT) != "true" and options.get(_ISOLATED) != "isolated":
        yield f"network {name} has an address on the host"
