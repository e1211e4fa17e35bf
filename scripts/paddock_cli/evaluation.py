"""`./paddock evaluate`: judges over traces and sessions that are there already."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

from paddock_cli import console, judging, render
from paddock_cli.costs import moment
from paddock_cli.errors import NotFound, UsageFailed
from paddock_cli.judging import Judgment, Wanted
from paddock_cli.mlflow_api import Mlflow, Trace
from paddock_cli.processes import owner_name

ONE_BY_ONE = 20
"""Traces and sessions that are shown each with its table; of more there is one for all."""


@dataclass(frozen=True)
class Order:
    """What is to be judged: everything that is named, or the newest `limit` finished traces where nothing is.

    `ids` are traces or runs, `since` a span or a date; `expectations` are logged with each trace first.
    """

    ids: Sequence[str] = ()
    sessions: Sequence[str] = ()
    since: str = ""
    judges: Sequence[str] = ()
    limit: int = 5
    expectations: Sequence[str] = ()
    again: bool = False
    seconds: float = judging.VERDICT_SECONDS


@dataclass(frozen=True)
class Evaluated:
    """What the judges said, in the order of the asks, and the traces that were named."""

    judgments: list[Judgment]
    traces: dict[str, Trace] = field(default_factory=dict)
    experiment_id: str = ""
    left_out: int = 0

    def by_subject(self) -> dict[str, list[Judgment]]:
        """Trace or session → its judgments."""
        groups: dict[str, list[Judgment]] = {}
        for one in self.judgments:
            groups.setdefault(one.subject, []).append(one)
        return groups


def evaluate(server: Mlflow, order: Order) -> Evaluated:
    """Ask, and wait for what the judges say.

    Raises:
        NotFound: no such trace, run, session or judge.
        UsageFailed: `since` is no time, or there are expectations without traces to have them.
    """
    since = moment(order.since, datetime.now(UTC), "--since") if order.since else None
    if order.expectations and (since is not None or order.sessions):
        raise UsageFailed("--expect with traces or runs", "--since or --session", "name the traces")
    experiment_id = server.experiment_id()
    traces = [_find(server, experiment_id, one) for one in order.ids]
    if not traces and not order.sessions and since is None:
        traces = [trace for trace in server.traces(experiment_id, order.limit) if trace.finished]
        if not traces:
            raise NotFound("a finished trace", "none", "run an agent first: ./paddock run TASK")
    for trace in traces:
        if order.expectations:
            server.expect(trace.trace_id, list(order.expectations), owner_name())
    groups: dict[str, list[str]] = {}
    for trace in traces:
        groups.setdefault(trace.experiment_id, []).append(trace.trace_id)
    if order.sessions or since is not None:
        groups.setdefault(experiment_id, [])
    ids: list[str] = []
    left_out = 0
    with console.step("judging") as step:
        for group, trace_ids in groups.items():
            here = group == experiment_id
            wanted = Wanted(
                experiment_id=group,
                traces=trace_ids,
                sessions=order.sessions if here else (),
                since=since if here else None,
                judges=order.judges,
                again=order.again,
            )
            queued, too_many = judging.ask(server, wanted)
            ids += queued
            left_out += too_many
        judgments = judging.wait(server, ids, step.show, order.seconds)
        coming = sum(one.coming for one in judgments)
        step.result = f"{len(judgments) - coming} of {len(judgments)} judged"
    return Evaluated(judgments, {trace.trace_id: trace for trace in traces}, experiment_id, left_out)


def as_json(evaluated: Evaluated) -> dict[str, Any]:
    """The document of --json."""
    return {
        "evaluated": [
            {
                "trace_id": group[0].trace_id,
                **({"session": subject} if group[0].level == "session" else {}),
                "judges": {
                    one.judge: asdict(one.verdict()) | {"state": one.state, "cost_usd": one.cost_usd}
                    for one in group
                },
            }
            for subject, group in evaluated.by_subject().items()
        ],
        "left_out": evaluated.left_out,
    }


def show(server: Mlflow, evaluated: Evaluated) -> None:
    """A table for each trace or session, with its link; one for all where they are many."""
    groups = evaluated.by_subject()
    if not groups:
        console.out.print("nothing that these judges look at")
    elif len(groups) <= ONE_BY_ONE:
        for subject, group in groups.items():
            _show(server, evaluated, subject, group)
    else:
        console.out.print(_summary(evaluated.judgments))
        console.out.print(server.experiment_link(evaluated.experiment_id), soft_wrap=True)
    if evaluated.left_out:
        console.warn(f"{evaluated.left_out} older traces are left out; ask again with a date that is nearer")
    if any(one.coming for one in evaluated.judgments):
        console.warn("what is not judged yet goes on by itself: ./paddock judges status")


def _show(server: Mlflow, evaluated: Evaluated, subject: str, group: list[Judgment]) -> None:
    trace_id = group[0].trace_id
    trace = evaluated.traces.get(trace_id)
    told = " ".join(trace.request.split())[:80] if trace else ""
    name = f"session {subject}" if group[0].level == "session" else f"{trace_id}  {told}".rstrip()
    experiment_id = trace.experiment_id if trace else evaluated.experiment_id
    console.out.print()
    console.out.print(name, soft_wrap=True)
    console.out.print(render.verdict_table({one.judge: one.verdict() for one in group}))
    console.out.print(server.trace_link(experiment_id, trace_id), soft_wrap=True)


def _summary(judgments: list[Judgment]) -> Table:
    table = Table()
    table.add_column("judge", no_wrap=True)
    for name in ("judged", "pass", "no pass", "not judged"):
        table.add_column(name, justify="right")
    table.add_column("why not", overflow="fold")
    for judge in sorted({one.judge for one in judgments}):
        own = [one for one in judgments if one.judge == judge]
        done = [one for one in own if one.state == "done"]
        why = Counter(one.state.replace("_", " ") for one in own if one.state != "done")
        table.add_row(
            judge,
            str(len(done)),
            str(sum(one.passed is True for one in done)),
            str(sum(one.passed is False for one in done)),
            str(len(own) - len(done)),
            ", ".join(f"{state} {count}" for state, count in why.most_common()),
        )
    return table


def _find(server: Mlflow, experiment_id: str, one: str) -> Trace:
    if one.startswith("tr-"):
        return server.trace(one)
    quoted = one.replace("'", "")
    found = server.traces(experiment_id, 1, f"tags.`paddock.run_id` = '{quoted}'")
    if not found:
        raise NotFound(f"a trace of the run {one}", "none", "list what there is: ./paddock traces")
    return found[0]
