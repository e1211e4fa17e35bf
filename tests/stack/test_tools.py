"""Tools that need more than a workspace, in the agent's own containers: a browser, and MCP servers of both kinds."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cases import Product, eventually
from stack_under_test import StackUnderTest

MCP_SERVER = '''
import sys
from mcp.server.fastmcp import FastMCP

server = FastMCP("sums", host="0.0.0.0", port=8000, stateless_http=True)
server.settings.transport_security = None


@server.tool()
def add_numbers(a: int, b: int) -> str:
    """Adds two numbers."""
    return f"the sum is {a + b}"


server.run(transport=sys.argv[1])
'''


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "sums.py").write_text(MCP_SERVER)
    (tmp_path / "tides.html").write_text("<title>Tides</title><h1>Tides</h1><p>High water is at 12:04.</p>")
    return tmp_path


@pytest.fixture
def outside_world(stack: StackUnderTest, workspace: Path) -> Iterator[str]:
    """A container beside the agent's that plays a server elsewhere; its name."""
    name = f"{stack.project}-elsewhere"

    stack.agent(
        *["exec", "bash", "-c", "python3 -m http.server 8080 & exec python sums.py streamable-http"],
        workspace=workspace,
        options=("--detach", "--name", name),
        # pytest's folders are closed to other users.
        variables={"AGENT_UID": str(os.getuid()), "AGENT_GID": str(os.getgid())},
    )

    def listens() -> bool:
        ports = "curl -s -o /dev/null localhost:8080 && curl -s -o /dev/null localhost:8000/mcp"
        return not subprocess.run(
            ["docker", "exec", name, "bash", "-c", ports], capture_output=True
        ).returncode

    eventually(listens, 60, "a page and an MCP server")
    yield name
    subprocess.run(["docker", "rm", "--force", name], capture_output=True, check=True)


def spans(product: Product, trace_id: str) -> str:
    return json.dumps(product.api("GET", f"/ajax-api/3.0/mlflow/get-trace-artifact?request_id={trace_id}"))


def run(product: Product, workspace: Path, task: str, *arguments: str) -> dict:
    answer = product.paddock(
        *["run", task, "--workspace", str(workspace), "--judge-timeout", "0", "--json", *arguments]
    )
    assert answer.code == 0, answer.err
    return answer.document["run"]


def test_a_page_is_read_by_the_browser(product: Product, workspace: Path, outside_world: str) -> None:
    result = run(
        product,
        workspace,
        f"Read the page http://{outside_world}:8080/tides.html",
        *["--tools", "terminal,file_editor,browser"],
    )
    assert "12:04" in result["message"]
    assert "High water is at 12:04" in spans(product, result["trace_id"])


def test_an_mcp_server_that_the_agent_starts(product: Product, workspace: Path) -> None:
    servers = {
        "mcpServers": {"sums": {"command": "/opt/venv/bin/python", "args": ["/workspace/sums.py", "stdio"]}}
    }
    (workspace / "mcp.json").write_text(json.dumps(servers))
    result = run(
        product,
        workspace,
        "Call the MCP tool `add_numbers` with a=40, b=2.",
        "--mcp",
        str(workspace / "mcp.json"),
    )
    assert "the sum is 42" in result["message"]


def test_an_mcp_server_over_http(product: Product, workspace: Path, outside_world: str) -> None:
    (workspace / "mcp.json").write_text(
        json.dumps({"mcpServers": {"sums": {"url": f"http://{outside_world}:8000/mcp"}}})
    )
    result = run(
        product,
        workspace,
        "Call the MCP tool `add_numbers` with a=40, b=2.",
        "--mcp",
        str(workspace / "mcp.json"),
    )
    assert "the sum is 42" in result["message"]
