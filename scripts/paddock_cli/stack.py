"""What both ways of running offer: the verbs that the commands are made of."""

import contextlib
import json
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

DEFAULT_TOOLS = "terminal,file_editor,task_tracker"
MAX_LINE = 64 * 1024 * 1024
"""Characters of a runner's line: more than an event has. What an agent prints must not fill this machine's memory."""
_MAX_ERROR = 64 * 1024
APART_GRACE_SECONDS = 30
"""What a command that runs apart gets beyond its time, should nobody be there to end it."""
OUTPUT_BYTES = 16 * 1024
"""How much of the end of a command's output is kept."""


@dataclass(frozen=True)
class Connection:
    """How a client on this machine reaches the stack."""

    url: str
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Client:
    """What an agent on this machine, outside the stack, sets to work through it."""

    url: str
    agent_key: str = field(repr=False)
    experiment_id: str

    def variables(self) -> dict[str, str]:
        """MLflow's address, the three OTEL_* variables, and the gateway with its key."""
        return {
            "MLFLOW_TRACKING_URI": self.url,
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.url,
            # The header's value is percent-encoded, as the OTLP exporter specification asks.
            "OTEL_EXPORTER_OTLP_HEADERS": f"x-mlflow-experiment-id={self.experiment_id},"
            f"Authorization=Bearer%20{self.agent_key}",
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            "LLM_BASE_URL": f"{self.url}/gateway/mlflow/v1",
            "LLM_API_KEY": self.agent_key,
        }


@dataclass(frozen=True)
class ServiceStatus:
    """One service: `state` is running, exited or missing; `health` may be empty; memory in bytes, 0 if unknown."""

    name: str
    state: str
    health: str = ""
    memory: int = 0


@dataclass(frozen=True)
class Request:
    """One agent run. `timeout` in seconds; `state` is this run's own folder, which a resume needs again."""

    run_id: str
    task: str
    workspace: Path
    state: Path
    endpoint: str = "coder"
    max_iterations: int | None = None
    timeout: int | None = None
    max_output_tokens: int | None = None
    tools: str = DEFAULT_TOOLS
    mcp: dict[str, Any] | None = field(default=None, repr=False)
    """MCP servers, whose variables and headers may hold keys."""
    mcp_file: Path | None = None
    """Where they were read from."""
    user: str = ""
    tags: tuple[str, ...] = ()
    resume: bool = False
    llm_key: str = field(default="", repr=False)
    """The run's own key for the gateway; without one the agent has the stack's identity."""
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    """What the agent's tools get by name, and nobody gets to see."""
    begun_with: str = ""
    """The task of a run that is resumed."""
    allow: tuple[str, ...] = ()
    """Hosts that this run may reach through the egress proxy, beside what its configuration allows to all."""
    egress: bool = False
    """Whether the agent is told of the egress proxy."""
    kept: bool = False
    """Whether what the agent says outlives the command line, until `Stack.let_go`, so that a later call picks it up."""

    def handover(self) -> str:
        """What the runner reads from standard input: all that no argument, environment or file is to hold."""
        given = {
            "llm_api_key": self.llm_key,
            "secrets": self.secrets,
            "mcp": self.mcp,
            "task": self.begun_with,
        }
        return json.dumps({name: value for name, value in given.items() if value})

    def arguments(self, workspace: str, state: str) -> list[str]:
        """The runner's arguments, with the folders as the agent sees them."""
        arguments = ["--output", "jsonl", "--handover", "--workspace", workspace, "--state-dir", state]
        arguments += ["--endpoint", self.endpoint, "--tools", self.tools]
        arguments += ["--resume", self.run_id] if self.resume else ["--run-id", self.run_id]
        if self.max_iterations is not None:
            arguments += ["--max-iterations", str(self.max_iterations)]
        if self.timeout is not None:
            arguments += ["--timeout", str(self.timeout)]
        if self.max_output_tokens is not None:
            arguments += ["--max-output-tokens", str(self.max_output_tokens)]
        if self.user:
            arguments += ["--user", self.user]
        for tag in self.tags:
            arguments += ["--tag", tag]
        # A task may begin with a dash. A resume without one goes on where the run stopped.
        return [*arguments, "--", self.task] if self.task else arguments


class AgentProcess:
    """A running agent: its lines, its end, and a way to signal it."""

    def __init__(self, process: "subprocess.Popen[str]", request: Request | None = None) -> None:
        """`process` reads its handover from standard input where it is a pipe."""
        self._process = process
        self._errors: list[str] = []
        self._hidden = tuple(request.secrets.values()) if request else ()
        if request is not None and process.stdin is not None:
            # From a thread: it may be more than a pipe holds, before anybody reads it.
            threading.Thread(target=self._hand_over, args=[request.handover()], daemon=True).start()
        # Read beside standard output: a full pipe would stop the agent.
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()

    def lines(self) -> Iterator[str]:
        """Standard output, line by line, until the agent ends; a line without end comes in pieces."""
        assert self._process.stdout is not None
        while line := self._process.stdout.readline(MAX_LINE):
            yield line

    def wait(self) -> int:
        """The exit code, once it has ended."""
        code = self._process.wait()
        self._reader.join(timeout=5)
        return code

    def errors(self, lines: int = 20) -> str:
        """The last lines of standard error."""
        return "\n".join(self._errors[-lines:])

    def send(self, number: signal.Signals) -> None:
        """Pass a signal on; nothing where it has ended."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def _hand_over(self, text: str) -> None:
        assert self._process.stdin is not None
        # An agent that has ended already tells why itself.
        with contextlib.suppress(OSError), self._process.stdin as stream:
            stream.write(text)

    def _drain(self) -> None:
        assert self._process.stderr is not None
        while line := self._process.stderr.readline(_MAX_ERROR):
            # The runner hides secrets in what it says; libraries write here too.
            for secret in self._hidden:
                line = line.replace(secret, "<secret-hidden>")
            self._errors.append(line.rstrip())
            del self._errors[:-200]


@dataclass(frozen=True)
class Ended:
    """A command that ran apart from agents: its exit code, the end of its output, its wall-clock seconds.

    `failed` says why it could not run at all; then the code means nothing.
    """

    code: int
    output: str
    seconds: float
    timed_out: bool = False
    failed: str = ""


def tail_of(stream: BinaryIO) -> str:
    """The end of a stream, all of which is read."""
    kept = b""
    while block := stream.read(64 * 1024):
        kept = (kept + block)[-OUTPUT_BYTES:]
    return kept.decode(errors="replace").strip("\n")


class Stack(Protocol):
    """The product by Compose, or its parts as plain processes."""

    kind: str

    def up(self, *, build: bool = True) -> None:
        """Bring everything up and wait until it serves; `build` what images are missing or changed."""
        ...

    def stop(self) -> None:
        """End running agents, then the services; everything is kept."""
        ...

    def down(self, *, volumes: bool) -> None:
        """As `stop`, and remove what was made; the data too where `volumes`."""
        ...

    def status(self) -> list[ServiceStatus]:
        """Every service and how it does; empty where nothing runs."""
        ...

    def logs(self, services: list[str], *, follow: bool, tail: int) -> Iterator[str]:
        """Lines of the services' logs."""
        ...

    def url(self) -> str:
        """Where MLflow is. Raises NotRunning."""
        ...

    def connection(self) -> Connection:
        """How to reach MLflow as its administrator. Raises NotRunning."""
        ...

    def client(self) -> Client:
        """How an agent outside reaches the stack. Raises NotRunning."""
        ...

    def demo_variables(self) -> dict[str, str]:
        """Where the demo model is for MLflow, and its key: what only the stack knows of the gateway's configuration.

        Raises NotRunning."""
        ...

    def rotate_passphrase(self) -> None:
        """Encrypt the gateway's secrets with a new passphrase; MLflow is away for some seconds. Raises StartFailed."""
        ...

    def egress(self) -> bool:
        """Whether there is an egress proxy that agents may use."""
        ...

    def start_agent(self, request: Request) -> AgentProcess:
        """Start a run. Raises NotRunning."""
        ...

    def end_agents(self) -> int:
        """End every running agent and wait for its trace's end. Returns how many there were."""
        ...

    def picked_up(self, run_id: str) -> AgentProcess | None:
        """The agent of a `kept` run that another call has started, running or ended, with all that it said; None where
        it never came to be, or is gone."""
        ...

    def let_go(self, run_id: str) -> None:
        """Forget what is kept of a run's agent; one that still runs is ended."""
        ...

    def require_agent(self, *, browser: bool) -> None:
        """Make what an agent needs, where it is missing, so that agents can then be started side by side."""
        ...

    def run_apart(self, command: str, folder: Path, seconds: float) -> Ended:
        """Run a shell command in a folder, as an agent's tools would, but without a network and without keys; it is ended
        after that time with all that it has started. Embedded, it is a plain process without a fence."""
        ...
