"""`./paddock audit` on the tests' stack: green as it is, red where a wall is missing, with the wall's name."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cases import Answer, Product
from played import HERE, Container, Outside
from stack_under_test import ROOT, StackUnderTest

GROUPS = {"reach", "gate", "identity", "container", "stack"}


@pytest.fixture(scope="module")
def audit(product: Product, outside: Outside, planted: Path, neighbour: Container) -> Callable[..., Answer]:
    """Calls it, with a file of without/ over the product's own where one is named.

    The played metadata service's network is up: what is probed without a wall stays on this machine.
    """

    def call(*arguments: str, without: str = "") -> Answer:
        variables = {
            "OUTSIDE_PROJECT": outside.project,
            "PLANTED": str(planted),
            "NEIGHBOUR": neighbour.name,
        }
        if without:
            files = (ROOT / "docker-compose.yml", HERE / "without" / f"{without}.yaml")
            variables["COMPOSE_FILE"] = ":".join(map(str, files))
        return product.paddock("audit", *arguments, env=variables, timeout=180)

    return call


@pytest.fixture(scope="module")
def as_it_is(audit: Callable[..., Answer]) -> Answer:
    """The audit of the stack as it is."""
    return audit("--json")


def test_the_stack_as_it_is_passes(as_it_is: Answer) -> None:
    assert as_it_is.code == 0, as_it_is.out + as_it_is.err
    lines = as_it_is.document["lines"]
    assert {line["verdict"] for line in lines} == {"pass"}
    assert {line["group"] for line in lines} == GROUPS
    assert len({line["name"] for line in lines}) == len(lines) == as_it_is.document["passed"]
    assert all(line["marks"] and line["evidence"] and not line["remedy"] for line in lines)


def test_it_leaves_nothing_behind(as_it_is: Answer, stack: StackUnderTest) -> None:
    assert as_it_is.code == 0
    mine = ["--all", "--filter", f"name={stack.project}-audit", "--format", "{{.Names}}"]
    assert not subprocess.run(
        ["docker", "ps", *mine], capture_output=True, text=True, check=True
    ).stdout.split()
    made = [
        key for key in stack.api("GET", "/api/3.0/paddock/keys?runs=true")["keys"] if key["name"] == "audit"
    ]
    assert len(made) >= 3
    assert {key["state"] for key in made} == {"revoked"}


def test_it_prints_no_secret(as_it_is: Answer, stack: StackUnderTest) -> None:
    printed = as_it_is.out + as_it_is.err
    assert stack.password not in printed
    assert stack.agent_key not in printed
    assert "pdk_" not in printed


@pytest.mark.parametrize(
    ("without", "failed"),
    [
        ("network", {"route-outside", "host-port", "dns-outside", "services-by-name", "agent-network"}),
        ("mounts", {"docker-socket", "mounts", "handover", "secrets-in-environment", "agent-mounts"}),
        ("privileges", {"root-user", "capabilities", "raw-socket", "no-capabilities", "unprivileged-user"}),
    ],
)
def test_a_missing_wall_is_named(audit: Callable[..., Answer], without: str, failed: set[str]) -> None:
    answer = audit("--json", without=without)

    assert answer.code == 38, answer.out + answer.err
    lines = {line["name"]: line for line in answer.document["lines"]}
    assert {name for name in failed if lines[name]["verdict"] != "fail"} == set()
    assert all(lines[name]["remedy"] for name in failed)


def test_people_see_what_failed_and_what_to_do(audit: Callable[..., Answer]) -> None:
    answer = audit(without="read-only")

    assert answer.code == 38
    assert "fail read-only-root" in answer.out
    assert "seen: /: a file was made" in answer.out
    assert "what should stop it: `read_only: true`" in answer.out
    assert "set `read_only: true`" in answer.out
