"""What an agent's identity is worth, seen from outside: elsewhere than at the gate, and in others' traces."""

import os
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from cases import eventually
from host_cases import CASES
from played import Container
from probe_record import Record
from stack_under_test import StackUnderTest

from paddock_probes.gate import BODY, MODELS
from paddock_probes.registry import BLOCKED, OPEN, Targets

Send = Callable[..., str]


def spans(trace: bytes, *names: str, root: bool = True) -> bytes:
    """An OTLP request with spans of one trace; the first one is its root."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest()
    scope = request.resource_spans.add().scope_spans.add()
    parent = b"" if root else os.urandom(8)
    for number, name in enumerate(names):
        span = scope.spans.add(trace_id=trace, span_id=os.urandom(8), parent_span_id=parent, name=name)
        span.start_time_unix_nano = 1_700_000_000_000_000_000 + number
        span.end_time_unix_nano = span.start_time_unix_nano + 1_000_000
        parent = parent or span.span_id
    return request.SerializeToString()


@pytest.fixture
def send(agent: Container, targets: Targets) -> Send:
    """Sends spans from the agent's container as its exporter would, for an experiment and by a key of its choice."""

    def sent(body: bytes, experiment: str, key: str = "") -> str:
        headers = [f"x-mlflow-experiment-id: {experiment}", "Content-Type: application/x-protobuf"]
        headers += [f"Authorization: Bearer {key}"] if key else []
        command = ["curl", "--silent", "--max-time", "20", "--data-binary", "@-", "--output", "/dev/null"]
        command += [word for header in headers for word in ("--header", header)]
        url = "http://{}:{}/v1/traces".format(*targets.collector)
        return agent.run(*command, "--write-out", "%{http_code}", url, stdin=body).stdout

    return sent


def traces(stack: StackUnderTest, experiment: str) -> dict[str, dict[str, Any]]:
    """The traces of an experiment, by id."""
    location = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": experiment}}
    body = {"locations": [location], "max_results": 500}
    found = stack.api("POST", "/api/3.0/mlflow/traces/search", json=body).get("traces", [])
    return {one["trace_id"]: one for one in found}


def test_forged_experiment(
    stack: StackUnderTest, send: Send, make_key: Callable[..., dict[str, str]], record: Record
) -> None:
    name = f"closed-{os.urandom(4).hex()}"
    made = stack.api("POST", "/api/2.0/mlflow/experiments/create", json={"name": name})
    other, key = str(made["experiment_id"]), make_key("coder")["key"]
    honest, allowed = os.urandom(16), os.urandom(16)

    statuses = {send(spans(os.urandom(16), "forged"), other, by) for by in (key, "", "pdk_" + "A" * 43)}
    send(spans(honest, "honest"), stack.experiment_id, key)
    # What was sent later has arrived, so what was sent first would have.
    eventually(lambda: f"tr-{honest.hex()}" in traces(stack, stack.experiment_id), 60, "the honest trace")
    outcome = OPEN if traces(stack, other) else BLOCKED
    record.note(
        "forged-experiment",
        outcome=outcome,
        evidence=f"HTTP {', '.join(sorted(statuses))} by the collector, refused behind it: the experiment stays empty",
    )
    assert outcome == CASES["forged-experiment"].expected

    # The control: a key that is made for the experiment writes the same spans there.
    key = stack.api(
        "POST",
        "/api/3.0/paddock/keys",
        json={"user": "writer", "endpoints": ["coder"], "experiments": [name], "name": "escape"},
    )["key"]
    answer = httpx.post(
        f"{stack.url}/v1/traces",
        content=spans(allowed, "allowed"),
        headers={
            "Content-Type": "application/x-protobuf",
            "x-mlflow-experiment-id": other,
            "Authorization": f"Bearer {key}",
        },
        timeout=30,
    )
    assert answer.status_code == 200, answer.text
    eventually(lambda: f"tr-{allowed.hex()}" in traces(stack, other), 30, "the trace of a key that may")
    record.note("forged-experiment", control=f"HTTP {answer.status_code} for a key that is made for it")


def test_forged_trace(
    stack: StackUnderTest, send: Send, make_key: Callable[..., dict[str, str]], record: Record
) -> None:
    """One run has begun a trace; another one, and one without a key, know its id."""
    own, others = make_key("coder")["key"], make_key("coder")["key"]
    trace, marker = os.urandom(16), os.urandom(16)
    trace_id = f"tr-{trace.hex()}"
    send(spans(trace, "conversation"), stack.experiment_id, own)
    eventually(lambda: trace_id in traces(stack, stack.experiment_id), 60, "the trace")

    statuses = {send(spans(trace, "forged", root=False), stack.experiment_id, by) for by in (others, "")}
    send(spans(trace, "continued", root=False), stack.experiment_id, own)
    send(spans(marker, "later"), stack.experiment_id, own)
    eventually(lambda: f"tr-{marker.hex()}" in traces(stack, stack.experiment_id), 60, "the later trace")

    stored = stack.api("GET", f"/ajax-api/3.0/mlflow/get-trace-artifact?request_id={trace_id}")
    names = {span["name"] for span in stored["spans"]}
    outcome = OPEN if "forged" in names else BLOCKED
    told = f"HTTP {', '.join(sorted(statuses))} by the collector, refused behind it: the trace is as it was"
    record.note("forged-trace", outcome=outcome, evidence=told)
    assert outcome == CASES["forged-trace"].expected, names
    # The control: by the key that began it the same way adds to it.
    assert "continued" in names
    record.note("forged-trace", control="a span by the key that began the trace stands in it")


def test_key_elsewhere(
    stack: StackUnderTest, make_key: Callable[..., dict[str, str]], agent: Container, record: Record
) -> None:
    key = make_key("coder")["key"]
    answer = httpx.post(
        stack.url + MODELS,
        content=BODY,
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
        timeout=30,
    )
    record.note("key-elsewhere", outcome=BLOCKED, evidence=f"HTTP {answer.status_code} at the published port")
    assert answer.status_code in (401, 403), answer.text

    # The control: the same key and the same call, by the gate.
    curl = ["curl", "--silent", "--data", BODY, "--write-out", "%{http_code}", "--output", "/dev/null"]
    headers = ["--header", "Content-Type: application/json", "--header", f"Authorization: Bearer {key}"]
    status = agent.run(*curl, *headers, f"http://gate:8080{MODELS}").stdout
    record.note("key-elsewhere", control=f"HTTP {status} by the gate: there is no such endpoint")
    assert status == "404"
