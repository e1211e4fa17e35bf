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
    agent = stack.start_agent(request)
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
        "a run that had begun can go on: ./paddock run --resume RUN_ID",
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
                "task": request.task,
                "workspace": str(request.workspace),
                "endpoint": request.endpoint,
                "tools": request.tools,
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
