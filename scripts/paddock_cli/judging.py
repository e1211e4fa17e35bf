"""From a run's end to its verdicts: waits for the trace, logs expectations, lets judges look, waits for what they say."""

import time
from collections.abc import Callable

from paddock_cli.errors import NotFound
from paddock_cli.mlflow_api import Judge, Mlflow, Trace, Verdict

CORRECTNESS = "correctness"
TRACE_SECONDS = 30
VERDICT_SECONDS = 120
_POLL_SECONDS = 0.5
_ENDED = ("SUCCEEDED", "FAILED", "TIMEOUT", "CANCELED")


def wait_for_trace(server: Mlflow, trace_id: str, seconds: float = TRACE_SECONDS) -> Trace | None:
    """The trace once it is finished; as it stands after that time, or None where it never came."""
    deadline = time.monotonic() + seconds
    found = None
    while True:
        try:
            found = server.trace(trace_id)
        except NotFound:
            found = None
        if (found is not None and found.finished) or time.monotonic() > deadline:
            return found
        time.sleep(_POLL_SECONDS)


def judge_run(
    server: Mlflow,
    trace: Trace,
    expectations: list[str],
    user: str,
    show: Callable[[str], None],
    seconds: float = VERDICT_SECONDS,
) -> Trace:
    """Let every judge look that can: those that start by themselves, and Correctness where there is an expectation.

    Returns:
        The trace with the verdicts that came in time.
    """
    judges = server.judges(trace.experiment_id)
    awaited = {name for name, judge in judges.items() if judge.automatic}
    asked: dict[str, list[str]] = {}
    if expectations:
        server.expect(trace.trace_id, expectations, user)
        if CORRECTNESS in judges:
            asked[CORRECTNESS] = server.invoke(trace.experiment_id, judges[CORRECTNESS], [trace.trace_id])
            awaited.add(CORRECTNESS)
    return _wait(server, trace.trace_id, awaited, asked, show, seconds)


def evaluate(
    server: Mlflow,
    traces: list[Trace],
    judges: list[Judge],
    show: Callable[[str], None],
    seconds: float = VERDICT_SECONDS,
) -> list[Trace]:
    """Let judges look at traces now and wait for what they say.

    Returns:
        The traces, in the same order, with the verdicts that came in time. Those of before the call are left out.
    """
    before = {trace.trace_id: set(trace.verdicts) for trace in traces}
    jobs: dict[str, tuple[Judge, list[str]]] = {}
    for judge in judges:
        by_experiment: dict[str, list[str]] = {}
        for trace in traces:
            by_experiment.setdefault(trace.experiment_id, []).append(trace.trace_id)
        for experiment_id, ids in by_experiment.items():
            jobs |= dict.fromkeys(server.invoke(experiment_id, judge, ids), (judge, ids))
    deadline = time.monotonic() + seconds
    waiting = set(jobs)
    while waiting and time.monotonic() < deadline:
        show(f"{len(jobs) - len(waiting)} of {len(jobs)} jobs done")
        waiting = {job_id for job_id in waiting if server.job(job_id)[0] not in _ENDED}
        if waiting:
            time.sleep(_POLL_SECONDS)
    failed: dict[tuple[str, str], str] = {}
    for job_id, (judge, ids) in jobs.items():
        state, result = ("late", None) if job_id in waiting else server.job(job_id)
        failed |= {
            (trace_id, judge.name): error
            for trace_id in ids
            if (error := _job_error(state, result, trace_id))
        }
    judged = []
    for trace in traces:
        now = server.trace(trace.trace_id)
        new = [verdict for verdict in now.verdicts if verdict not in before[trace.trace_id]]
        given = {verdict.judge for verdict in new}
        new += [
            Verdict(judge.name, "", "", failed.get((trace.trace_id, judge.name), "no verdict"))
            for judge in judges
            if judge.name not in given
        ]
        judged.append(_with(now, new))
    return judged


def _wait(
    server: Mlflow,
    trace_id: str,
    awaited: set[str],
    asked: dict[str, list[str]],
    show: Callable[[str], None],
    seconds: float,
) -> Trace:
    deadline = time.monotonic() + seconds
    errors: dict[str, str] = {}
    while True:
        trace = server.trace(trace_id)
        missing = awaited - trace.latest().keys() - errors.keys()
        show(f"{len(awaited) - len(missing)} of {len(awaited)} verdicts")
        if not missing:
            break
        if time.monotonic() > deadline:
            errors |= dict.fromkeys(missing, f"no verdict in {seconds:.0f} s; it may still come")
            break
        for name in missing & asked.keys():
            for job_id in asked[name]:
                state, result = server.job(job_id)
                # A verdict that the job stored just now is seen at the next look: only failures end the wait.
                if state in _ENDED and (error := _job_error(state, result, trace_id)):
                    errors[name] = error
        time.sleep(_POLL_SECONDS)
    late = [Verdict(name, "", "", error) for name, error in sorted(errors.items())]
    return _with(trace, [*trace.verdicts, *late])


def _job_error(state: str, result: object, trace_id: str) -> str:
    """Why a job gave no verdict on a trace; empty where it did. A job that succeeded can still hold failures."""
    if state == "late":
        return "no verdict in time; it may still come"
    if state != "SUCCEEDED":
        return f"the judge's job ended as {state}: {result or 'no reason given'}"
    told = result.get(trace_id, {}) if isinstance(result, dict) else {}
    failures = told.get("failures", []) if isinstance(told, dict) else []
    return "; ".join(f"{one.get('error_code', '')}: {one.get('error_message', '')}" for one in failures)


def _with(trace: Trace, verdicts: list[Verdict]) -> Trace:
    from dataclasses import replace

    return replace(trace, verdicts=tuple(verdicts))
