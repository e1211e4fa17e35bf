"""Whether a suite run is good enough: thresholds, and nothing worse than the baseline.

A criterion that can't be decided is never taken for one that holds: where attempts are missing or in state `error`, or a
price is not known, the gate says so with a result of its own.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from paddock_cli.errors import UsageFailed
from paddock_cli.exit_codes import ExitCode
from paddock_cli.suites.comparison import Change, Comparison
from paddock_cli.suites.inference import pass_at
from paddock_cli.suites.pages import (
    Cell,
    Column,
    Page,
    Section,
    Tone,
    counted,
    money,
    one_line,
    percent,
    quoted,
)
from paddock_cli.suites.summary import Group, Summary

State = Literal["passed", "failed", "undecided"]


def _per_pass(group: Group) -> float | None:
    if group.cost_usd is None or not group.count.passed:
        return None
    return group.cost_usd.total / group.count.passed


METRICS: dict[str, tuple[str, Callable[[Group], float | None]]] = {
    "pass_rate": ("passed of decided attempts, 0 to 1", lambda group: group.count.rate),
    "pass_rate_low": (
        "lower bound of its 95 % interval (Wilson)",
        lambda group: group.interval.low if group.interval else None,
    ),
    "failed": (
        "decided attempts that did not pass",
        lambda group: float(group.count.decided - group.count.passed),
    ),
    "errors": ("attempts in state error", lambda group: float(group.errors)),
    "cost_usd": ("of all attempts together", lambda group: group.cost_usd.total if group.cost_usd else None),
    "cost_usd_mean": ("of an attempt", lambda group: group.cost_usd.mean if group.cost_usd else None),
    "cost_usd_max": (
        "of the dearest attempt",
        lambda group: group.cost_usd.largest if group.cost_usd else None,
    ),
    "cost_usd_per_pass": ("all cost by the number of passes", _per_pass),
    "tokens": ("input and output of all attempts together", lambda group: group.tokens.total),
    "tokens_mean": ("of an attempt", lambda group: group.tokens.mean),
    "seconds": ("of all attempts together", lambda group: group.seconds.total),
    "seconds_mean": ("of an attempt", lambda group: group.seconds.mean),
    "seconds_max": ("of the longest attempt", lambda group: group.seconds.largest),
    "steps_mean": ("of an attempt", lambda group: group.steps.mean),
    "steps_max": ("of the attempt with most", lambda group: group.steps.largest),
}
"""What `--min` and `--max` know: name → what it is, and how it is taken of a group of attempts."""

PASS_AT = re.compile(r"pass_at_([1-9][0-9]{0,2})")
JUDGE = "judge/"
_CRITERION = re.compile(r"(?P<metric>[^=@]+)(?:@(?P<endpoint>[^=]+))?=(?P<bound>[^=]+)")


@dataclass(frozen=True)
class Threshold:
    """One `--min` or `--max`: a metric, of one endpoint or of all attempts, and its bound."""

    side: Literal["min", "max"]
    metric: str
    endpoint: str
    bound: float

    @property
    def name(self) -> str:
        """As the user may write it."""
        at = f"@{self.endpoint}" if self.endpoint else ""
        return f"{self.metric}{at} {'≥' if self.side == 'min' else '≤'} {self.bound:g}"


@dataclass(frozen=True)
class Criterion:
    """What became of one criterion, and what was found."""

    name: str
    state: State
    found: str


@dataclass(frozen=True)
class Gate:
    """The criteria, and what stands in the way of deciding them."""

    summary: Summary
    comparison: Comparison | None
    criteria: tuple[Criterion, ...]
    obstacles: tuple[str, ...]

    @property
    def state(self) -> State:
        """Undecided comes first: what is missing can turn every other answer around."""
        states = {one.state for one in self.criteria}
        if self.obstacles or "undecided" in states:
            return "undecided"
        return "failed" if "failed" in states else "passed"

    @property
    def exit_code(self) -> ExitCode:
        """OK, GATE_FAILED or GATE_UNDECIDED."""
        codes: dict[State, ExitCode] = {
            "passed": ExitCode.OK,
            "failed": ExitCode.GATE_FAILED,
            "undecided": ExitCode.GATE_UNDECIDED,
        }
        return codes[self.state]

    def as_json(self) -> dict[str, Any]:
        """The document of --json."""
        return {
            "suite_run": self.summary.run.id,
            "baseline": self.comparison.baseline.id if self.comparison else None,
            "state": self.state,
            "criteria": [asdict(one) for one in self.criteria],
            "obstacles": list(self.obstacles),
            "comparison": self.comparison.as_json() if self.comparison else None,
            "exit_code": int(self.exit_code),
        }


def thresholds(minima: Sequence[str], maxima: Sequence[str]) -> list[Threshold]:
    """Read `--min` and `--max`.

    Raises:
        UsageFailed: one that is not `METRIC=NUMBER` or `METRIC@ENDPOINT=NUMBER`, or of an unknown metric.
    """
    return [
        *(_threshold("min", text) for text in minima),
        *(_threshold("max", text) for text in maxima),
    ]


def known_metrics() -> str:
    """The names, for a message."""
    return f"{', '.join(METRICS)}, pass_at_K, {JUDGE}NAME"


def decide(
    summary: Summary, comparison: Comparison | None, wanted: Sequence[Threshold], *, no_regressions: bool
) -> Gate:
    """Hold a suite run against its criteria.

    Args:
        comparison: with the baseline; needed for `no_regressions`.

    Raises:
        UsageFailed: a threshold of an endpoint that the run does not have.
    """
    criteria = [_held(summary, one) for one in wanted]
    obstacles = []
    run = summary.run
    if not run.attempts:
        obstacles.append("there are no attempts")
    if not run.complete:
        because = one_line(run.missing_because) or "no reason is given"
        obstacles.append(f"attempts are missing: {because}; go on with it, or run it again")
    # Who sets a bound on errors says by that how many may be left out.
    if summary.errors and not any((one.metric, one.side) == ("errors", "max") for one in wanted):
        first = summary.errors[0]
        obstacles.append(
            f"{counted(len(summary.errors), 'attempt')} in state error, the first {one_line(first.task, 64)} on"
            f" {one_line(first.endpoint, 64)}: {one_line(first.error, 120)}; run it again, or allow some: --max errors=N"
        )
    if no_regressions:
        assert comparison is not None
        criteria += _no_regressions(comparison)
    return Gate(summary, comparison, tuple(criteria), tuple(obstacles))


def page(gate: Gate, report: Page) -> Page:
    """The report with the gate's answer before it."""
    tones: dict[State, Tone] = {"passed": "good", "failed": "bad", "undecided": "warn"}
    rows = tuple(
        (Cell(one.state, tone=tones[one.state]), quoted(one.name), quoted(one.found)) for one in gate.criteria
    )
    columns = (Column("gate"), Column("criterion"), Column("found"))
    return Page(
        title=f"Gate {gate.state}: {report.title.removeprefix('Suite ')}",
        facts=report.facts,
        warnings=(
            *(f"can't be decided: {obstacle}" for obstacle in gate.obstacles),
            *report.warnings,
        ),
        sections=(Section("Criteria", columns, rows), *report.sections),
    )


def _threshold(side: Literal["min", "max"], text: str) -> Threshold:
    example = f"for example: --{side} {'pass_rate=0.9' if side == 'min' else 'cost_usd=0.50'}"
    match = _CRITERION.fullmatch(text)
    if match is None:
        raise UsageFailed(f"--{side} METRIC=NUMBER or METRIC@ENDPOINT=NUMBER", repr(text), example)
    metric = match["metric"].strip()
    if metric not in METRICS and not PASS_AT.fullmatch(metric) and metric.removeprefix(JUDGE) == metric:
        raise UsageFailed(
            f"--{side} of a metric that is known", repr(metric), f"take one of {known_metrics()}"
        )
    try:
        bound = float(match["bound"])
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise UsageFailed(f"--{side} {metric} to be a number", repr(match["bound"]), example)
    share = metric in ("pass_rate", "pass_rate_low") or PASS_AT.fullmatch(metric) or metric.startswith(JUDGE)
    if share and not 0 <= bound <= 1:
        raise UsageFailed(f"--{side} {metric} from 0 to 1", match["bound"], "write 90 % as 0.9")
    return Threshold(side, metric, (match["endpoint"] or "").strip(), bound)


def _held(summary: Summary, wanted: Threshold) -> Criterion:
    group = _group(summary, wanted.endpoint)
    value, why = _value(summary, group, wanted)
    if value is None:
        return Criterion(wanted.name, "undecided", why)
    holds = value >= wanted.bound if wanted.side == "min" else value <= wanted.bound
    return Criterion(wanted.name, "passed" if holds else "failed", _shown(wanted.metric, value, group))


def _group(summary: Summary, endpoint: str) -> Group:
    if not endpoint:
        return summary.all
    for group in summary.by_endpoint:
        if group.name == endpoint:
            return group
    there = ", ".join(one_line(group.name, 64) for group in summary.by_endpoint)
    raise UsageFailed(
        "an endpoint of the suite run after @", repr(endpoint), f"take one of {there or 'none'}"
    )


def _value(summary: Summary, group: Group, wanted: Threshold) -> tuple[float | None, str]:
    """The figure, or why it is not known."""
    metric = wanted.metric
    if match := PASS_AT.fullmatch(metric):
        k = int(match[1])
        counts = [
            count
            for (_, endpoint), count in summary.cells.items()
            if not wanted.endpoint or endpoint == wanted.endpoint
        ]
        fewest = min((count.decided for count in counts), default=0)
        return pass_at(
            k, counts
        ), f"a task has {counted(fewest, 'decided attempt')}, {k} are needed: --repeat {k}"
    if metric.startswith(JUDGE):
        name = metric.removeprefix(JUDGE)
        count = group.judges.get(name)
        there = ", ".join(one_line(one, 64) for one in group.judges) or "none"
        if count is None:
            return None, f"no verdict of it that has a pass; judges of this run: {there}"
        # A pass rate over the traces that a judge happened to look at is none of the suite.
        unjudged = group.count.decided - _judged_attempts(summary, group, wanted.endpoint, name)
        return (
            count.rate if unjudged <= 0 else None,
            f"no verdict of it on {counted(unjudged, 'decided attempt')}",
        )
    if metric.startswith("cost_usd") and group.cost_usd is None:
        return None, f"the price is known of {group.priced} of {group.attempts} attempts"
    if not group.count.decided and metric not in ("errors", "failed"):
        return None, "no attempt was decided"
    value = METRICS[metric][1](group)
    return value, "no attempt passed"


def _judged_attempts(summary: Summary, group: Group, endpoint: str, name: str) -> int:
    return sum(
        1
        for one in summary.run.attempts
        if one.state == "done"
        and (not endpoint or one.endpoint == endpoint)
        and name in one.judges
        and one.judges[name].passed is not None
    )


def _shown(metric: str, value: float, group: Group) -> str:
    if metric == "pass_rate":
        return f"{percent(value)} ({group.count.passed} of {group.count.decided})"
    if metric == "pass_rate_low" or metric.startswith(JUDGE) or PASS_AT.fullmatch(metric):
        return percent(value)
    if metric.startswith("cost_usd"):
        return money(value)
    return f"{value:,.1f}".removesuffix(".0")


def _no_regressions(comparison: Comparison) -> list[Criterion]:
    """Two criteria: the passes of all tasks together, and single tasks that broke."""
    decided = [one for one in comparison.changes if one.kind != "undecided"]
    level = f"{comparison.level:g}"
    overall, tasks = "no regression over all tasks", "no broken task"
    if not decided:
        nothing = "no task was decided on both sides"
        return [Criterion(overall, "undecided", nothing), Criterion(tasks, "undecided", nothing)]
    p = comparison.test.worse
    found = f"pass rate {comparison.difference * 100:+.1f} points, p = {p:.3f} at level {level}"
    if comparison.worse_needs is not None:
        found += f"; {counted(comparison.worse_needs, 'lost pass', 'lost passes')} would be seen"
    else:
        found += "; too few attempts for any loss to be seen: more tasks or --repeat"
    broken = ", ".join(map(_named, comparison.regressed[:10]))
    suspects = ", ".join(map(_named, comparison.suspects[:10]))
    said = broken or "none"
    if suspects:
        said += f"; too few attempts to tell from chance, run again with --repeat 3: {suspects}"
    return [
        Criterion(overall, "failed" if comparison.worse else "passed", found),
        Criterion(tasks, "failed" if broken else "passed", said),
    ]


def _named(change: Change) -> str:
    at = f" on {one_line(change.endpoint, 40)}" if change.endpoint else ""
    return (
        f"{one_line(change.task, 64)}{at} ({change.before.passed}/{change.before.decided} →"
        f" {change.now.passed}/{change.now.decided})"
    )
