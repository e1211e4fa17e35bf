"""Runs the cells, target after target in every round, and writes what they came to. Started by `python3 bench/gateway`.

A cell is one target at one concurrency, unary or streamed. CPU time is that of the server's whole process tree over the
cell, warm-up and the writing of its traces included, divided by the cell's requests; job process and PostgreSQL are
counted apart. An error, or a trace that is missing or there twice, ends the run.
"""

import argparse
import hashlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import processes
import report
import targets
from postgres import Postgres
from stack import ROOT

from paddock_cli import settings
from paddock_cli.environments import Environments

HERE = Path(__file__).resolve().parent
CONCURRENCIES = (1, 8, 32)
QUICK_CONCURRENCIES = (1, 8)
SETTLE_SECONDS = 60


@dataclass
class Cell:
    """One cell's figures, a list entry a round. Times in milliseconds, CPU in milliseconds a request."""

    target: str
    stream: bool
    concurrency: int
    requests: list[int] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)
    p50: list[float] = field(default_factory=list)
    p95: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)
    first_byte_p50: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    cpu_beside: dict[str, list[float]] = field(default_factory=dict)
    traces_after_seconds: list[float] = field(default_factory=list)
    histograms: list[list[list[float]]] = field(default_factory=list)

    def median(self, figure: str) -> float:
        """Over the rounds."""
        return statistics.median(getattr(self, figure))


@dataclass
class Whole:
    """What counts for a target over all of its cells."""

    requests: int = 0
    upstream_requests: int = 0
    upstream_connections: int = 0
    traces: int = 0
    rss: int = 0
    pss: int = 0


def main() -> None:
    """Measure and report."""
    options = _options()
    machinery = Machinery.prepare(options.without)
    started = time.monotonic()
    with _running(machinery) as (measured, provider):
        print(f"everything serves after {time.monotonic() - started:.0f} s", flush=True)
        cells = {
            (target.name, stream, concurrency): Cell(target.name, stream, concurrency)
            for target in measured
            for stream in (False, True)
            for concurrency in options.concurrencies
        }
        wholes = {target.name: Whole() for target in measured}
        rounds = 0
        took = 0.0
        while rounds < options.rounds:
            begun = time.monotonic()
            if rounds and begun - started + took > options.limit:
                print(f"no time for round {rounds + 1} of {options.rounds} within {options.limit:.0f} s")
                break
            for stream in (False, True):
                for concurrency in options.concurrencies:
                    for target in measured:
                        cell = cells[target.name, stream, concurrency]
                        _measure(machinery.tool, target, provider, cell, wholes[target.name], options)
            rounds += 1
            took = time.monotonic() - begun
            print(f"round {rounds}: {took:.0f} s", flush=True)
        for target in measured:
            whole = wholes[target.name]
            whole.rss, whole.pss = target.process.memory()
            if target.arrived:
                whole.traces = target.arrived()
        beside = {
            name: dict(zip(("rss", "pss"), server.memory(), strict=True))
            for target in measured
            for name, server in target.beside.items()
        }
    facts = report.Facts(
        rounds=rounds,
        seconds=options.seconds,
        versions=machinery.versions,
        cells=[asdict(cell) for cell in cells.values()],
        wholes={name: asdict(whole) for name, whole in wholes.items()},
        beside=beside,
    )
    report.write(facts, options.results, machinery.plot_python)
    print(f"\n{time.monotonic() - started:.0f} s in all; written to {options.results}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python3 bench/gateway", description=targets.__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round without 32 callers")
    parser.add_argument("--rounds", type=int, help="how often each cell is measured (3; quick 1)")
    parser.add_argument("--seconds", type=float, help="of load a cell and round (0.8; quick 0.6)")
    parser.add_argument("--limit", type=float, help="begin no round that would end after so many seconds")
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        choices=["stock", "paddock", "litellm", "portkey"],
        help="leave a gateway out; may be given several times",
    )
    parser.add_argument("--results", type=Path, default=HERE / "results", help="folder to write into")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (0.6 if options.quick else 0.8)
    options.limit = options.limit or (120 if options.quick else 360)
    options.concurrencies = QUICK_CONCURRENCIES if options.quick else CONCURRENCIES
    options.warmup = options.seconds / 4
    return options


@dataclass
class Machinery:
    """Programs and environments, made once and kept in the user's cache."""

    tool: Path
    mlflow_python: Path
    litellm_python: Path | None
    plot_python: Path
    portkey_modules: Path | None
    without: list[str]
    versions: dict[str, str]

    @classmethod
    def prepare(cls, without: list[str]) -> "Machinery":
        """Make what is missing.

        Raises:
            SystemExit: Go, npm or a registry is missing; the message tells which.
        """
        cache = settings.paths().cache
        environments = Environments(cache)
        mlflow = environments.python("mlflow", ROOT / "mlflow" / "requirements.txt")
        versions = {"MLflow": _version(mlflow, "mlflow")}
        litellm = None
        if "litellm" not in without:
            litellm = environments.python("bench-litellm", HERE / "litellm.txt")
            versions["LiteLLM"] = _version(litellm, "litellm")
        portkey = None
        if "portkey" not in without:
            portkey = _portkey(cache)
            found = json.loads((HERE / "portkey" / "package.json").read_text())["dependencies"]
            versions["Portkey"] = found["@portkey-ai/gateway"]
        return cls(
            tool=_tool(cache),
            mlflow_python=mlflow,
            litellm_python=litellm,
            plot_python=environments.python("bench-plot", HERE / "plot.txt"),
            portkey_modules=portkey,
            without=without,
            versions=versions,
        )


def _tool(cache: Path) -> Path:
    """The compiled provider and load generator of the sources as they are now."""
    sources = sorted((HERE / "tool").iterdir())
    digest = hashlib.sha256(b"|".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    tool = cache / "bench" / f"gateway-{digest}"
    if not tool.exists():
        go = shutil.which("go")
        if go is None:
            sys.exit("bench: expected Go, found none on PATH; install it (Debian: apt-get install golang)")
        tool.parent.mkdir(parents=True, exist_ok=True)
        partial = tool.with_suffix(".partial")
        environment = processes.variables(
            {"GOFLAGS": "-trimpath", "CGO_ENABLED": "0", "GOTOOLCHAIN": "local"}
        )
        processes.once("`go build`", [go, "build", "-o", partial, "."], environment, HERE / "tool")
        partial.rename(tool)
    return tool


def _portkey(cache: Path) -> Path:
    """A folder with the locked packages; npm checks their hashes, and runs none of their scripts."""
    lock = (HERE / "portkey" / "package-lock.json").read_bytes()
    folder = cache / "bench" / f"portkey-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not folder.exists():
        npm = shutil.which("npm")
        if npm is None:
            sys.exit(
                "bench: expected npm, found none on PATH; install it (Debian: apt-get install nodejs npm),"
                " or leave Portkey out with --without portkey"
            )
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix="portkey-", dir=folder.parent))
        try:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(HERE / "portkey" / name, partial)
            command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            done = subprocess.run(command, cwd=partial, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"bench: expected `npm ci` to succeed, found:\n{done.stderr[-2000:]}")
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _version(python: Path, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@contextmanager
def _running(machinery: Machinery) -> Iterator[tuple[list[targets.Target], targets.Provider]]:
    """Everything, started one after the other and ended with the block."""
    with ExitStack() as ending, tempfile.TemporaryDirectory(prefix="paddock-bench-") as name:
        folder = Path(name)
        # PostgreSQL's own user must reach its folder in this one.
        folder.chmod(0o711)
        provider = targets.Provider(machinery.tool, folder)
        ending.callback(provider.server.end)
        measured = targets.direct(provider)

        def add(new: list[targets.Target]) -> None:
            measured.extend(new)
            for target in new:
                for server in target.beside.values():
                    ending.callback(server.end)
                ending.callback(target.process.end)

        if machinery.portkey_modules:
            add(targets.portkey(folder, machinery.portkey_modules, provider))
        if machinery.litellm_python:
            add(targets.litellm(folder, machinery.litellm_python, provider))
        if not {"stock", "paddock"} <= set(machinery.without):
            database = Postgres(folder)
            ending.callback(database.end)
            if "stock" not in machinery.without:
                add(targets.stock(folder, machinery.mlflow_python, provider, database))
            if "paddock" not in machinery.without:
                add(targets.paddock(folder, machinery.mlflow_python, provider, database))
        yield measured, provider


def _measure(
    tool: Path,
    target: targets.Target,
    provider: targets.Provider,
    cell: Cell,
    whole: Whole,
    options: argparse.Namespace,
) -> None:
    """One round of one cell."""
    order = target.order(
        cell.concurrency, cell.stream, options.warmup, options.seconds, at_least=3 * cell.concurrency
    )
    servers = {"": target.process, **target.beside}
    before = {name: server.cpu_seconds() for name, server in servers.items()}
    connections, upstream = provider.counts()
    done = subprocess.run(
        [tool, "load"], input=json.dumps(order), capture_output=True, text=True, check=False, timeout=300
    )
    if done.returncode:
        sys.exit(f"bench: the load generator failed: {done.stderr}")
    seen: dict[str, Any] = json.loads(done.stdout)
    what = f"{target.name}, {'streamed' if cell.stream else 'unary'}, {cell.concurrency} at once"
    if seen["errors"]:
        sys.exit(
            f"bench: {what}: expected no error, found {seen['errors']}: {seen['error_samples']};"
            f" {target.process.name} says:\n{target.process.tail()}"
        )
    asked = seen["warmed_up"] + seen["requests"]
    target.sent += asked
    if target.arrived:
        cell.traces_after_seconds.append(targets.settle(target, SETTLE_SECONDS))
    spent = {name: (server.cpu_seconds() - before[name]) * 1000 / asked for name, server in servers.items()}
    connections_now, upstream_now = provider.counts()
    whole.requests += asked
    whole.upstream_requests += upstream_now - upstream
    # The count itself comes on a connection of its own.
    whole.upstream_connections += connections_now - connections - 1
    cell.requests.append(seen["requests"])
    for figure in ("per_second", "p50", "p95", "p99", "first_byte_p50"):
        getattr(cell, figure).append(seen[figure])
    cell.cpu.append(spent.pop(""))
    for name, value in spent.items():
        cell.cpu_beside.setdefault(name, []).append(value)
    cell.histograms.append(seen["histogram"])


if __name__ == "__main__":
    main()
