"""Bombs, in containers whose limits are small enough for the machine: each meets its limit, and passes a wider one."""

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from bombs import DISK, MEMORY, TASKS
from cases import eventually
from played import BOMB_MEMORY, INTERNET, HostileRun, Outside, Start, explode
from probe_record import Record
from stack_under_test import StackUnderTest

from paddock_probes.registry import BLOCKED, OPEN, PROBES, Targets

LOG_LIMIT = 3 * 10 * 2**20
LOG_LINES = 40_000
"""Of 1 KiB each."""


@pytest.mark.parametrize("name", BOMB_MEMORY)
def test_meets_its_limit(name: str, hostile_run: HostileRun, record: Record) -> None:
    """Beside the hostile run, and beside the agent that must not notice."""
    found = hostile_run.bombs[name]
    record.note(name, outcome=found.outcome, evidence=found.evidence)
    assert found.outcome == BLOCKED, found.evidence


@pytest.mark.parametrize("name", ["fork-bomb", "memory-bomb", "disk-temporary"])
def test_gets_through_a_wider_limit(name: str, start: Start, record: Record) -> None:
    """The machine itself stays safe: the control has limits too, only wider than the bomb."""
    assert TASKS < 3000
    assert max(MEMORY, DISK) < 1536 * 2**20
    found = explode(start, name, without="wider-limits", memory="2g")
    record.note(name, control=found.evidence)
    assert found.outcome == OPEN, found.evidence


def test_a_flood_of_spans_is_taken_by_who_does_not_count(
    start: Start, outside: Outside, record: Record
) -> None:
    agent = start("span-flood-control", without="network", variables={"OUTSIDE_PROJECT": outside.project})
    found = agent.probe(Targets(collector=(INTERNET, 80)), "span-flood")["span-flood"]
    agent.remove()
    record.note("span-flood", control=found.evidence)
    assert found.outcome == OPEN, found.evidence


def test_who_shares_a_limit_with_a_bomb_notices(start: Start, record: Record) -> None:
    """The control of the second agent: in one container with the bomb it could not have worked."""
    shared = start("shared", variables={"AGENT_MEMORY": "2g"})
    code = """
import os, time
refused = 0
for _ in range(400):
    try:
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)
    except OSError:
        refused += 1
    time.sleep(0.02)
print(refused)
"""
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(shared.run, "python3", "-I", "-c", code)
        assert shared.probe(Targets(), "fork-bomb")["fork-bomb"].outcome == BLOCKED
        refused = int(working.result().stdout)
    shared.remove()
    record.note(
        "second-agent",
        control=f"in the bomb's own container {refused} of 400 processes could not start",
    )
    assert refused > 0


@pytest.fixture
def small_volume(stack: StackUnderTest) -> Iterator[str]:
    """A volume of 32 MiB of memory, for what would fill the disk."""
    name = f"{stack.project}-escape-small"
    options = [
        "--opt", "type=tmpfs", "--opt", "device=tmpfs", "--opt", "o=size=32m,mode=1777",
    ]  # fmt: skip
    subprocess.run(["docker", "volume", "create", *options, name], capture_output=True, check=True)
    yield name
    subprocess.run(["docker", "volume", "rm", "--force", name], capture_output=True, check=False)


def test_a_workspace_is_as_large_as_its_file_system(small_volume: str, start: Start, record: Record) -> None:
    """Known, and said in docs/security.md: there is no quota of ours on a folder of the user's."""
    agent = start("workspace", options=("--volume", f"{small_volume}:/workspace"))
    found = agent.probe(Targets(), "disk-workspace")["disk-workspace"]
    agent.remove()
    record.note("disk-workspace", outcome=found.outcome, evidence=found.evidence)
    assert found.outcome == PROBES["disk-workspace"].expected, found.evidence


def test_log_flood(start: Start, record: Record) -> None:
    kept, walled = _flooded(start, "flood")
    record.note(
        "log-flood", outcome=BLOCKED if kept <= LOG_LIMIT else OPEN, evidence="the oldest lines are gone"
    )
    assert walled < LOG_LINES
    assert kept <= LOG_LIMIT * 1.1

    kept, lines = _flooded(start, "flood-control", without="log-rotation")
    record.note("log-flood", control=f"all {lines} lines of 1 KiB are kept")
    assert lines == LOG_LINES


def _flooded(start: Start, label: str, **how: str) -> tuple[int, int]:
    """Bytes and lines that the engine has kept of a flood."""
    code = (
        "import pathlib, time; "
        f"print(('x' * 1023 + chr(10)) * {LOG_LINES}, end='', flush=True); "
        "pathlib.Path('/tmp/done').touch(); time.sleep(300)"
    )
    agent = start(label, "python3", "-I", "-c", code, **how)
    eventually(lambda: agent.run("test", "-e", "/tmp/done").returncode == 0, 60, "the end of the flood")
    told = subprocess.run(["docker", "logs", agent.name], capture_output=True, check=True).stdout
    agent.remove()
    return len(told), told.count(b"\n")
