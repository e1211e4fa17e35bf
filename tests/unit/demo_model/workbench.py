"""A folder with the tools of an OpenHands agent: commands are really run, and results read as OpenHands 1.57 writes them.

The tools' definitions in data/openhands_tools.json were recorded from an agent of openhands-tools 1.57.0.
"""

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

DATA = Path(__file__).with_name("data")
SCENARIOS = Path(__file__).resolve().parents[2] / "scenarios"
ERROR = "[An error occurred during execution.]\n\n"
STANDARD = ("terminal", "file_editor", "task_tracker", "finish", "think")


class Workbench:
    """Plays the agent's side of a run: sends the conversation, carries out the tool calls."""

    def __init__(self, client: TestClient, folder: Path, tools: tuple[str, ...] = STANDARD) -> None:
        self.client = client
        self.folder = folder
        recorded = json.loads((DATA / "openhands_tools.json").read_text().replace("{workspace}", str(folder)))
        self.tools = [tool for tool in recorded if tool["function"]["name"] in tools]
        self.messages: list[dict[str, Any]] = [{"role": "system", "content": "You are an agent."}]
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.override: dict[str, Callable[[dict[str, Any]], str | None]] = {}
        """Tool's name → a function that may answer in the tool's place."""

    def add_tool(self, name: str, parameters: dict[str, Any], answer: str) -> None:
        """Offer one more tool, as an MCP server does."""
        function = {"name": name, "description": name, "parameters": parameters}
        self.tools.append({"type": "function", "function": function})
        self.override[name] = lambda _: answer

    def ask(self) -> dict[str, Any]:
        """One request; returns the model's message and keeps it."""
        body = {"model": "demo", "messages": self.messages, "tools": self.tools}
        response = self.client.post("/v1/chat/completions", json=body)
        assert response.status_code == 200, response.text
        message = response.json()["choices"][0]["message"]
        self.messages.append(message)
        return message

    def step(self) -> str | None:
        """Ask once and carry out the calls; returns the closing message, if this was the last step."""
        message = self.ask()
        if not message.get("tool_calls"):
            return message["content"]
        for call in message["tool_calls"]:
            name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
            self.calls.append((name, arguments))
            text = arguments["message"] if name == "finish" else self.carry_out(name, arguments)
            self.messages.append({"role": "tool", "tool_call_id": call["id"], "name": name, "content": text})
            if name == "finish":
                return arguments["message"]
        return None

    def run(self, task: str, limit: int = 30) -> str:
        """Give a task and work to its end; returns the closing message."""
        self.messages.append({"role": "user", "content": [{"type": "text", "text": task}]})
        for _ in range(limit):
            if (closing := self.step()) is not None:
                return closing
        raise AssertionError(f"no end after {limit} steps: {self.calls}")

    def names(self) -> list[str]:
        """Names of the tools called so far."""
        return [name for name, _ in self.calls]

    def carry_out(self, name: str, arguments: dict[str, Any]) -> str:
        """The tool's result as the model gets it."""
        if name in self.override and (text := self.override[name](arguments)) is not None:
            return text
        if name == "terminal":
            return self._terminal(arguments["command"])
        if name == "file_editor":
            return self._file_editor(arguments)
        if name == "task_tracker":
            return f"Task list has been updated with {len(arguments['task_list'])} item(s)."
        if name == "glob":
            found = sorted(str(path) for path in self.folder.rglob(arguments["pattern"].split("/")[-1]))
            return _found(found, f"matching pattern '{arguments['pattern']}'", self.folder)
        if name == "grep":
            found = sorted(
                str(path)
                for path in self.folder.rglob("*")
                if path.is_file() and re.search(arguments["pattern"], path.read_text(errors="replace"))
            )
            return _found(found, f"containing pattern '{arguments['pattern']}'", self.folder)
        return f"Tool '{name}' not found. Available: {[tool['function']['name'] for tool in self.tools]}"

    def _terminal(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, capture_output=True, timeout=120, check=False
        )
        output = (done.stdout + done.stderr).decode(errors="replace").rstrip("\n")
        return terminal_text(output, self.folder, done.returncode)

    def _file_editor(self, arguments: dict[str, Any]) -> str:
        path = Path(arguments["path"])
        command = arguments["command"]
        if command == "create":
            if path.exists():
                return (
                    f"{ERROR}Invalid `path` parameter: {path}. File already exists at: {path}. "
                    "Cannot overwrite files using command `create`."
                )
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(arguments["file_text"])
            return f"File created successfully at: {path}"
        if not path.exists():
            return (
                f"{ERROR}Invalid `path` parameter: {path}. The path {path} does not exist. "
                "Please provide a valid path."
            )
        if command == "str_replace":
            text = path.read_text()
            if arguments["old_str"] not in text:
                return (
                    f"{ERROR}No replacement was performed, old_str `{arguments['old_str']}` did not appear."
                )
            path.write_text(text.replace(arguments["old_str"], arguments["new_str"]))
            return f"The file {path} has been edited."
        numbered = "".join(f"{n:6}\t{line}\n" for n, line in enumerate(path.read_text().splitlines(), 1))
        return f"Here's the result of running `cat -n` on {path}:\n{numbered}"


def terminal_text(output: str, folder: Path, exit_code: int) -> str:
    """A finished command's result."""
    return (
        f"{output}\n[The command completed with exit code {exit_code}.]\n[Current working directory: {folder}]\n"
        f"[Python interpreter: /usr/bin/python3]\n[Command finished with exit code {exit_code}]"
    )


def lost_output(folder: Path) -> str:
    """What OpenHands 1.57 answers to a first command when the shell was slow to start: the output is gone."""
    return (
        "[Previous command outputs are truncated. Showing the last 1 lines of the output below.]\n"
        + terminal_text("", folder, 0)
    )


def _found(paths: list[str], what: str, folder: Path) -> str:
    if not paths:
        return f"No files found {what} in directory '{folder}'"
    return f"Found {len(paths)} file(s) {what} in '{folder}':\n" + "\n".join(paths)
