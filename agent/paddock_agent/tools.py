"""The agent's tools by the names that users give them, and MCP servers from a JSON file."""

from __future__ import annotations

import importlib
import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import RunStopped, UsageError
from .outcomes import Outcome

if TYPE_CHECKING:
    from openhands.sdk import Tool
    from openhands.sdk.mcp.utils import DefaultMCPToolProvider
    from openhands.tools.terminal.terminal.terminal_session import TerminalSession
    from openhands.tools.terminal.terminal.tmux_terminal import TmuxTerminal

_SHELL_SECONDS = 30.0
"""What a new shell may take to its first prompt: some people's ~/.bashrc is long."""
_CLEAR_SECONDS = 3.0
_MENDED = "__paddock_mended"
_MCP_FORM = '{"mcpServers": {"name": {"command": "…"} or {"url": "https://…"}}}'
_SECRET_NAME = re.compile(r"(?i)key|token|secret|passw|pwd|auth|credential|cookie|session|dsn")
# Words, folders and addresses: to mask `production` would garble what the agent reads and writes.
_PLAIN = re.compile(
    r"[a-z]+([-_. ][a-z]+)*|(/[\w.+-]+)+(:(/[\w.+-]+)+)*/?|https?://[\w.-]+(:\d+)?(/[\w./-]*)?"
)
# `${NAME}` is filled in by the SDK, out of the declared secrets or the environment.
_REFERENCE = re.compile(r"\$\{[^}]*\}")


def make_tools(names: Iterable[str], log_level: str) -> list[Tool]:
    """Registers and names the tools.

    Raises:
        UsageError: the browser is asked for where no Chromium is installed.
    """
    return [_make_tool(name, log_level) for name in names]


def _make_tool(name: str, log_level: str) -> Tool:
    from openhands.sdk import Tool

    # Imported one by one: each costs start-up time, the browser's most of all.
    if name == "terminal":
        from openhands.tools.terminal import TerminalTool as tool

        await_shells()
        keep_running_commands()
    elif name == "file_editor":
        from openhands.tools.file_editor import FileEditorTool as tool
    elif name == "task_tracker":
        from openhands.tools.task_tracker import TaskTrackerTool as tool
    elif name == "glob":
        from openhands.tools.glob import GlobTool as tool
    elif name == "grep":
        from openhands.tools.grep import GrepTool as tool
    else:
        return _make_browser(log_level)
    return Tool(name=tool.name)


def _make_browser(log_level: str) -> Tool:
    from openhands.sdk import Tool
    from openhands.tools.browser_use import BrowserToolSet
    from openhands.tools.browser_use.impl import BrowserToolExecutor

    if BrowserToolExecutor.check_chromium_available() is None:
        raise UsageError(
            "expected Chromium for the browser tool, found none; use the image paddock/agent-browser "
            "(service agent-browser), or install the package chromium"
        )
    # The SDK would import it with the first page, when load_dotenv works again and finds what lies in the workspace.
    importlib.import_module("openhands.tools.browser_use.server")
    for name in ("browser_use", "bubus", "cdp_use"):
        logging.getLogger(name).setLevel(log_level)
    return Tool(name=BrowserToolSet.name)


def await_shells() -> None:
    """Makes a terminal of tmux take a command only when its shell is at its prompt.

    The SDK sleeps 0.1 s for a new shell and after each clearing of the screen. Where that is too short, on a busy machine
    or with a long ~/.bashrc, the shell's first prompt passes for the end of the command: its output is lost, and its exit
    code is that of something else. Does nothing a second time.
    """
    from openhands.tools.terminal.terminal.tmux_pane_pool import TmuxPanePool
    from openhands.tools.terminal.terminal.tmux_terminal import TmuxTerminal

    if hasattr(TmuxTerminal, _MENDED):
        return
    create, clear = TmuxPanePool._create_pane, TmuxTerminal.clear_screen

    def create_pane(pool: TmuxPanePool) -> TmuxTerminal:
        terminal = create(pool)
        # The line that was typed shows the two halves apart; together they stand only where the shell has run it.
        halves = uuid.uuid4().hex, uuid.uuid4().hex
        terminal.send_keys(f"printf '%s%s\\n' {' '.join(halves)}")
        _wait(lambda: "".join(halves) in terminal.read_screen(), _SHELL_SECONDS)
        terminal.clear_screen()
        return terminal

    def clear_screen(terminal: TmuxTerminal) -> None:
        clear(terminal)
        _wait(lambda: _is_clear(terminal.read_screen()), _CLEAR_SECONDS)
        terminal.pane.cmd("clear-history")

    TmuxPanePool._create_pane = create_pane  # type: ignore[assignment]
    TmuxTerminal.clear_screen = clear_screen  # type: ignore[method-assign]
    setattr(TmuxTerminal, _MENDED, True)


def keep_running_commands() -> None:
    """Lets a command that outlasts a call go on, as the model is told that it does.

    After 30 s without output, or at a call's own limit, the SDK says that the model may wait for more output by an empty
    command, send input, or interrupt; and its pool of terminals interrupts the command before any of these. Does nothing
    a second time.
    """
    from openhands.tools.terminal.impl import TerminalExecutor
    from openhands.tools.terminal.terminal.terminal_session import TerminalCommandStatus as Status

    if hasattr(TerminalExecutor, _MENDED):
        return
    running = {Status.NO_CHANGE_TIMEOUT, Status.HARD_TIMEOUT, Status.CONTINUE}
    prepare = TerminalExecutor._prepare_pooled_session

    def prepare_unless_running(session: TerminalSession) -> None:
        if session.prev_status not in running:
            prepare(session)

    TerminalExecutor._prepare_pooled_session = staticmethod(prepare_unless_running)  # type: ignore[method-assign]
    setattr(TerminalExecutor, _MENDED, True)


def _is_clear(screen: str) -> bool:
    """Whether a screen shows one prompt and nothing else."""
    from openhands.tools.terminal.metadata import CmdOutputMetadata

    prompts = CmdOutputMetadata.matches_ps1_metadata(screen)
    return len(prompts) == 1 and prompts[0].group().strip() == screen.strip()


def _wait(condition: Callable[[], bool], seconds: float) -> None:
    """Polls until the condition holds, or until that has no more sense."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def load_mcp_servers(path: Path, workspace: Path) -> dict[str, dict[str, Any]]:
    """The servers of a file in the usual form `{"mcpServers": {name: {"command": …} or {"url": …}}}`.

    A server that is a command starts in the workspace unless it names its own `cwd`.

    Raises:
        UsageError: the file can't be read or has another form.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"expected an MCP file at {path}, found nothing; correct --mcp") from None
    except OSError as error:
        raise UsageError(
            f"expected a readable MCP file at {path}, found {error.strerror}; correct --mcp"
        ) from None
    except ValueError as error:
        raise UsageError(f"expected JSON in {path}, found {error}; the form is {_MCP_FORM}") from None
    return check_mcp_servers(content, str(path), workspace)


def check_mcp_servers(content: Any, source: str, workspace: Path) -> dict[str, dict[str, Any]]:
    """The same for content that was read already; `source` names it in a message.

    Raises:
        UsageError: it has another form.
    """
    servers = content.get("mcpServers") if isinstance(content, dict) else None
    if not isinstance(servers, dict) or not servers:
        raise UsageError(
            f"expected at least one entry under mcpServers in {source}, found none; the form is {_MCP_FORM}"
        )
    for name, server in servers.items():
        if not isinstance(server, dict) or bool(server.get("command")) == bool(server.get("url")):
            raise UsageError(
                f"expected either command or url for the server {name!r} in {source}, found "
                f"{'both' if isinstance(server, dict) and server.get('url') else 'neither'}; the form is {_MCP_FORM}"
            )
    return {
        name: {"cwd": str(workspace), **server} if server.get("command") else dict(server)
        for name, server in servers.items()
    }


def mcp_secrets(servers: dict[str, dict[str, Any]]) -> list[str]:
    """The values of the servers' `env` and `headers` that are to be masked: all but those that are plainly none."""
    pairs = [
        (str(name), str(value))
        for server in servers.values()
        for field in ("env", "headers")
        for name, value in (server.get(field) or {}).items()
    ]
    found = [
        value
        for name, value in pairs
        if not _REFERENCE.fullmatch(value) and (_SECRET_NAME.search(name) or not _PLAIN.fullmatch(value))
    ]
    # `Bearer abc`: a tool may print the key alone.
    return [*found, *(value.rpartition(" ")[2] for value in found if " " in value)]


def strict_mcp_provider(source: str, servers: Iterable[str]) -> DefaultMCPToolProvider:
    """Starts the MCP servers, and ends the run where one does not start; the SDK would go on without its tools."""
    from openhands.sdk.mcp.utils import DefaultMCPToolProvider as Lenient

    class Strict(Lenient):
        def create_tools(self, *arguments: Any, **options: Any) -> Any:
            try:
                return super().create_tools(*arguments, **options)
            except Exception as error:
                said = " ".join(str(error).split())[:400] or type(error).__name__
                raise RunStopped(
                    Outcome.ERROR,
                    f"expected every MCP server of {source} to start ({', '.join(servers)}), found: {said}; "
                    "try its command or address by hand, or remove it from the file",
                ) from error

    return Strict()
