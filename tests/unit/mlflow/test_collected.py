"""Spans that the collector brings: whose they are, where they go, and what is refused, loudly."""

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from identities import ADMIN, AGENT_KEY, COLLECTOR_KEY
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from otlp_recordings import recording

PROTOBUF = "application/x-protobuf"
SOURCE = "paddock.source."
Bring = Callable[..., Any]


@pytest.fixture
def stack_writes(server: Any, experiment: str) -> Iterator[str]:
    """The test's experiment, to which the stack's own key may write."""
    name = server.client.get_experiment(experiment).name
    opens = {"endpoints": ["coder"], "experiments": [name]}
    assert server.http.put("/api/3.0/paddock/keys/stack", json=opens, auth=ADMIN).status_code == 200
    yield experiment
    opens["experiments"] = []
    assert server.http.put("/api/3.0/paddock/keys/stack", json=opens, auth=ADMIN).status_code == 200


@pytest.fixture
def run_key(server: Any, experiment: str) -> dict[str, Any]:
    """The key of a run that writes to the test's experiment, as `./paddock run` makes it."""
    return make_key(server, experiment, run_id=f"run-{os.urandom(4).hex()}")


def make_key(server: Any, experiment: str, **fields: Any) -> dict[str, Any]:
    body = {
        "user": "agent",
        "endpoints": ["coder"],
        "experiments": [server.client.get_experiment(experiment).name],
    }
    answer = server.http.post("/api/3.0/paddock/keys", json=body | fields, auth=ADMIN)
    assert answer.status_code == 200, answer.text
    return answer.json()


def revoke(server: Any, key: dict[str, Any]) -> None:
    answer = server.http.post(f"/api/3.0/paddock/keys/{key['id']}/revoke", auth=ADMIN)
    assert answer.status_code == 200, answer.text


def one_span(
    name: str = "ask", trace_id: bytes | None = None, root: bool = True
) -> ExportTraceServiceRequest:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = "runner.py"
    span = resource.scope_spans.add().spans.add(
        name=name,
        trace_id=trace_id or os.urandom(16),
        span_id=os.urandom(8),
        start_time_unix_nano=10**18,
        end_time_unix_nano=10**18 + 5_000_000,
    )
    if not root:
        span.parent_span_id = os.urandom(8)
    return request


def mark(
    request: ExportTraceServiceRequest,
    key: str | None = None,
    experiment: str | None = None,
    received: datetime | None = None,
) -> ExportTraceServiceRequest:
    """As services/collector/source marks it."""
    for resource_spans in request.resource_spans:
        attributes = resource_spans.resource.attributes
        if key is not None:
            digest = hashlib.sha256(key.encode()).hexdigest()
            attributes.add(key=SOURCE + "key_sha256").value.string_value = digest
        if experiment is not None:
            attributes.add(key=SOURCE + "experiment_id").value.string_value = experiment
        attributes.add(key=SOURCE + "address").value.string_value = "172.20.0.9"
        moment = int((received or datetime.now(UTC)).timestamp() * 1e9)
        attributes.add(key=SOURCE + "received_unix_nano").value.int_value = moment
    return request


@pytest.fixture
def bring(server: Any) -> Bring:
    def send(request: ExportTraceServiceRequest, key: str = COLLECTOR_KEY, **headers: str) -> Any:
        fixed = {"content-type": PROTOBUF, "authorization": f"Bearer {key}"}
        return server.http.post(
            "/v1/traces",
            content=request.SerializeToString(),
            headers=fixed | {name.replace("_", "-"): value for name, value in headers.items()},
        )

    return send


def trace_of(request: ExportTraceServiceRequest) -> str:
    return f"tr-{request.resource_spans[0].scope_spans[0].spans[0].trace_id.hex()}"


def stored(server: Any, request: ExportTraceServiceRequest) -> list[str]:
    """Names of the spans that the store has of a request's first trace."""
    from mlflow.exceptions import MlflowException

    try:
        return [span.name for span in server.client.get_trace(trace_of(request)).data.spans]
    except MlflowException:
        return []


def test_a_run_is_known_by_its_key_and_nothing_of_the_marks_is_kept(
    server: Any, bring: Bring, experiment: str, run_key: dict[str, Any]
) -> None:
    sent = recording("finish").together()
    request = mark(sent.requests[0], run_key["key"], experiment)
    answer = bring(request)
    assert answer.status_code == 200, answer.text
    assert not ExportTraceServiceResponse.FromString(answer.content).HasField("partial_success")
    trace = server.client.get_trace(sent.trace_id)
    assert trace.info.experiment_id == experiment
    assert trace.info.response_preview == "I wrote 3 facts into FACTS.txt."
    assert trace.info.tags["paddock.run_id"] == run_key["run_id"]
    assert len(trace.data.spans) == len(sent.spans)
    assert SOURCE not in trace.to_json()


def test_sent_twice_is_stored_once(
    server: Any, bring: Bring, experiment: str, run_key: dict[str, Any]
) -> None:
    sent = recording("finish").together()
    request = mark(sent.requests[0], run_key["key"], experiment)
    assert [bring(request).status_code for _ in range(2)] == [200, 200]
    assert len(server.client.get_trace(sent.trace_id).data.spans) == len(sent.spans)


def test_without_a_key_it_is_the_stacks(server: Any, bring: Bring, stack_writes: str) -> None:
    for claimed in (stack_writes, None):
        request = mark(one_span(), None, claimed)
        assert bring(request).status_code == 200
        assert server.client.get_trace(trace_of(request)).info.experiment_id == stack_writes


@pytest.mark.parametrize("who", ["run", "stack"])
def test_another_experiment_is_refused_and_told(
    server: Any, bring: Bring, stack_writes: str, run_key: dict[str, Any], who: str, caplog: Any
) -> None:
    other = server.client.create_experiment(f"other-{os.urandom(4).hex()}")
    request = mark(one_span(), run_key["key"] if who == "run" else None, other)
    with caplog.at_level(logging.ERROR, "paddock_mlflow.collected"):
        answer = bring(request)
    assert answer.status_code == 403
    name = run_key["id"] if who == "run" else "pk_stack"
    for told in (answer.text, caplog.text):
        assert f"the key {name} may write to ({stack_writes}), found '{other}'" in told
        assert "from 172.20.0.9" in told
    assert not stored(server, request)


def test_an_unknown_key_is_nobodys(server: Any, bring: Bring, stack_writes: str) -> None:
    request = mark(one_span(), "pdk_made-up", stack_writes)
    answer = bring(request)
    assert (answer.status_code, "found an unknown key" in answer.text) == (403, True)
    assert not stored(server, request)


def test_the_stacks_key_in_an_agents_hands_is_the_stacks(
    server: Any, bring: Bring, stack_writes: str
) -> None:
    request = mark(one_span(), AGENT_KEY, stack_writes)
    assert bring(request).status_code == 200


@pytest.mark.parametrize(("seconds", "status"), [(-60, 200), (300, 200), (660, 403)])
def test_a_runs_late_spans(
    server: Any, bring: Bring, experiment: str, run_key: dict[str, Any], seconds: int, status: int
) -> None:
    """They are the run's by when they came, not by when the collector could bring them."""
    revoke(server, run_key)
    came = datetime.now(UTC) + timedelta(seconds=seconds)
    assert bring(mark(one_span(), run_key["key"], experiment, came)).status_code == status


def test_another_revoked_key_is_worth_nothing_at_once(server: Any, bring: Bring, experiment: str) -> None:
    key = make_key(server, experiment)
    assert bring(mark(one_span(), key["key"], experiment)).status_code == 200
    revoke(server, key)
    answer = bring(mark(one_span(), key["key"], experiment))
    assert (answer.status_code, "which ended at" in answer.text) == (403, True)


def test_a_trace_is_its_first_keys(
    server: Any, bring: Bring, stack_writes: str, run_key: dict[str, Any]
) -> None:
    trace_id = os.urandom(16)
    first = mark(one_span("first", trace_id), run_key["key"], stack_writes)
    assert bring(first).status_code == 200
    neighbour = make_key(server, stack_writes, run_id="neighbour")
    for key in (neighbour["key"], None):
        answer = bring(mark(one_span("foreign", trace_id, root=False), key, stack_writes))
        assert (answer.status_code, "found others' traces" in answer.text) == (403, True)
    direct = bring(one_span("direct", trace_id, root=False), AGENT_KEY, x_mlflow_experiment_id=stack_writes)
    assert (direct.status_code, "which is another's" in direct.text) == (403, True)
    assert (
        bring(mark(one_span("second", trace_id, root=False), run_key["key"], stack_writes)).status_code == 200
    )
    assert sorted(stored(server, first)) == ["first", "second"]


def test_what_people_and_the_gateway_made_no_key_may_add_to(
    server: Any, bring: Bring, stack_writes: str, run_key: dict[str, Any]
) -> None:
    request = one_span("by hand")
    headers = {"content-type": PROTOBUF, "x-mlflow-experiment-id": stack_writes}
    made = server.http.post("/v1/traces", content=request.SerializeToString(), headers=headers, auth=ADMIN)
    assert made.status_code == 200
    trace_id = request.resource_spans[0].scope_spans[0].spans[0].trace_id
    answer = bring(mark(one_span("foreign", trace_id, root=False), run_key["key"], stack_writes))
    assert answer.status_code == 403
    assert stored(server, request) == ["by hand"]


def test_a_body_of_several_is_split_and_what_can_be_stored_is(
    server: Any, bring: Bring, stack_writes: str, run_key: dict[str, Any]
) -> None:
    other = server.client.create_experiment(f"other-{os.urandom(4).hex()}")
    elsewhere = make_key(server, other, run_id="elsewhere")
    parts = [
        mark(one_span("of the run"), run_key["key"], stack_writes),
        mark(one_span("of the stack"), None, stack_writes),
        mark(one_span("elsewhere"), elsewhere["key"], other),
        mark(one_span("forged"), run_key["key"], other),
    ]
    body = ExportTraceServiceRequest()
    for part in parts:
        body.MergeFrom(part)
    answer = bring(body)
    assert answer.status_code == 200
    told = ExportTraceServiceResponse.FromString(answer.content).partial_success
    assert (told.rejected_spans, run_key["id"] in told.error_message) == (1, True)
    assert [stored(server, part) for part in parts] == [["of the run"], ["of the stack"], ["elsewhere"], []]
    assert server.client.get_trace(trace_of(parts[2])).info.experiment_id == other


def test_foreign_spans_among_a_runs_own_are_taken_out(
    server: Any, bring: Bring, experiment: str, run_key: dict[str, Any]
) -> None:
    victim = mark(one_span("victim"), make_key(server, experiment, run_id="victim")["key"], experiment)
    assert bring(victim).status_code == 200
    mixed = one_span("own")
    foreign = mixed.resource_spans[0].scope_spans[0].spans.add()
    foreign.CopyFrom(victim.resource_spans[0].scope_spans[0].spans[0])
    foreign.name = "overwritten"
    answer = bring(mark(mixed, run_key["key"], experiment))
    assert answer.status_code == 200
    assert ExportTraceServiceResponse.FromString(answer.content).partial_success.rejected_spans == 1
    assert (stored(server, mixed), stored(server, victim)) == (["own"], ["victim"])


def test_no_run_can_be_claimed_that_has_a_key_of_its_own(
    server: Any, bring: Bring, stack_writes: str, run_key: dict[str, Any]
) -> None:
    def tags(key: str | None, run_id: str) -> dict[str, str]:
        request = one_span()
        span = request.resource_spans[0].scope_spans[0].spans[0]
        span.attributes.add(key="mlflow.traceTag.paddock.run_id").value.string_value = run_id
        assert bring(mark(request, key, stack_writes)).status_code == 200
        return server.client.get_trace(trace_of(request)).info.tags

    assert tags(run_key["key"], "another")["paddock.run_id"] == run_key["run_id"]
    claimed = tags(None, run_key["run_id"])
    assert ("paddock.run_id" in claimed, claimed["paddock.run_id.claimed"]) == (False, run_key["run_id"])
    # A run without a key names itself, as it always has.
    assert tags(None, "without-a-key")["paddock.run_id"] == "without-a-key"


def test_the_marks_are_believed_from_the_collector_alone(
    server: Any, bring: Bring, stack_writes: str, run_key: dict[str, Any]
) -> None:
    other = server.client.create_experiment(f"other-{os.urandom(4).hex()}")
    forged = mark(one_span(), run_key["key"], other)
    answer = bring(forged, AGENT_KEY, x_mlflow_experiment_id=stack_writes)
    assert answer.status_code == 200
    trace = server.client.get_trace(trace_of(forged))
    assert trace.info.experiment_id == stack_writes
    assert "paddock.run_id" not in trace.info.tags
    assert SOURCE not in trace.to_json()
    # As people send them, too.
    forged = mark(one_span(), run_key["key"], other)
    headers = {"content-type": PROTOBUF, "x-mlflow-experiment-id": stack_writes}
    sent = server.http.post("/v1/traces", content=forged.SerializeToString(), headers=headers, auth=ADMIN)
    assert sent.status_code == 200
    assert SOURCE not in server.client.get_trace(trace_of(forged)).to_json()


def test_the_collectors_key_opens_nothing_else(server: Any) -> None:
    headers = {"authorization": f"Bearer {COLLECTOR_KEY}"}
    for method, path in (
        ("GET", "/gateway/mlflow/v1/models"),
        ("GET", "/api/3.0/paddock/keys"),
        ("POST", "/api/2.0/mlflow/experiments/search"),
        ("GET", "/v1/traces"),
    ):
        answer = server.http.request(method, path, headers=headers)
        assert answer.status_code in (401, 403, 405), (path, answer.text)


def test_a_runs_key_brings_no_spans_by_itself(server: Any, bring: Bring, run_key: dict[str, Any]) -> None:
    answer = bring(one_span(), run_key["key"])
    assert (answer.status_code, "to come by the collector" in answer.text) == (403, True)


def test_unmarked_spans_are_the_collectors_fault(bring: Bring) -> None:
    answer = bring(one_span())
    assert (answer.status_code, "run a collector that was built from the same release" in answer.text) == (
        400,
        True,
    )


def test_a_database_that_is_away_is_tried_again(
    server: Any, bring: Bring, stack_writes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    from paddock_mlflow import keys

    def away(*_: Any, **__: Any) -> Any:
        raise OperationalError("SELECT", {}, Exception("connection refused"))

    monkeypatch.setattr(keys, "by_id", away)
    answer = bring(mark(one_span(), None, stack_writes))
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    monkeypatch.undo()
    monkeypatch.setattr(type(server.store), "log_spans", away)
    request = mark(one_span(), None, stack_writes)
    assert bring(request).status_code == 503
    monkeypatch.undo()
    # What was claimed by the attempt that failed is the sender's still.
    assert bring(request).status_code == 200
    assert stored(server, request) == ["ask"]


def test_what_no_attempt_can_store_is_given_up(
    server: Any, bring: Bring, stack_writes: str, run_key: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = type(server.store).log_spans

    def choosy(self: Any, location: str, spans: list[Any], *rest: Any, **options: Any) -> Any:
        if spans[0].name == "poison":
            raise RuntimeError("a defect that such spans meet")
        return real(self, location, spans, *rest, **options)

    monkeypatch.setattr(type(server.store), "log_spans", choosy)
    # Long after whatever the tests before have seen.
    now = [time.monotonic() + 1e6]
    monkeypatch.setattr("paddock_mlflow.collected.time", SimpleNamespace(monotonic=lambda: now[0]))
    poison = mark(one_span("poison"), None, stack_writes)
    answers = []
    for _ in range(9):
        answers.append(bring(poison).status_code)
        now[0] += 15
    assert answers == [503] * 8 + [403]
    # Its key is distrusted for a while, and can store all the same; other keys are not.
    assert bring(mark(one_span("poison"), None, stack_writes)).status_code == 403
    assert bring(mark(one_span(), None, stack_writes)).status_code == 200
    assert bring(mark(one_span("poison"), run_key["key"], stack_writes)).status_code == 503
    now[0] += 601
    assert bring(mark(one_span("poison"), None, stack_writes)).status_code == 503


def test_a_database_that_is_away_is_waited_for_without_end(
    server: Any, bring: Bring, stack_writes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
    from sqlalchemy.exc import OperationalError

    def full(*_: Any, **__: Any) -> Any:
        """As MLflow's sessions pass it on."""
        error = OperationalError("INSERT", {}, Exception("could not extend file: No space left on device"))
        raise MlflowException(str(error), error_code=TEMPORARILY_UNAVAILABLE)

    now = [time.monotonic() + 2e6]
    monkeypatch.setattr("paddock_mlflow.collected.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(type(server.store), "log_spans", full)
    request = mark(one_span(), None, stack_writes)
    for _ in range(20):
        answer = bring(request)
        assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
        now[0] += 60
    monkeypatch.undo()
    assert bring(request).status_code == 200


@pytest.mark.parametrize("fault", ["time", "nul"])
def test_spans_that_postgresql_can_not_hold_are_refused_at_once(fault: str) -> None:
    """In the words of MLflow's answers to them, as test_collector.py meets them for real."""
    from paddock_mlflow.asgi import Answer
    from paddock_mlflow.ingest import is_store_failure

    text = {
        "time": '{"error_code": "BAD_REQUEST", "message": "(psycopg2.errors.NumericValueOutOfRange) bigint out of range'
        ' (Background on this error at: https://sqlalche.me/e/21/9h9h)"}',
        "nul": '{"error_code": "INTERNAL_ERROR", "message": "A string literal cannot contain NUL (0x00) characters."}',
    }[fault]
    status = 400 if fault == "time" else 500
    messages = [
        {"type": "http.response.start", "status": status},
        {"type": "http.response.body", "body": text.encode()},
    ]
    assert not is_store_failure(Answer(messages))
