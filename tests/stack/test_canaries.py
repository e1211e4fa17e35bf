"""Secrets are looked for after a hostile run, in everything that can be looked at: none is found outside of its home.

The stack's own are every file of every secrets volume, whatever they are called; the rest is known to the test. A
control, which the agent has seen like everything else, shows that each search finds what is there.
"""

import base64
import hashlib
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest
from cases import Product, eventually
from stack_under_test import StackUnderTest

DEPLOY_TOKEN = "canary-of-the-user/f3+9a=77c1"
SERVER_TOKEN = "canary-of-an-mcp-server-5d21e8"
CONTROL = "control-canary-which-may-be-seen-61c4"
SHORTEST = 12
"""Bytes of a secret file: all that the stack makes are longer."""
AT_HOME = {("object store", "s3_access_key"), ("object store", "s3_secret_key")}
"""(place, file): the store keeps its own accounts' keys, without which it could check no signature; nobody else
reads its disk."""
_RUN_KEY = re.compile(rb"pdk_[A-Za-z0-9_-]{16,}")


def docker(*arguments: str, text: bool = True) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["docker", *arguments], capture_output=True, text=text, check=True, timeout=120)


def forms(secret: bytes) -> list[bytes]:
    """The secret as it is and as programs write it, in the middle of other text too."""
    lines = [line for line in secret.splitlines() if len(line) >= SHORTEST and not line.startswith(b"-----")]
    found = [*lines, quote(secret, safe="").encode(), secret.hex().encode()]
    for offset in range(3):
        encoded = base64.b64encode(bytes(offset) + secret)
        found.append(encoded[-(-offset * 8 // 6) : (offset + len(secret)) * 8 // 6])
    return [*found, json.dumps(secret.decode("latin-1"))[1:-1].encode()]


@dataclass
class Searched:
    """What was said, written and kept, by place; `home` is what the stack keeps secrets in."""

    places: dict[str, bytes]
    controls: dict[str, str]
    secrets: dict[str, bytes]
    run: dict[str, object] = field(default_factory=dict)
    workspace: Path = Path()


def volume_files(stack: StackUnderTest, volume: str) -> dict[str, bytes]:
    """Every file of a volume, by a container of the stack's base image without a network."""
    image = next(
        name
        for name in stack.compose("config", "--images").stdout.split()
        if name.startswith("paddock/secrets:")
    )
    archive = subprocess.run(
        [
            *["docker", "run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "bash"],
            *["--volume", f"{stack.project}_{volume}:/v:ro", image],
            *[
                "-c",
                'cd /v && find . -type f -print0 | while IFS= read -r -d "" f; do echo "$f"; base64 -w0 "$f"; echo; done',
            ],
        ],
        capture_output=True,
        check=True,
        timeout=120,
    ).stdout.decode()
    lines = archive.splitlines()
    return {name: base64.b64decode(content) for name, content in zip(lines[::2], lines[1::2], strict=True)}


@pytest.fixture(scope="module")
def searched(
    stack: StackUnderTest, product: Product, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Searched]:
    folder = tmp_path_factory.mktemp("hostile")
    workspace = folder / "project"
    workspace.mkdir()
    (workspace / "control.txt").write_text(CONTROL)
    servers = folder / "mcp.json"
    server = {
        "command": "python3",
        "args": ["-c", "import sys; sys.stdin.read()"],
        "env": {"TOKEN": SERVER_TOKEN},
    }
    servers.write_text(json.dumps({"mcpServers": {"one": server}}))
    places: dict[str, bytes] = {}

    # A server that tells of its token and is none: the run ends with its words.
    failing = product.paddock(
        *["run", "Use the server.", "--workspace", str(workspace), "--mcp", str(servers), "--json"],
        *["--judge-timeout", "0"],
    )
    places["output of a run whose MCP server fails"] = (failing.out + failing.err).encode()

    endpoint = product.scenario("canaries")
    variables = {"DEPLOY_TOKEN": DEPLOY_TOKEN, "OPENAI_API_KEY": "sk-canary-of-the-shell-77aa88bb"}
    process = product.start(
        *[
            "run",
            "Look around.",
            "--workspace",
            str(workspace),
            "--endpoint",
            endpoint,
            "--secret",
            "DEPLOY_TOKEN",
        ],
        *["--tag", f"control={CONTROL}", "--judge-timeout", "0", "--json"],
        env=variables,
    )
    # While it runs: the container of a run is gone afterwards.
    label = f"label=com.docker.compose.project={stack.project}"

    def running() -> list[str]:
        oneoff = ("--filter", "label=com.docker.compose.oneoff=True")
        return docker("ps", "--quiet", "--filter", label, *oneoff).stdout.split()

    agent = eventually(running, 90, "the agent's container")[0]
    eventually((workspace / "proof.txt").exists, 120, "the step that uses the secret")
    places["docker inspect of the run's container"] = docker("inspect", agent).stdout.encode()
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    places["output of the run"] = (out + err).encode()
    report = json.loads(out)

    # The demo model's key, one of the stack's own.
    telling = ["--endpoint", product.scenario("provider-tells-its-key"), "--judge-timeout", "0", "--json"]
    refused = product.paddock("run", "Do it.", "--workspace", str(workspace), *telling)
    assert "Incorrect API key provided: ***" in refused.out, refused.err
    places["output of a run whose provider quotes its key"] = (refused.out + refused.err).encode()

    places |= _kept(stack, product, workspace)
    yield Searched(places, _controls(stack, report), _secrets(stack), report, workspace)


def _kept(stack: StackUnderTest, product: Product, workspace: Path) -> dict[str, bytes]:
    """What the stack, the engine and this machine keep."""
    state = Path(product.env["PADDOCK_STATE_DIR"])
    containers = docker(
        "ps", "--all", "--quiet", "--filter", f"label=com.docker.compose.project={stack.project}"
    ).stdout.split()
    images = stack.compose("--profile", "*", "config", "--images").stdout.split()
    ours = sorted({name for name in images if name.startswith("paddock/")})
    stack.execute("mlflow", "sh", "-c", f"echo {CONTROL} >/proc/1/fd/1", check=False)
    history = [docker("history", "--no-trunc", "--format", "{{json .}}", name).stdout for name in ours]
    return {
        "database": stack.execute(
            "postgres", "pg_dumpall", "--host=/tmp", "--username=postgres"
        ).stdout.encode(),
        "object store": b"\n".join(volume_files(stack, "object-store").values()),
        "logs of the services": stack.compose("--profile", "*", "logs", "--no-color").stdout.encode(),
        "docker inspect of every container": docker("inspect", *containers).stdout.encode(),
        "docker compose config": stack.compose("--profile", "*", "config").stdout.encode(),
        "images": "\n".join(history).encode(),
        "workspace": _files(workspace),
        "state on this machine": _files(state, without=("compose.env", "provider.env")),
    }


def _files(folder: Path, without: tuple[str, ...] = ()) -> bytes:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in without]
    return b"\n".join(str(path.relative_to(folder)).encode() + b"\n" + path.read_bytes() for path in found)


def _secrets(stack: StackUnderTest) -> dict[str, bytes]:
    """Every file of every volume that holds secrets, and what this test has made up."""
    volumes = json.loads(stack.compose("--profile", "*", "config", "--format", "json").stdout)["volumes"]
    homes = [name for name in volumes if name == "vault" or name.startswith("secrets-")]
    found = {
        f"{volume}:{name}": content.strip()
        for volume in homes
        for name, content in volume_files(stack, volume).items()
        # Configuration beside secrets, and what everybody may see of an authority.
        if not name.endswith(".yaml") and not content.startswith(b"-----BEGIN CERTIFICATE")
    }
    assert len(set(found.values())) >= 8, sorted(found)
    own = {"--secret": DEPLOY_TOKEN, "MCP server": SERVER_TOKEN}
    own["the shell's provider"] = "sk-canary-of-the-shell-77aa88bb"
    return found | {name: value.encode() for name, value in own.items()}


def _controls(stack: StackUnderTest, report: dict[str, dict[str, str]]) -> dict[str, str]:
    """What must be found in each place, to show that the search works there."""
    run_id = report["run"]["run_id"]
    return {
        "output of a run whose MCP server fails": "mcp:one",
        "output of the run": CONTROL,
        "docker inspect of the run's container": run_id,
        "output of a run whose provider quotes its key": "provider-tells-its-key",
        "database": CONTROL,
        "object store": "mlflow",
        "logs of the services": CONTROL,
        "docker inspect of every container": stack.project,
        "docker compose config": stack.project,
        "images": "useradd",
        "workspace": CONTROL,
        "state on this machine": CONTROL,
    }


def test_the_search_finds_what_is_there(searched: Searched) -> None:
    assert searched.controls.keys() == searched.places.keys()
    blind = [
        place
        for place, control in searched.controls.items()
        if control.encode() not in searched.places[place]
    ]
    assert blind == []
    for before in (b"", b"u:", b"us:", b"user:"):
        encoded = base64.b64encode(before + DEPLOY_TOKEN.encode() + b"\n")
        assert any(form in encoded for form in forms(DEPLOY_TOKEN.encode())), before


def test_no_secret_is_found_outside_of_its_home(searched: Searched) -> None:
    found = [
        f"{name} in {place}"
        for name, secret in searched.secrets.items()
        if len(secret) >= SHORTEST
        for place, content in searched.places.items()
        if (place, name.rpartition("/")[2]) not in AT_HOME and any(form in content for form in forms(secret))
    ]
    assert not found, "\n".join(found)


def test_no_key_of_a_run_is_found_anywhere(searched: Searched) -> None:
    """It is handed over by standard input: no environment, argument or file holds it, and its hash alone is stored."""
    assert {
        place: keys for place, content in searched.places.items() if (keys := _RUN_KEY.findall(content))
    } == {}


def test_short_files_of_secrets_volumes_are_no_secrets(searched: Searched) -> None:
    """What the search leaves out must not grow unseen."""
    short = {name: secret for name, secret in searched.secrets.items() if len(secret) < SHORTEST}
    assert not short


def test_the_tool_had_the_declared_secret(searched: Searched) -> None:
    expected = hashlib.sha256(DEPLOY_TOKEN.encode()).hexdigest()
    assert (searched.workspace / "proof.txt").read_text().split()[0] == expected


def test_the_agent_could_neither_change_its_state_nor_end_its_runner(searched: Searched) -> None:
    run = searched.run["run"]
    assert isinstance(run, dict)
    assert run["outcome"] == "finished"
    state = searched.places["state on this machine"]
    assert b"planted-by-the-editor\n" not in state
    assert b"still here" in state


def test_the_trace_tells_the_fence(searched: Searched, product: Product) -> None:
    run = searched.run["run"]
    assert isinstance(run, dict)
    told = product.trace(run["trace_id"])["tags"]["paddock.isolation"]
    facts = dict(part.split("=", 1) for part in told.split())
    assert facts["container"] == "yes"
    assert facts["seccomp"] == "filter"
    assert facts["no_new_privs"] == "yes"
    assert facts["capabilities"] == "none"
    assert facts["read_only_root"] == "yes"
    assert facts["default_route"] == "no"
