"""`./paddock evaluate`: judges over traces that are there already."""

import re
from dataclasses import asdict
from typing import Any

from paddock_cli import console, judging, render
from paddock_cli.errors import NotFound
from paddock_cli.mlflow_api import EXPECTATION, Judge, Mlflow, Trace
from paddock_cli.processes import owner_name

_NEEDS_EXPECTATION = {judging.CORRECTNESS: (EXPECTATION, "expected_response")}


def evaluate(
    server: Mlflow, ids: list[str], names: list[str], limit: int, expectations: list[str], seconds: float
) -> list[Trace]:
    """Let judges look at traces.

    Args:
        ids: trace or run ids; the newest `limit` finished traces where none is given.
        names: judges; all that can judge each trace where none is given.
        expectations: logged with each trace first.

    Returns:
        The traces with the verdicts of this call alone.

    Raises:
        NotFound: no such trace, run or judge.
    """
    experiment_id = server.experiment_id()
    judges = _judges(server.judges(experiment_id), names)
    traces = [_find(server, experiment_id, one) for one in ids]
    if not ids:
        traces = [trace for trace in server.traces(experiment_id, limit) if trace.finished]
    if not traces:
        raise NotFound("a finished trace", "none", "run an agent first: ./paddock run TASK")
    if expectations:
        for trace in traces:
            server.expect(trace.trace_id, expectations, owner_name())
    judged: list[Trace] = []
    for group, able in _by_judges(traces, judges, asked=bool(names), expected=bool(expectations)):
        with console.step(f"{', '.join(judge.name for judge in able)} on {len(group)} trace(s)") as step:
            judged += judging.evaluate(server, group, able, step.show, seconds)
    order = {trace.trace_id: number for number, trace in enumerate(traces)}
    return sorted(judged, key=lambda trace: order[trace.trace_id])


def as_json(traces: list[Trace]) -> dict[str, Any]:
    """The document of --json."""
    return {
        "evaluated": [
            {"trace_id": trace.trace_id, "judges": {v.judge: asdict(v) for v in trace.verdicts}}
            for trace in traces
        ]
    }


def show(server: Mlflow, traces: list[Trace]) -> None:
    """A table for each trace, with its link."""
    for trace in traces:
        console.out.print()
        console.out.print(f"{trace.trace_id}  {' '.join(trace.request.split())[:80]}", soft_wrap=True)
        console.out.print(render.verdict_table({verdict.judge: verdict for verdict in trace.verdicts}))
        console.out.print(server.trace_link(trace.experiment_id, trace.trace_id), soft_wrap=True)


def _judges(known: dict[str, Judge], names: list[str]) -> list[Judge]:
    by_spelling = {_spelling(name): judge for name, judge in known.items()}
    missing = [name for name in names if _spelling(name) not in by_spelling]
    if missing:
        raise NotFound(
            f"the judge {missing[0]}",
            f"only {', '.join(sorted(known)) or 'none'}",
            "register it in the UI: Judges",
        )
    return [by_spelling[_spelling(name)] for name in names] if names else list(known.values())


def _spelling(name: str) -> str:
    """RelevanceToQuery, relevance-to-query and relevance_to_query are one judge."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _find(server: Mlflow, experiment_id: str, one: str) -> Trace:
    if one.startswith("tr-"):
        return server.trace(one)
    quoted = one.replace("'", "")
    found = server.traces(experiment_id, 1, f"tags.`paddock.run_id` = '{quoted}'")
    if not found:
        raise NotFound(f"a trace of the run {one}", "none", "list what there is: ./paddock traces")
    return found[0]


def _by_judges(
    traces: list[Trace], judges: list[Judge], *, asked: bool, expected: bool
) -> list[tuple[list[Trace], list[Judge]]]:
    """Traces grouped by the judges that can judge them: some need an expectation, unless the user named them."""

    def able(trace: Trace, judge: Judge) -> bool:
        needed = _NEEDS_EXPECTATION.get(judge.name)
        return asked or expected or needed is None or any(name in trace.expectations for name in needed)

    groups: dict[tuple[str, ...], list[Trace]] = {}
    for trace in traces:
        groups.setdefault(tuple(judge.name for judge in judges if able(trace, judge)), []).append(trace)
    return [
        (group, [judge for judge in judges if judge.name in names])
        for names, group in groups.items()
        if names
    ]
