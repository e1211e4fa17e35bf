"""From a run's end to its verdicts: waits for the trace, logs expectations, asks for judgments, waits for the answers."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from paddock_cli.errors import NotFound
from paddock_cli.mlflow_api import Mlflow, Trace, Verdict

JUDGMENTS = "/api/3.0/paddock/judgments"
CORRECTNESS = "correctness"
TRACE_SECONDS = 30
VERDICT_SECONDS = 120
_POLL_SECONDS = 0.5
_AT_ONCE = 5000
"""Judgments of one look."""
_COMING = ("queued", "running")


@dataclass(frozen=True)
class Judgment:
    """What became of a judge's look at a trace or session. `state` and `reason` are the server's words; `cost_usd` is a
    decimal string."""

    id: str
    judge: str
    level: str
    subject: str
    trace_id: str
    state: str
    reason: str
    value: str
    rationale: str
    passed: bool | None
    cost_usd: str | None

    @property
    def coming(self) -> bool:
        """Whether it is still to be judged."""
        return self.state in _COMING

    def verdict(self) -> Verdict:
        """What it said; an error tells why it said nothing."""
        said = self.state == "done"
        return Verdict(
            judge=self.judge,
            value=self.value if said else "",
            rationale=self.rationale if said else "",
            error="" if said else self.reason or self.state,
            passed=self.passed if said else None,
        )


@dataclass(frozen=True)
class Wanted:
    """What is to be judged in an experiment; no `judges`: by all that can look."""

    experiment_id: str
    traces: Sequence[str] = ()
    sessions: Sequence[str] = ()
    since: datetime | None = None
    judges: Sequence[str] = ()
    again: bool = False


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
    """Wait for the judges that look by themselves, and ask Correctness where there is an expectation.

    Returns:
        The trace with the verdicts that came in time, and with the reasons of judges that gave none.
    """
    if expectations:
        server.expect(trace.trace_id, expectations, user)
        # It may have been stopped for good.
        if CORRECTNESS in server.judges(trace.experiment_id):
            ask(server, Wanted(trace.experiment_id, traces=[trace.trace_id], judges=[CORRECTNESS]))
    deadline = time.monotonic() + seconds
    while True:
        judgments, coming = of_trace(server, trace)
        waiting = [one.judge for one in judgments if one.coming] + coming
        show(f"{len(judgments) + len(coming) - len(waiting)} of {len(judgments) + len(coming)} verdicts")
        if not waiting or time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)
    late = f"no verdict in {seconds:.0f} s; it may still come"
    without = [Verdict(name, "", "", late) for name in waiting]
    without += [one.verdict() for one in judgments if not one.coming and one.state not in ("done", "failed")]
    trace = server.trace(trace.trace_id)
    # What a failure left is an assessment, which the trace has.
    return replace(trace, verdicts=(*trace.verdicts, *without))


def ask(server: Mlflow, wanted: Wanted) -> tuple[list[str], int]:
    """Queue judgments.

    Returns:
        Their ids, and how many traces since the moment were too many for one ask.

    Raises:
        NotFound: no such trace, session or judge, or one that can't be judged.
    """
    body: dict[str, Any] = {
        "experiment_id": wanted.experiment_id,
        "traces": list(wanted.traces),
        "sessions": list(wanted.sessions),
        "judges": list(wanted.judges),
        "again": wanted.again,
    }
    if wanted.since is not None:
        body["since"] = wanted.since.isoformat()
    answer = server.call("POST", JUDGMENTS, json=body)
    return list(answer["ids"]), int(answer["left_out"])


def wait(server: Mlflow, ids: Sequence[str], show: Callable[[str], None], seconds: float) -> list[Judgment]:
    """What becomes of judgments, in their order; those that are still to come where none came for so many seconds."""
    found: dict[str, Judgment] = {}
    waiting = list(ids)
    deadline = time.monotonic() + seconds
    while waiting:
        for start in range(0, len(waiting), _AT_ONCE):
            body = {"ids": waiting[start : start + _AT_ONCE]}
            answer = server.call("POST", f"{JUDGMENTS}/states", json=body)
            found |= {one.id: one for one in map(_judgment, answer["judgments"])}
        before = len(waiting)
        waiting = [one for one in waiting if one in found and found[one].coming]
        show(f"{len(ids) - len(waiting)} of {len(ids)} judged")
        if len(waiting) < before:
            deadline = time.monotonic() + seconds
        if not waiting or time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)
    late = f"no verdict in {seconds:.0f} s; it may still come"
    return [
        replace(found[one], reason=late) if found[one].coming else found[one] for one in ids if one in found
    ]


def of_trace(server: Mlflow, trace: Trace) -> tuple[list[Judgment], list[str]]:
    """The judgments of a trace, and the names of judges that are about to look at it by themselves."""
    asked = {"experiment_id": trace.experiment_id, "trace_id": trace.trace_id}
    answer = server.call("GET", JUDGMENTS, params=asked)
    own = [one for one in map(_judgment, answer["judgments"]) if one.level == "trace"]
    return own, list(answer["coming"])


def _judgment(row: dict[str, Any]) -> Judgment:
    value = row["value"]
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    return Judgment(
        id=row["id"],
        judge=row["judge"],
        level=row["level"],
        subject=row["subject"],
        trace_id=row["trace_id"],
        state=row["state"],
        reason=row["reason"],
        value="" if value is None else shown,
        rationale=row["rationale"],
        passed=row["passed"],
        cost_usd=row["cost_usd"],
    )
