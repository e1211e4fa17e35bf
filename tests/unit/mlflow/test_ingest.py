"""POST /v1/traces: what is refused, what is passed on untouched, and what an exporter is told to send again."""

import asyncio
import gzip
import json
import os
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from identities import ADMIN, AGENT_KEY
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from otlp_recordings import recording

PROTOBUF = "application/x-protobuf"
Post = Callable[..., Any]


@pytest.fixture
def post(server: Any, experiment: str) -> Post:
    def send(content: Any, kind: str = PROTOBUF, **headers: str) -> Any:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        fixed = {"content-type": kind, "x-mlflow-experiment-id": experiment}
        return server.http.post("/v1/traces", content=content, headers=fixed | names, auth=ADMIN)

    return send


def foreign(**attributes: str) -> ExportTraceServiceRequest:
    """A trace of a framework that MLflow knows by itself."""
    request = ExportTraceServiceRequest()
    span = (
        request.resource_spans.add()
        .scope_spans.add()
        .spans.add(name="ask", trace_id=os.urandom(16), span_id=os.urandom(8), start_time_unix_nano=10**18)
    )
    span.end_time_unix_nano = 10**18 + 5_000_000
    for key, value in attributes.items():
        span.attributes.add(key=key).value.string_value = value
    return request


def test_garbage_is_told_what_was_expected(post: Post) -> None:
    answer = post(b"\xff\xff not a protobuf")
    assert answer.status_code == 400
    assert "expected an OTLP ExportTraceServiceRequest, found" in answer.json()["message"]


@pytest.mark.parametrize("body", [b"", ExportTraceServiceRequest().SerializeToString()])
def test_no_spans(post: Post, body: bytes) -> None:
    answer = post(body)
    assert (answer.status_code, "found none" in answer.json()["message"]) == (400, True)


@pytest.mark.parametrize("body", [b"{", b"[]", b'"text"', b'{"resourceSpans": 3}', b"[" * 100_000])
def test_garbage_of_json(post: Post, body: bytes) -> None:
    answer = post(body, "application/json")
    assert (answer.status_code, "expected" in answer.json()["message"]) == (400, True)


def test_another_content_type(post: Post) -> None:
    answer = post(b"name=value", "application/x-www-form-urlencoded")
    assert answer.status_code == 400
    assert (
        "expected Content-Type application/x-protobuf or application/json, found application/x-www"
        in answer.text
    )


def test_a_trace_id_of_another_length_is_named(post: Post) -> None:
    request = foreign()
    request.resource_spans[0].scope_spans[0].spans[0].trace_id = b"short"
    answer = post(request.SerializeToString())
    assert answer.status_code == 400
    assert "found 5 and 8 on 'ask'" in answer.json()["message"]


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("gzip", gzip.compress),
        ("GZIP", gzip.compress),
        ("deflate", zlib.compress),
        ("deflate", lambda body: zlib.compress(body, wbits=-15)),
        ("identity", bytes),
        ("gzip", lambda body: gzip.compress(body[:10]) + gzip.compress(body[10:])),
    ],
)
def test_encodings(server: Any, post: Post, encoding: str, encode: Callable[[bytes], bytes]) -> None:
    sent = recording("message").together()
    assert post(encode(sent.requests[0].SerializeToString()), content_encoding=encoding).status_code == 200
    assert len(server.client.get_trace(sent.trace_id).data.spans) == len(sent.spans)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_damaged_body(post: Post, encoding: str) -> None:
    assert "found damaged data" in post(b"not compressed", content_encoding=encoding).json()["message"]
    cut = (gzip.compress if encoding == "gzip" else zlib.compress)(os.urandom(5000))[:3000]
    assert "found damaged data" in post(cut, content_encoding=encoding).json()["message"]


def test_an_unknown_encoding(post: Post) -> None:
    answer = post(b"x", content_encoding="br")
    assert (answer.status_code, answer.json()["message"]) == (
        400,
        "expected Content-Encoding gzip, deflate or none, found br",
    )


def test_a_bomb_is_refused_without_being_inflated() -> None:
    from paddock_mlflow.ingest import BadTraces, inflate

    packer = zlib.compressobj(wbits=31)
    bomb = b"".join(packer.compress(bytes(1 << 20)) for _ in range(512)) + packer.flush()
    tracemalloc.start()
    with pytest.raises(BadTraces) as refused:
        inflate(bomb, "gzip", 1 << 20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.status == 413
    assert peak < 8 << 20


def test_a_bomb_of_many_members_is_refused() -> None:
    from paddock_mlflow.ingest import BadTraces, inflate

    with pytest.raises(BadTraces):
        inflate(gzip.compress(bytes(1000)) * 20, "gzip", 10_000)


def test_a_body_over_the_limit_is_refused_by_its_length(server: Any, experiment: str) -> None:
    answer = server.http.post("/v1/traces", content=bytes(33 << 20))
    assert answer.status_code == 413
    assert f"expected a body of at most {32 << 20} bytes, found {33 << 20} bytes" in answer.json()["message"]


def test_a_body_over_the_limit_is_refused_in_chunks(server: Any) -> None:
    def chunks() -> Iterator[bytes]:
        yield from (bytes(1 << 20) for _ in range(40))

    answer = server.http.post("/v1/traces", content=chunks(), headers={"transfer-encoding": "chunked"})
    assert answer.status_code == 413


def test_a_body_in_chunks_below_the_limit_is_stored(server: Any, experiment: str) -> None:
    sent = recording("message").together()
    body = sent.requests[0].SerializeToString()
    answer = server.http.post(
        "/v1/traces",
        content=iter([body[:1000], body[1000:]]),
        headers={
            "content-type": PROTOBUF,
            "x-mlflow-experiment-id": experiment,
            "transfer-encoding": "chunked",
        },
        auth=ADMIN,
    )
    assert answer.status_code == 200
    assert server.client.get_trace(sent.trace_id).info.state == "OK"


def test_json_is_translated_too(server: Any, post: Post) -> None:
    from google.protobuf.json_format import MessageToDict

    sent = recording("finish").together()
    body = MessageToDict(sent.requests[0])
    for resource in body["resourceSpans"]:
        for scope in resource["scopeSpans"]:
            for span, original in zip(scope["spans"], _spans_of(sent, resource, scope, body), strict=True):
                span["traceId"], span["spanId"] = original.trace_id.hex(), original.span_id.hex()
                if original.parent_span_id:
                    span["parentSpanId"] = original.parent_span_id.hex()
    assert post(json.dumps(body).encode(), "application/json").status_code == 200
    info = server.client.get_trace(sent.trace_id).info
    assert info.response_preview == "I wrote 3 facts into FACTS.txt."
    assert info.token_usage["cache_read_input_tokens"] == 2400


def _spans_of(sent: Any, resource: Any, scope: Any, body: Any) -> Any:
    index = body["resourceSpans"].index(resource), resource["scopeSpans"].index(scope)
    return sent.requests[0].resource_spans[index[0]].scope_spans[index[1]].spans


@pytest.mark.parametrize(
    "attributes",
    [
        {"openinference.span.kind": "TOOL", "input.value": '{"a": 1}', "output.value": "2"},
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.request.model": "gpt-4o-mini",
            "gen_ai.input.messages": "[]",
        },
        # Laminar's attributes, but not OpenHands.
        {"lmnr.span.type": "LLM", "lmnr.span.input": '{"action": {"kind": "x"}}', "session.id": "s"},
    ],
)
def test_other_frameworks_reach_mlflow_byte_for_byte(attributes: dict[str, str]) -> None:
    body = foreign(**attributes).SerializeToString()
    assert forwarded(body) == body


def test_another_frameworks_trace_is_shown_as_mlflow_shows_it(server: Any, post: Post) -> None:
    request = foreign(**{"openinference.span.kind": "TOOL", "input.value": '{"a": 1}', "output.value": "2"})
    assert post(request.SerializeToString()).status_code == 200
    span = request.resource_spans[0].scope_spans[0].spans[0]
    trace = server.client.get_trace(f"tr-{span.trace_id.hex()}")
    assert (trace.info.state, trace.info.tags.get("mlflow.traceName")) == ("OK", None)
    assert trace.data.spans[0].inputs == {"a": 1}


def test_a_failing_translation_stores_the_spans_as_sent() -> None:
    def broken(trace_id: str) -> Any:
        raise RuntimeError("a defect")

    body = recording("finish").requests[-1].SerializeToString()
    assert forwarded(body, earlier=broken) == body


def test_a_database_that_fails_during_translation_is_tried_again() -> None:
    from mlflow.exceptions import MlflowException

    def away(trace_id: str) -> Any:
        raise MlflowException("could not connect")

    status, headers, _ = answered(recording("finish").requests[-1].SerializeToString(), earlier=away)
    assert (status, headers["retry-after"]) == (503, "5")


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        (200, "", 200),
        (422, '{"detail":"Failed to log OpenTelemetry spans"}', 503),
        (422, '{"detail":[{"type":"missing","loc":["header","x-mlflow-experiment-id"]}]}', 422),
        (422, '{"detail":"Cannot convert OpenTelemetry span to MLflow span"}', 422),
        (400, '{"message":"QueuePool limit reached (Background: https://sqlalche.me/e/20/3o7r)"}', 503),
        (400, '{"message":"Invalid session id"}', 400),
        (404, '{"message":"No Experiment with id=99"}', 404),
        (403, "Permission denied", 403),
        (500, "Internal Server Error", 503),
        (501, "not supported", 501),
        (503, '{"error_code":"TEMPORARILY_UNAVAILABLE"}', 503),
    ],
)
def test_only_what_may_succeed_later_is_sent_again(status: int, text: str, expected: int) -> None:
    found, headers, _ = answered(foreign().SerializeToString(), status=status, text=text)
    assert found == expected
    assert ("retry-after" in headers) == (expected == 503)


def test_a_store_that_is_away_is_503_to_the_exporter(
    server: Any, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqlalchemy.exc import OperationalError

    def away(*_: Any, **__: Any) -> Any:
        raise OperationalError("INSERT", {}, Exception("connection refused"))

    monkeypatch.setattr(type(server.store), "log_spans", away)
    answer = post(recording("message").requests[0].SerializeToString())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


def test_a_missing_experiment_header_stays_a_client_error(server: Any) -> None:
    body = recording("message").requests[0].SerializeToString()
    answer = server.http.post("/v1/traces", content=body, headers={"content-type": PROTOBUF}, auth=ADMIN)
    assert 400 <= answer.status_code < 500


def test_strangers_are_refused_before_their_body_is_read(server: Any, experiment: str) -> None:
    headers = {"content-type": PROTOBUF, "x-mlflow-experiment-id": experiment}
    assert server.http.post("/v1/traces", content=b"garbage", headers=headers).status_code == 401


def test_a_client_that_goes_away_in_mid_body_stores_nothing() -> None:
    messages = iter(
        [{"type": "http.request", "body": b"half", "more_body": True}, {"type": "http.disconnect"}]
    )
    called: list[Any] = []
    run_middleware(messages, called, [])
    assert not called


def test_other_paths_and_methods_pass_untouched() -> None:
    for method, path in (("GET", "/v1/traces"), ("POST", "/v1/traces/other"), ("POST", "/gateway/x")):
        called: list[Any] = []
        messages = iter([{"type": "http.request", "body": b"raw", "more_body": False}])
        run_middleware(messages, called, [], method=method, path=path)
        assert [body for _, body in called] == [b"raw"]


def run_middleware(
    messages: Iterator[dict[str, Any]],
    called: list[tuple[dict[str, str], bytes]],
    sent: list[dict[str, Any]],
    method: str = "POST",
    path: str = "/v1/traces",
    status: int = 200,
    text: str = "",
    earlier: Any = None,
) -> None:
    """One request through the middleware alone, with an application behind it that answers as told."""
    from paddock_mlflow.ingest import IngestMiddleware

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        called.append(({k.decode(): v.decode() for k, v in scope["headers"]}, message["body"]))
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": text.encode()})

    async def receive() -> dict[str, Any]:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(b"content-type", PROTOBUF.encode()), (b"content-length", b"7")],
    }
    middleware = IngestMiddleware(app, earlier or (lambda _: []), lambda *_: None)
    asyncio.run(middleware(scope, receive, send))


def forwarded(body: bytes, **options: Any) -> bytes:
    """What the application gets for a body."""
    called: list[tuple[dict[str, str], bytes]] = []
    run_middleware(iter([{"type": "http.request", "body": body, "more_body": False}]), called, [], **options)
    ((headers, got),) = called
    assert int(headers["content-length"]) == len(got)
    return got


def answered(body: bytes, **options: Any) -> tuple[int, dict[str, str], bytes]:
    """What the client gets for a body."""
    sent: list[dict[str, Any]] = []
    run_middleware(iter([{"type": "http.request", "body": body, "more_body": False}]), [], sent, **options)
    headers = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent[1:])


def test_the_agents_key_may_send_traces_where_it_has_a_grant(server: Any, experiment: str) -> None:
    body = recording("message").requests[0].SerializeToString()
    headers = {
        "content-type": PROTOBUF,
        "x-mlflow-experiment-id": experiment,
        "authorization": f"Bearer {AGENT_KEY}",
    }
    assert server.http.post("/v1/traces", content=body, headers=headers).status_code == 403
    opens = {"endpoints": ["coder"], "experiments": [server.client.get_experiment(experiment).name]}
    made = server.http.put("/api/3.0/paddock/keys/stack", json=opens, auth=ADMIN)
    assert made.status_code == 200, made.text
    assert server.http.post("/v1/traces", content=body, headers=headers).status_code == 200
