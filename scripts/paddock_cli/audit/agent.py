"""Runs the probes in an agent's container that is made for it, aimed at the stack that runs."""

import contextlib
import json
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import psutil

from paddock_cli import console, keys
from paddock_cli.audit import report
from paddock_cli.audit.report import Line
from paddock_cli.audit.rules import Inspected, service
from paddock_cli.audit.shipment import archive
from paddock_cli.compose import ComposeStack
from paddock_cli.errors import CliError, RunnerFailed
from paddock_cli.mlflow_api import Mlflow
from paddock_cli.run_keys import AGENT_USER
from paddock_probes import files, gate, identity, kernel, network
from paddock_probes.registry import BLOCKED, OPEN, PROBES, Finding, Probe, Targets

PORTS = {
    "mlflow": 5000,
    "mlflow-jobs": 5000,
    "postgres": 5432,
    "object-store": 9000,
    "demo-model": 8000,
}
"""Services that no agent may reach, and where they listen."""
NO_TARGET = ("internet-tcp", "internet-udp", "internet-icmp", "runner")
"""Need somebody outside who answers (that there is no way there `route-outside` shows, and sends nothing), or a run."""
SECONDS = 90
_GROUPS = {network: "reach", gate: "gate", identity: "identity", kernel: "container", files: "container"}
_UNCHANGED = "see what changes it: docker compose --profile agent config agent"


def lines(
    stack: ComposeStack, server: Mlflow, container: str, state: tuple[Inspected, ...]
) -> Iterator[Line]:
    """A line for each probe, run in `container`.

    Raises:
        RunnerFailed: the probes could not be run.
    """
    with _listening() as port, _keys(server) as made:
        targets = replace(_targets(state, stack.network_gateways()), host_port=port, keys=made)
        found = _probe(stack, container, targets)
        yield from (_line(PROBES[one.probe], one) for one in found)
        yield _key_elsewhere(server, made)


def _probe(stack: ComposeStack, container: str, targets: Targets) -> list[Finding]:
    place = f"/tmp/paddock-probes-{secrets.token_hex(4)}.pyz"
    copied = stack.run_in(container, "sh", "-c", 'cat >"$0"', place, stdin=archive())
    names = [name for name, one in PROBES.items() if name not in NO_TARGET and not one.stands_open]
    done = stack.run_in(
        container,
        "python3",
        "-I",
        place,
        "--targets",
        "-",
        *names,
        stdin=targets.as_json().encode(),
        seconds=SECONDS,
    )
    texts = [line for line in done.stdout.splitlines() if line.startswith('{"probe"')]
    if copied.returncode or done.returncode or not texts:
        told = (copied.stderr + done.stderr).strip()[-500:] or f"exit code {done.returncode}"
        raise RunnerFailed(
            "the probes to run in an agent's container", told, "build the agent's image anew: ./paddock up"
        )
    return [Finding(**json.loads(text)) for text in texts]


def _line(probe: Probe, found: Finding) -> Line:
    group = next(_GROUPS[one] for one in _GROUPS if one.__name__ == probe.run.__module__)
    verdict = {BLOCKED: report.PASS, OPEN: report.FAIL}.get(found.outcome, report.SKIP)
    remedy = f"what should stop it: {probe.wall}; {_UNCHANGED}" if verdict == report.FAIL else ""
    return Line(probe.name, group, verdict, probe.attempt, found.evidence, remedy, probe.marks)


def _targets(state: tuple[Inspected, ...], gateways: list[str]) -> Targets:
    services: dict[str, tuple[list[str], int]] = {}
    for one in state:
        name = service(one)
        legs = (one["NetworkSettings"]["Networks"] or {}).values()
        addresses = [leg["IPAddress"] for leg in legs if leg.get("IPAddress")]
        if name in PORTS and addresses:
            services[name] = (addresses, PORTS[name])
    return Targets(host=tuple(dict.fromkeys([*gateways, *_own_addresses()])), services=services)


def _own_addresses() -> list[str]:
    """This machine's IPv4 addresses; where the engine is another machine's they are not the host's, and harmless."""
    return [
        one.address
        for parts in psutil.net_if_addrs().values()
        for one in parts
        if one.family == socket.AF_INET and not one.address.startswith("127.")
    ]


@contextmanager
def _listening() -> Iterator[int]:
    """A port of this machine on all its addresses, which hangs up on everybody."""
    with socket.create_server(("0.0.0.0", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    server.accept()[0].close()

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


@contextmanager
def _keys(server: Mlflow) -> Iterator[dict[str, str]]:
    """A run's keys, one that is good, one that has ended, one without money; all revoked at the end."""
    made: dict[str, dict[str, Any]] = {}
    try:
        for name, budget in (("run", "0.01"), ("ended", "0.01"), ("spent", "0.000001")):
            made[name] = server.call(
                "POST",
                keys.PATH,
                json={
                    "user": AGENT_USER,
                    "endpoints": ["coder"],
                    "experiments": [],
                    "name": "audit",
                    "run_id": f"audit-{secrets.token_hex(4)}",
                    "budget": {"usd": budget},
                    "expires_in": 300,
                },
            )
        keys.revoke(server, made["ended"]["id"])
        yield {name: key["key"] for name, key in made.items()}
    except CliError as error:
        if made:
            raise
        # A gateway without an endpoint `coder`: what keys can do is then not looked at.
        console.warn(f"no keys for the audit: {error.found}")
        yield {}
    finally:
        for key in made.values():
            with contextlib.suppress(CliError):
                keys.revoke(server, key["id"])


def _key_elsewhere(server: Mlflow, made: dict[str, str]) -> Line:
    rule = "to be of use anywhere but at the gate"
    marks = ("ASI03",)
    if "run" not in made:
        return Line("key-elsewhere", "identity", report.SKIP, rule, "no key was made for it", "", marks)
    status = httpx.post(
        server.url + gate.MODELS,
        headers={"Authorization": f"Bearer {made['run']}", "Content-Type": "application/json"},
        content=gate.BODY,
        timeout=20,
        trust_env=False,
    ).status_code
    refused = status in (401, 403)
    return Line(
        "key-elsewhere",
        "identity",
        report.PASS if refused else report.FAIL,
        rule,
        f"HTTP {status} from the published port",
        ""
        if refused
        else "what should stop it: the gate's own secret, without which MLflow takes no run's key",
        marks,
    )
