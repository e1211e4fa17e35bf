"""What lies in a workspace is material for the agent. It starts nothing, sets nothing and says nothing by itself."""

import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import Runner

from paddock_agent.isolation import give_user_mode

MARK = "planted-by-somebody-else"


def _script(marker: Path) -> str:
    return f"#!/bin/sh\ntouch {marker}\n"


def _hooks(marker: Path) -> str:
    run = {"matcher": "*", "hooks": [{"type": "command", "command": f"touch {marker}"}]}
    events = ("SessionStart", "UserPromptSubmit", "PreToolUse", "PostToolUse", "Stop", "SessionEnd")
    return json.dumps({"hooks": {event: [run] for event in events}} | {event: [run] for event in events})


@pytest.mark.parametrize("place", [".openhands/hooks.json", ".agents/hooks.json", "hooks/hooks.json"])
def test_hooks_are_not_run(runner: Runner, place: str) -> None:
    marker = runner.folder / "ran"
    for base in (runner.workspace, runner.home):
        (base / place).parent.mkdir(parents=True, exist_ok=True)
        (base / place).write_text(_hooks(marker))
    ended = runner.run("make it", "--endpoint", "scenario/short")
    assert ended.code == 0, ended.err
    assert not marker.exists()


@pytest.mark.parametrize("place", [".mcp.json", "mcp.json", ".openhands/mcp.json", ".openhands/config.json"])
def test_mcp_servers_are_not_started(runner: Runner, place: str) -> None:
    marker = runner.folder / "ran"
    server = {"command": "sh", "args": ["-c", f"touch {marker}"]}
    for base in (runner.workspace, runner.home):
        (base / place).parent.mkdir(parents=True, exist_ok=True)
        (base / place).write_text(json.dumps({"mcpServers": {"planted": server}, "mcp": {"planted": server}}))
    ended = runner.run("make it", "--endpoint", "scenario/short")
    assert ended.code == 0, ended.err
    assert not marker.exists()
    assert not [name for name in ended.started["tools"] if name.startswith("mcp:")]


def test_instructions_are_no_part_of_the_prompt(runner: Runner) -> None:
    """An agent reads AGENTS.md like any other file, where its task or its model says so; a skill does nothing at all."""
    marker = runner.folder / "ran"
    skill = f"---\nname: planted\ntriggers: [make, it]\n---\n{MARK} !`touch {marker}`\n"
    for name in (
        *("AGENTS.md", "CLAUDE.md", "GEMINI.md", ".cursorrules", ".openhands_instructions"),
        *(
            ".openhands/microagents/planted.md",
            ".openhands/microagents/repo.md",
            ".openhands/skills/planted.md",
        ),
        *(".agents/skills/planted/SKILL.md", ".agents/skills/planted.md", ".openhands/agents/planted.md"),
    ):
        path = runner.workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(skill)
    (runner.workspace / ".openhands" / "setup.sh").write_text(_script(marker))
    ended = runner.run("make it", "--endpoint", "scenario/short")
    assert ended.code == 0, ended.err
    assert len(runner.provider.calls()) == 2
    assert MARK not in json.dumps(runner.provider.calls())
    assert not marker.exists()


def test_modules_are_not_imported_and_shells_not_set_up(runner: Runner) -> None:
    """By a fresh process that starts in the workspace, as in a container."""
    marker = runner.folder / "ran"
    modules = (
        "sitecustomize",
        "usercustomize",
        "conftest",
        "litellm",
        "openhands",
        "pydantic",
        "json",
        "paddock_agent",
    )
    for name in modules:
        (runner.workspace / f"{name}.py").write_text(f"open({str(marker)!r}, 'a').write('{name} ')\n")
    (runner.workspace / "pyproject.toml").write_text('[tool.openhands]\nmodel = "planted"\n')
    for name in (".tmux.conf", ".config/tmux/tmux.conf"):
        path = runner.workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"run-shell 'touch {marker}'\n")
    for name in (".bashrc", ".bash_profile", ".profile", ".inputrc"):
        (runner.workspace / name).write_text(f"touch {marker}\n")
    ended = runner.run("make it", "--endpoint", "scenario/short", cold=True)
    assert ended.code == 0, ended.err
    assert not marker.exists(), marker.read_text()


def test_a_state_that_was_rewritten_changes_no_setting(runner: Runner) -> None:
    """Where a kernel can't keep an agent out of its state, a resumed run still goes by what its caller says."""
    marker = runner.folder / "ran"
    first = runner.run("make it", "--endpoint", "scenario/short")
    folder = next((runner.state / "runs").iterdir())
    record = json.loads((folder / "paddock.json").read_text())
    record |= {"task": MARK, "tags": {"paddock.run_id": MARK, "paddock.outcome": MARK}}
    (folder / "paddock.json").write_text(json.dumps(record))
    (folder / "openhands").mkdir(exist_ok=True)
    (folder / "openhands" / "hooks.json").write_text(_hooks(marker))
    (folder / "openhands" / ".env").write_text("LMNR_PROJECT_API_KEY=planted\n")
    again = runner.run(
        "and once more",
        *["--resume", first.result["run_id"], "--endpoint", "scenario/short", "--handover"],
        stdin=json.dumps({"task": "make it"}),
    )
    assert again.code == 0, again.err
    assert not marker.exists()
    root = runner.collector.root(again.result["trace_id"]).attributes
    assert root["mlflow.spanInputs"] == '"make it"'
    assert root["mlflow.traceTag.paddock.run_id"] == first.result["run_id"]
    assert root["mlflow.traceTag.paddock.outcome"] == "finished"


def test_a_tag_can_not_take_the_place_of_ours(runner: Runner) -> None:
    ended = runner.run(
        "make it", "--endpoint", "scenario/short", "--tag", "paddock.run_id=x", "--tag", "mlflow.traceName=y"
    )
    root = runner.collector.root(ended.result["trace_id"]).attributes
    assert root["mlflow.traceTag.paddock.run_id"] == ended.result["run_id"]
    assert root["mlflow.traceTag.mlflow.traceName"] == "make it"


def test_a_mode_is_given_to_a_file_and_to_nothing_that_a_name_leads_to(tmp_path: Path) -> None:
    own = tmp_path / "own"
    precious = tmp_path / "precious"
    for path in (own, precious):
        path.write_text("x")
        path.chmod(0o600)
    (tmp_path / "link").symlink_to(precious)
    os.link(precious, tmp_path / "second name")
    (tmp_path / "folder").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "pipe", 0o600)

    give_user_mode(own, 0o022)
    for name in ("link", "second name", "folder", "pipe"):
        # A link is refused by the system; the others are looked at and left alone.
        with suppress(OSError):
            give_user_mode(tmp_path / name, 0o022)

    modes = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("own", "precious", "folder", "pipe")}
    assert modes == {"own": 0o644, "precious": 0o600, "folder": 0o700, "pipe": 0o600}


def test_escape_sequences_are_text(runner: Runner) -> None:
    ended = runner.run("show it", "--endpoint", "scenario/escape-sequences", "--output", "text")
    assert ended.code == 0, ended.err
    assert "over" in ended.out
    assert not set(ended.out + ended.err) & set("\x1b\x9b\x07\r\u202e")


def test_lines_for_programs_are_exact_and_escaped(runner: Runner) -> None:
    ended = runner.run("show it", "--endpoint", "scenario/escape-sequences")
    assert ended.result["message"] == "\x1b]0;title\x07over\x1b[31m and \u202etuo"
    assert ended.out.isascii()
    assert not set(ended.out) & set("\x1b\x9b\x07\r")
