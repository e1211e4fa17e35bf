"""Writes the table of docs/security.md from what the suite saw last: python3 tests/escape/document.py

    ./paddock test tests/escape && python3 tests/escape/document.py

`test_document.py` asserts that the table has exactly the suite's probes, in their words.
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "scripts")]

import probe_record  # noqa: E402
from catalogue import CONTROLS, PROBES  # noqa: E402
from host_cases import CASES, Case  # noqa: E402

from paddock_probes.registry import Probe  # noqa: E402

DOCUMENT = ROOT / "docs" / "security.md"
BEGIN, END = "<!-- probes: tests/escape/document.py writes from here -->", "<!-- to here -->"
HEAD = "| probe | attempted | blocked by | seen | without the wall | lists |\n| --- | --- | --- | --- | --- | --- |\n"
MODULES = (
    *(f"paddock_probes.{name}" for name in ("network", "gate", "identity", "kernel", "files")),
    "bombs",
)
_ROW = re.compile(
    r"\| `(?P<name>[a-z0-9-]+)` \| (?P<attempt>.*?) \| (?P<wall>.*?) \| (?P<seen>.*?) \| (?P<without>.*?)"
    r" \| (?P<marks>.*?) \|$"
)


def entries() -> dict[str, Probe | Case]:
    """All that the suite tries, in the order of the table, whoever imported what first."""
    probes = sorted(PROBES.values(), key=lambda probe: MODULES.index(probe.run.__module__))
    return {**{probe.name: probe for probe in probes}, **CASES}


def table(seen: dict[str, dict[str, str]]) -> str:
    """The table, a row an entry. Raises KeyError where an entry was never run."""
    return HEAD + "".join(_row(entry, seen[name]) for name, entry in entries().items())


def rows(text: str) -> dict[str, dict[str, str]]:
    """The rows of a document's table, by probe."""
    inside = text.partition(BEGIN)[2].partition(END)[0]
    found = (_ROW.match(line) for line in inside.splitlines())
    return {match["name"]: match.groupdict() for match in found if match}


def cell(text: str) -> str:
    """A text that does not end its cell."""
    shown = " ".join(text.split())
    shown = shown if len(shown) <= 160 else shown[:159] + "…"
    return shown.replace("|", "\\|").replace("<", "&lt;")


def wall(entry: Probe | Case) -> str:
    """What blocks it, or why nothing does."""
    return f"**open**: {entry.stands_open}" if entry.stands_open else entry.wall


def _row(entry: Probe | Case, seen: dict[str, str]) -> str:
    control = seen.get("control", "")
    parts = (
        f"`{entry.name}`",
        entry.attempt,
        wall(entry),
        cell(seen["evidence"]),
        cell(control) or "–",
        ", ".join(entry.marks),
    )
    return "| " + " | ".join(part.replace("\n", " ") for part in parts) + " |\n"


def main() -> int:
    """Exit code 1 where the suite has not seen all of it."""
    seen = probe_record.read()
    missing = [name for name in entries() if "evidence" not in seen.get(name, {})]
    missing += [f"{name} (control)" for name in CONTROLS if "control" not in seen.get(name, {})]
    if missing:
        print(f"not seen yet: {', '.join(missing)}; run ./paddock test tests/escape", file=sys.stderr)
        return 1
    text = DOCUMENT.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        print(f"{DOCUMENT} has no place for the table: {BEGIN} … {END}", file=sys.stderr)
        return 1
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{table(seen)}\n{END}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
