"""`./paddock run`: a task from its words to its verdicts."""

import json
import os
import re
import shutil
import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from paddock_cli import console, egress, judging, preflight, render, run_keys, runs, trees
from paddock_cli.errors import BadWorkspace, NotFound, ServerFailed, UnknownEndpoint, UsageFailed
from paddock_cli.exit_codes import ExitCode
from paddock_cli.mlflow_api import Mlflow, Trace, Verdict
from paddock_cli.processes import owner_name
from paddock_cli.run_keys import RunKey
from paddock_cli.runs import Result
from paddock_cli.settings import PROVIDER_KEYS, Paths, read_env_file
from paddock_cli.stack import DEFAULT_TOOLS, Request, Stack
from paddock_cli.suites import checks
from paddock_cli.suites.results import CheckResult

MAX_TASK_BYTES = 100_000
"""Linux passes no longer argument than 128 KiB to a program."""
SHORTEST_SECRET = 8
"""Characters; the runner's own bound."""
_OWN_SECRETS = ("S3_ACCESS_KEY", "S3_SECRET_KEY")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
KNOWN_TOOLS = ("terminal", "file_editor", "task_tracker", "glob", "grep", "browser")
_ENDPOINT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")


@dataclass(frozen=True)
class Order:
    """What the user asked for. `timeout` in seconds, `budget` in USD as the user wrote it."""

    task: str
    workspace: Path | None = None
    endpoint: str | None = None
    max_iterations: int | None = None
    timeout: int | None = None
    budget: str | None = None
    max_output_tokens: int | None = None
    expectations: list[str] = field(default_factory=list)
    tools: str | None = None
    mcp: Path | None = None
    resume: str | None = None
    allow: list[str] = field(default_factory=list)
    user: str | None = None
    tags: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)
    """Names of variables, whose values stand in the caller's environment or the settings file."""
    checks: list[str] = field(default_factory=list)
    """Commands that must pass on a copy of the finished workspace."""


@dataclass(frozen=True)
class Report:
    """How it went."""

    result: Result
    served_by: str
    trace: Trace | None
    verdicts: dict[str, Verdict]
    links: dict[str, str]
    notes: list[str]
    key: RunKey | None = None
    checks: tuple[CheckResult, ...] = ()

    @property
    def exit_code(self) -> int:
        """The run's own; where it ended well and a check did not pass, that of a failed check."""
        if self.result.exit_code == 0 and any(not check.passed for check in self.checks):
            return ExitCode.CHECK_FAILED
        return self.result.exit_code

    def as_json(self) -> dict[str, Any]:
        """The document of --json."""
        return {
            "run": self.result.model_dump() | {"served_by": self.served_by},
            "budget": self.key.as_json() if self.key else None,
            "trace": trace_json(self.trace) if self.trace else None,
            "judges": {name: asdict(verdict) for name, verdict in sorted(self.verdicts.items())},
            "checks": [check.model_dump(mode="json") for check in self.checks],
            "links": self.links,
            "notes": self.notes,
            "exit_code": int(self.exit_code),
        }


def trace_json(trace: Trace) -> dict[str, Any]:
    """A trace for --json, with the newest verdict of each judge."""
    return {
        "trace_id": trace.trace_id,
        "experiment_id": trace.experiment_id,
        "run_id": trace.run_id,
        "state": trace.state,
        "requested": trace.requested,
        "seconds": trace.seconds,
        "request": trace.request,
        "response": trace.response,
        "tokens": trace.tokens,
        "cost_usd": trace.cost,
        "tags": trace.tags,
        "metadata": trace.metadata,
        "expectations": trace.expectations,
        "judges": {name: asdict(verdict) for name, verdict in sorted(trace.latest().items())},
        "labels": [
            {"name": one.judge, "value": one.value, "rationale": one.rationale} for one in trace.labels
        ],
    }


def request_of(order: Order, where: Paths) -> Request:
    """The checked request, with defaults filled in; a resume takes what it is not told from the run's note.

    Raises:
        UsageFailed: an argument makes no sense.
        BadWorkspace: the workspace or the MCP file can't be used.
        NotFound: no such run to resume.
    """
    before = _note_of(order, where)
    if not order.task.strip() and not before:
        raise UsageFailed("a task in words", "an empty one", './paddock run "Write 3 facts into FACTS.txt."')
    if (size := len(order.task.encode())) > MAX_TASK_BYTES:
        raise UsageFailed(
            f"a task of at most {MAX_TASK_BYTES} bytes",
            f"{size}",
            "put the details into a file of the workspace",
        )
    endpoint = order.endpoint or before.get("endpoint") or "coder"
    if not _ENDPOINT.fullmatch(endpoint):
        raise UsageFailed(
            "the name of a gateway endpoint", repr(endpoint), "use coder, or a name from the UI's gateway"
        )
    tools = order.tools or before.get("tools") or DEFAULT_TOOLS
    unknown = [name for name in tools.split(",") if name.strip() not in KNOWN_TOOLS]
    if unknown:
        raise UsageFailed(
            f"--tools of {', '.join(KNOWN_TOOLS)}", ", ".join(map(repr, unknown)), "mend --tools"
        )
    for tag in order.tags:
        if "=" not in tag.strip("="):
            raise UsageFailed("--tag NAME=VALUE", repr(tag), "write it like --tag team=web")
    run_keys.parse_budget(order.budget)
    allow = egress.hosts(order.allow)
    run_id = order.resume or str(uuid.uuid4())
    mcp = order.mcp or (Path(before["mcp"]) if before.get("mcp") else None)
    mcp_file, servers = preflight.mcp_file(mcp) if mcp else (None, None)
    return Request(
        run_id=run_id,
        task=order.task.strip(),
        workspace=preflight.workspace(order.workspace or Path(before.get("workspace") or Path.cwd()), where),
        state=where.runs / run_id,
        endpoint=endpoint,
        max_iterations=order.max_iterations,
        timeout=order.timeout,
        max_output_tokens=order.max_output_tokens
        or (run_keys.BUDGET_OUTPUT_TOKENS if order.budget is not None else None),
        tools=",".join(name.strip() for name in tools.split(",")),
        mcp=servers,
        mcp_file=mcp_file,
        user=order.user or owner_name(),
        tags=tuple(order.tags or before.get("tags") or ()),
        resume=order.resume is not None,
        secrets=declared_secrets([*order.secrets, *(before.get("secrets") or [])], where),
        begun_with=before.get("task") or "",
        allow=allow,
    )


def declared_secrets(names: list[str], where: Paths) -> dict[str, str]:
    """The values of --secret NAME.

    Raises:
        UsageFailed: a name or a value can't be used; the text holds no value.
    """
    written = read_env_file(where.env_file) if names else {}
    found = {}
    for name in names:
        if "=" in name:
            raise UsageFailed(
                "--secret NAME, without a value",
                f"a value after {name.partition('=')[0]!r}",
                "every user of the machine can read arguments: set the variable in the shell or in .env, and name it",
            )
        if not _VARIABLE.fullmatch(name):
            raise UsageFailed(
                "--secret NAME, a variable's name", repr(name), "write it like --secret GITHUB_TOKEN"
            )
        value = os.environ.get(name) or written.get(name, "")
        if not value:
            raise UsageFailed(
                f"the variable {name} in the shell or in {where.env_file}",
                "none, or an empty one",
                f"export {name}, or write it into the file",
            )
        if len(value) < SHORTEST_SECRET:
            raise UsageFailed(
                f"a secret {name} of at least {SHORTEST_SECRET} characters",
                f"{len(value)}",
                "hiding it would hide ordinary words; choose a longer one",
            )
        if name in PROVIDER_KEYS or name in _OWN_SECRETS:
            raise UsageFailed(
                "a secret for the agent's tools",
                f"{name}, a key of the stack's own",
                "an agent needs none of them; give it a key of its own under another name",
            )
        found[name] = value
    return found


def _note_of(order: Order, where: Paths) -> dict[str, Any]:
    if order.resume is None:
        return {}
    try:
        uuid.UUID(order.resume)
    except ValueError:
        raise UsageFailed(
            "--resume RUN_ID, a UUID", repr(order.resume), "take it from ./paddock traces"
        ) from None
    found = runs.noted(where, order.resume)
    if found is None:
        raise NotFound(
            f"the run {order.resume} in {where.runs}",
            "none of that name",
            "list runs: ./paddock traces; only runs that began here can be resumed",
        )
    return found


def perform(stack: Stack, order: Order, where: Paths, *, as_json: bool, judge_seconds: float) -> Report:
    """Run the task and wait for its trace and its verdicts.

    Args:
        judge_seconds: how long to wait for verdicts; 0 to leave them to MLflow.

    Raises:
        CliError: what stands in the way of the run.
    """
    request = request_of(order, where)
    budget = run_keys.parse_budget(order.budget)
    server = Mlflow(stack.connection())
    _require_endpoint(server, request.endpoint)
    request = replace(request, egress=egress.for_run(stack, request.allow))
    request.state.mkdir(mode=0o700, exist_ok=True)
    runs.note(where, request, stack.kind)
    with run_keys.made_for(server, request, budget) as key:
        result = runs.run(stack, replace(request, llm_key=key.text), render.LiveRun(to_stderr=as_json))
    made = _checked(stack, order, request, where, result)
    report = judged(server, result, order.expectations, request.user, judge_seconds)
    report = _with_checks(server, replace(report, key=key), made)
    (where.runs / f"{request.run_id}.result.json").write_text(json.dumps(report.as_json(), indent=2))
    return report


def _checked(
    stack: Stack, order: Order, request: Request, where: Paths, result: Result
) -> tuple[CheckResult, ...]:
    """What the checks say of a copy of the workspace; none where the agent did not get to work, or was cut off."""
    if not order.checks or result.outcome in checks.NOT_THE_AGENT + checks.CUT_OFF:
        return ()
    if stack.kind == "embedded":
        console.warn(checks.NO_FENCE)
    wanted = checks.commands(order.checks)
    folder = where.state / "checks" / request.run_id
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with console.step(f"making {len(wanted)} check(s)") as step:
            copied = trees.copy(request.workspace, folder / "finished")
            finished = checks.Finished(folder / "finished", copied, copied)
            made = checks.run_all(stack, wanted, finished, folder, step.show)
            step.result = f"{sum(check.passed for check in made)} passed"
            return made
    except BadWorkspace as error:
        reason = f"expected {error.expected}, found {error.found}"
        return tuple(CheckResult(name=one.name, passed=False, error=reason) for one in wanted)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _with_checks(server: Mlflow, report: Report, made: tuple[CheckResult, ...]) -> Report:
    report = replace(report, checks=made)
    if not made or report.trace is None:
        return report
    try:
        checks.log(server, report.trace, made)
    except ServerFailed as error:
        return replace(report, notes=[*report.notes, f"the trace has no word of the checks: {error}"])
    return report


def _require_endpoint(server: Mlflow, name: str) -> None:
    known = server.endpoints()
    if name not in known:
        raise UnknownEndpoint(
            f"an endpoint of the gateway: {', '.join(sorted(known)) or 'none is there'}",
            repr(name),
            f"name one of them, or make it in the UI: {server.url}/#/gateway",
        )


def judged(
    server: Mlflow, result: Result, expectations: list[str], user: str, judge_seconds: float
) -> Report:
    """The report of a run that has ended; its own figures stand there even where MLflow is away by now."""
    report = Report(result, "", None, {}, {}, [])
    try:
        report = _with_trace(server, report)
        report = _with_verdicts(server, report, expectations, user, judge_seconds)
        return replace(report, served_by=server.endpoints().get(result.endpoint, ""))
    except ServerFailed as error:
        # Somebody has stopped the stack, say, while the run was on.
        notes = [*report.notes, f"MLflow was asked for more: {error}"]
        return replace(report, notes=notes)


def _with_trace(server: Mlflow, report: Report) -> Report:
    trace = None
    if report.result.trace_id:
        with console.step("waiting for the trace") as step:
            trace = judging.wait_for_trace(server, report.result.trace_id)
            step.result = trace.state if trace else "not found"
    if trace is None:
        note = "MLflow has no trace of this run: ./paddock logs mlflow tells whether it refused one"
        return replace(report, notes=[*report.notes, note])
    links = {
        "trace": server.trace_link(trace.experiment_id, trace.trace_id),
        "experiment": server.experiment_link(trace.experiment_id),
    }
    unfinished = f"the trace is still {trace.state}: its last spans have not arrived"
    notes = report.notes if trace.finished else [*report.notes, unfinished]
    return replace(report, trace=trace, links=links, notes=notes)


def _with_verdicts(
    server: Mlflow, report: Report, expectations: list[str], user: str, judge_seconds: float
) -> Report:
    trace, result, notes = report.trace, report.result, list(report.notes)
    if trace is None:
        return report
    if not result.finished:
        notes.append(f"not waited for judges, because the run ended as {result.outcome}")
        return replace(report, notes=notes)
    if not judge_seconds:
        return report
    try:
        with console.step("waiting for the judges") as step:
            trace = judging.judge_run(server, trace, expectations, user, step.show, judge_seconds)
    except KeyboardInterrupt:
        # The run itself has ended: who is tired of waiting still gets its figures.
        notes.append("not waited for all judges: interrupted")
        trace = server.trace(trace.trace_id)
    if not expectations:
        notes.append('Correctness judges where it is told what to expect: --expect "..."')
    return replace(report, trace=trace, verdicts=trace.latest(), notes=notes)


def show(report: Report) -> None:
    """The report as a table."""
    render.run_table(
        report.result,
        report.served_by,
        report.trace,
        report.verdicts,
        report.links,
        report.key,
        report.checks,
    )
    for note in report.notes:
        console.say(note)
