"""Each tool, used by an agent from end to end."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Runner, chromium_path

SERVER = '''
import sys
from mcp.server.fastmcp import FastMCP

server = FastMCP("sums", port=int(sys.argv[2]) if len(sys.argv) > 2 else 8000)


@server.tool()
def add(a: int, b: int) -> str:
    """Adds two numbers."""
    return f"the sum is {a + b}"


server.run(transport=sys.argv[1])
'''


def _observations(ended) -> list[str]:
    return [json.dumps(event["event"]) for event in ended.events if event["kind"] == "ObservationEvent"]


def test_glob_and_grep(runner: Runner) -> None:
    (runner.workspace / "lib").mkdir()
    (runner.workspace / "lib" / "hay.py").write_text("a needle\n")
    (runner.workspace / "lib" / "straw.py").write_text("nothing\n")
    ended = runner.run("look", "--endpoint", "scenario/tools-look", "--tools", "glob,grep")
    assert ended.code == 0, ended.err
    found, matched, _ = _observations(ended)
    assert "hay.py" in found
    assert "straw.py" in found
    assert "hay.py" in matched
    assert "straw.py" not in matched
    assert {"GlobAction", "GrepAction"} <= set(runner.collector.trace(ended.result["trace_id"]))
    assert ended.started["tools"] == ["glob", "grep"]


def test_no_output_is_lost_to_a_slow_shell(runner: Runner) -> None:
    # As on a busy machine: after a prompt the screen is not yet cleared.
    (runner.home / ".bashrc").write_text("sleep 0.5\nclear() { command clear; sleep 0.5; }\n")
    ended = runner.run("look", "--endpoint", "scenario/exit-codes", "--tools", "terminal")
    assert ended.code == 0, ended.err
    seen = [event["event"]["observation"] for event in ended.events if event["kind"] == "ObservationEvent"]
    told = [
        (one["content"][0]["text"], one["exit_code"]) for one in seen if one["kind"] == "TerminalObservation"
    ]
    assert told == [("first", 7), ("second", 8)]


def test_a_command_that_outlasts_its_call_goes_on(runner: Runner) -> None:
    ended = runner.run("look", "--endpoint", "scenario/outlasts", "--tools", "terminal")
    assert ended.code == 0, ended.err
    begun, refused, answered, _ = _observations(ended)
    assert "timed out after 1" in begun
    assert "is NOT executed" in refused
    assert "it was horse" in answered
    assert '"exit_code": 0' in answered


def test_mcp_server_on_standard_input(runner: Runner) -> None:
    (runner.workspace / "sums.py").write_text(SERVER)
    file = runner.folder / "mcp.json"
    # A relative path: the server starts in the workspace.
    file.write_text(
        json.dumps({"mcpServers": {"sums": {"command": sys.executable, "args": ["sums.py", "stdio"]}}})
    )
    ended = runner.run("add", "--endpoint", "scenario/mcp-stdio", "--mcp", str(file))
    assert ended.code == 0, ended.err + ended.out[-2000:]
    assert "the sum is 42" in _observations(ended)[0]
    assert ended.started["tools"][-1] == "mcp:sums"


@pytest.fixture
def http_server(tmp_path: Path) -> Iterator[str]:
    script = tmp_path / "sums.py"
    script.write_text(SERVER)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, str(script), "streamable-http", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}/mcp"
    process.terminate()
    process.wait(10)


def test_mcp_server_over_http(runner: Runner, http_server: str) -> None:
    file = runner.folder / "mcp.json"
    file.write_text(json.dumps({"mcpServers": {"sums": {"url": http_server}}}))
    ended = runner.run("add", "--endpoint", "scenario/mcp-http", "--mcp", str(file))
    assert ended.code == 0, ended.err + ended.out[-2000:]
    assert "the sum is 42" in _observations(ended)[0]


def test_mcp_server_that_does_not_start(runner: Runner) -> None:
    file = runner.folder / "mcp.json"
    file.write_text(json.dumps({"mcpServers": {"broken": {"command": "/nowhere/server"}}}))
    ended = runner.run("add", "--endpoint", "scenario/mcp-stdio", "--mcp", str(file))
    assert (ended.code, ended.result["outcome"]) == (1, "error")
    assert "broken" in ended.result["message"]
    assert "Traceback" not in ended.err
    assert ended.result["trace_id"]


@pytest.mark.requires_browser
@pytest.mark.usefixtures("chromium")
def test_browser(runner: Runner) -> None:
    ended = runner.run("read the page", "--endpoint", "scenario/browser", "--tools", "browser")
    assert ended.code == 0, ended.err
    assert "Seven horses" in _observations(ended)[1], _observations(ended)
    assert ended.err == ""


@pytest.mark.skipif(bool(chromium_path()), reason="Chromium is installed here")
def test_browser_without_chromium(runner: Runner) -> None:
    ended = runner.run(
        "read the page", "--endpoint", "scenario/browser", "--tools", "browser", "--output", "text"
    )
    assert (ended.code, ended.out) == (2, "")
    assert "expected Chromium for the browser tool, found none" in ended.err
    assert not list((runner.state / "runs").glob("*"))
