"""A suite run in figures: pass rate, pass@k, cost, tokens, time and steps, of all, by endpoint, by task, and worst first.

A pass rate counts attempts that were decided (`done`). One in state `error` has not passed, but says nothing of the
agent either: it stands beside, as a number of its own.
"""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from paddock_cli.suites.inference import Count, Interval, Test, compare, holm, pass_at, wilson
from paddock_cli.suites.results import Attempt, SuiteRun

ATTEMPTS_AT = (1, 2, 3, 5, 10)
"""The k of pass@k, as far as every task has that many decided attempts."""


@dataclass(frozen=True)
class Figure:
    """A quantity over attempts. `total` is of all attempts, the others are of one attempt."""

    total: float
    mean: float
    median: float
    largest: float


@dataclass(frozen=True)
class Group:
    """Attempts that belong together.

    `cost_usd` is None where the price of one of them is not known; `priced` says of how many it is. `judges` counts the
    verdicts that have a pass. `outcomes` are the runner's own words.
    """

    name: str
    models: tuple[str, ...]
    attempts: int
    errors: int
    count: Count
    interval: Interval | None
    pass_at: dict[int, float]
    cost_usd: Figure | None
    priced: int
    tokens: Figure
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    seconds: Figure
    steps: Figure
    outcomes: dict[str, int]
    judges: dict[str, Count]

    def as_json(self) -> dict[str, Any]:
        """Its part of the document of --json."""
        return {
            **asdict(self),
            "models": list(self.models),
            "count": asdict(self.count) | {"rate": self.count.rate},
            "pass_at": {str(k): share for k, share in self.pass_at.items()},
            "judges": {
                name: asdict(count) | {"rate": count.rate} for name, count in sorted(self.judges.items())
            },
        }


@dataclass(frozen=True)
class Versus:
    """Two endpoints on the same tasks. `p_value` is adjusted for the number of pairs (Holm)."""

    first: str
    second: str
    tasks: int
    difference: float
    """Pass rate of the second less that of the first, averaged over the tasks that both tried."""
    p_value: float


@dataclass(frozen=True)
class Summary:
    """All figures of one suite run."""

    run: SuiteRun
    all: Group
    by_endpoint: tuple[Group, ...]
    by_task: tuple[Group, ...]
    versus: tuple[Versus, ...]
    worst: tuple[Attempt, ...]
    """Decided attempts that did not pass, or that a judge did not let pass."""
    errors: tuple[Attempt, ...]

    @property
    def cells(self) -> dict[tuple[str, str], Count]:
        """Task and endpoint → what passed of what was decided."""
        return cells(self.run)


def summarize(run: SuiteRun) -> Summary:
    """Work everything out."""
    attempts = run.attempts
    endpoints = _in_order(run.endpoints, (one.endpoint for one in attempts))
    tasks = _in_order((), (one.task for one in attempts))
    return Summary(
        run=run,
        all=_group("all", attempts),
        by_endpoint=tuple(
            _group(name, [one for one in attempts if one.endpoint == name]) for name in endpoints
        ),
        by_task=tuple(_group(name, [one for one in attempts if one.task == name]) for name in tasks),
        versus=_versus(run, endpoints, tasks),
        worst=tuple(sorted(filter(_looked_at, attempts), key=_how_bad)),
        errors=tuple(one for one in attempts if one.state == "error"),
    )


def cells(run: SuiteRun) -> dict[tuple[str, str], Count]:
    """Task and endpoint → what passed of what was decided."""
    found: dict[tuple[str, str], list[Attempt]] = {}
    for attempt in run.attempts:
        found.setdefault((attempt.task, attempt.endpoint), []).append(attempt)
    return {key: counted(attempts) for key, attempts in found.items()}


def counted(attempts: Iterable[Attempt]) -> Count:
    """What passed of what was decided."""
    decided = [one for one in attempts if one.state == "done"]
    return Count(sum(one.passed for one in decided), len(decided))


def link(url: str) -> str:
    """An address that may be shown as a link: http or https, without anything that would end it early; or nothing."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ""
    return url if not any(one.isspace() or ord(one) < 32 or one in "\"'<>`\\()|" for one in url) else ""


def _group(name: str, attempts: Iterable[Attempt]) -> Group:
    attempts = list(attempts)
    count = counted(attempts)
    by_cell: dict[tuple[str, str], list[Attempt]] = {}
    for one in attempts:
        by_cell.setdefault((one.task, one.endpoint), []).append(one)
    counts = [counted(cell) for cell in by_cell.values()]
    shares = {k: share for k in ATTEMPTS_AT if (share := pass_at(k, counts)) is not None}
    priced = [one for one in attempts if one.cost_usd is not None]
    return Group(
        name=name,
        models=_in_order((), (one.model for one in attempts if one.model)),
        attempts=len(attempts),
        errors=sum(one.state == "error" for one in attempts),
        count=count,
        interval=wilson(count),
        pass_at=shares,
        cost_usd=_figure(priced, lambda one: one.cost_usd or 0.0) if len(priced) == len(attempts) else None,
        priced=len(priced),
        tokens=_figure(attempts, lambda one: one.tokens.input + one.tokens.output),
        input_tokens=sum(one.tokens.input for one in attempts),
        cached_input_tokens=sum(one.tokens.cached_input for one in attempts),
        output_tokens=sum(one.tokens.output for one in attempts),
        reasoning_tokens=sum(one.tokens.reasoning for one in attempts),
        seconds=_figure(attempts, lambda one: one.seconds),
        steps=_figure(attempts, lambda one: one.steps),
        outcomes=_tally(one.outcome for one in attempts if one.state == "done"),
        judges=_judged(attempts),
    )


def _figure(attempts: list[Attempt], of: Callable[[Attempt], float]) -> Figure:
    values = [of(one) for one in attempts] or [0.0]
    # An attempt that something stood in the way of is paid for, but is no measure of what one takes.
    typical = [of(one) for one in attempts if one.state == "done"] or [0.0]
    return Figure(sum(values), sum(typical) / len(typical), median(typical), max(values))


def _judged(attempts: list[Attempt]) -> dict[str, Count]:
    found: dict[str, Count] = {}
    for attempt in attempts:
        for name, verdict in attempt.judges.items():
            if verdict.passed is not None:
                before = found.get(name, Count(0, 0))
                found[name] = Count(before.passed + verdict.passed, before.decided + 1)
    return found


def _versus(run: SuiteRun, endpoints: tuple[str, ...], tasks: tuple[str, ...]) -> tuple[Versus, ...]:
    found = cells(run)
    raw: list[tuple[str, str, int, float, Test]] = []
    for number, first in enumerate(endpoints):
        for second in endpoints[number + 1 :]:
            strata = [
                (found[task, first], found[task, second])
                for task in tasks
                if (task, first) in found and (task, second) in found
            ]
            strata = [(one, other) for one, other in strata if one.decided and other.decided]
            if strata:
                raw.append((first, second, len(strata), difference(strata), compare(strata)))
    adjusted = holm([test.differs for *_, test in raw])
    return tuple(
        Versus(first, second, number, gain, value)
        for (first, second, number, gain, _), value in zip(raw, adjusted, strict=True)
    )


def difference(strata: list[tuple[Count, Count]]) -> float:
    """The second's pass rate less the first's, each stratum counted the same."""
    return sum((now.rate or 0.0) - (before.rate or 0.0) for before, now in strata) / len(strata)


def _looked_at(attempt: Attempt) -> bool:
    judged = any(verdict.passed is False for verdict in attempt.judges.values())
    return attempt.state == "done" and (not attempt.passed or judged)


def _how_bad(attempt: Attempt) -> tuple[Any, ...]:
    """What failed most comes first: checks, then an agent that did not finish, then judges; the dearer of equals."""
    failed = sum(not check.passed for check in attempt.checks)
    refused = sum(verdict.passed is False for verdict in attempt.judges.values())
    return (
        attempt.passed,
        -(failed / len(attempt.checks) if attempt.checks else 0),
        attempt.outcome == "finished",
        -(refused / len(attempt.judges) if attempt.judges else 0),
        -(attempt.cost_usd or 0),
        attempt.key,
    )


def _tally(words: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for word in words:
        found[word] = found.get(word, 0) + 1
    return dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))


def _in_order(first: Iterable[str], then: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*first, *then]))
