"""One agent run, from its first line to its result: reads the runner's JSON lines and passes signals on."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paddock_cli.errors import CliError, RunnerFailed, UsageFailed
from paddock_cli.exit_codes import ExitCode
from paddock_cli.settings import Paths
from paddock_cli.stack import AgentProcess, Request, Stack

BACKSTOP_SECONDS = 120
"""How long after its own time limit an agent that does not end is ended from outside."""


_MAX_STRAY = 4096
TraceId = Annotated[str, Field(pattern=r"^tr-[0-9a-f]{1,64}$")]
"""It becomes part of an address that the administrator's credentials are sent to, and an agent's word for it."""


class Landlock(BaseModel):
    """The kernel's second wall, as the runner found it; `abi` None where there is none."""

    applied: bool = False
    abi: int | None = None
    reason: str = ""
    signals_held: bool = False


class Isolation(BaseModel):
    """What the runner saw of its fence from inside; None where it could not tell."""

    model_config = ConfigDict(extra="allow")

    landlock: Landlock = Landlock()
    runtime: str = "unknown"
    container: bool = False
    seccomp: str = "unknown"
    no_new_privs: bool | None = None
    uid: int = -1
    capabilities: list[str] | None = None
    read_only_root: bool | None = None
    default_route: bool | None = None

    def walls(self) -> str:
        """Those that stand, in one line."""
        lock = self.landlock
        standing = {
            "container": self.container,
            f"runtime {self.runtime}": self.runtime != "unknown",
            f"Landlock ABI {lock.abi}": lock.applied,
            f"seccomp {self.seccomp}": self.seccomp in ("filter", "strict"),
            "no new privileges": self.no_new_privs is True,
            "no capabilities": self.capabilities == [],
            f"uid {self.uid}": self.uid > 0,
            "read-only root": self.read_only_root is True,
            "no default route": self.default_route is False,
        }
        return " · ".join(name for name, stands in standing.items() if stands) or "none"

    def lacking(self) -> list[str]:
        """Those that don't, each with what is known of it."""
        lock = self.landlock
        held = self.capabilities or []
        missing = {
            "not in a container": not self.container,
            f"no Landlock: {lock.reason}": not lock.applied,
            f"Landlock: {lock.reason}": lock.applied and bool(lock.reason),
            f"seccomp {self.seccomp}": self.seccomp not in ("filter", "strict"),
            "new privileges can be had": self.no_new_privs is False,
            f"capabilities: {', '.join(held) if len(held) <= 5 else len(held)}": bool(held),
            "uid 0": self.uid == 0,
            "the root file system can be written": self.read_only_root is False,
            "there is a route out": self.default_route is True,
        }
        return [name for name, lacks in missing.items() if lacks]


class Started(BaseModel):
    """The runner's first line."""

    model_config = ConfigDict(extra="allow")

    run_id: str
    trace_id: TraceId | None = None
    endpoint: str = ""
    model: str = ""
    tools: list[str] = []
    resumed: bool = False
    experiment_id: str | None = None
    isolation: Isolation | None = None


class Tokens(BaseModel):
    """Tokens of a run. `cached_input` is part of `input`, `reasoning` of `output`."""

    input: int = 0
    cached_input: int = 0
    output: int = 0
    reasoning: int = 0


class Result(BaseModel):
    """The runner's last line. `cost_usd` in USD, `seconds` of wall-clock time."""

    model_config = ConfigDict(extra="allow")

    run_id: str
    trace_id: TraceId | None = None
    outcome: str
    exit_code: int
    message: str = ""
    steps: int = 0
    tools: dict[str, int] = {}
    tokens: Tokens = Tokens()
    cost_usd: float | None = None
    seconds: float = 0
    endpoint: str = ""
    model: str = ""

    @property
    def finished(self) -> bool:
        """Whether the agent itself said that it was done."""
        return self.outcome == "finished"


class Watcher:
    """What is done with a run's lines while they come."""

    def started(self, line: Started) -> None:
        """The run has begun."""

    def event(self, line: dict[str, Any]) -> None:
        """The agent did something, or something answered."""


def run(stack: Stack, request: Request, watcher: Watcher) -> Result:
    """Run the agent to its end.

    SIGINT, SIGTERM and SIGHUP that arrive meanwhile go to the agent, which ends its conversation and its trace.

    Raises:
        UsageFailed: the runner refused its arguments.
        NotRunning: there is no stack to run in.
        RunnerFailed: the runner ended without a result.
    """
    return follow(stack.start_agent(request), request, watcher)


def follow(agent: AgentProcess, request: Request, watcher: Watcher) -> Result:
    """As `run`, of an agent that was started already."""
    reading = _Reading(watcher)
    with _passing_signals(agent), _backstop(agent, request):
        for line in agent.lines():
            reading.take(line)
        code = agent.wait()
    if reading.result is not None:
        return reading.result
    raise _no_result(reading, agent, code)


class _Reading:
    def __init__(self, watcher: Watcher) -> None:
        self._watcher = watcher
        self.started: Started | None = None
        self.result: Result | None = None
        self.refusal = ""
        self.stray: list[str] = []

    def take(self, text: str) -> None:
        try:
            line = json.loads(text)
            kind = line["type"]
            if kind == "started":
                self.started = Started.model_validate(line)
                self._watcher.started(self.started)
            elif kind == "event":
                self._watcher.event(line)
            elif kind == "result":
                self.result = Result.model_validate(line)
            elif kind == "error":
                self.refusal = str(line.get("message", ""))
        except (ValueError, KeyError, TypeError, ValidationError):
            # A library that prints to standard output is no reason to lose a run.
            if text.strip():
                self.stray.append(text[:_MAX_STRAY].rstrip())
                del self.stray[:-50]


def _no_result(reading: _Reading, agent: AgentProcess, code: int) -> CliError:
    told = reading.refusal or "\n".join([*reading.stray[-10:], agent.errors()]).strip()
    if code == ExitCode.USAGE or (
        reading.refusal and reading.started is None and code != ExitCode.NOT_SET_UP
    ):
        return UsageFailed("arguments that the agent takes", told or "none", "see ./paddock run --help")
    if code == ExitCode.NOT_SET_UP:
        return RunnerFailed("a stack that is set up", told or "one that is not", "set it up: ./paddock up")
    begun = f" in run {reading.started.run_id}" if reading.started else ""
    return RunnerFailed(
        "the agent to end with a result",
        f"exit code {code} without one{begun}:\n{told or '(no output)'}\n",
        f"go on with it: ./paddock run --resume {reading.started.run_id}"
        if reading.started
        else "see what it said, and try again",
    )


@contextmanager
def _passing_signals(agent: AgentProcess) -> Iterator[None]:
    def pass_on(number: int, _frame: FrameType | None) -> None:
        agent.send(signal.Signals(number))

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _backstop(agent: AgentProcess, request: Request) -> Iterator[None]:
    if request.timeout is None:
        yield
        return
    timers = [
        threading.Timer(request.timeout + extra, agent.send, [number])
        for extra, number in ((BACKSTOP_SECONDS, signal.SIGTERM), (2 * BACKSTOP_SECONDS, signal.SIGKILL))
    ]
    for timer in timers:
        timer.daemon = True
        timer.start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


def note(where: Paths, request: Request, stack_kind: str) -> None:
    """Keep what a resume needs to know: the workspace, the task, the stack."""
    from paddock_cli.settings import write_private

    write_private(
        note_path(where, request.run_id),
        json.dumps(
            {
                "run_id": request.run_id,
                "task": request.begun_with or request.task,
                "workspace": str(request.workspace),
                "endpoint": request.endpoint,
                "tools": request.tools,
                "tags": list(request.tags),
                # A file and names: the values stand in neither note nor state.
                "mcp": str(request.mcp_file) if request.mcp_file else None,
                "secrets": sorted(request.secrets),
                "stack": stack_kind,
                "began": time.time(),
            }
        ),
    )


def noted(where: Paths, run_id: str) -> dict[str, Any] | None:
    """What was kept of a run, or None where there is no such run here."""
    try:
        return json.loads(note_path(where, run_id).read_text())
    except (OSError, ValueError):
        return None


def note_path(where: Paths, run_id: str) -> Path:
    """The file of a run's note; beside its state folder, which belongs to the agent."""
    return where.runs / f"{run_id}.json"
