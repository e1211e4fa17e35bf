"""Two suite runs beside each other: what got better, what got worse, and whether that can be chance.

Tasks are compared with themselves: a task on an endpoint in the baseline with the same task on the same endpoint now.
Where the two runs have no endpoint in common (one model against another) a task is compared with the same task, all
endpoints of a run together. The attempts of a task are exchangeable: the first repeat has nothing in common with
another run's first repeat, so repeats are counted, not paired, and may differ in number.
"""

from dataclasses import asdict, dataclass
from math import comb
from typing import Any, Literal

from paddock_cli.errors import NoBaseline
from paddock_cli.suites.inference import Count, Test, compare
from paddock_cli.suites.results import Attempt, SuiteRun
from paddock_cli.suites.summary import counted, difference

LEVEL = 0.05
Kind = Literal["broken", "worse", "same", "better", "fixed", "undecided"]


@dataclass(frozen=True)
class Change:
    """A task (on an endpoint; empty where endpoints are taken together) before and now.

    `broken` passed every time and fails every time, `fixed` the other way round; `undecided` has only attempts in state
    `error` on one side. `p_value` is of the test on this task alone, to the side that it went.
    """

    task: str
    endpoint: str
    before: Count
    now: Count
    kind: Kind
    p_value: float
    enough: bool
    """Whether that many attempts could tell a broken task from a flaky one at the level."""


@dataclass(frozen=True)
class Means:
    """Of one attempt at the compared tasks, before and now; None where a price is not known."""

    before: float | None
    now: float | None


@dataclass(frozen=True)
class Comparison:
    """A run against its baseline.

    `difference` is the pass rate now less that before, each compared pair counted the same. `worse_needs` is the least
    number of passes that would have to be lost, with none won, for the test over all tasks to see it; None where it can
    see nothing.
    """

    baseline: SuiteRun
    now: SuiteRun
    paired_by: Literal["task and endpoint", "task"]
    level: float
    changes: tuple[Change, ...]
    test: Test
    difference: float
    worse_needs: int | None
    cost_usd: Means
    tokens: Means
    seconds: Means
    steps: Means
    added: tuple[str, ...]
    """Tasks that the baseline does not have."""
    removed: tuple[str, ...]
    """Tasks that the baseline alone has."""
    endpoints_left_out: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def regressed(self) -> tuple[Change, ...]:
        """Broken tasks, as far as there are enough attempts to say so."""
        return tuple(one for one in self.changes if one.kind == "broken" and one.enough)

    @property
    def suspects(self) -> tuple[Change, ...]:
        """Broken tasks of which too few attempts were made."""
        return tuple(one for one in self.changes if one.kind == "broken" and not one.enough)

    @property
    def worse(self) -> bool:
        """Whether the passes lost over all tasks are too many for chance."""
        return self.test.worse <= self.level

    def as_json(self) -> dict[str, Any]:
        """Its part of the document of --json."""
        return {
            "baseline": {
                "id": self.baseline.id,
                "label": self.baseline.label,
                "created": self.baseline.created,
                "complete": self.baseline.complete,
            },
            "paired_by": self.paired_by,
            "level": self.level,
            "difference": self.difference,
            "p_worse": self.test.worse,
            "p_better": self.test.better,
            "p_value": self.test.differs,
            "worse": self.worse,
            "worse_needs": self.worse_needs,
            "changes": [asdict(one) for one in self.changes],
            "means": {
                name: asdict(getattr(self, name)) for name in ("cost_usd", "tokens", "seconds", "steps")
            },
            "added": list(self.added),
            "removed": list(self.removed),
            "endpoints_left_out": list(self.endpoints_left_out),
            "notes": list(self.notes),
        }


def against(baseline: SuiteRun, now: SuiteRun, level: float = LEVEL) -> Comparison:
    """Compare a run with its baseline.

    Raises:
        NoBaseline: the two have no task in common.
    """
    common = [name for name in _endpoints(now) if name in _endpoints(baseline)]
    by_endpoint = bool(common)
    old, new = (_attempts(run, by_endpoint=by_endpoint) for run in (baseline, now))
    keys = [key for key in new if key in old]
    if not keys:
        raise NoBaseline(
            f"a baseline with tasks of {now.id}",
            f"{baseline.id} (suite {baseline.suite}) has none of them",
            "name a run of the same suite: ./paddock suite status",
        )
    changes = tuple(_change(key, counted(old[key]), counted(new[key]), level) for key in keys)
    strata = [(one.before, one.now) for one in changes if one.kind != "undecided"]
    return Comparison(
        baseline=baseline,
        now=now,
        paired_by="task and endpoint" if by_endpoint else "task",
        level=level,
        changes=tuple(sorted(changes, key=_order)),
        test=compare(strata),
        difference=difference(strata) if strata else 0.0,
        worse_needs=_worse_needs(strata, level),
        cost_usd=_means(keys, old, new, "cost_usd"),
        tokens=_means(keys, old, new, "tokens"),
        seconds=_means(keys, old, new, "seconds"),
        steps=_means(keys, old, new, "steps"),
        added=_missing(now, baseline),
        removed=_missing(baseline, now),
        endpoints_left_out=tuple(
            dict.fromkeys(name for name in (*_endpoints(baseline), *_endpoints(now)) if name not in common)
        )
        if by_endpoint
        else (),
        notes=_notes(baseline, now, by_endpoint),
    )


def _notes(baseline: SuiteRun, now: SuiteRun, by_endpoint: bool) -> tuple[str, ...]:
    notes = []
    if baseline.suite != now.suite:
        notes.append(
            f"the baseline is of another suite ({baseline.suite}): compared by the tasks' names alone"
        )
    elif baseline.suite_sha256 != now.suite_sha256:
        notes.append(
            "the suite's contents have changed since the baseline: compared by the tasks' names alone"
        )
    if not by_endpoint:
        notes.append(
            "no endpoint in common: each task is compared with itself, all endpoints of a run together"
        )
    if not baseline.complete:
        because = f" ({baseline.missing_because})" if baseline.missing_because else ""
        notes.append(f"attempts are missing in the baseline{because}")
    return tuple(notes)


def _endpoints(run: SuiteRun) -> list[str]:
    return list(dict.fromkeys(one.endpoint for one in run.attempts))


def _attempts(run: SuiteRun, *, by_endpoint: bool) -> dict[tuple[str, str], list[Attempt]]:
    found: dict[tuple[str, str], list[Attempt]] = {}
    for one in run.attempts:
        found.setdefault((one.task, one.endpoint if by_endpoint else ""), []).append(one)
    return found


def _missing(of: SuiteRun, in_: SuiteRun) -> tuple[str, ...]:
    there = {one.task for one in in_.attempts}
    return tuple(dict.fromkeys(one.task for one in of.attempts if one.task not in there))


def _change(key: tuple[str, str], before: Count, now: Count, level: float) -> Change:
    kind: Kind
    if before.rate is None or now.rate is None:
        kind = "undecided"
    elif before.rate == now.rate:
        kind = "same"
    elif now.rate < before.rate:
        kind = "broken" if (before.rate, now.rate) == (1, 0) else "worse"
    else:
        kind = "fixed" if (before.rate, now.rate) == (0, 1) else "better"
    test = compare([(before, now)])
    went = test.worse if kind in ("broken", "worse") else test.better if kind in ("fixed", "better") else 1.0
    enough = 1 / comb(before.decided + now.decided, now.decided) <= level
    return Change(*key, before=before, now=now, kind=kind, p_value=went, enough=enough)


def _order(change: Change) -> tuple[Any, ...]:
    kinds = ("broken", "worse", "undecided", "fixed", "better", "same")
    return (kinds.index(change.kind), change.p_value, change.task, change.endpoint)


def _worse_needs(strata: list[tuple[Count, Count]], level: float) -> int | None:
    """How many passes the baseline's could lose, all else as it was, before the test says so.

    Lost task by task, the steadiest first, as a change that breaks some tasks and leaves the others alone does it.
    """
    steady = sorted(strata, key=lambda one: -(one[0].rate or 0.0))
    now = [min(one.decided, round((before.rate or 0.0) * one.decided)) for before, one in steady]
    lost = 0
    for index in range(len(steady)):
        while now[index]:
            now[index] -= 1
            lost += 1
            imagined = [
                (before, Count(passed, one.decided))
                for (before, one), passed in zip(steady, now, strict=True)
            ]
            if compare(imagined).worse <= level:
                return lost
    return None


def _means(
    keys: list[tuple[str, str]],
    old: dict[tuple[str, str], list[Attempt]],
    new: dict[tuple[str, str], list[Attempt]],
    name: str,
) -> Means:
    return Means(*(_mean([one for key in keys for one in side[key]], name) for side in (old, new)))


def _mean(attempts: list[Attempt], name: str) -> float | None:
    decided = [one for one in attempts if one.state == "done"]
    values = [
        one.tokens.input + one.tokens.output if name == "tokens" else getattr(one, name) for one in decided
    ]
    if not values or any(value is None for value in values):
        return None
    return float(sum(values) / len(values))
