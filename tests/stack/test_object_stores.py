"""The same S3 conformance over MinIO, and over SeaweedFS in its place (docker-compose.seaweedfs.yml)."""

import ast
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from stack_under_test import ROOT, StackUnderTest, new_project

CLIENT = Path(__file__).with_name("s3_client.py")
CHECKS = [
    node.name
    for node in ast.parse(CLIENT.read_text()).body
    if isinstance(node, ast.FunctionDef) and any(ast.unparse(one) == "check" for one in node.decorator_list)
]
NEVER_FIXED = {
    (
        "minio",
        "an_access_key_alone_writes_nothing",
    ): "CVE-2026-41145: docs/object-store.md says what stands before it"
}


def results(stack: StackUnderTest) -> dict[str, str]:
    """What every check says, from a container with both of the store's accounts."""
    done = stack.compose(
        *["run", "--rm", "--no-TTY", "--no-deps", "--entrypoint", "python", "object-store-setup"],
        *["-c", CLIENT.read_text()],
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def minio(stack: StackUnderTest) -> dict[str, str]:
    return results(stack)


@pytest.fixture(scope="module")
def seaweedfs_stack(built: dict[str, str]) -> Iterator[StackUnderTest]:
    """The store, what it needs and what prepares it, in a project of its own: the rest of the stack is the same."""
    files = ("docker-compose.yml", "docker-compose.seaweedfs.yml")
    own = StackUnderTest(
        context=str(ROOT),
        project=f"{new_project()}-seaweedfs",
        env=built | {"COMPOSE_FILE": os.pathsep.join(str(ROOT / name) for name in files)},
    )
    try:
        own.compose("up", "--detach", "--wait", "object-store", timeout=240)
        own.compose("run", "--rm", "--no-TTY", "object-store-setup")
        yield own
    finally:
        own.stop()


@pytest.fixture(scope="module")
def seaweedfs(seaweedfs_stack: StackUnderTest) -> dict[str, str]:
    return results(seaweedfs_stack)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("store", ["minio", "seaweedfs"])
def test_conformance(request: pytest.FixtureRequest, store: str, check: str) -> None:
    found = request.getfixturevalue(store)
    assert found.keys() == set(CHECKS)
    if reason := NEVER_FIXED.get((store, check)):
        # Noticed when it changes: then the documentation has to change too.
        assert found[check] != "ok"
        pytest.xfail(reason)
    assert found[check] == "ok"


def test_seaweedfs_shows_the_network_nothing_but_s3(seaweedfs_stack: StackUnderTest) -> None:
    """Its master, volume server, filer and the port for accounts ask for no password: see its entrypoint."""
    tables = seaweedfs_stack.execute("object-store", "cat", "/proc/net/tcp", "/proc/net/tcp6").stdout
    listening = [fields[1] for line in tables.splitlines() if (fields := line.split())[3:4] == ["0A"]]
    loopback = ("0100007F", "00000000000000000000000001000000", "0B00007F")
    open_ports = {
        int(port, 16) for host, _, port in (one.partition(":") for one in listening) if host not in loopback
    }
    assert len(listening) > 4
    assert open_ports == {9000}


def test_mlflows_account_is_known_to_seaweedfs_and_not_to_minio(
    stack: StackUnderTest, seaweedfs_stack: StackUnderTest
) -> None:
    """MinIO is told the account by the set-up, so it needs no file of it."""

    def held(one: StackUnderTest) -> set[str]:
        return set(one.execute("object-store", "ls", "/run/secrets").stdout.split())

    assert held(stack) == {"s3_root_user", "s3_root_password"}
    assert held(seaweedfs_stack) == {"s3_root_user", "s3_root_password", "s3_access_key", "s3_secret_key"}
