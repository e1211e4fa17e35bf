"""`./paddock judges trust`: does a judge say what people say, does it say the same twice, and what does it cost?"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from paddock_cli import assessments, console
from paddock_cli.agreement import Agreement, agreement
from paddock_cli.assessments import Assessment
from paddock_cli.errors import NotFound, ServerFailed
from paddock_cli.labels import spelling
from paddock_cli.mlflow_api import Judge, Mlflow
from paddock_cli.suites.inference import Count, Interval, wilson
from paddock_cli.suites.pages import counted, money, one_line, percent, percent_interval

MOST_TRACES = 20_000
"""Newest first; beyond that it is said that older ones were not looked at."""
FEW = 30
"""Labels under which the answer is called a first impression: kappa's interval is then wider than 0.5."""
_POLL_SECONDS = 0.5
_ENDED = ("SUCCEEDED", "FAILED", "TIMEOUT", "CANCELED")


@dataclass(frozen=True)
class Version:
    """A judge as it was for some of its verdicts: what its fingerprint stands for."""

    version: str
    fingerprint: str
    endpoint: str
    agreement: Agreement
    verdicts: int
    last: str


@dataclass(frozen=True)
class Flips:
    """How often a judge that is asked twice about a trace answers twice differently.

    `rate` is the probability of that for two answers, averaged over the traces that have two or more; `flipped` counts
    the traces with more than one answer.
    """

    rate: float | None
    flipped: Count
    answers: int

    @property
    def interval(self) -> Interval | None:
        """Of the share of traces that flipped."""
        return wilson(self.flipped)

    def as_json(self) -> dict[str, Any]:
        """Its part of the document of --json."""
        return {
            "rate": self.rate,
            "traces": self.flipped.decided,
            "flipped": self.flipped.passed,
            "flipped_interval": vars(self.interval) if self.interval else None,
            "answers": self.answers,
        }


@dataclass(frozen=True)
class Asked:
    """What came of asking a judge again, without storing what it said."""

    flips: Flips
    failed: int
    first_failure: str


@dataclass(frozen=True)
class Trust:
    """What is known of a judge.

    `overall` compares each labelled trace's newest verdict with what people say of it. `people_differ` counts labelled
    traces on which as many people say one thing as another: they are left out.
    """

    judge: str
    labelled: int
    labellers: tuple[str, ...]
    people_differ: int
    without_verdict: int
    failed: int
    overall: Agreement
    versions: tuple[Version, ...]
    stored: Flips
    cost_usd: float | None
    verdicts: int
    priced: int
    asked: Asked | None = None

    def as_json(self) -> dict[str, Any]:
        """Its part of the document of --json."""
        return {
            "judge": self.judge,
            "labelled_traces": self.labelled,
            "labellers": list(self.labellers),
            "people_differ": self.people_differ,
            "labelled_without_verdict": self.without_verdict,
            "failed_verdicts": self.failed,
            "agreement": self.overall.as_json(),
            "versions": [
                {
                    "version": one.version,
                    "fingerprint": one.fingerprint,
                    "endpoint": one.endpoint,
                    "verdicts": one.verdicts,
                    "last": one.last,
                    "agreement": one.agreement.as_json(),
                }
                for one in self.versions
            ],
            "flips_of_stored_verdicts": self.stored.as_json(),
            "flips_when_asked_again": (
                self.asked.flips.as_json() | {"failed": self.asked.failed} if self.asked else None
            ),
            "cost_usd_per_verdict": self.cost_usd,
            "verdicts": self.verdicts,
            "verdicts_with_known_cost": self.priced,
        }


def collect(server: Mlflow, experiment_id: str, since: datetime | None) -> tuple[list[Assessment], bool]:
    """All feedback of the experiment's traces, and whether older traces were left out."""
    condition = f"attributes.timestamp_ms >= {int(since.timestamp() * 1000)}" if since else ""
    found: list[Assessment] = []
    with console.step("reading labels and verdicts") as step:
        for number, info in enumerate(server.trace_infos(experiment_id, condition)):
            if number == MOST_TRACES:
                return found, True
            found += assessments.of_trace(info)
            if number % 500 == 0:
                step.show(f"{number} traces")
    return found, False


def judge_names(found: Iterable[Assessment]) -> list[str]:
    """The judges that people have labelled."""
    return sorted({one.name for one in found if one.human and one.category})


def spelled(found: Sequence[Assessment], name: str) -> str:
    """A judge's name as it stands at the traces, whatever the spelling. Raises NotFound."""
    known = {one.name for one in found}
    if name in known:
        return name
    for one in sorted(known):
        if spelling(one) == spelling(name):
            return one
    judged = sorted({one.name for one in found if not one.human})
    raise NotFound(
        f"verdicts or labels of the judge {name}",
        f"only of {', '.join(map(one_line, judged[:20])) or 'none'}",
        "name one of them, or ask for verdicts: ./paddock evaluate",
    )


def of_judge(name: str, found: Sequence[Assessment]) -> Trust:
    """Put a judge's verdicts beside people's labels."""
    own = [one for one in found if one.name == name]
    verdicts = [one for one in own if not one.human]
    people, differ = _people([one for one in own if one.human and one.category])
    given = [one for one in verdicts if one.category]
    costs = [one.cost_usd for one in verdicts if one.cost_usd is not None]
    newest = _newest(given)
    by_version: dict[tuple[str, str], list[Assessment]] = defaultdict(list)
    for one in given:
        by_version[one.fingerprint, "" if one.fingerprint else one.version].append(one)
    versions = [
        Version(
            version=_last(of_version).version,
            fingerprint=_last(of_version).fingerprint,
            endpoint=_last(of_version).endpoint,
            agreement=agreement(_pairs(people, _newest(of_version))),
            verdicts=len(of_version),
            last=_last(of_version).created,
        )
        for of_version in by_version.values()
    ]
    return Trust(
        judge=name,
        labelled=len(people) + differ,
        labellers=tuple(sorted({one.by for one in own if one.human and one.category})),
        people_differ=differ,
        without_verdict=sum(trace_id not in newest for trace_id in people),
        failed=sum(bool(one.error) for one in verdicts),
        overall=agreement(_pairs(people, newest)),
        versions=tuple(sorted(versions, key=lambda one: one.last, reverse=True)),
        stored=flips(_histories(given)),
        cost_usd=sum(costs) / len(costs) if costs else None,
        verdicts=len(verdicts),
        priced=len(costs),
    )


def asked(
    server: Mlflow,
    experiment_id: str,
    name: str,
    found: Sequence[Assessment],
    repeats: int,
    limit: int,
    seconds: float,
) -> Asked:
    """Ask a judge again about traces that it has judged, labelled ones first, several times over.

    Nothing of it is stored beside the verdicts that are kept.

    Args:
        limit: traces at most.

    Raises:
        NotFound: it is not registered, or has judged nothing.
        ServerFailed: it answered nothing in time.
    """
    judge = _registered(server, experiment_id, name)
    labelled = dict.fromkeys(one.trace_id for one in found if one.name == name and one.human)
    others = dict.fromkeys(one.trace_id for one in found if one.name == name and not one.human)
    trace_ids = list(labelled | others)[:limit]
    if not trace_ids:
        raise NotFound(f"a trace that {name} has judged", "none", "let it: ./paddock evaluate")
    calls = f"{counted(len(trace_ids), 'trace')} × {repeats}"
    with console.step(f"asking {one_line(name, 40)} again: {calls}") as step:
        return _ask(server, experiment_id, judge, trace_ids, repeats, step.show, seconds)


def _ask(
    server: Mlflow,
    experiment_id: str,
    judge: Judge,
    trace_ids: list[str],
    repeats: int,
    show: Callable[[str], None],
    seconds: float,
) -> Asked:
    waiting = {
        job: None
        for _ in range(repeats)
        for job in server.invoke(experiment_id, judge, trace_ids, log_assessments=False)
    }
    total, deadline = len(waiting), time.monotonic() + seconds
    answers: dict[str, list[str]] = defaultdict(list)
    failures: list[str] = []
    while waiting:
        for job in list(waiting):
            state, result = server.job(job)
            if state in _ENDED:
                del waiting[job]
                _take(state, result, judge.name, trace_ids, answers, failures)
        show(f"{total - len(waiting)} of {total} jobs done")
        if waiting and time.monotonic() > deadline:
            failures.append(f"{len(waiting)} of {total} jobs had not ended after {seconds:.0f} s")
            break
        if waiting:
            time.sleep(_POLL_SECONDS)
    if not answers:
        raise ServerFailed(
            f"{judge.name} to answer",
            failures[0] if failures else "nothing",
            "look at it: ./paddock judges status, ./paddock logs mlflow-jobs",
        )
    return Asked(flips(answers.values()), len(failures), failures[0] if failures else "")


def _registered(server: Mlflow, experiment_id: str, name: str) -> Judge:
    known = server.judges(experiment_id)
    if name not in known:
        raise NotFound(
            f"the judge {name}, to ask it again",
            f"only {', '.join(sorted(known)) or 'none'}",
            "leave --repeats out, or name one of them",
        )
    return known[name]


def flips(histories: Iterable[Sequence[str]]) -> Flips:
    """Of answers to the same question, a sequence a trace; those with a single answer say nothing."""
    several = [list(one) for one in histories if len(one) > 1]
    rates = []
    for one in several:
        same = sum(number * (number - 1) for number in Counter(one).values())
        rates.append(1 - same / (len(one) * (len(one) - 1)))
    return Flips(
        rate=sum(rates) / len(rates) if rates else None,
        flipped=Count(sum(len(set(one)) > 1 for one in several), len(several)),
        answers=sum(map(len, several)),
    )


def show(trust: Trust) -> None:
    """What a person should know of a judge."""
    console.out.print()
    console.out.print(Text(one_line(trust.judge), style="bold"))
    facts = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    facts.add_column(style="bold", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, text in _facts(trust):
        facts.add_row(name, Text(text))
    console.out.print(facts)
    if trust.overall.agreed.decided:
        console.out.print(_confusion(trust.overall))
    if len(trust.versions) > 1:
        console.out.print(_versions(trust))
    for warning in _warnings(trust):
        console.out.print(Text(warning, style="yellow"), soft_wrap=True)


def _facts(trust: Trust) -> list[tuple[str, str]]:
    people = ", ".join(one_line(name, 40) for name in trust.labellers[:10])
    facts = [("labels", f"{counted(trust.labelled, 'trace')} by {people or 'nobody'}")]
    agreed = trust.overall.agreed
    if agreed.decided:
        interval = percent_interval(wilson(agreed))
        share = f"{percent(agreed.rate)} ({agreed.passed} of {agreed.decided}); 95 % interval {interval}"
        facts.append(("agreement", share))
        facts.append(("kappa", kappa_text(trust.overall)))
    facts.append(("flips, stored", flips_text(trust.stored)))
    if trust.asked is not None:
        facts.append(("flips, asked again", flips_text(trust.asked.flips)))
    if trust.cost_usd is None:
        facts.append(("cost a verdict", f"not known of any of {counted(trust.verdicts, 'verdict')}"))
    else:
        facts.append(
            ("cost a verdict", f"{money(trust.cost_usd)} (known of {trust.priced} of {trust.verdicts})")
        )
    return facts


def kappa_text(found: Agreement) -> str:
    """Kappa with its interval, or why there is none."""
    if found.kappa is None:
        only = found.categories[0] if len(found.categories) == 1 else ""
        return f"not defined: people and judge say nothing but {only!r}, and so would chance"
    interval = found.kappa_interval
    assert interval is not None
    return f"{found.kappa:.2f}; 95 % interval {interval.low:.2f} to {interval.high:.2f}"


def flips_text(found: Flips) -> str:
    """The flip rate with what it is of."""
    if found.rate is None:
        return "not known: no trace has two verdicts of the same version"
    interval = percent_interval(found.interval)
    return (
        f"{percent(found.rate)} of pairs of answers differ; {found.flipped.passed} of"
        f" {counted(found.flipped.decided, 'trace')} flipped (95 % interval {interval})"
    )


def _confusion(found: Agreement) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, show_edge=False)
    table.add_column("people ↓  judge →", overflow="fold")
    for category in found.categories:
        table.add_column(one_line(category, 30), justify="right")
    for category, row in zip(found.categories, found.matrix, strict=True):
        table.add_row(Text(one_line(category, 30)), *(str(number) for number in row))
    return table


def _versions(trust: Trust) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, show_edge=False)
    for head in ("version", "fingerprint", "endpoint"):
        table.add_column(head, overflow="fold")
    for head in ("verdicts", "labelled", "agreement", "kappa"):
        table.add_column(head, justify="right")
    for one in trust.versions:
        agreed, kappa = one.agreement.agreed, one.agreement.kappa
        table.add_row(
            Text(one_line(one.version, 20) or "–"),
            Text(one_line(one.fingerprint.removeprefix("sha256:"), 64)[:12] or "not recorded"),
            Text(one_line(one.endpoint, 40) or "–"),
            str(one.verdicts),
            str(agreed.decided),
            percent(agreed.rate),
            "–" if kappa is None else f"{kappa:.2f}",
        )
    return table


def _warnings(trust: Trust) -> list[str]:
    found = []
    labelled = trust.overall.agreed.decided
    if 0 < labelled < FEW:
        found.append(
            f"{counted(labelled, 'label')}: a first impression; the intervals say how little is known"
        )
    if trust.people_differ:
        found.append(f"people differ on {counted(trust.people_differ, 'trace')}, left out")
    if trust.without_verdict:
        found.append(f"{counted(trust.without_verdict, 'labelled trace')} without a verdict of it")
    if trust.failed:
        found.append(f"{counted(trust.failed, 'verdict')} failed: ./paddock judges status")
    if trust.asked is not None and trust.asked.failed:
        found.append(
            f"asked again, {trust.asked.failed} without an answer: {one_line(trust.asked.first_failure)}"
        )
    return found


def _people(labels: list[Assessment]) -> tuple[dict[str, str], int]:
    """Trace → what most people say of it, and on how many traces no answer has more of them than another."""
    newest: dict[tuple[str, str], Assessment] = {}
    for one in sorted(labels, key=lambda label: label.created):
        newest[one.trace_id, one.by] = one
    said: dict[str, Counter[str]] = defaultdict(Counter)
    for (trace_id, _), one in newest.items():
        said[trace_id][one.category] += 1
    agreed, differ = {}, 0
    for trace_id, counts in said.items():
        (first, number), *rest = counts.most_common(2)
        if rest and rest[0][1] == number:
            differ += 1
        else:
            agreed[trace_id] = first
    return agreed, differ


def _newest(verdicts: Iterable[Assessment]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in sorted(verdicts, key=lambda verdict: verdict.created):
        found[one.trace_id] = one.category
    return found


def _pairs(people: dict[str, str], judge: dict[str, str]) -> list[tuple[str, str]]:
    return [(said, judge[trace_id]) for trace_id, said in people.items() if trace_id in judge]


def _last(verdicts: list[Assessment]) -> Assessment:
    return max(verdicts, key=lambda one: one.created)


def _histories(verdicts: list[Assessment]) -> list[list[str]]:
    """The answers of one version of the judge to one trace; without a fingerprint nobody knows what was asked."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in verdicts:
        if one.fingerprint:
            found[one.trace_id, one.fingerprint].append(one.category)
    return list(found.values())


def _take(
    state: str,
    result: object,
    name: str,
    trace_ids: list[str],
    answers: dict[str, list[str]],
    failures: list[str],
) -> None:
    """Add what one job answered."""
    if state != "SUCCEEDED" or not isinstance(result, dict):
        failures.append(f"the judge's job ended as {state}: {result or 'no reason given'}")
        return
    for trace_id in trace_ids:
        told = result.get(trace_id)
        if not isinstance(told, dict):
            continue
        read = [assessments.read(one, trace_id) for one in told.get("assessments", []) if "feedback" in one]
        given = [one.category for one in read if one.name == name and one.category]
        if given:
            answers[trace_id].append(given[-1])
        else:
            said = [one.error for one in read if one.error]
            said += [str(one.get("error_message", "")) for one in told.get("failures", [])]
            failures.append(said[0] if said else "no verdict")


def now() -> datetime:
    """The moment that spans count back from."""
    return datetime.now(UTC)
