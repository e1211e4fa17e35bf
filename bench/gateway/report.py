"""What a run came to: a Markdown file, the whole figures as JSON, a plot, and the ratios that are aimed at."""

import json
import statistics
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stack import machine

HERE = Path(__file__).resolve().parent

# Times stock's requests a second at 8 callers; milliseconds at one; connections a request.
PLAIN_RATIO = 10.0
PLAIN_P50 = 4.0
TRACKED_RATIO = 8.0
CONNECTIONS_SHARE = 0.1

LEGEND = (
    "CPU is in milliseconds a request; job process and PostgreSQL are counted apart. *Traces after* is how long after the"
    " last answer the last trace of the cell could be read."
)


@dataclass
class Facts:
    """All of a run. `cells` and `wholes` are the fields of `measure.Cell` and `measure.Whole`."""

    rounds: int
    seconds: float
    versions: dict[str, str]
    cells: list[dict[str, Any]]
    wholes: dict[str, dict[str, Any]]
    beside: dict[str, dict[str, int]]

    @property
    def concurrencies(self) -> list[int]:
        """Numbers of callers, ascending."""
        return sorted({cell["concurrency"] for cell in self.cells})

    def median(self, target: str, figure: str, concurrency: int, stream: bool = False) -> float:
        """Of a cell's rounds."""
        return statistics.median(self._cell(target, concurrency, stream)[figure])

    def beside_cpu(self, target: str, name: str, concurrency: int, stream: bool = False) -> float | None:
        """CPU milliseconds a request of a process beside the server; None where there is none."""
        found = self._cell(target, concurrency, stream)["cpu_beside"].get(name)
        return statistics.median(found) if found else None

    def _cell(self, target: str, concurrency: int, stream: bool) -> dict[str, Any]:
        return next(
            cell
            for cell in self.cells
            if (cell["target"], cell["concurrency"], cell["stream"]) == (target, concurrency, stream)
        )


def write(facts: Facts, folder: Path, plot_python: Path) -> None:
    """Write results.md, results.json and results.svg into a folder, and print the first."""
    folder.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine(), **asdict(facts)}
    (folder / "results.json").write_text(json.dumps(document, indent=1) + "\n")
    text = markdown(facts)
    (folder / "results.md").write_text(text)
    print(text)
    subprocess.run(
        [plot_python, HERE / "plot.py", folder / "results.json", folder / "results.svg"], check=True
    )


def markdown(facts: Facts) -> str:
    """The tables and the targets."""
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    parts = [
        "# Gateways side by side",
        f"{machine()}. {versions}. One worker each, {facts.rounds} round(s) of {facts.seconds} s a cell, medians.",
        _summary(facts),
        "## Targets",
        _targets(facts),
        "## Every cell",
        LEGEND,
        _cells(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _summary(facts: Facts) -> str:
    rows = []
    for target, whole in facts.wholes.items():
        share = whole["upstream_connections"] / whole["upstream_requests"]
        rows.append(
            [
                target,
                *(_three(facts, target, "p50", 1, stream) for stream in (False, True)),
                *(_three(facts, target, "per_second", 0, stream) for stream in (False, True)),
                _three(facts, target, "cpu", 1, False),
                f"{share:.3f}",
                f"{whole['pss'] / 1024**2:.0f}",
            ]
        )
    callers = " / ".join(map(str, facts.concurrencies))
    header = [
        "gateway",
        f"p50 ms at {callers}",
        "streamed",
        f"req/s at {callers}",
        "streamed",
        "CPU-ms a request",
        "upstream connections a request",
        "PSS MiB",
    ]
    beside = ", ".join(f"{name} {size['pss'] / 1024**2:.0f} MiB" for name, size in facts.beside.items())
    return _table(header, rows) + (f"\n\nBeside the servers: {beside}." if beside else "")


def _three(facts: Facts, target: str, figure: str, digits: int, stream: bool) -> str:
    return " / ".join(
        f"{facts.median(target, figure, concurrency, stream):.{digits}f}"
        for concurrency in facts.concurrencies
    )


def _targets(facts: Facts) -> str:
    ours, stock = "Paddock", "stock MLflow"
    if not {ours, stock} <= facts.wholes.keys():
        return "Not told: Paddock or stock MLflow was left out."

    def ratio(mode: str) -> float:
        return facts.median(ours + mode, "per_second", 8) / facts.median(stock + mode, "per_second", 8)

    whole = [facts.wholes[name] for name in (ours, f"{ours}, tracked")]
    share = sum(one["upstream_connections"] for one in whole) / sum(one["upstream_requests"] for one in whole)
    p50 = facts.median(ours, "p50", 1)
    plain, tracked = ratio(""), ratio(", tracked")
    rows = [
        [
            "untracked, requests a second at 8 callers",
            f"{PLAIN_RATIO:.0f} × stock",
            f"{plain:.1f} ×",
            _met(plain >= PLAIN_RATIO),
        ],
        ["untracked, p50 at one caller", f"< {PLAIN_P50:.0f} ms", f"{p50:.1f} ms", _met(p50 < PLAIN_P50)],
        [
            "tracked, requests a second at 8 callers",
            f"{TRACKED_RATIO:.0f} × stock",
            f"{tracked:.1f} ×",
            _met(tracked >= TRACKED_RATIO),
        ],
        [
            "upstream connections a request",
            f"< {CONNECTIONS_SHARE}",
            f"{share:.3f}",
            _met(share < CONNECTIONS_SHARE),
        ],
    ]
    return _table(["what", "target", "found", ""], rows)


def _met(yes: bool) -> str:
    return "met" if yes else "**not met**"


def _cells(facts: Facts) -> str:
    rows = []
    for cell in facts.cells:
        at = (cell["concurrency"], cell["stream"])
        name = cell["target"]
        beside = [facts.beside_cpu(name, one, *at) for one in ("jobs", "postgres")]
        after = cell["traces_after_seconds"]
        rows.append(
            [
                name,
                "streamed" if cell["stream"] else "unary",
                str(cell["concurrency"]),
                *(f"{facts.median(name, figure, *at):.1f}" for figure in ("p50", "p95", "p99")),
                f"{facts.median(name, 'per_second', *at):.0f}",
                f"{facts.median(name, 'cpu', *at):.2f}",
                *("" if one is None else f"{one:.2f}" for one in beside),
                f"{max(after):.1f} s" if after else "",
                str(sum(cell["requests"])),
            ]
        )
    header = [
        *["gateway", "", "callers", "p50 ms", "p95 ms", "p99 ms", "req/s", "CPU", "jobs", "postgres"],
        *["traces after", "requests"],
    ]
    return _table(header, rows)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, [" --- "] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(line) + " |" if line is not lines[1] else "|" + "|".join(line) + "|"
        for line in lines
    )
