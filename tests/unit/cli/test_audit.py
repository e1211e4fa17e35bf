"""The audit's rules over what the engine tells, and its lines; the probes themselves run in tests/escape."""

import copy
import io
import json
import subprocess
import sys
import zipfile

import pytest

from paddock_cli.audit import report, rules, shipment
from paddock_cli.audit.report import Audit, Line
from paddock_probes import files, gate, identity, kernel, network  # noqa: F401
from paddock_probes.registry import BLOCKED, OPEN, PROBES, Attempt, Targets, judge

HARDENED = {
    "Privileged": False,
    "Devices": [],
    "CapDrop": ["ALL"],
    "CapAdd": None,
    "SecurityOpt": ["no-new-privileges:true"],
    "ReadonlyRootfs": True,
    "Memory": 1 << 28,
    "PidsLimit": 64,
    "NetworkMode": "paddock_core",
    "PidMode": "",
    "IpcMode": "private",
    "UTSMode": "",
    "UsernsMode": "",
    "CgroupnsMode": "private",
    "PortBindings": {},
    "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m"}},
}
CLOSED = {"Internal": True, "Options": {"com.docker.network.bridge.inhibit_ipv4": "true"}}


def container(service: str, *networks: str, oneoff: str = "False", **host) -> dict:
    """What `docker inspect` says of a container as it should be, with changes."""
    return {
        "Name": f"/paddock-{service}-1",
        "Config": {
            "User": "1000:1000",
            "Env": ["A=b"],
            "Labels": {"com.docker.compose.service": service, "com.docker.compose.oneoff": oneoff},
        },
        "State": {"Status": "running", "Health": {"Status": "healthy"}},
        "HostConfig": copy.deepcopy(HARDENED) | host,
        "Mounts": [],
        "NetworkSettings": {"Networks": {name: {} for name in networks}},
    }


def agent(**changes) -> dict:
    made = container("agent", "paddock_agent", oneoff="True", **changes)
    made["Mounts"] = [
        {"Type": "volume", "Source": "/v/w", "Destination": "/workspace", "RW": True},
        {"Type": "volume", "Source": "/v/h", "Destination": "/run/handover", "RW": False},
    ]
    return made


def state(*containers: dict, agent_network: dict | None = None, secrets: dict | None = None) -> rules.State:
    networks = {
        "agent": {"Name": "paddock_agent", **(agent_network or CLOSED)},
        "core": {"Name": "paddock_core", **CLOSED},
    }
    standard = (
        agent(),
        container("gate", "paddock_agent", "paddock_core"),
        container("mlflow", "paddock_core"),
    )
    return rules.State(
        (*standard, *containers), networks, {"mlflow/admin_password": "hidden-away"} | (secrets or {})
    )


def failed(given: rules.State) -> dict[str, str]:
    return {line.name: line.evidence for line in rules.judge(given) if line.verdict == report.FAIL}


def test_a_stack_as_it_should_be_passes_every_rule():
    lines = list(rules.judge(state()))

    assert [line.name for line in lines] == [entry.name for entry in rules.RULES]
    assert {line.verdict for line in lines} == {report.PASS}


def _change(where, **values):
    made = container("x", "paddock_core")
    made[where] |= values
    return made


BAD = {
    "unprivileged": container("x", Privileged=True),
    "no-capabilities": container("x", CapDrop=None),
    "no-new-privileges": container("x", SecurityOpt=["no-new-privileges:true", "seccomp=unconfined"]),
    "read-only": container("x", ReadonlyRootfs=False),
    "unprivileged-user": _change("Config", User=""),
    "service-limits": container("x", Memory=0),
    "namespaces": container("x", PidMode="host"),
    "no-engine-socket": container("x")
    | {"Mounts": [{"Type": "bind", "Source": "/var/run/docker.sock", "RW": True}]},
    "loopback-ports": container("x", PortBindings={"5000/tcp": [{"HostIp": "", "HostPort": "5000"}]}),
    "agent-network": container("x", "paddock_agent"),
    "no-secret-in-inspect": _change("Config", Env=["PASSWORD=hidden-away"]),
    "logs-rotate": container("x", LogConfig={"Type": "json-file", "Config": {}}),
    "healthy": _change("State", Health={"Status": "unhealthy"}),
}


@pytest.mark.parametrize("rule", BAD)
def test_one_container_breaks_one_rule_and_is_named(rule):
    wrong = failed(state(BAD[rule]))

    assert wrong.keys() == {rule}
    assert "x" in wrong[rule]
    assert "hidden-away" not in wrong[rule]


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        (lambda one: one["Mounts"].append({"Source": "/etc", "Destination": "/host", "RW": False}), "/host"),
        (lambda one: one["Mounts"][1].update(RW=True), "may write /run/handover"),
        (lambda one: one["NetworkSettings"]["Networks"].update({"paddock_core": {}}), "paddock_core"),
    ],
)
def test_an_agent_has_no_more_than_its_own(change, seen):
    given = state()
    change(given.containers[0])

    wrong = failed(given)

    assert wrong.keys() <= {"agent-mounts", "agent-network"}
    assert seen in "".join(wrong.values())


@pytest.mark.parametrize(
    "opened",
    [
        {"Internal": False, "Options": CLOSED["Options"]},
        {"Internal": True, "Options": {}},
    ],
)
def test_a_network_that_is_open_is_named(opened):
    assert failed(state(agent_network=opened)).keys() == {"agent-network"}


def test_a_newer_engines_own_way_of_isolation_counts():
    newer = {"Internal": True, "Options": {"com.docker.network.bridge.gateway_mode_ipv4": "isolated"}}

    assert not failed(state(agent_network=newer))


def test_a_container_without_a_network_may_have_capabilities_and_be_root():
    lonely = container("secrets", CapAdd=["CHOWN"], NetworkMode="none")
    lonely["Config"]["User"] = ""

    assert not failed(state(lonely))


def test_without_a_secret_to_look_for_nothing_is_claimed():
    given = rules.State(state().containers, state().networks, {})
    line = next(line for line in rules.judge(given) if line.name == "no-secret-in-inspect")

    assert line.verdict == report.SKIP


@pytest.mark.parametrize(
    ("verdicts", "code"), [(("pass", "skip"), 0), (("pass", "fail"), 38), (("pass",), 0)]
)
def test_only_a_failure_is_one(verdicts, code):
    lines = tuple(Line(verdict, "stack", verdict, "r", "e") for verdict in verdicts)

    assert Audit("p", lines, 1.0).exit_code == code


def test_the_archive_runs_on_its_own_and_knows_every_probe(tmp_path):
    (tmp_path / "more.py").write_text(
        "from paddock_probes.registry import Attempt, probe\n"
        "@probe('more', attempt='a', wall='w', marks=())\n"
        "def more(targets):\n    yield Attempt('x', False, 'seen')\n"
    )
    packed = tmp_path / "p.pyz"
    packed.write_bytes(shipment.archive([tmp_path / "more.py"]))

    listed = subprocess.run(
        [sys.executable, "-I", packed, "--list"], capture_output=True, text=True, check=True, cwd="/"
    ).stdout.split()
    done = subprocess.run(
        [sys.executable, "-I", packed, "more"], capture_output=True, text=True, check=True, cwd="/"
    ).stdout

    # Another module's test may have brought probes of its own.
    own = {name for name, one in PROBES.items() if one.run.__module__.startswith("paddock_probes.")}
    assert set(listed) == own | {"more"}
    assert json.loads(done) | {"seconds": 0} == {
        "probe": "more",
        "outcome": "blocked",
        "evidence": "seen",
        "seconds": 0,
    }
    with zipfile.ZipFile(io.BytesIO(packed.read_bytes())) as file:
        assert "paddock_probes/registry.py" in file.namelist()


def test_one_attempt_that_gets_through_is_enough():
    tries = [Attempt("a", False, "no"), Attempt("b", False, "no"), Attempt("c", True, "in")]

    assert judge(tries) == (OPEN, "c: in")
    assert judge(tries[:2]) == (BLOCKED, "no (×2)")


def test_targets_survive_the_way_into_the_container():
    given = Targets(
        host=("172.17.0.1",), services={"mlflow": (["172.20.0.2"], 5000)}, neighbour=("172.20.0.9", 80)
    )

    assert Targets.of(given.as_json()).services["mlflow"][1] == 5000
    assert Targets.of(given.as_json()).neighbour == ("172.20.0.9", 80)
    with pytest.raises(ValueError, match="colour"):
        Targets.of('{"colour": 1}')


@pytest.mark.parametrize(
    ("answer", "through"),
    [
        (b'HTTP/1.1 404 Not Found\r\n\r\n{"error":{"type":"not_found"}}', False),
        (b'HTTP/1.1 404 Not Found\r\n\r\n{"error":{"type":"endpoint_not_found"}}', False),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False),
        (b"", False),
        (b"HTTP/1.1 200 OK\r\nServer: uvicorn\r\n\r\nOK", True),
        (b'HTTP/1.1 404 Not Found\r\n\r\n{"detail":"Not Found"}', True),
        (b"HTTP/1.1 401 Unauthorized\r\n\r\n", True),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", True),
        (b"OK", True),
        # The first answer is honest, the second one is not.
        (b'HTTP/1.1 404 X\r\n\r\n{"type":"not_found"}HTTP/1.1 200 OK\r\n\r\nOK', True),
    ],
)
def test_who_has_answered_is_told_from_the_gates_own_words(answer, through):
    assert gate.looked_at("x", answer).through is through
