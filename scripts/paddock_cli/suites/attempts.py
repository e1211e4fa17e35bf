"""One attempt: a workspace is made, an agent works on it, and what it has left is checked.

Each step leaves what the next one needs, so that a runner which was killed goes on where it stood: see journal.py.
"""

import contextlib
import json
import os
import shutil
import signal
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from paddock_cli import egress, judging, preflight, run_keys, runs, trees
from paddock_cli.errors import BadWorkspace, CliError, NotFound, NotRunning, ServerFailed
from paddock_cli.mlflow_api import Mlflow, Trace
from paddock_cli.runs import Result
from paddock_cli.settings import Paths, write_private
from paddock_cli.stack import DEFAULT_TOOLS, AgentProcess, Request, Stack
from paddock_cli.suites import changes, checks, store, workspaces
from paddock_cli.suites.checks import Finished
from paddock_cli.suites.definitions import Suite
from paddock_cli.suites.journal import Begun, Journal, Key, Plan
from paddock_cli.suites.model import Task
from paddock_cli.suites.results import Attempt, CheckResult, TokenCounts

SETUP_SECONDS = 300
MAX_EVENT_BYTES = 20 * 1024 * 1024
"""Of what an agent did, as its file has it; the trace has all."""
EVENTS, PATCH, LOG = "events.jsonl", "changes.patch", "attempt.log"
_MAX_TEXT = 4000


class Stopped(Exception):
    """The suite run is to end: what this attempt has begun stays for a resume."""


@dataclass(frozen=True)
class Bench:
    """What the attempts of a suite run share."""

    where: Paths
    stack: Stack
    server: Mlflow
    suite: Suite
    plan: Plan
    journal: Journal
    models: dict[str, str]
    """Endpoint → the model behind it."""
    show: Callable[[Key, str], None]
    running: "Running" = field(default_factory=lambda: Running())  # noqa: PLW0108 - it stands below
    keep: bool = False
    """Whether workspaces stay when their attempts have ended."""

    def folder(self, run_id: str) -> Path:
        """What belongs to one attempt: its workspace while it is on, what is left of it afterwards."""
        return store.folder(self.where, self.plan.id) / "attempts" / run_id


class Running:
    """The agents that are at work, so that a signal reaches all of them."""

    def __init__(self) -> None:
        self._agents: dict[str, AgentProcess] = {}
        self._lock = threading.Lock()
        self.stopping = False

    def add(self, run_id: str, agent: AgentProcess) -> None:
        with self._lock:
            self._agents[run_id] = agent
            if self.stopping:
                agent.send(signal.SIGINT)

    def remove(self, run_id: str) -> None:
        with self._lock:
            self._agents.pop(run_id, None)

    def stop(self, number: signal.Signals) -> None:
        """Pass a signal to every agent, and to those that are just about to start."""
        with self._lock:
            self.stopping = True
            for agent in self._agents.values():
                agent.send(number)

    def require(self) -> None:
        """That the suite run is to go on. Raises Stopped."""
        if self.stopping:
            raise Stopped


def perform(bench: Bench, key: Key, budget: Decimal | None, begun: Begun | None) -> tuple[Attempt, Decimal]:
    """Make an attempt, or go on with one that was begun.

    Args:
        budget: USD of its model calls, those of before a resume included.

    Returns:
        What came of it, and what it cost in USD.

    Raises:
        Stopped: the suite run was ended; so was the agent, whose conversation can go on.
        ServerFailed, NotRunning: the stack went away; the attempt can be picked up.
    """
    task = next(one for one in bench.suite.file.tasks if one.id == key[0])
    one = _One(bench, key, task, budget)
    if begun is not None and one.can_go_on(begun):
        one.take_up(begun)
    else:
        one.begin()
    try:
        attempt = one.attempt()
    except (ServerFailed, NotRunning):
        raise
    except CliError as error:
        attempt = one.failed(f"expected {error.expected}, found {error.found}; {error.remedy}")
    one.close(attempt)
    return attempt, one.spent


class _One:
    def __init__(self, bench: Bench, key: Key, task: Task, budget: Decimal | None) -> None:
        self._bench = bench
        self._key = key
        self._task = task
        self._budget = budget
        self.run_id = ""
        self.spent = Decimal(0)
        self._result: Result | None = None
        self._agent: AgentProcess | None = None
        self._resume = False

    @property
    def _folder(self) -> Path:
        return self._bench.folder(self.run_id)

    # Beginning

    def begin(self) -> None:
        """A run of its own, which is in the journal before anything else knows of it."""
        self._bench.running.require()
        self.run_id = str(uuid.uuid4())
        self._bench.journal.begun(self._key, self.run_id)
        self._folder.mkdir(parents=True, mode=0o700)

    def can_go_on(self, begun: Begun) -> bool:
        """Whether a run that was begun has cost anything, or has an agent that may still cost something."""
        self.run_id = begun.run_id
        self._agent = self._bench.stack.picked_up(begun.run_id) if begun.key_ids else None
        self.spent = self._spent(begun, run_keys.spent)
        if self._agent is not None or self.spent:
            return True
        shutil.rmtree(self._folder, ignore_errors=True)
        return False

    def take_up(self, begun: Begun) -> None:
        """Follow the agent of before to its end; one that was cut off goes on with its conversation."""
        try:
            if self._agent is not None:
                self._bench.show(self._key, "picked up")
                self._result = self._followed(self._agent, self._request())
        except CliError:
            # It ended without a result: a machine that was switched off, say.
            self._result = None
        finally:
            self.spent = self._spent(begun, run_keys.end)
        if self._result is None or self._result.outcome in checks.CUT_OFF:
            self._bench.running.require()
            self._bench.stack.let_go(self.run_id)
            self._result, self._resume = None, True

    def _spent(self, begun: Begun, ask: Callable[[Mlflow, str], Decimal]) -> Decimal:
        """USD of all keys that a run has had."""
        total = Decimal(0)
        for key_id in begun.key_ids:
            # A stack whose data was removed knows of none.
            with contextlib.suppress(NotFound):
                total += ask(self._bench.server, key_id)
        return total

    # The attempt itself

    def attempt(self) -> Attempt:
        """From the workspace to the checks."""
        if self._result is None:
            if not self._resume:
                self._prepare()
            self._result = self._run()
        result = self._result
        if result.outcome in checks.CUT_OFF:
            # Somebody ended this one agent, and nothing else.
            if not self._bench.running.stopping:
                return self.failed(f"the agent was ended from outside: {result.message}")
            raise Stopped
        if result.outcome in checks.NOT_THE_AGENT:
            return self.failed(result.message)
        if result.outcome == "budget" and not self.spent:
            # The runner's advice is for a run that can be resumed on its own.
            told = result.message.partition("; raise the budget")[0]
            return self.failed(f"its budget of {self._budget} USD holds no model call: {told}")
        made = self._checked()
        trace = self._traced(result, made)
        passed = result.finished and all(check.passed for check in made)
        return self._attempt(state="done", passed=passed, checks=made, **self._figures(result, trace))

    def failed(self, reason: str) -> Attempt:
        """What is told of an attempt where something else than the agent stood in the way."""
        figures = self._figures(self._result, None) if self._result else {}
        # Where no agent came to be, nothing was spent, and that is known.
        figures["cost_usd"] = float(self.spent)
        return self._attempt(state="error", passed=False, error=_text(reason), **figures)

    def close(self, attempt: Attempt) -> None:
        """Put it into the journal; only then is what it was made from let go."""
        folder = self._folder
        write_private(folder / LOG, _log_of(attempt))
        self._bench.journal.ended(self.run_id, attempt, self.spent)
        self._bench.stack.let_go(self.run_id)
        if not self._bench.keep:
            for name in ("work", "start", "finished", "finished-check"):
                shutil.rmtree(folder / name, ignore_errors=True)

    def _prepare(self) -> None:
        bench, work = self._bench, self._folder / "work"
        bench.show(self._key, "workspace")
        workspaces.make(self._task.workspace, bench.suite.folder, work)
        trees.let_agents_have(bench.stack.kind, work)
        bench.running.require()
        if self._task.setup is not None:
            bench.show(self._key, "set-up")
            ended = bench.stack.run_apart(self._task.setup, work, SETUP_SECONDS)
            if ended.failed or ended.timed_out or ended.code:
                found = ended.failed or (
                    f"no end in {SETUP_SECONDS} s" if ended.timed_out else f"exit code {ended.code}"
                )
                raise BadWorkspace(
                    f"the set-up command of {self._task.id} to succeed",
                    f"{found}: {ended.output[-_MAX_TEXT:]}",
                    "mend `setup` in the suite",
                )
        # What the agent begins with: what it changes is told against this.
        trees.copy(work, self._folder / "start")

    def _request(self) -> Request:
        bench, task = self._bench, self._task
        limits = bench.suite.limits(task)
        mcp_file, servers = preflight.mcp_file(bench.suite.folder / task.mcp) if task.mcp else (None, None)
        identity = (f"suite={bench.suite.file.name}", f"suite_run={bench.plan.id}")
        return Request(
            run_id=self.run_id,
            task="" if self._resume else task.prompt.strip(),
            workspace=self._folder / "work",
            state=bench.where.runs / self.run_id,
            endpoint=self._key[1],
            max_iterations=limits.max_iterations,
            timeout=limits.timeout,
            max_output_tokens=limits.max_output_tokens
            or (run_keys.BUDGET_OUTPUT_TOKENS if self._budget is not None else None),
            tools=",".join(bench.suite.tools(task) or DEFAULT_TOOLS.split(",")),
            mcp=servers,
            mcp_file=mcp_file,
            user=bench.plan.user,
            tags=(*identity, f"task={task.id}", f"repeat={self._key[2]}"),
            resume=self._resume,
            begun_with=task.prompt.strip() if self._resume else "",
            egress=egress.for_run(bench.stack, ()),
            kept=True,
        )

    def _run(self) -> Result:
        bench, request = self._bench, self._request()
        before, left = self.spent, None if self._budget is None else self._budget - self.spent
        if left is not None and left <= 0:
            raise BadWorkspace(
                "some of its budget to be left", "none", "give the task more: limits.budget_usd"
            )
        request.state.mkdir(mode=0o700, exist_ok=True)
        runs.note(bench.where, request, bench.stack.kind)
        bench.show(self._key, "agent")
        with run_keys.made_for(bench.server, request, left) as key:
            bench.running.require()
            bench.journal.started(self.run_id, key.id)
            agent = bench.stack.start_agent(replace(request, llm_key=key.text))
            result = self._followed(agent, request)
        # Where nobody can tell what was spent, all of it may be.
        self.spent = before + (key.spent if key.spent is not None else left or Decimal(0))
        return result

    def _followed(self, agent: AgentProcess, request: Request) -> Result:
        self._bench.running.add(self.run_id, agent)
        try:
            with _Events(self._folder / EVENTS, lambda said: self._bench.show(self._key, said)) as events:
                return runs.follow(agent, request, events)
        finally:
            self._bench.running.remove(self.run_id)

    def _checked(self) -> tuple[CheckResult, ...]:
        bench, folder = self._bench, self._folder
        bench.show(self._key, "checks")
        finished = folder / "finished"
        shutil.rmtree(finished, ignore_errors=True)
        before = trees.listed(folder / "start")
        try:
            after = trees.copy(folder / "work", finished)
        except BadWorkspace as error:
            # The agent's own doing: no check can look at it, and none has passed.
            reason = f"expected {error.expected}, found {error.found}"
            return tuple(CheckResult(name=one.name, passed=False, error=reason) for one in self._task.checks)
        write_private(folder / PATCH, _text(changes.patch(folder / "start", finished, before, after), None))
        return checks.run_all(
            bench.stack,
            self._task.checks,
            Finished(finished, before, after),
            bench.suite.folder,
            lambda name: bench.show(self._key, f"check {name}"),
        )

    def _traced(self, result: Result, made: tuple[CheckResult, ...]) -> Trace | None:
        if result.trace_id is None:
            return None
        server = self._bench.server
        trace = judging.wait_for_trace(server, result.trace_id)
        if trace is None:
            return None
        checks.log(server, trace, made)
        return trace

    def _figures(self, result: Result, trace: Trace | None) -> dict[str, Any]:
        told = trace.cost if trace is not None and trace.cost is not None else result.cost_usd
        link = self._bench.server.trace_link(trace.experiment_id, trace.trace_id) if trace else ""
        return {
            "outcome": result.outcome,
            "message": _text(result.message),
            "trace_id": result.trace_id,
            "trace_url": link,
            # The ledger counts all, also of a conversation that was cut off and went on in another trace.
            "cost_usd": float(self.spent) or told,
            "tokens": TokenCounts(**result.tokens.model_dump()),
            "seconds": round(result.seconds, 3),
            "steps": result.steps,
            "tools": {_text(name, 100): count for name, count in result.tools.items()},
        }

    def _attempt(self, **told: Any) -> Attempt:
        task, endpoint, repeat = self._key
        return Attempt(
            task=task,
            endpoint=endpoint,
            repeat=repeat,
            run_id=self.run_id or None,
            model=self._bench.models.get(endpoint, ""),
            difficulty=self._task.difficulty,
            tags=self._task.tags,
            **told,
        )


class _Events(runs.Watcher):
    """Writes down what an agent does, a JSON line each."""

    def __init__(self, path: Path, show: Callable[[str], None]) -> None:
        self._path = path
        self._show = show
        self._left = MAX_EVENT_BYTES

    def __enter__(self) -> "_Events":
        # Anew: an agent that is picked up tells all from its start.
        self._file = os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def event(self, line: dict[str, Any]) -> None:
        self._show(" ".join(str(line.get("summary") or "").split())[:80])
        text = json.dumps(line)
        self._left -= len(text)
        if self._left > 0:
            self._file.write(text + "\n")


def _log_of(attempt: Attempt) -> str:
    """What a person reads first of an attempt."""
    lines = [
        f"task {attempt.task}, endpoint {attempt.endpoint}, repetition {attempt.repeat}, run {attempt.run_id}",
        f"{attempt.state}: {attempt.outcome or 'no outcome'}; passed: {str(attempt.passed).lower()}",
        *([f"error: {attempt.error}"] if attempt.error else []),
        *([f"answer: {attempt.message}"] if attempt.message else []),
    ]
    for check in attempt.checks:
        verdict = "pass" if check.passed else "fail"
        lines += [
            f"\n--- check {check.name}: {verdict} ({check.seconds:.1f} s) {check.error}".rstrip(),
            check.output,
        ]
    return "\n".join(lines) + "\n"


def _text(text: str, limit: int | None = _MAX_TEXT) -> str:
    """A text that every document can hold: without halves of surrogate pairs, and no longer than that."""
    return text[:limit].encode("utf-8", "replace").decode()
