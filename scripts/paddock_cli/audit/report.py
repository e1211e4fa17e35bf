"""The audit's lines, and how they are shown."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from rich.text import Text

from paddock_cli import console
from paddock_cli.exit_codes import ExitCode

PASS, FAIL, SKIP = "pass", "fail", "skip"
_STYLES = {PASS: "green", FAIL: "bold red", SKIP: "yellow"}
GROUPS = {
    "reach": "What an agent's container must not reach",
    "gate": "What must not get through the gate",
    "identity": "What a run's key must not do",
    "container": "What an agent's container must not do, or hold",
    "stack": "How the stack must run",
}


@dataclass(frozen=True)
class Line:
    """One rule of the fence's contract.

    Args:
        verdict: `pass`, `fail`, or `skip` for what could not be looked at.
        rule: what must not succeed; in group `stack`, what must be so.
        evidence: what was seen.
        remedy: what to do where it is not; empty for a pass.
        marks: entries of OWASP's lists and of the CIS Docker Benchmark.
    """

    name: str
    group: str
    verdict: str
    rule: str
    evidence: str
    remedy: str = ""
    marks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Audit:
    """All lines."""

    project: str
    lines: tuple[Line, ...]
    seconds: float

    @property
    def exit_code(self) -> ExitCode:
        """FENCE_BROKEN where a line failed. What could not be looked at is shown, and is no failure."""
        return ExitCode.FENCE_BROKEN if self.count(FAIL) else ExitCode.OK

    def count(self, verdict: str) -> int:
        """Lines of a verdict."""
        return sum(line.verdict == verdict for line in self.lines)

    def as_json(self) -> dict[str, Any]:
        """The document of --json."""
        return {
            "project": self.project,
            "passed": self.count(PASS),
            "failed": self.count(FAIL),
            "skipped": self.count(SKIP),
            "seconds": round(self.seconds, 1),
            "lines": [asdict(line) for line in self.lines],
            "exit_code": int(self.exit_code),
        }


def show(audit: Audit) -> None:
    """Lines by group; what failed with its remedy below it."""
    for group, title in GROUPS.items():
        lines = [line for line in audit.lines if line.group == group]
        if not lines:
            continue
        console.out.print(Text(f"\n{title}", style="bold"))
        for line in lines:
            _show(line)
    style = "red" if audit.count(FAIL) else "green"
    counts = ", ".join(f"{audit.count(one)} {one}" for one in (PASS, FAIL, SKIP) if audit.count(one))
    console.out.print()
    console.out.print(Text(f"audit of {audit.project}: {counts} ({audit.seconds:.0f} s)", style=style))


def _show(line: Line) -> None:
    head = Text.assemble((f"  {line.verdict:<5}", _STYLES[line.verdict]), f"{line.name:<24} {line.rule}")
    console.out.print(head, soft_wrap=True)
    if line.verdict != PASS:
        for text in (f"seen: {line.evidence}", line.remedy):
            if text:
                console.out.print(Text(f"       {text}"), soft_wrap=True)


def ordered(lines: Iterable[Line]) -> tuple[Line, ...]:
    """By group, in the order in which they are shown."""
    places = list(GROUPS)
    return tuple(sorted(lines, key=lambda line: places.index(line.group)))
