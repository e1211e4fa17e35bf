"""Starts the servers, makes traces, lets each side judge them, and writes what came of it."""

import argparse
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import processes
from postgres import Postgres
from stack import ROOT, machine
from targets import answers

from paddock_cli.environments import Environments
from paddock_cli.settings import paths

HERE = Path(__file__).resolve().parent
TARGET = 5.0
"""Times stock's verdicts a second."""
JUDGES = ("RelevanceToQuery", "Safety", "Completeness")
SPANS = 20
TEXT = 2000
"""Characters of a span's output."""
ADMIN = "admin"
# In the environment of MLflow: the scorers as its library writes them.
SERIALIZE = (
    "import json, sys; from mlflow.genai import scorers;"
    "print(json.dumps([getattr(scorers, name)(model='gateway:/judge').model_dump() for name in sys.argv[1:]]))"
)


@dataclass
class Round:
    """One side's judging of one experiment. CPU in seconds of all processes of the server, and of the client."""

    side: str
    verdicts: int
    seconds: float
    server_cpu: float
    client_cpu: float

    @property
    def per_second(self) -> float:
        return self.verdicts / self.seconds


@dataclass
class Bench:
    """What runs."""

    address: str
    password: str
    python: Path
    servers: list[processes.Server]
    folder: Path
    serialized: list[dict[str, Any]]

    def call(self, method: str, path: str, **arguments: Any) -> Any:
        answer = httpx.request(
            method, self.address + path, auth=(ADMIN, self.password), timeout=60, **arguments
        )
        if answer.status_code >= 400:
            sys.exit(
                f"bench: expected {method} {path} to succeed, found {answer.status_code}: {answer.text[:500]}"
            )
        return answer.json() if answer.content else {}

    def cpu(self) -> float:
        return sum(server.cpu_seconds() for server in self.servers)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python3 bench/judges", description="Verdicts a second.")
    parser.add_argument("--traces", type=int, default=30, help="of a round and side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where they go")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    found: list[Round] = []
    with _running() as bench:
        # Both once before the clock: imports, connections, compiled statements.
        for side in (_paddock, _stock):
            side(bench, _experiment(bench, 3))
        for number in range(rounds):
            for side in (_paddock, _stock):
                one = side(bench, _experiment(bench, options.traces))
                print(f"round {number + 1}: {one.side} {one.per_second:.1f} verdicts/s", file=sys.stderr)
                found.append(one)
    _report(found, options, rounds)


@contextmanager
def _running() -> Iterator[Bench]:
    """Everything, ended with the block."""
    where = paths()
    python = Environments(where.cache).python("mlflow", ROOT / "mlflow" / "requirements.txt")
    with ExitStack() as ending, tempfile.TemporaryDirectory(prefix="paddock-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)
        port = processes.free_port()
        provider = processes.Server(
            "provider", [python, HERE / "provider.py", port], processes.variables(), folder
        )
        ending.callback(provider.end)
        provider.wait(answers(f"http://127.0.0.1:{port}/"))
        database = Postgres(folder)
        ending.callback(database.end)
        yield _serve(folder, python, f"http://127.0.0.1:{port}/v1", database, ending)


def _serve(folder: Path, python: Path, provider: str, database: Postgres, ending: ExitStack) -> Bench:
    port = processes.free_port()
    address = f"http://127.0.0.1:{port}"
    kept = folder / "secrets"
    kept.mkdir(mode=0o700)
    names = ("admin_password", "agent_key", "internal_token", "kek_passphrase", "flask_secret_key")
    given = {name: secrets.token_urlsafe(32) for name in names}
    for name, value in {**given, "llm_api_key": "none"}.items():
        (kept / name).write_text(value)
    environment = processes.variables(
        {
            "PYTHONPATH": str(ROOT / "mlflow"),
            "SECRETS_DIR": str(kept),
            "TMPDIR": str(folder),
            "DATABASE_URL": database.url("paddock"),
            "AUTH_DATABASE_URL": database.url("paddock_auth"),
            "ARTIFACTS_DESTINATION": str(folder / "artifacts"),
            "LISTEN_HOST": "127.0.0.1",
            "LISTEN_PORT": str(port),
            "MLFLOW_URL": address,
            "RUN_KEYS_NEED_GATE": "false",
            "LLM_BASE_URL": provider,
            "LLM_PRICE": "0.15,0.60",
            "CODER_MODEL": "custom/judge-model",
            "JUDGE_MODEL": "custom/judge-model",
            "HEARTBEAT_FILE": str(folder / "heartbeat"),
        }
    )
    module = [python, "-m", "paddock_mlflow"]
    processes.once("`paddock_mlflow migrate`", [*module, "migrate"], environment, folder)
    web = processes.Server("paddock", [*module, "serve"], environment, folder)
    ending.callback(web.end)
    jobs = processes.Server("paddock-jobs", [*module, "jobs"], environment, folder)
    ending.callback(jobs.end)
    web.wait(answers(f"{address}/health"))
    processes.once("`paddock_mlflow setup`", [*module, "setup"], environment, folder)
    told = subprocess.run(
        [python, "-c", SERIALIZE, *JUDGES], env=environment, capture_output=True, check=True
    )
    return Bench(address, given["admin_password"], python, [web, jobs], folder, json.loads(told.stdout))


def _experiment(bench: Bench, count: int) -> str:
    """A new experiment with its judges, none of which looks by itself, and traces."""
    body = {"name": f"bench-{secrets.token_hex(4)}"}
    experiment = str(bench.call("POST", "/api/2.0/mlflow/experiments/create", json=body)["experiment_id"])
    for scorer in bench.serialized:
        body = {"experiment_id": experiment, "name": scorer["name"], "serialized_scorer": json.dumps(scorer)}
        bench.call("POST", "/api/3.0/mlflow/scorers/register", json=body)
    for _ in range(count):
        answer = httpx.post(
            f"{bench.address}/v1/traces",
            json=_trace(),
            headers={"x-mlflow-experiment-id": experiment},
            auth=(ADMIN, bench.password),
            timeout=60,
        )
        if answer.status_code != 200:
            sys.exit(f"bench: expected a trace to be taken, found {answer.status_code}: {answer.text[:500]}")
    return experiment


def _trace() -> dict[str, Any]:
    """A trace in OTLP's JSON: a root with request and answer, and steps under it."""
    trace, root = os.urandom(16).hex(), os.urandom(8).hex()
    end = time.time_ns()

    def span(number: int) -> dict[str, Any]:
        given = {"mlflow.spanInputs": "Which files are there?", "mlflow.spanOutputs": "x" * TEXT}
        attributes = [{"key": key, "value": {"stringValue": json.dumps(text)}} for key, text in given.items()]
        made = {
            "traceId": trace,
            "spanId": root if number == 0 else os.urandom(8).hex(),
            "name": "conversation" if number == 0 else f"step {number}",
            "kind": 1,
            "startTimeUnixNano": str(end - 1_000_000_000),
            "endTimeUnixNano": str(end),
            "attributes": attributes,
        }
        return made if number == 0 else made | {"parentSpanId": root}

    return {"resourceSpans": [{"scopeSpans": [{"spans": [span(number) for number in range(SPANS)]}]}]}


def _paddock(bench: Bench, experiment: str) -> Round:
    """Ask for all traces, and look until the last has its verdict."""
    moment = {"experiment_id": experiment, "since": "2020-01-01T00:00:00Z"}
    before, began = bench.cpu(), time.monotonic()
    ids = bench.call("POST", "/api/3.0/paddock/judgments", json=moment)["ids"]
    while True:
        rows = bench.call("POST", "/api/3.0/paddock/judgments/states", json={"ids": ids})["judgments"]
        if not any(row["state"] in ("queued", "running") for row in rows):
            break
        time.sleep(0.05)
    seconds = time.monotonic() - began
    if bad := [row for row in rows if row["state"] != "done"]:
        sys.exit(f"bench: expected verdicts, found {bad[0]['state']}: {bad[0]['reason']}")
    return Round("Paddock", len(rows), seconds, bench.cpu() - before, 0.0)


def _stock(bench: Bench, experiment: str) -> Round:
    """`mlflow.genai.evaluate` on all traces, with its own number of workers."""
    variables = processes.variables(
        {
            "MLFLOW_TRACKING_URI": bench.address,
            "MLFLOW_TRACKING_USERNAME": ADMIN,
            "MLFLOW_TRACKING_PASSWORD": bench.password,
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
    )
    before, times = bench.cpu(), os.times()
    done = subprocess.run(
        [bench.python, HERE / "stock.py", experiment],
        env=variables,
        cwd=bench.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"bench: expected stock's evaluation to succeed, found:\n{done.stderr[-2000:]}")
    told = json.loads(done.stdout.strip().splitlines()[-1])
    if told["failed"] or not told["verdicts"]:
        sys.exit(f"bench: expected verdicts of stock's evaluation, found {told}")
    after = os.times()
    client = after.children_user + after.children_system - times.children_user - times.children_system
    return Round("stock", told["verdicts"], told["seconds"], bench.cpu() - before, client)


def _report(found: list[Round], options: argparse.Namespace, rounds: int) -> None:
    options.results.mkdir(parents=True, exist_ok=True)
    by_side = {side: [one for one in found if one.side == side] for side in ("stock", "Paddock")}
    medians = {side: statistics.median(one.per_second for one in ours) for side, ours in by_side.items()}
    ratio = medians["Paddock"] / medians["stock"]
    facts = {
        "machine": machine(),
        "traces": options.traces,
        "judges": list(JUDGES),
        "rounds": [asdict(one) | {"per_second": one.per_second} for one in found],
        "ratio": ratio,
        "target": TARGET,
    }
    (options.results / "results.json").write_text(json.dumps(facts, indent=1) + "\n")
    how = (
        f"{machine()}. {options.traces} traces of {SPANS} spans by {len(JUDGES)} judges ({', '.join(JUDGES)}) a round,"
        f" {rounds} round(s), median; one web process, one job process, PostgreSQL, an instant provider behind the same"
        " gateway for both. Stock is `mlflow.genai.evaluate` of a client, with its own workers; its imports don't count."
    )
    lines = [
        "# Verdicts a second",
        "",
        how,
        "",
        "| | verdicts a second | CPU of the servers, ms a verdict | CPU of the client, ms a verdict |",
        "| --- | --- | --- | --- |",
    ]
    for side, ours in by_side.items():
        server = statistics.median(one.server_cpu / one.verdicts for one in ours) * 1000
        client = statistics.median(one.client_cpu / one.verdicts for one in ours) * 1000
        shown = f"{client:.0f} (imports too)" if client else "–"
        lines.append(f"| {side} | {medians[side]:.1f} | {server:.0f} | {shown} |")
    reached = "reached" if ratio >= TARGET else "NOT reached"
    lines += ["", f"Paddock / stock: **{ratio:.1f}×**; the target of {TARGET:.0f}× is {reached}.", ""]
    text = "\n".join(lines)
    (options.results / "results.md").write_text(text)
    print(text)
    lock = HERE.parent / "gateway" / "plot.txt"
    python = Environments(paths().cache).python("bench-plot", lock)
    sources = [options.results / "results.json", options.results / "results.svg"]
    processes.once("the plot", [python, HERE / "plot.py", *sources], processes.variables(), HERE)


if __name__ == "__main__":
    main()
