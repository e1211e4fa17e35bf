"""What a probe is, and how one is run."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields

BLOCKED, OPEN, SKIPPED = "blocked", "open", "skipped"


@dataclass(frozen=True)
class Targets:
    """Where the probes aim. What is empty is not there to aim at."""

    gate: tuple[str, int] = ("gate", 8080)
    collector: tuple[str, int] = ("collector", 4318)
    host: tuple[str, ...] = ()
    """Addresses of the host: bridges' and its own."""
    host_port: int = 0
    """Where a listener on the host waits, on all its addresses."""
    metadata: str = "169.254.169.254"
    metadata_path: str = "/latest/meta-data/"
    outside: tuple[str, ...] = ()
    """Addresses that stand for the Internet."""
    outside6: tuple[str, ...] = ()
    resolver: str = ""
    """A name server outside the stack."""
    outside_name: str = ""
    """A name that only a resolver outside the stack knows."""
    services: dict[str, tuple[list[str], int]] = field(default_factory=dict)
    """Service → its addresses on every network, and its port."""
    neighbour: tuple[str, int] | None = None
    """A port that another agent has opened."""
    keys: dict[str, str] = field(default_factory=dict, repr=False)
    """Keys of the gateway: `run`, `ended`, `spent`."""
    endpoint: str = "coder"
    """What the keys were made for."""
    closed_endpoint: str = "judge"
    """What they were not made for."""
    stolen: str = ""
    """`user:password` of an administrator, as if it had leaked."""
    mounts: tuple[str, ...] = ("/workspace", "/state", "/run/handover", "/run/egress")
    """What the container may have mounted, besides what the engine itself mounts."""
    writable: tuple[str, ...] = ("/workspace", "/state", "/tmp", "/home/agent", "/var/lib/extrausers", "/dev")
    """Where an agent may write."""

    @classmethod
    def of(cls, text: str) -> Targets:
        """From JSON. Raises ValueError for an unknown name."""
        given = json.loads(text)
        if unknown := given.keys() - {one.name for one in fields(cls)}:
            raise ValueError(f"expected targets, found {', '.join(sorted(unknown))}")
        for name, value in given.items():
            given[name] = tuple(value) if isinstance(value, list) else value
        return cls(**given)

    def as_json(self) -> str:
        """What `of` reads."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Attempt:
    """One try of a probe: whether it got through, and what was seen."""

    what: str
    through: bool
    seen: str


class NothingToAimAt(Exception):
    """The machine, or the caller's targets, has nothing for this probe."""


@dataclass(frozen=True)
class Probe:
    """A way out that a hostile agent would try.

    Args:
        name: what it is called everywhere.
        attempt: what is tried, in words.
        wall: what must stop it, in words.
        marks: entries of OWASP's lists (LLM…: large language models 2025, ASI…: agentic applications 2026) and of the
            CIS Docker Benchmark.
        stands_open: why it is known not to be stopped; empty for all others.
        alone: it changes the process, so it is run in one of its own.
    """

    name: str
    attempt: str
    wall: str
    marks: tuple[str, ...]
    run: Callable[[Targets], Iterable[Attempt]]
    stands_open: str = ""
    alone: bool = False

    @property
    def expected(self) -> str:
        """The outcome on a stack as it should be."""
        return OPEN if self.stands_open else BLOCKED


@dataclass(frozen=True)
class Finding:
    """What came of a probe. `outcome` is `blocked`, `open`, or `skipped` where there was nothing to aim at."""

    probe: str
    outcome: str
    evidence: str
    seconds: float = 0.0

    def as_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))


PROBES: dict[str, Probe] = {}


def probe(
    name: str, *, attempt: str, wall: str, marks: tuple[str, ...], stands_open: str = "", alone: bool = False
) -> Callable[[Callable[[Targets], Iterable[Attempt]]], Callable[[Targets], Iterable[Attempt]]]:
    """Make a function a probe; see `Probe`. Raises ValueError for a name that is taken."""

    def register(run: Callable[[Targets], Iterable[Attempt]]) -> Callable[[Targets], Iterable[Attempt]]:
        if name in PROBES:
            raise ValueError(f"two probes are called {name}")
        PROBES[name] = Probe(name, attempt, wall, marks, run, stands_open, alone)
        return run

    return register


def find(name: str, targets: Targets) -> Finding:
    """Run one probe. A probe that breaks is a defect, and raises."""
    began = time.monotonic()
    try:
        attempts = list(PROBES[name].run(targets))
    except NothingToAimAt as error:
        return Finding(name, SKIPPED, str(error), time.monotonic() - began)
    if not attempts:
        return Finding(name, SKIPPED, "nothing to aim at", time.monotonic() - began)
    outcome, evidence = judge(attempts)
    return Finding(name, outcome, evidence, round(time.monotonic() - began, 3))


def judge(attempts: list[Attempt]) -> tuple[str, str]:
    """Open where one attempt got through; the evidence names those, or counts what was seen of the others."""
    through = [one for one in attempts if one.through]
    if through:
        shown = "; ".join(f"{one.what}: {one.seen}" for one in through[:5])
        return OPEN, shown + (f"; and {len(through) - 5} more" if len(through) > 5 else "")
    seen = Counter(one.seen for one in attempts)
    return BLOCKED, ", ".join(
        f"{text} (×{count})" if count > 1 else text for text, count in seen.most_common(4)
    )
