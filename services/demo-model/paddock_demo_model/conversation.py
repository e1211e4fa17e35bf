"""What an agent's conversation holds: what was asked, which tools were called since, and what they answered."""

import json
import re
from dataclasses import dataclass
from typing import Any

from paddock_demo_model.protocol import CALL_ID_PREFIX, ChatRequest, Tool

# How OpenHands 1.57 reports failures to the model (openhands.sdk.tool.schema.Observation, agent error events).
_ERROR_HEADER = "[An error occurred during execution.]"
_ERROR_STARTS = (_ERROR_HEADER, "Error validating tool", "Error executing tool")
_TOOL_NOT_FOUND = re.compile(r"^Tool '[^']*' not found\.")
_EXIT_CODE = re.compile(r"\[(?:The command completed|Command finished) with exit code (-?\d+)")
_STILL_RUNNING = re.compile(r"\[The command (?:has no new output after|timed out after)")
_TERMINAL_NOTES = re.compile(
    r"\n?\[(?:Previous command outputs are truncated|The command completed|Current working directory:"
    r"|Python interpreter:|Command finished|Below is the output of the previous command)[^\n]*\]"
)
_WORKING_DIRECTORY = re.compile(r"\[Current working directory: (.*?)\]")
_DESCRIBED_DIRECTORY = re.compile(r"Your current working directory is: ([^\n]+)")
_CONTINUE = re.compile(
    r"\s*(?:please\s+)?(?:continue|go on|carry on|resume|proceed|keep going|go ahead)"
    r"(?:\s+(?:please|where you left off|with the task|with it))?\s*[.!]?\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Result:
    """What a tool answered."""

    text: str

    @property
    def failed(self) -> bool:
        """Whether the tool itself reports an error. A command's exit code is not one."""
        return self.text.startswith(_ERROR_STARTS) or bool(_TOOL_NOT_FOUND.match(self.text))

    @property
    def error(self) -> str:
        """The error's first lines, at most 300 characters."""
        return self.text.removeprefix(_ERROR_HEADER).strip()[:300]

    @property
    def exit_code(self) -> int | None:
        """Exit code of a terminal command; None while it runs or where the text has none."""
        codes = _EXIT_CODE.findall(self.text)
        return int(codes[-1]) if codes else None

    @property
    def still_running(self) -> bool:
        """Whether the terminal gave up waiting for the command."""
        return bool(_STILL_RUNNING.search(self.text))

    @property
    def lost(self) -> bool:
        """Whether the terminal lost the command's output.

        OpenHands 1.57 takes a new shell's first prompt for the end of the first command where the shell is slow to
        start; the exit code that it then tells is not the command's either.
        """
        return self.text.startswith("[Previous command outputs are truncated") and not self.output

    @property
    def output(self) -> str:
        """A terminal command's own output, without what the tool says about it."""
        return _TERMINAL_NOTES.sub("", self.text).strip("\n")


@dataclass(frozen=True)
class Step:
    """One tool call that was made, with its result."""

    name: str
    arguments: dict[str, Any] | None
    ours: bool
    result: Result


class Conversation:
    """The agent's side of a request."""

    def __init__(self, request: ChatRequest) -> None:
        self._messages = request.messages
        self.tools: dict[str, Tool] = {tool.function.name: tool for tool in request.tools or []}
        self._task_index = self._find_task()

    @property
    def task(self) -> str:
        """The user's words that are being worked on."""
        return self._messages[self._task_index].own_words().strip() if self._task_index >= 0 else ""

    @property
    def steps(self) -> list[Step]:
        """Tool calls since the task was given, each with its result; calls without one are left out."""
        results = {
            message.tool_call_id: Result(message.text())
            for message in self._messages
            if message.role == "tool" and message.tool_call_id
        }
        return [
            Step(
                name=call.function.name,
                arguments=_object(call.function.arguments),
                ours=call.id.startswith(CALL_ID_PREFIX),
                result=results[call.id],
            )
            for message in self._messages[self._task_index + 1 :]
            for call in message.tool_calls or []
            if call.id in results
        ]

    @property
    def earlier_tasks(self) -> list[str]:
        """What the user asked for before, oldest first."""
        return [
            message.own_words().strip()
            for message in self._messages[: max(self._task_index, 0)]
            if message.role == "user" and message.own_words().strip()
        ]

    def working_directory(self) -> str | None:
        """Absolute path of the agent's folder: as the terminal last reported it, else as a tool's description says."""
        for message in reversed(self._messages):
            if message.role == "tool" and (found := _last(_WORKING_DIRECTORY, message.text())):
                return found
        return self._described_directory()

    def workspace(self) -> str | None:
        """Absolute path of the folder that the agent was started in."""
        return self._described_directory() or self.working_directory()

    def has_moved(self) -> bool:
        """Whether the terminal stands in another folder than the one that the agent was started in."""
        before = self._messages[: max(self._task_index, 0)]
        places = [place for message in before if (place := _last(_WORKING_DIRECTORY, message.text()))]
        return bool(places) and places[-1] != self.workspace()

    def _described_directory(self) -> str | None:
        descriptions = (tool.function.description or "" for tool in self.tools.values())
        return next((found for text in descriptions if (found := _last(_DESCRIBED_DIRECTORY, text))), None)

    def _find_task(self) -> int:
        """Index of the last user message that is not a mere "continue"; -1 without one."""
        users = [index for index, message in enumerate(self._messages) if message.role == "user"]
        for index in reversed(users):
            if not _CONTINUE.fullmatch(self._messages[index].own_words()):
                return index
        return users[-1] if users else -1


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    """The group of a pattern's last match."""
    found: list[str] = pattern.findall(text)
    return found[-1].strip() if found else None
