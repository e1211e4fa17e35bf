"""Who shares a network with whom, and who has a way out: as Compose has it, as the engine has it, and tried."""

import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import psutil
import pytest
from stack_under_test import StackUnderTest

AGENTS = {"agent", "agent-browser"}
ON_AGENT = AGENTS | {"gate", "collector", "egress"}
"""Services that may be on the agents' network."""
ON_CORE = {
    *(
        "postgres",
        "object-store",
        "object-store-setup",
        "mlflow-migrate",
        "mlflow",
        "mlflow-jobs",
        "mlflow-setup",
    ),
    *("gate", "collector", "demo-model"),
}
WITH_A_WAY_OUT = {
    "mlflow": "calls the providers",
    "object-store-setup": "makes the bucket, also in another S3 store; ends at once",
    "tls": "publishes a port, which an internal network can't; fetches certificates",
    "egress": "is the way out that a run was allowed",
}
INTERNAL = ("agent", "core")


@pytest.fixture(scope="module")
def config(stack: StackUnderTest) -> dict[str, Any]:
    return dict(json.loads(stack.compose("--profile", "*", "config", "--format", "json").stdout))


def members(config: dict[str, Any], network: str) -> set[str]:
    return {name for name, service in config["services"].items() if network in service.get("networks", {})}


def test_an_agents_network_holds_its_two_doors_and_nothing_else(config: dict[str, Any]) -> None:
    assert AGENTS | {"gate"} <= members(config, "agent") <= ON_AGENT
    for name in AGENTS:
        assert config["services"][name]["networks"].keys() == {"agent"}
        assert config["services"][name]["dns"] == ["127.0.0.1"]
        assert not config["services"][name].get("extra_hosts")


def test_core_holds_what_stores_and_serves(config: dict[str, Any]) -> None:
    assert {"postgres", "object-store", "mlflow", "gate"} <= members(config, "core") <= ON_CORE


def test_few_have_a_way_out_each_for_a_reason(config: dict[str, Any]) -> None:
    outward = {name for name, network in config["networks"].items() if not network.get("internal")}
    assert outward.isdisjoint(INTERNAL)
    found = set().union(*(members(config, network) for network in outward))
    assert found <= WITH_A_WAY_OUT.keys()
    # No network at all is `none`, never the engine's default bridge or the host's.
    for name, service in config["services"].items():
        assert service.get("networks") or service.get("network_mode") == "none", name


def test_who_stands_before_mlflow_reaches_no_store(config: dict[str, Any]) -> None:
    tls = config["services"]["tls"]["networks"].keys()
    for store in ("postgres", "object-store", "gate"):
        assert tls.isdisjoint(config["services"][store]["networks"])


def docker(*arguments: str) -> list[dict[str, Any]]:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


def inspected(stack: StackUnderTest, network: str) -> dict[str, Any]:
    return docker("network", "inspect", f"{stack.project}_{network}")[0]


@pytest.mark.parametrize("network", INTERNAL)
def test_the_engine_has_it_so(stack: StackUnderTest, network: str) -> None:
    found = inspected(stack, network)
    assert (found["Internal"], found["EnableIPv6"], found["Attachable"]) == (True, False, False)
    assert found["Options"]["com.docker.network.bridge.inhibit_ipv4"] == "true"
    # The bridge itself, where the engine is this machine's own.
    bridge = f"br-{found['Id'][:12]}"
    addresses = psutil.net_if_addrs().get(bridge, [])
    assert [one.address for one in addresses if one.family == socket.AF_INET] == []


def test_who_is_attached_is_who_should_be(stack: StackUnderTest) -> None:
    def attached(network: str) -> set[str]:
        told = docker("inspect", *inspected(stack, network)["Containers"])
        # Agents that `docker compose run` made, too.
        return {container["Config"]["Labels"]["com.docker.compose.service"] for container in told}

    assert {"gate"} <= attached("agent") <= ON_AGENT
    assert {"postgres", "object-store", "mlflow", "gate"} <= attached("core") <= ON_CORE
    assert {"mlflow"} <= attached("outside") <= WITH_A_WAY_OUT.keys()


@pytest.fixture(scope="module")
def listening() -> Iterator[int]:
    """A port that this machine has open on all its addresses, as any service of a user's own."""
    with closing(socket.create_server(("0.0.0.0", 0), backlog=50)) as server:
        yield int(server.getsockname()[1])


def host_addresses() -> list[str]:
    return sorted(
        {
            one.address
            for addresses in psutil.net_if_addrs().values()
            for one in addresses
            if one.family == socket.AF_INET and not one.address.startswith("127.")
        }
    )


def reached(stack: StackUnderTest, service: str, addresses: list[str], port: int) -> list[str]:
    """The addresses at which a container gets a connection."""
    tries = " ".join(
        f"(timeout 2 bash -c '</dev/tcp/{address}/{port}' 2>/dev/null && echo {address}) &"
        for address in addresses
    )
    return stack.execute(service, "bash", "-c", f"{tries} wait; true").stdout.split()


@pytest.mark.parametrize("service", ["gate", "postgres", "object-store", "mlflow-jobs", "demo-model"])
def test_no_internal_network_leads_to_the_machine(
    stack: StackUnderTest, listening: int, service: str
) -> None:
    addresses = host_addresses()
    # The probe finds it where there is a way.
    assert reached(stack, "mlflow", addresses, listening)
    assert reached(stack, service, addresses, listening) == []


@pytest.mark.parametrize("service", ["gate", "postgres", "object-store", "mlflow-jobs", "demo-model"])
def test_no_internal_network_has_a_default_route_or_another_protocol(
    stack: StackUnderTest, service: str
) -> None:
    routes = stack.execute(service, "cat", "/proc/net/route").stdout.splitlines()[1:]
    assert routes
    assert [line for line in routes if line.split()[1] == "00000000"] == []
    # IPv6 would find the bridge at its link-local address.
    interfaces = stack.execute(
        service, "bash", "-c", "cat /proc/net/if_inet6 2>/dev/null; true"
    ).stdout.splitlines()
    assert {line.split()[-1] for line in interfaces} <= {"lo"}
