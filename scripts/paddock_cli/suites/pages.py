"""A report as sections and cells, the same for a terminal, Markdown and HTML: what stands where is decided once.

Every text may hold what an agent, a task or a judge wrote. Here it is made one line and short; each form escapes it in
its own way, all of it, without asking where it came from.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from paddock_cli.console import plain
from paddock_cli.costs import dollars
from paddock_cli.suites.comparison import Change, Comparison, Means
from paddock_cli.suites.inference import Count, Interval, wilson
from paddock_cli.suites.results import Attempt
from paddock_cli.suites.summary import Figure, Group, Summary, link

LONGEST = 240
Tone = Literal["", "good", "bad", "warn", "dim"]


@dataclass(frozen=True)
class Cell:
    """A text, perhaps a link (already looked at), and how it is meant. `quoted`: somebody else's words."""

    text: str
    link: str = ""
    tone: Tone = ""
    quoted: bool = False


@dataclass(frozen=True)
class Column:
    """A heading; numbers stand to the right. What is `spare` is left out first where a line has no room."""

    head: str
    number: bool = False
    spare: int = 0


@dataclass(frozen=True)
class Section:
    """A table with its heading and what must be known to read it."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    left_out: int = 0
    listed: bool = False
    """A terminal shows each row as lines of its own, so that addresses stay whole."""


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    facts: tuple[tuple[str, Cell], ...]
    warnings: tuple[str, ...]
    sections: tuple[Section, ...]


def one_line(text: str, longest: int = LONGEST) -> str:
    """Somebody else's words as one line without control characters, cut where it is long."""
    line = " ".join(plain(text).split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


def quoted(text: str, longest: int = LONGEST) -> Cell:
    """Somebody else's words."""
    return Cell(one_line(text, longest), quoted=True)


def counted(number: int, one: str, more: str = "") -> str:
    """1 attempt, 2 attempts."""
    return f"{number} {one if number == 1 else more or f'{one}s'}"


def percent(share: float | None) -> str:
    """0.85 → 85 %."""
    if share is None:
        return "–"
    text = f"{share:.1%}".removesuffix("%")
    return f"{text.removesuffix('.0')} %"


def percent_interval(interval: Interval | None) -> str:
    """49 % to 94 %."""
    return "–" if interval is None else f"{interval.low:.0%} to {interval.high:.0%}".replace("%", " %")


def rate_cell(count: Count) -> Cell:
    """Passes of decided attempts."""
    if count.rate is None:
        return Cell("–", tone="warn")
    tone: Tone = "good" if count.rate == 1 else "bad" if count.rate == 0 else ""
    return Cell(f"{count.passed}/{count.decided}", tone=tone)


def money(amount: float | None) -> str:
    """USD to four digits; unknown where a price is."""
    return "unknown" if amount is None else dollars(Decimal(f"{amount:.4g}"))


def time(seconds: float | None) -> str:
    """Seconds, or minutes where there are many."""
    if seconds is None:
        return "–"
    return f"{seconds:.1f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def suite_page(summary: Summary, comparison: Comparison | None, rows: int) -> Page:
    """The report of a suite run.

    Args:
        comparison: with its baseline, where there is one.
        rows: at most, of tasks, changes, traces and errors.
    """
    run = summary.run
    sections = [
        _groups("By endpoint", "endpoint", (*summary.by_endpoint, summary.all), rows),
        _groups("By task", "task", summary.by_task, rows),
        _judges(summary),
        _versus(summary),
    ]
    if comparison is not None:
        sections += [_changes(comparison, rows), _means(comparison)]
    sections += [_worst(summary, rows), _errors(summary, rows)]
    return Page(
        title=f"Suite {one_line(run.suite, 80)}",
        facts=_facts(summary, comparison),
        warnings=_warnings(summary, comparison),
        sections=tuple(section for section in sections if section.rows),
    )


def _facts(summary: Summary, comparison: Comparison | None) -> tuple[tuple[str, Cell], ...]:
    run, everything = summary.run, summary.all
    git = run.git or {}
    commit = str(git.get("commit") or "")[:12] + (" with changes" if git.get("dirty") else "")
    facts = [
        ("run", quoted(f"{run.id}{f' ({run.label})' if run.label else ''}")),
        ("made", quoted(f"{run.created[:19].replace('T', ' ')} UTC on {run.stack}")),
        ("commit", quoted(f"{commit} {git.get('branch') or ''}")),
        ("models", quoted(", ".join(everything.models))),
        (
            "pass rate",
            Cell(
                f"{percent(everything.count.rate)} ({everything.count.passed} of {everything.count.decided});"
                f" 95 % interval {percent_interval(everything.interval)}"
            ),
        ),
        ("cost", Cell(_total_cost(everything))),
        ("tokens", Cell(_tokens(everything))),
        ("agents' time", Cell(time(everything.seconds.total))),
        ("outcomes", quoted(", ".join(f"{name} × {number}" for name, number in everything.outcomes.items()))),
        ("MLflow", Cell("run in MLflow", link=link(run.mlflow_url)) if link(run.mlflow_url) else Cell("")),
    ]
    if comparison is not None:
        facts.append(("baseline", quoted(_named(comparison))))
        facts.append(("against it", Cell(_said(comparison), tone="bad" if comparison.worse else "")))
    return tuple((name, cell) for name, cell in facts if cell.text.strip())


def _named(comparison: Comparison) -> str:
    baseline = comparison.baseline
    label = f" ({baseline.label})" if baseline.label else ""
    return f"{baseline.id}{label} of {baseline.created[:19].replace('T', ' ')} UTC"


def _said(comparison: Comparison) -> str:
    gain = f"{comparison.difference * 100:+.1f} points"
    return f"pass rate {gain}, {chance(comparison)}"


def chance(comparison: Comparison) -> str:
    """What the test over all compared tasks says, in words."""
    test, level = comparison.test, comparison.level
    if test.worse <= level:
        return f"worse: by chance as far down in {percent(test.worse)} of cases"
    if test.better <= level:
        return f"better: by chance as far up in {percent(test.better)} of cases"
    return f"which can be chance (p = {test.differs:.3f})"


def _total_cost(group: Group) -> str:
    if group.cost_usd is not None:
        return f"{money(group.cost_usd.total)}, {money(group.cost_usd.mean)} an attempt"
    return f"unknown: the price is known of {group.priced} of {group.attempts} attempts"


def _tokens(group: Group) -> str:
    text = f"{group.input_tokens:,} in ({group.cached_input_tokens:,} cached), {group.output_tokens:,} out"
    return f"{text} ({group.reasoning_tokens:,} reasoning)" if group.reasoning_tokens else text


def _warnings(summary: Summary, comparison: Comparison | None) -> tuple[str, ...]:
    run = summary.run
    found = []
    if not run.complete:
        because = one_line(run.missing_because) or "no reason is given"
        found.append(f"attempts are missing: {because}")
    if summary.errors:
        found.append(
            f"{len(summary.errors)} of {counted(summary.all.attempts, 'attempt')} in state error:"
            " not counted in pass rates"
        )
    if comparison is not None:
        found += [one_line(note) for note in comparison.notes]
        for what, names in (("new", comparison.added), ("gone", comparison.removed)):
            if names:
                found.append(f"tasks that are {what} since the baseline: {_listed(names)}")
        if comparison.endpoints_left_out:
            found.append(
                f"endpoints of one run alone, not compared: {_listed(comparison.endpoints_left_out)}"
            )
    return tuple(found)


def _listed(names: Iterable[str], most: int = 10) -> str:
    names = [one_line(name, 64) for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _groups(title: str, of: str, groups: tuple[Group, ...], rows: int) -> Section:
    shown = groups[:rows]
    everywhere = sorted({k for group in shown for k in group.pass_at if k > 1})
    priced = any(group.cost_usd is not None for group in shown)
    columns = (
        Column(of),
        Column("passed", number=True),
        Column("rate", number=True, spare=6),
        Column("95 % interval", number=True, spare=3),
        *(Column(f"pass@{k}", number=True, spare=4) for k in everywhere),
        Column("errors", number=True, spare=0 if any(group.errors for group in shown) else 9),
        Column("cost", number=True, spare=0 if priced else 9),
        Column("tokens", number=True, spare=5),
        Column("time", number=True, spare=2),
        Column("steps", number=True, spare=7),
    )

    def row(group: Group) -> tuple[Cell, ...]:
        def mean(figure: Figure | None) -> float | None:
            return figure.mean if figure is not None and group.count.decided else None

        tokens, steps = mean(group.tokens), mean(group.steps)
        return (
            quoted(group.name, 64),
            rate_cell(group.count),
            Cell(percent(group.count.rate)),
            Cell(percent_interval(group.interval)),
            *(Cell(percent(group.pass_at.get(k))) for k in everywhere),
            Cell(str(group.errors), tone="warn" if group.errors else "dim"),
            Cell(money(mean(group.cost_usd))),
            Cell("–" if tokens is None else f"{tokens:,.0f}"),
            Cell(time(mean(group.seconds))),
            Cell("–" if steps is None else f"{steps:.1f}"),
        )

    return Section(
        title,
        columns,
        tuple(row(group) for group in shown),
        note="Cost, tokens, time and steps are means of a decided attempt.",
        left_out=len(groups) - len(shown),
    )


def _judges(summary: Summary) -> Section:
    rows = []
    for group in summary.by_endpoint:
        for name, count in sorted(group.judges.items()):
            rows.append(
                (
                    quoted(name, 64),
                    quoted(group.name, 64),
                    rate_cell(count),
                    Cell(percent(count.rate)),
                    Cell(percent_interval(wilson(count))),
                )
            )
    columns = (
        Column("judge"),
        Column("endpoint"),
        Column("passed", number=True),
        Column("rate", number=True, spare=2),
        Column("95 % interval", number=True, spare=1),
    )
    return Section(
        "Judges", columns, tuple(rows), note="Verdicts that have a pass; the checks alone decide an attempt."
    )


def _versus(summary: Summary) -> Section:
    columns = (
        Column("first"),
        Column("second"),
        Column("tasks", number=True, spare=1),
        Column("second's pass rate", number=True),
        Column("p", number=True),
    )
    rows = tuple(
        (
            quoted(one.first, 64),
            quoted(one.second, 64),
            Cell(str(one.tasks)),
            Cell(f"{one.difference * 100:+.1f} points"),
            Cell(f"{one.p_value:.3f}"),
        )
        for one in summary.versus
    )
    return Section(
        "Endpoints compared",
        columns,
        rows,
        note="The same tasks on both; exact test, p-values adjusted for the number of pairs (Holm).",
    )


_TONES: dict[str, Tone] = {
    "broken": "bad",
    "worse": "bad",
    "fixed": "good",
    "better": "good",
    "undecided": "warn",
}


def _changes(comparison: Comparison, rows: int) -> Section:
    changed = [one for one in comparison.changes if one.kind != "same"]
    columns = (
        Column("task"),
        Column("endpoint", spare=2),
        Column("before", number=True),
        Column("now", number=True),
        Column(""),
        Column("p of this task", number=True, spare=1),
    )
    pairs = f"{counted(len(comparison.changes), 'pair')} by {comparison.paired_by}, {len(changed)} changed."
    return Section(
        "Better and worse than the baseline",
        columns,
        tuple(_change(one) for one in changed[:rows]),
        note=f"{pairs} {sensitivity(comparison)}",
        left_out=max(0, len(changed) - rows),
    )


def _change(change: Change) -> tuple[Cell, ...]:
    return (
        quoted(change.task, 64),
        quoted(change.endpoint or "all", 64),
        rate_cell(change.before),
        rate_cell(change.now),
        Cell(change.kind, tone=_TONES.get(change.kind, "")),
        Cell(f"{change.p_value:.3f}"),
    )


def sensitivity(comparison: Comparison) -> str:
    """What the test over all tasks could have seen here."""
    if comparison.worse_needs is None:
        return "So few passes were there to lose that no loss could be told from chance."
    return (
        f"A loss of {counted(comparison.worse_needs, 'pass', 'passes')} or more, with none won, would be told from chance"
        f" (level {comparison.level:g})."
    )


def _means(comparison: Comparison) -> Section:
    def row(name: str, means: Means, show: Callable[[float | None], str]) -> tuple[Cell, ...]:
        ratio = "–"
        if means.before and means.now is not None:
            ratio = f"{(means.now / means.before - 1) * 100:+.0f} %"
        return (Cell(name), Cell(show(means.before)), Cell(show(means.now)), Cell(ratio))

    def number(value: float | None) -> str:
        return "–" if value is None else f"{value:,.1f}"

    columns = (
        Column("an attempt's"),
        Column("before", number=True),
        Column("now", number=True),
        Column("change", number=True),
    )
    rows = (
        row("cost", comparison.cost_usd, money),
        row("tokens", comparison.tokens, number),
        row("time", comparison.seconds, time),
        row("steps", comparison.steps, number),
    )
    return Section("What an attempt takes", columns, rows, note="Means over the compared tasks.")


def _worst(summary: Summary, rows: int) -> Section:
    columns = (
        Column("task"),
        Column("endpoint", spare=1),
        Column("repeat", number=True, spare=3),
        Column("outcome", spare=2),
        Column("what failed"),
        Column("cost", number=True, spare=4),
        Column("trace"),
    )
    return Section(
        "Worst traces first",
        columns,
        tuple(
            (
                quoted(one.task, 64),
                quoted(one.endpoint, 64),
                Cell(str(one.repeat)),
                quoted(one.outcome, 32),
                quoted(what_failed(one)),
                Cell(money(one.cost_usd)),
                _trace(one),
            )
            for one in summary.worst[:rows]
        ),
        left_out=max(0, len(summary.worst) - rows),
        listed=True,
    )


def _errors(summary: Summary, rows: int) -> Section:
    columns = (
        Column("task"),
        Column("endpoint", spare=1),
        Column("repeat", number=True, spare=2),
        Column("what stood in the way"),
        Column("trace", spare=3),
    )
    return Section(
        "Attempts in state error",
        columns,
        tuple(
            (
                quoted(one.task, 64),
                quoted(one.endpoint, 64),
                Cell(str(one.repeat)),
                quoted(one.error or "no reason is given"),
                _trace(one),
            )
            for one in summary.errors[:rows]
        ),
        note="Not counted in pass rates: nothing of the agent was seen.",
        left_out=max(0, len(summary.errors) - rows),
        listed=True,
    )


def what_failed(attempt: Attempt) -> str:
    """Checks, outcome and judges that did not pass, each with the end of what it said."""
    found = []
    if attempt.outcome and attempt.outcome != "finished":
        found.append(f"agent: {one_line(attempt.message or attempt.outcome, 80)}")
    for check in attempt.checks:
        if not check.passed:
            said = one_line(check.error or last_line(check.output), 80)
            found.append(f"{one_line(check.name, 64)}{f': {said}' if said else ''}")
    for name, verdict in sorted(attempt.judges.items()):
        if verdict.passed is False:
            found.append(f"judge {one_line(name, 64)}: {one_line(verdict.rationale, 80)}".rstrip(": "))
    return "; ".join(found)


def last_line(text: str) -> str:
    """Where most programs say how it went, with the exit code that stands after it."""
    lines = [line for line in plain(text).splitlines() if line.strip()]
    if len(lines) > 1 and lines[-1].startswith("(exit code "):
        return " ".join(lines[-2:])
    return lines[-1] if lines else ""


def _trace(attempt: Attempt) -> Cell:
    name = one_line(attempt.trace_id or "", 48)
    return Cell(name or "–", link=link(attempt.trace_url), quoted=True)
