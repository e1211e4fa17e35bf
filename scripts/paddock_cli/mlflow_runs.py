"""MLflow runs over its REST API: what they hold, and the files and traces that belong to them."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlparse

from paddock_cli.errors import ServerFailed
from paddock_cli.mlflow_api import TRACES, Mlflow

RUNS = "/api/2.0/mlflow/runs"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts"
_PER_BATCH = 100
"""Parameters, tags or links of traces of one call, as MLflow limits them."""
_MAX_PARAMETER = 6000
_MAX_TAG = 8000
"""Characters."""


@dataclass(frozen=True)
class Run:
    """A run as the server has it."""

    run_id: str
    experiment_id: str
    artifacts: str
    """Where its files are, below the server's artifact store."""
    tags: Mapping[str, str]


def create(server: Mlflow, experiment_id: str, name: str, tags: Mapping[str, str]) -> Run:
    """A run that has begun now."""
    body = {
        "experiment_id": experiment_id,
        "run_name": name,
        "start_time": _now(),
        "tags": [{"key": key, "value": value[:_MAX_TAG]} for key, value in tags.items()],
    }
    return _run(server.call("POST", f"{RUNS}/create", json=body)["run"])


def get(server: Mlflow, run_id: str) -> Run:
    """One run. Raises NotFound."""
    return _run(server.call("GET", f"{RUNS}/get", params={"run_id": run_id})["run"])


def search(server: Mlflow, experiment_id: str, filter_string: str, limit: int = 1) -> list[Run]:
    """Runs that a filter of MLflow's finds, newest first."""
    body = {
        "experiment_ids": [experiment_id],
        "filter": filter_string,
        "max_results": limit,
        "order_by": ["attributes.start_time DESC"],
    }
    return [_run(one) for one in server.call("POST", f"{RUNS}/search", json=body).get("runs", [])]


def log(
    server: Mlflow,
    run_id: str,
    *,
    parameters: Mapping[str, object] | None = None,
    metrics: Mapping[str, float | None] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Parameters, metrics and tags; metrics that are None are left out."""
    moment = _now()
    given = {
        "params": [
            {"key": key, "value": str(value)[:_MAX_PARAMETER]} for key, value in (parameters or {}).items()
        ],
        "metrics": [
            {"key": key, "value": float(value), "timestamp": moment, "step": 0}
            for key, value in (metrics or {}).items()
            if value is not None
        ],
        "tags": [{"key": key, "value": value[:_MAX_TAG]} for key, value in (tags or {}).items()],
    }
    for kind, entries in given.items():
        for part in _parts(entries):
            server.call("POST", f"{RUNS}/log-batch", json={"run_id": run_id, kind: part})


def end(server: Mlflow, run_id: str, status: str = "FINISHED") -> None:
    """Close a run as FINISHED, FAILED or KILLED."""
    body = {"run_id": run_id, "status": status, "end_time": _now()}
    server.call("POST", f"{RUNS}/update", json=body)


def put(server: Mlflow, run: Run, name: str, content: bytes) -> None:
    """Store a file of a run; `name` may hold folders."""
    server.call("PUT", _address(run, name), content=content)


def read(server: Mlflow, run: Run, name: str) -> bytes:
    """A file of a run. Raises NotFound."""
    return server.content(_address(run, name))


def link_traces(server: Mlflow, run_id: str, trace_ids: Iterable[str]) -> None:
    """Show traces among a run's; a trace can belong to several."""
    for part in _parts(list(dict.fromkeys(trace_ids))):
        body = {"run_id": run_id, "trace_ids": part}
        server.call("POST", f"{TRACES.replace('3.0', '2.0')}/link-to-run", json=body)


def link(server: Mlflow, run: Run) -> str:
    """The page of the UI that shows a run."""
    return f"{server.url}/#/experiments/{run.experiment_id}/runs/{run.run_id}"


def _run(answer: Mapping[str, Any]) -> Run:
    info = answer["info"]
    tags = {one["key"]: one["value"] for one in answer.get("data", {}).get("tags", [])}
    return Run(info["run_id"], info["experiment_id"], info["artifact_uri"], tags)


def _address(run: Run, name: str) -> str:
    place = urlparse(run.artifacts)
    if place.scheme != "mlflow-artifacts":
        raise ServerFailed(
            "a run whose files the server keeps (mlflow-artifacts:)",
            run.artifacts,
            "start the stack with its own artifact store",
        )
    folder = place.path.strip("/")
    return f"{_ARTIFACTS}/{quote(f'{folder}/{name}')}"


def _parts(entries: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(entries), _PER_BATCH):
        yield entries[start : start + _PER_BATCH]


def _now() -> int:
    return int(time.time() * 1000)
