"""`./paddock judges status`: the queue, what became of the last days' judgments, failures, budgets."""

from typing import Any

from rich.table import Table
from rich.text import Text

from paddock_cli import console
from paddock_cli.judging import JUDGMENTS
from paddock_cli.mlflow_api import Mlflow

_STATES = (
    "done",
    "queued",
    "running",
    "failed",
    "budget",
    "sampled_out",
    "filtered",
    "no_expectation",
    "too_large",
)
_COLOURS = {"failed": "red", "budget": "yellow", "too_large": "yellow"}


def read(server: Mlflow, every: bool) -> dict[str, Any]:
    """How judging does, in the experiment `agents`; `every`: in all that have a judge."""
    asked = {} if every else {"experiment_id": server.experiment_id()}
    return server.call("GET", f"{JUDGMENTS}/status", params=asked)


def show(answer: dict[str, Any]) -> None:
    """Tables for people."""
    queue = answer["queue"]
    line = f"{queue['queued']} queued, {queue['running']} running"
    if queue["queued"]:
        line += f"; the oldest has waited {queue['oldest_seconds']:.0f} s"
    if queue["lag_seconds"] is not None:
        line += f"; verdicts come {queue['lag_seconds']:.1f} s after a trace's end (median of the last 100)"
    console.out.print(line, soft_wrap=True)
    console.out.print(_judges(answer["judges"]))
    for endpoint in answer["endpoints"]:
        for budget in endpoint["budgets"]:
            until = budget["until"][:16].replace("T", " ")
            console.out.print(
                f"{endpoint['name']}: {_usd(budget['left_usd'])} of {_usd(budget['amount_usd'])} USD left"
                f" ({budget['scope']} budget, {budget['action']}) until {until} UTC",
                soft_wrap=True,
            )
    if answer["failures"]:
        console.out.print()
        console.out.print("The last without a verdict:")
    for failure in answer["failures"]:
        when = (failure["ended_at"] or "")[:16].replace("T", " ")
        console.out.print(f"  {when}  {failure['judge']}  {failure['subject']}", soft_wrap=True)
        console.out.print(Text(f"    {failure['reason']}", style="yellow"), soft_wrap=True)


def _judges(judges: list[dict[str, Any]]) -> Table:
    shown = [name for name in _STATES if any(judge["states"].get(name) for judge in judges)]
    table = Table(title="The last seven days", title_justify="left")
    table.add_column("judge", no_wrap=True)
    table.add_column("asks", no_wrap=True)
    table.add_column("looks at", justify="right")
    for name in shown:
        table.add_column(name.replace("_", " "), justify="right")
    for judge in judges:
        counts = [judge["states"].get(name, 0) for name in shown]
        cells = [
            Text(str(count) if count else "–", style=_COLOURS.get(name, "") if count else "")
            for name, count in zip(shown, counts, strict=True)
        ]
        table.add_row(judge["name"], judge["endpoint"] or "–", _rate(judge), *cells)
    return table


def _rate(judge: dict[str, Any]) -> str:
    rate = judge["sample_rate"]
    if rate is None:
        return "gone"
    what = "sessions" if judge["level"] == "session" else "traces"
    if not rate:
        return "what is asked"
    return f"all {what}" if rate >= 1 else f"{rate:.4g} of {what}"


def _usd(amount: str) -> str:
    return amount.rstrip("0").rstrip(".") or "0"
