"""How a run, its verdicts and the stack look to a person."""

from typing import Any

from rich.table import Table
from rich.text import Text

from paddock_cli import console
from paddock_cli.mlflow_api import Trace, Verdict
from paddock_cli.run_keys import RunKey
from paddock_cli.runs import Result, Started, Watcher
from paddock_cli.stack import ServiceStatus
from paddock_cli.suites.results import CheckResult

_COLOURS = {"yes": "green", "true": "green", "no": "red", "false": "red"}
_SUMMARY_LENGTH = 200
_CHECK_LINES = 5
"""Of a check's output that the table shows; the trace has more."""


class LiveRun(Watcher):
    """A line for each thing that the agent does, on standard error where standard output is for JSON."""

    def __init__(self, to_stderr: bool) -> None:
        self._console = console.err if to_stderr else console.out

    def started(self, line: Started) -> None:
        """Who runs."""
        verb = "resumed" if line.resumed else "started"
        self._console.print(
            Text.assemble(
                (f"run {line.run_id} {verb}", "bold"),
                f"  endpoint {line.endpoint}  model {line.model}  tools {', '.join(line.tools)}",
            )
        )
        if line.isolation is not None:
            self._console.print(Text(f"fence  {line.isolation.walls()}", style="dim"), soft_wrap=True)
            for lacking in line.isolation.lacking():
                self._console.print(Text(f"no fence: {lacking}", style="yellow"), soft_wrap=True)

    def event(self, line: dict[str, Any]) -> None:
        """What happened, in one line."""
        summary = " ".join(str(line.get("summary") or "").split())
        if not summary:
            return
        if len(summary) > _SUMMARY_LENGTH:
            summary = summary[: _SUMMARY_LENGTH - 1] + "…"
        kind = str(line.get("kind", "")).removesuffix("Event")
        source = str(line.get("source", ""))
        style = {"agent": "cyan", "environment": "dim", "user": "magenta"}.get(source, "")
        self._console.print(Text.assemble((f"  {kind:<14} ", style), summary), soft_wrap=True)


def run_table(
    result: Result,
    served_by: str,
    trace: Trace | None,
    verdicts: dict[str, Verdict],
    links: dict[str, str],
    key: RunKey | None = None,
    checks: tuple[CheckResult, ...] = (),
) -> None:
    """The run's answer and figures, what checks and judges say, and where to look further."""
    figures = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    figures.add_column(style="bold")
    figures.add_column(overflow="fold")
    outcome_style = "green" if result.finished else "red"
    figures.add_row("outcome", Text(result.outcome, style=outcome_style))
    figures.add_row("answer" if result.finished else "reason", Text(result.message))
    figures.add_row("steps", str(result.steps))
    figures.add_row("tools", ", ".join(f"{name} × {count}" for name, count in result.tools.items()) or "none")
    figures.add_row("tokens", _tokens(result))
    figures.add_row("cost", money(_cost(result, trace)))
    if key is not None and key.budget is not None:
        spent = "not known" if key.spent is None else f"${key.spent:f} spent"
        figures.add_row("budget", f"{spent} of ${key.budget:f}")
    figures.add_row("time", f"{result.seconds:.1f} s")
    figures.add_row(
        "model", f"endpoint {result.endpoint}, served by {served_by}" if served_by else result.model
    )
    if trace is not None:
        figures.add_row("trace", f"{trace.trace_id}  {trace.state}")
    console.out.print()
    console.out.print(figures)
    if checks:
        console.out.print()
        console.out.print(_check_table(checks))
    if verdicts:
        console.out.print()
        console.out.print(verdict_table(verdicts))
    if links:
        console.out.print()
        for name, link in links.items():
            # Never wrapped: a broken link can't be clicked.
            console.out.print(Text(f"{name:<10} {link}"), soft_wrap=True)


def _check_table(checks: tuple[CheckResult, ...]) -> Table:
    """Each check, whether it passed, and the end of what it said."""
    table = Table(title=None, expand=False)
    table.add_column("check", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("output", overflow="fold")
    for check in checks:
        result = Text("passed", style="green") if check.passed else Text("failed", style="red")
        last = "\n".join((check.error or check.output).splitlines()[-_CHECK_LINES:])
        table.add_row(check.name, result, Text(last))
    return table


def verdict_table(verdicts: dict[str, Verdict]) -> Table:
    """Each judge, its verdict and its rationale."""
    table = Table(title=None, expand=False)
    table.add_column("judge", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("rationale", overflow="fold")
    for name in sorted(verdicts):
        verdict = verdicts[name]
        table.add_row(name, _verdict(verdict), Text(verdict.rationale or verdict.error))
    return table


def traces(found: list[Trace]) -> None:
    """The newest traces with state, tokens, cost and verdicts; not a table, so that ids stay whole."""
    for trace in found:
        seconds = f"{trace.seconds:.1f} s" if trace.seconds is not None else "no end"
        figures = f"{trace.tokens.get('total_tokens', 0)} tokens  {money(trace.cost)}  {seconds}"
        state = Text(trace.state, style={"OK": "green", "ERROR": "red"}.get(trace.state, "yellow"))
        head = Text.assemble(
            f"{trace.requested[:19].replace('T', ' ')}  ", (trace.trace_id, "bold"), "  ", state
        )
        console.out.print(Text.assemble(head, f"  {figures}"), soft_wrap=True)
        console.out.print(Text(f"    {' '.join(trace.request.split())[:100]}"), soft_wrap=True)
        verdicts = [
            Text.assemble(f"{name} ", _verdict(verdict)) for name, verdict in sorted(trace.latest().items())
        ]
        verdicts += [Text.assemble(f"people: {one.judge} ", _verdict(one)) for one in trace.labels]
        console.out.print(Text("    ") + Text(", ").join(verdicts or [Text("no verdicts")]), soft_wrap=True)


def status_table(services: list[ServiceStatus]) -> Table:
    """The services."""
    table = Table()
    for column in ("service", "state", "health"):
        table.add_column(column)
    table.add_column("memory", justify="right")
    for service in services:
        table.add_row(
            service.name,
            service.state,
            service.health or "–",
            f"{service.memory / 1024**2:.0f} MiB" if service.memory else "–",
        )
    return table


def egress_table(decisions: list[dict[str, Any]]) -> Table:
    """What the egress proxy decided. Host and path are an agent's words."""
    table = Table()
    for column in ("time", "run", "decision", "host", "what", "reason"):
        table.add_column(column, overflow="fold")
    for one in decisions:
        what = " ".join(str(one[name]) for name in ("method", "path") if one.get(name))
        table.add_row(
            *(
                Text(str(text))
                for text in (
                    str(one.get("time", ""))[:19],
                    one.get("run_id", "–"),
                    one.get("event", ""),
                    f"{one.get('host', '')}:{one['port']}" if one.get("port") else one.get("host", "–"),
                    what or "–",
                    one.get("reason", "–"),
                )
            )
        )
    return table


def money(amount: float | None) -> str:
    """USD with as many digits as a small amount needs."""
    return "unknown" if amount is None else f"${amount:.6f}".rstrip("0").rstrip(".") if amount else "$0"


def _tokens(result: Result) -> str:
    tokens = result.tokens
    text = f"{tokens.input} in ({tokens.cached_input} cached), {tokens.output} out"
    return f"{text} ({tokens.reasoning} reasoning)" if tokens.reasoning else text


def _cost(result: Result, trace: Trace | None) -> float | None:
    """The trace's figure, from the gateway's prices; the agent's own where the trace has none."""
    return trace.cost if trace is not None and trace.cost is not None else result.cost_usd


def _verdict(verdict: Verdict) -> Text:
    if verdict.value:
        return Text(verdict.value, style=_COLOURS.get(verdict.value.lower(), ""))
    return Text("error" if verdict.error else "–", style="yellow")
