"""What a hostile workspace, and a hostile run, do to the runner, to its user's terminal, and to another agent."""

import json
import os
from collections import Counter
from pathlib import Path

import planting
import pytest
from host_cases import CASES
from played import AGENT, HERE, Container, HostileRun, Start, own
from probe_record import Record
from stack_under_test import StackUnderTest

from paddock_cli import trees

OBEYED = ("\x1b", "\x9b", "\x07", "\u202e")


def test_second_agent(hostile_run: HostileRun, stack: StackUnderTest, record: Record) -> None:
    """Beside the hostile run and the bombs another agent has worked."""
    run, trace = hostile_run.bystander["run"], hostile_run.bystander["trace"]
    assert hostile_run.bystander_steps == [str(number) for number in range(1, 13)]
    assert (run["outcome"], run["steps"], run["tools"]) == ("finished", 13, {"terminal": 12, "finish": 1})
    assert trace["state"] == "OK"
    assert trace["response"] == "All 12 steps are done."
    told = stack.api("GET", f"/ajax-api/3.0/mlflow/get-trace-artifact?request_id={trace['trace_id']}")
    names = Counter(span["name"] for span in told["spans"])
    assert (names["conversation"], names["agent.step"], names["litellm.completion"]) == (1, 13, 13)
    assert (names["TerminalAction"], names["FinishAction"]) == (12, 1)
    assert hostile_run.report["run"]["trace_id"] != run["trace_id"]
    record.note("second-agent", outcome="blocked", evidence="12 of 12 steps, each span of its trace once")


def test_planted_files(hostile_run: HostileRun, record: Record) -> None:
    assert planting.marks(hostile_run.workspace) == []
    assert hostile_run.report["run"]["steps"] == 6
    assert hostile_run.report["trace"]["state"] == "OK"
    record.note("planted-files", outcome="blocked", evidence="none of them was obeyed; the trace arrived")


def test_planted_files_are_obeyed_by_who_does_not_look(start: Start, tmp_path: Path, record: Record) -> None:
    """The control: in the same folder git obeys its configuration, Python its path, OpenHands' loader the hooks."""
    planting.plant(tmp_path)
    agent = start("planted", options=("--volume", f"{own(tmp_path)}:/workspace"))
    code = (
        "import sys; from openhands.sdk.hooks import HookConfig; "
        "sys.exit(HookConfig.load(working_dir='/workspace').is_empty())"
    )
    for command in (
        ("git", "-C", "/workspace", "status"),
        ("git", "-C", "/workspace", "commit", "--quiet", "--allow-empty", "--message", "x"),
        ("sh", "-c", "cd /workspace && python3 -c 'import litellm'"),
    ):
        agent.run(*command)
    assert agent.run("/opt/venv/bin/python", "-P", "-c", code, seconds=300).returncode == 0
    obeyed = planting.marks(tmp_path)
    assert {"fsmonitor", "git-pre-commit", "git-post-commit", "litellm"} <= set(obeyed)
    record.note("planted-files", control=f"obeyed by git and Python: {', '.join(obeyed)}")


def test_planted_git_hooks(hostile_run: HostileRun, record: Record) -> None:
    """Known, and said in docs/security.md: what lies in the user's folder runs when the user's tools run it."""
    assert CASES["planted-git-hooks"].stands_open
    hook = hostile_run.workspace / ".git" / "hooks" / "pre-commit"
    assert hook.stat().st_mode & 0o111
    record.note("planted-git-hooks", outcome="open", evidence="an executable .git/hooks/pre-commit is there")


def test_terminal_escapes(hostile_run: HostileRun, record: Record) -> None:
    message = hostile_run.report["run"]["message"]
    # The control: they were in what the run gave.
    assert "\x1b]0;owned\x07" in message
    assert "README.md is about lighthouses." in hostile_run.shown
    assert "Summarise README.md." in hostile_run.traces
    for shown in (hostile_run.shown, hostile_run.traces):
        assert not [sign for sign in OBEYED if sign in shown]
    record.note(
        "terminal-escapes",
        outcome="blocked",
        evidence="the words are shown, the control characters are not",
        control="the run's own report holds them",
    )


def test_forged_result(hostile_run: HostileRun, agent: Container, record: Record) -> None:
    told = json.loads((hostile_run.workspace / "forged.json").read_text())["told"]
    run = hostile_run.report["run"]
    assert run["run_id"] != "x"
    assert run["message"].startswith("README.md is about lighthouses.")
    assert hostile_run.report["trace"]["trace_id"] == run["trace_id"]
    record.note("forged-result", outcome="blocked", evidence=f"{told}; the runner's own result counted")

    # The control: what a process of that name prints can be added to where nothing guards it.
    agent.run("sh", "-c", "cat >/tmp/forge.py", stdin=(HERE / "forge.py").read_bytes())
    unguarded = "(python3 -I -c 'import time; time.sleep(5)' paddock_agent | cat >printed) &"
    agent.run("sh", "-c", f"cd /tmp; {unguarded} sleep 1; python3 -I forge.py; wait")
    printed = agent.run("cat", "/tmp/printed").stdout
    assert '"type": "result"' in printed
    record.note("forged-result", control="a line of its own stands in an unguarded process' output")


def test_links_in_workspace(hostile_run: HostileRun, start: Start, record: Record) -> None:
    workspace, host = hostile_run.workspace, hostile_run.host
    assert (workspace / "stolen.txt").read_text() == ""
    assert sorted(path.name for path in host.iterdir()) == ["secret"]
    record.note(
        "links-in-workspace", outcome="blocked", evidence="No such file or directory in the container"
    )

    # The control: where the folder that they lead to is mounted too, they lead there.
    options = ("--volume", f"{host}:{host}", "--volume", f"{workspace}:/workspace")
    agent = start("links", options=options)
    agent.run("sh", "-c", "cd /workspace && cat stolen > stolen.txt; echo spoiled > spoiled")
    assert (workspace / "stolen.txt").read_text() == "secret of the host"
    assert (host / "spoiled").exists()
    record.note("links-in-workspace", control="read and written where the folder is mounted")


@pytest.mark.skipif(os.getuid() != 0, reason="gives a folder to another user")
def test_links_in_state(tmp_path: Path, record: Record) -> None:
    """A run's state is the agent's until it is resumed; then the command line gives it to the agent's user once more."""
    precious, state = tmp_path / "authorized_keys", tmp_path / "state"
    precious.write_text("precious")
    state.mkdir()
    (state / "base_state.json").symlink_to(precious)
    (state / "events").symlink_to(tmp_path)

    trees.give(state, AGENT, AGENT)

    assert state.stat().st_uid == (state / "events").lstat().st_uid == AGENT
    assert precious.stat().st_uid == tmp_path.stat().st_uid == 0
    record.note("links-in-state", outcome="blocked", evidence="the links change hands, not what they lead to")

    # The control: an ordinary chown goes through the link.
    os.chown(state / "base_state.json", AGENT, AGENT)
    assert precious.stat().st_uid == AGENT
    record.note("links-in-state", control="an ordinary chown gives away what the link leads to")
