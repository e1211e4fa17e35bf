"""A mistake of the caller: exit code 2 and one message of what was expected, what was found and what to do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Runner


def _quick(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own; none of these cases gets as far as importing the SDK."""
    return subprocess.run(
        [sys.executable, "-P", "-m", "paddock_agent", *arguments],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "agent"),
            "LLM_BASE_URL": "http://127.0.0.1:9/v1",
            "PADDOCK_AGENT_WORKSPACE": str(folder),
            "PADDOCK_AGENT_STATE_DIR": str(folder / "state"),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


WRONG = {
    "no task": ((), {}, "expected a task, found none"),
    "empty task": (("  ",), {}, "expected a task, found none"),
    "unknown flag": (("task", "--speed", "9"), {}, "unrecognized arguments: --speed"),
    "no such folder": (
        ("task", "--workspace", "/nowhere"),
        {},
        "expected a folder at /nowhere, found nothing",
    ),
    "file for a folder": (
        ("task", "--workspace", "/etc/passwd"),
        {},
        "expected a folder at /etc/passwd, found a file",
    ),
    "no number": (
        ("task", "--max-iterations", "many"),
        {},
        "max_iterations: expected a usable value, found 'many'",
    ),
    "no steps": (("task", "--max-iterations", "0"), {}, "max_iterations"),
    "no time": (("task", "--timeout", "-1"), {}, "timeout"),
    "unknown tool": (("task", "--tools", "terminal,hammer"), {}, "found hammer"),
    "bad run id": (("task", "--run-id", "7"), {}, "run_id"),
    "bad tag": (("task", "--tag", "team"), {}, "expected tags as name=value, found 'team'"),
    "unknown run": (
        ("--resume", "00000000-0000-4000-8000-000000000000"),
        {},
        "found none; no run is kept there",
    ),
    "no MCP file": (
        ("task", "--mcp", "/nowhere.json"),
        {},
        "expected an MCP file at /nowhere.json, found nothing",
    ),
    "no gateway": (("task",), {"LLM_BASE_URL": ""}, "LLM_BASE_URL"),
    "odd gateway": (("task",), {"LLM_BASE_URL": "mlflow:5000"}, "found 'mlflow:5000'"),
    "bad variable": (
        ("task",),
        {"PADDOCK_AGENT_TIMEOUT": "soon"},
        "timeout: expected a usable value, found 'soon'",
    ),
    "state is no folder": (("task", "--state-dir", "/etc/passwd"), {}, "--state-dir"),
}


@pytest.mark.parametrize(("arguments", "environment", "words"), WRONG.values(), ids=WRONG)
def test_mistake(tmp_path: Path, arguments: tuple[str, ...], environment: dict[str, str], words: str) -> None:
    ended = _quick(*arguments, folder=tmp_path, **environment)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_mistake_as_json(tmp_path: Path) -> None:
    for arguments in (
        ("--output", "jsonl"),
        ("--output=jsonl", "--speed", "9"),
        ("--output", "jsonl", "--tools", "axe"),
    ):
        ended = _quick(*arguments, folder=tmp_path)
        assert (ended.returncode, ended.stderr) == (2, "")
        line = json.loads(ended.stdout)
        assert set(line) == {"type", "message"}
        assert line["type"] == "error"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "expected JSON"),
        ("[]", "expected at least one entry under mcpServers"),
        ('{"mcpServers": {}}', "expected at least one entry under mcpServers"),
        ('{"mcpServers": {"a": {}}}', "found neither"),
        ('{"mcpServers": {"a": {"command": "x", "url": "y"}}}', "found both"),
    ],
)
def test_mcp_file(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "mcp.json").write_text(content)
    ended = _quick("task", "--mcp", str(tmp_path / "mcp.json"), folder=tmp_path)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert not list((tmp_path / "state" / "runs").glob("*"))


@pytest.mark.skipif(os.getuid() == 0, reason="root reads every folder")
def test_unreadable_workspace(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    ended = _quick("task", "--workspace", str(closed), folder=tmp_path)
    assert ended.returncode == 2
    assert "permission denied" in ended.stderr


def test_help_names_every_exit_code(tmp_path: Path) -> None:
    ended = _quick("--help", folder=tmp_path)
    assert ended.returncode == 0
    text = " ".join(ended.stdout.split())
    for words in ("0 finished", "3 max_iterations", "6 waiting", "124 timeout", "143 terminated", "2 usage"):
        assert words in text


def test_run_id_in_use(runner: Runner) -> None:
    first = runner.run("make it", "--endpoint", "scenario/short")
    second = runner.run("make it", "--run-id", first.result["run_id"])
    assert second.code == 2
    assert "--resume" in second.lines[0]["message"]


def test_unknown_run_names_the_latest(runner: Runner) -> None:
    first = runner.run("make it", "--endpoint", "scenario/short")
    second = runner.run("--resume", "00000000-0000-4000-8000-000000000000")
    assert second.code == 2
    assert first.result["run_id"] in second.lines[0]["message"]


def test_text_output(runner: Runner) -> None:
    ended = runner.run("make it", "--endpoint", "scenario/short", "--output", "text")
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert lines[0].startswith("run ")
    assert lines[1].startswith("fence landlock=")
    assert next(line for line in lines[2:] if not line.startswith("  Landlock: ")).startswith("trace tr-")
    assert "» make it" in lines
    assert (
        "▸ terminal  echo made >made.txt; umask" in ended.out
        or "▸ terminal echo made >made.txt; umask" in ended.out
    )
    assert "finished: all done" in lines
    assert lines[-1].startswith("2 steps · tools: finish 1, terminal 1 · tokens: ")
    assert max(len(line) for line in lines) < 200


def test_task_from_standard_input(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "paddock_agent", "-"],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "agent"),
            "LLM_BASE_URL": "http://127.0.0.1:9/v1",
        },
        input="",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2
    assert "expected a task" in ended.stderr


def test_reader_that_goes_away_does_not_end_the_run(runner: Runner) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as nobody_reads:
        running = runner.start("make it", "--endpoint", "scenario/short", stdout=nobody_reads)
    assert running.end().code == 0
    assert (runner.workspace / "made.txt").exists()
