"""The CIS Docker Benchmark over every service of every profile, and over every container of the running stack.

What is looked at is listed by Compose and the engine, never here: a new service is under every rule at once.
"""

import copy
import json
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cis
import pytest
from stack_under_test import ROOT, StackUnderTest

Document = dict[str, Any]


def docker(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, check=check, timeout=120, errors="replace"
    )


@pytest.fixture(scope="module")
def services(stack: StackUnderTest) -> list[Document]:
    """Every service of every profile as Compose understands it, and of every file that stands on top of the stack's."""
    found = []
    for overlay in [None, *sorted(ROOT.glob("docker-compose.*.yml"))]:
        files = [f"--file={path}" for path in (ROOT / "docker-compose.yml", overlay) if path]
        told = json.loads(stack.compose(*files, "--profile", "*", "config", "--format", "json").stdout)
        found += [
            {"name": name, "overlay": overlay is not None, **service}
            for name, service in told["services"].items()
        ]
    return found


@pytest.fixture(scope="module")
def agent(stack: StackUnderTest) -> Iterator[str]:
    """A running agent's container, as `docker compose run agent` makes it; its id."""
    started = stack.agent("exec", "sleep", "600", options=("--detach", "--no-deps"))
    container = started.stdout.split()[-1]
    try:
        yield container
    finally:
        docker("rm", "--force", "--volumes", container)


@pytest.fixture(scope="module")
def containers(stack: StackUnderTest, agent: str) -> list[Document]:
    """Every container of the stack, one-shots that have ended and a running agent among them, as the engine has it."""
    found = json.loads(docker("inspect", *stack.containers().values(), agent).stdout)
    assert {cis.service_of(container) for container in found} >= {"agent", "secrets", "mlflow"}
    for container in found:
        container["Status"], container["Processes"] = "", []
        if container["State"]["Status"] == "running":
            container["Status"] = Path(f"/proc/{container['State']['Pid']}/status").read_text()
            rows = docker("top", container["Id"], "-eo", "pid,uid,args").stdout.splitlines()[1:]
            container["Processes"] = [tuple(row.split(None, 2)[1:]) for row in rows]
    return found


@pytest.fixture(scope="module")
def images(services: list[Document]) -> list[str]:
    """Every image of the stack; of an overlay those that its own tests have built."""
    named = {service["image"] for service in services}
    missing = {image for image in named if docker("image", "inspect", image, check=False).returncode}
    assert not missing & {service["image"] for service in services if not service["overlay"]}
    return sorted(named - missing)


@pytest.mark.parametrize("rule", cis.CONFIG, ids=lambda rule: rule.id)
def test_every_service_of_every_profile(services: list[Document], rule: cis.Rule) -> None:
    broken = {service["name"]: found for service in services if (found := rule.finds(service))}
    assert not broken
    # The rule sees its breach in each of them.
    for service in services:
        changed = copy.deepcopy(service)
        rule.breach(changed)
        assert rule.finds(changed), service["name"]


@pytest.mark.parametrize("rule", cis.CONTAINER, ids=lambda rule: rule.id)
def test_every_container(containers: list[Document], rule: cis.Rule) -> None:
    broken = {container["Name"]: found for container in containers if (found := rule.finds(container))}
    assert not broken
    for container in containers:
        if cis.service_of(container) in cis.ROOT and rule.id.startswith("4.1"):
            continue
        changed = copy.deepcopy(container)
        rule.breach(changed)
        assert rule.finds(changed), container["Name"]


def test_exceptions_are_for_services_that_exist(services: list[Document]) -> None:
    assert cis.CAPABILITIES.keys() | cis.ROOT | cis.PUBLISHED.keys() <= {s["name"] for s in services}


def setuid_programs(image: str) -> list[str]:
    """Files of an image with the setuid or setgid bit."""
    options = ["--rm", "--network", "none", "--user", "0", "--entrypoint", "find"]
    looked = docker("run", *options, image, "/", "-xdev", "-type", "f", "-perm", "/6000", check=False)
    if looked.returncode != 127:
        assert looked.returncode == 0, looked.stderr
        return looked.stdout.split()
    # An image without a program is read from outside; that takes a second for each hundred megabytes.
    container = docker("create", image, "none").stdout.strip()
    try:
        with subprocess.Popen(["docker", "export", container], stdout=subprocess.PIPE) as export:
            assert export.stdout is not None
            with tarfile.open(fileobj=export.stdout, mode="r|") as archive:
                found = ["/" + member.name for member in archive if member.isfile() and member.mode & 0o6000]
        assert export.returncode == 0
        return found
    finally:
        docker("rm", "--force", "--volumes", container)


def test_no_image_has_a_setuid_or_setgid_program(images: list[str]) -> None:
    """CIS 4.8."""
    assert images
    assert {image: found for image in images if (found := setuid_programs(image))} == {}


def test_an_image_with_such_a_program_is_found(images: list[str]) -> None:
    plain = next(image for image in images if image.startswith("paddock/secrets:"))
    container = docker(
        "create", "--user", "0", "--entrypoint", "chmod", plain, "u+s", "/usr/bin/env"
    ).stdout.strip()
    image = ""
    try:
        docker("start", "--attach", container)
        image = docker("commit", container).stdout.strip()
        assert setuid_programs(image) == ["/usr/bin/env"]
    finally:
        docker("rm", "--force", container)
        if image:
            docker("rmi", "--force", image, check=False)


def test_no_image_runs_as_root_by_itself(images: list[str], services: list[Document]) -> None:
    """CIS 4.1: also where somebody starts an image without our Compose file."""
    of_root = {service["image"] for service in services if service["name"] in cis.ROOT}
    for image in images:
        user = json.loads(docker("image", "inspect", image).stdout)[0]["Config"]["User"]
        assert user.split(":")[0] not in ("", "0", "root") or image in of_root, image


def test_no_image_says_a_secret_in_its_history(images: list[str]) -> None:
    """CIS 4.10. A package index's address may hold a password, and a build argument stands in its stage's history."""
    for image in images:
        history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout
        assert not re.findall(r"(?:UV_DEFAULT_INDEX|GOPROXY|CA_BUNDLE)=", history), image
        environment = json.loads(docker("image", "inspect", image).stdout)[0]["Config"]["Env"] or []
        names = [entry.partition("=")[0] for entry in environment]
        assert not [name for name in names if name.endswith(("_KEY", "_PASSWORD", "_SECRET", "_TOKEN"))], (
            image
        )
