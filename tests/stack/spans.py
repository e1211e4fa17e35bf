"""Spans, sent from an agent's container as an agent's exporter would, but batch by batch and with every answer told."""

import base64
import json
import os
import subprocess
from dataclasses import dataclass

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from stack_under_test import StackUnderTest

_SEND = """
import base64, concurrent.futures, json, sys, urllib.error, urllib.request
given = json.load(sys.stdin)

def http(body):
    headers = given["headers"] | {"content-type": "application/x-protobuf"}
    request = urllib.request.Request(given["http"] + "/v1/traces", body, headers)
    try:
        return urllib.request.urlopen(request, timeout=30).status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError as error:
        return str(error)

def grpc(body):
    import grpc
    with grpc.insecure_channel(given["grpc"]) as channel:
        call = channel.unary_unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
        try:
            call(body, timeout=30, metadata=[(name.lower(), value) for name, value in given["headers"].items()])
        except grpc.RpcError as error:
            return error.code().name
        return 200

send = {"http": http, "grpc": grpc}[given["protocol"]]
bodies = [base64.b64decode(body) for body in given["bodies"]]
with concurrent.futures.ThreadPoolExecutor(given["at_once"]) as pool:
    print(json.dumps(list(pool.map(send, bodies))))
"""


@dataclass
class Sender:
    """A container of the agent's image and network, by its name, and the key and the experiment that it sends along."""

    stack: StackUnderTest
    container: str
    key: str
    experiment: str

    def send(
        self,
        *requests: ExportTraceServiceRequest,
        protocol: str = "http",
        key: str | None = "",
        experiment: str = "",
        collector: str = "collector",
        at_once: int = 1,
    ) -> list[int | str]:
        """What each request was answered: an HTTP status, the name of a gRPC status, or why there was no answer.

        `key` and `experiment` in place of the sender's own; None is no key.
        """
        headers = {"x-mlflow-experiment-id": experiment or self.experiment}
        if key is not None:
            headers["authorization"] = f"Bearer {key or self.key}"
        given = {
            "http": f"http://{collector}:4318",
            "grpc": f"{collector}:4317",
            "protocol": protocol,
            "headers": headers,
            "at_once": at_once,
            "bodies": [base64.b64encode(one.SerializeToString()).decode() for one in requests],
        }
        done = subprocess.run(
            ["docker", "exec", "--interactive", self.container, "/opt/venv/bin/python", "-c", _SEND],
            input=json.dumps(given),
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


def request(count: int = 1, trace_id: bytes | None = None, name: str = "span") -> ExportTraceServiceRequest:
    """A trace of a root and its children, all in one request."""
    made = ExportTraceServiceRequest()
    scope = made.resource_spans.add().scope_spans.add()
    trace_id = trace_id or os.urandom(16)
    root = b""
    for number in range(count):
        span = scope.spans.add(
            trace_id=trace_id,
            span_id=os.urandom(8),
            parent_span_id=root,
            name=f"{name} {number}",
            start_time_unix_nano=1_700_000_000 * 10**9,
            end_time_unix_nano=1_700_000_001 * 10**9,
        )
        root = root or span.span_id
    return made


def spans_of(*requests: ExportTraceServiceRequest) -> list[Span]:
    return [
        span
        for one in requests
        for resource in one.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def trace_id_of(one: ExportTraceServiceRequest) -> str:
    """As MLflow names the trace of a request's first span."""
    return f"tr-{spans_of(one)[0].trace_id.hex()}"


def stored(stack: StackUnderTest, trace_ids: list[str]) -> list[str]:
    """The ids of all spans that the database has of some traces, each as often as it is there."""
    listed = ",".join(f"'{trace_id}'" for trace_id in trace_ids)
    query = f"SELECT span_id FROM spans WHERE trace_id IN ({listed})"
    return _ask(stack, query).split()


def content(stack: StackUnderTest, trace_id: str) -> str:
    """Everything that the database has of a trace: its spans, tags and metadata, as text."""
    tables = {"spans": "trace_id", "trace_tags": "request_id", "trace_request_metadata": "request_id"}
    rows = (f"SELECT t FROM {table} t WHERE {key} = '{trace_id}'" for table, key in tables.items())
    return "\n".join(_ask(stack, query) for query in rows)


def _ask(stack: StackUnderTest, query: str) -> str:
    options = ("--username=postgres", "--no-psqlrc", "--tuples-only", "--no-align")
    return stack.execute("postgres", "psql", *options, "mlflow", "-c", query).stdout
