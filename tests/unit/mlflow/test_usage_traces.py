"""Usage traces: as MLflow itself writes them for the same call, and none lost or doubled."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import provider_answers as answers
import pytest
from scripted_provider import Answer, ScriptedProvider, make_endpoint, scripted_provider

from paddock_mlflow.ledger.types import Usage

MESSAGES = [{"role": "user", "content": "How are you?"}]
USAGE = Usage(input=1000, output=300, cache_read=600, reasoning=100)
WRITTEN = Usage(input=1000, output=300, cache_read=600, cache_write=300)
EMBEDDED = Usage(input=8)
BUSY = Answer({"error": {"message": "busy"}}, 503)
HEADERS = {"user-agent": "OpenAI/Python 2.0"}


@dataclass
class Stock:
    """MLflow's own handlers, without anything of ours, on the database of the tests' server."""

    http: Any
    provider: ScriptedProvider
    server: Any
    endpoints: dict[str, tuple[str, str]]
    """Name → (id, experiment's id)."""

    def rows(self, experiment_id: str) -> list[dict[str, Any]]:
        """What the tables have of the experiment's traces."""
        return stored_traces(self.server.store.engine, experiment_id)

    def call(self, path: str, body: dict[str, Any], answer: Callable[[dict[str, Any]], Answer]) -> Any:
        self.provider.answer = lambda _, received: answer(received)
        return self.http.post(path, json=body, headers=HEADERS)


def stored_traces(engine: Any, experiment_id: str) -> list[dict[str, Any]]:
    from sqlalchemy import text

    def pairs(connection: Any, table: str, trace_id: str) -> dict[str, str]:
        query = text(f"SELECT key, value FROM {table} WHERE request_id = :id")
        return {row.key: row.value for row in connection.execute(query, {"id": trace_id})}

    with engine.connect() as connection:
        found = []
        query = text("SELECT * FROM trace_info WHERE experiment_id = :id ORDER BY timestamp_ms")
        for row in connection.execute(query, {"id": int(experiment_id)}).mappings().all():
            trace = dict(row)
            trace["tags"] = pairs(connection, "trace_tags", row["request_id"])
            trace["metadata"] = pairs(connection, "trace_request_metadata", row["request_id"])
            spans = text("SELECT * FROM spans WHERE trace_id = :id ORDER BY start_time_unix_nano, name")
            trace["spans"] = [
                dict(span) for span in connection.execute(spans, {"id": row["request_id"]}).mappings()
            ]
            found.append(trace)
        return found


@pytest.fixture(scope="module")
def stock(server: Any) -> Iterator[Stock]:
    import mlflow
    from fastapi import FastAPI, Request
    from mlflow.gateway.providers import utils as provider_utils
    from mlflow.server.gateway_api import gateway_router
    from starlette.testclient import TestClient

    from paddock_mlflow import settings, upstreams
    from paddock_mlflow.gateway.connections import stock_post

    shared_post = provider_utils._aiohttp_post
    provider_utils._aiohttp_post = stock_post
    app = FastAPI()
    app.include_router(gateway_router)

    @app.middleware("http")
    async def authenticated(request: Request, call_next: Callable[..., Any]) -> Any:
        request.state.username = "ada"
        return await call_next(request)

    allowed = settings.load().private_upstreams
    with scripted_provider() as provider:
        upstreams.allow(allowed | {provider.address})
        http = TestClient(app, base_url="http://gateway.test", raise_server_exceptions=False)
        made = Stock(http, provider, server, {})
        for name, models in {
            "stock-openai": ["openai/gpt-4o-mini"],
            "stock-embeddings": ["openai/text-embedding-3-small"],
            "stock-anthropic": ["anthropic/claude-sonnet-4-5"],
            "stock-fallback": ["openai/gpt-4o", "openai/gpt-4o-mini"],
        }.items():
            made.endpoints[name] = make_endpoint(server, name, models, provider.url)
        yield made
        mlflow.flush_trace_async_logging()
        upstreams.allow(allowed)
    provider_utils._aiohttp_post = shared_post


@dataclass(frozen=True)
class Case:
    """One call, and what of it the gateway's record says."""

    path: str
    endpoint: str
    body: dict[str, Any]
    answer: Callable[[dict[str, Any]], Answer]
    protocol: str
    request_type: str
    attempts: tuple[str, ...]
    usage: Usage | None
    fails: bool = False


def plain(body: dict[str, Any] | bytes) -> Callable[[dict[str, Any]], Answer]:
    return lambda _: Answer(body)


def second(body: dict[str, Any] | bytes) -> Callable[[dict[str, Any]], Answer]:
    return lambda received: BUSY if received["model"] == "gpt-4o" else Answer(body)


MINI, DATED = "openai/gpt-4o-mini", "gpt-4o-mini-2024-07-18"
CLAUDE, SMALL = "anthropic/claude-sonnet-4-5", "openai/text-embedding-3-small"
CHAT, STREAM = answers.chat(DATED, USAGE), answers.chat_stream(DATED, USAGE)
UNIFIED, OPENAI = "/gateway/mlflow/v1/chat/completions", "/gateway/openai/v1/chat/completions"
RESPONSES, ANTHROPIC = "/gateway/openai/v1/responses", "/gateway/anthropic/v1/messages"
TYPES = {
    UNIFIED: ("openai_chat", "unified/chat"),
    OPENAI: ("openai_chat", "passthrough/model/openai-chat"),
    RESPONSES: ("openai_responses", "passthrough/model/openai-responses"),
    ANTHROPIC: ("anthropic_messages", "passthrough/model/anthropic-messages"),
}
ASKED = {"messages": MESSAGES}
STREAMED = ASKED | {"stream": True}
CLAUDES = {"max_tokens": 9} | ASKED


def case(
    path: str, endpoint: str, body: dict[str, Any], answer: Any, *attempts: str, usage: Usage | None = USAGE
) -> Case:
    return Case(path, endpoint, body, answer, *TYPES[path], attempts, usage, fails=usage is None)


CASES = {
    "unified": case(UNIFIED, "stock-openai", ASKED | {"temperature": 0.5}, plain(CHAT), MINI),
    "unified stream": case(UNIFIED, "stock-openai", STREAMED, plain(STREAM), MINI),
    "unified, by path": Case(
        "/gateway/stock-openai/mlflow/invocations", "", ASKED, plain(CHAT), *TYPES[UNIFIED], (MINI,), USAGE
    ),
    "unified embeddings": Case(
        "/gateway/stock-embeddings/mlflow/invocations", "", {"input": "text"},
        plain(answers.embeddings("text-embedding-3-small", EMBEDDED)),
        "openai_embeddings", "unified/embeddings", (SMALL,), EMBEDDED,
    ),
    "unified, Anthropic": case(
        UNIFIED, "stock-anthropic", CLAUDES, plain(answers.messages("claude-sonnet-4-5", WRITTEN)), CLAUDE, usage=WRITTEN
    ),
    "openai": case(OPENAI, "stock-openai", ASKED, plain(CHAT), MINI),
    "openai stream": case(OPENAI, "stock-openai", STREAMED, plain(STREAM), MINI),
    "responses": case(RESPONSES, "stock-openai", {"input": "hi"}, plain(answers.responses("gpt-4o-mini", USAGE)), MINI),
    "responses stream": case(
        RESPONSES, "stock-openai", {"input": "hi", "stream": True},
        plain(answers.responses_stream("gpt-4o-mini", USAGE)), MINI,
    ),
    "embeddings": Case(
        "/gateway/openai/v1/embeddings", "stock-embeddings", {"input": "hi"},
        plain(answers.embeddings("text-embedding-3-small", EMBEDDED)),
        "openai_embeddings", "passthrough/model/openai-embeddings", (SMALL,), EMBEDDED,
    ),
    "messages": case(
        ANTHROPIC, "stock-anthropic", CLAUDES,
        plain(answers.messages("claude-sonnet-4-5", WRITTEN)), CLAUDE, usage=WRITTEN,
    ),
    "messages stream": case(
        ANTHROPIC, "stock-anthropic", CLAUDES | {"stream": True},
        plain(answers.messages_stream("claude-sonnet-4-5", WRITTEN)), CLAUDE, usage=WRITTEN,
    ),
    "fallback": case(UNIFIED, "stock-fallback", ASKED, second(CHAT), "openai/gpt-4o", MINI),
    "fallback, stream": case(UNIFIED, "stock-fallback", STREAMED, second(STREAM), "openai/gpt-4o", MINI),
    "fallback, openai": case(OPENAI, "stock-fallback", ASKED, second(CHAT), "openai/gpt-4o", MINI),
    "error": case(UNIFIED, "stock-openai", ASKED, lambda _: BUSY, MINI, usage=None),
    "error, openai": case(OPENAI, "stock-openai", ASKED, lambda _: BUSY, MINI, usage=None),
}  # fmt: skip

ERROR = {"type": "HTTPException", "message": "503: busy"}


def record_of(case: Case, call_id: str, endpoint: tuple[str, str], name: str, answer: Any) -> dict[str, Any]:
    """What the gateway puts into the outbox for the call."""
    from paddock_mlflow.pricing import Prices

    now = time.time_ns()
    provider, _, model = case.attempts[-1].partition("/")
    cost = Prices.of_environment().cost(provider, model, case.usage) if case.usage else None
    last = len(case.attempts) - 1
    streamed = case.body.get("stream", False)
    text = answer.text if answer is not None else "null"
    return {
        "v": 1,
        "call_id": call_id,
        "endpoint_id": endpoint[0],
        "endpoint_name": name,
        "experiment_id": endpoint[1],
        "protocol": case.protocol,
        "request_type": case.request_type,
        "username": "ada",
        "key_id": None,
        "run_id": None,
        "caller": "OpenAI",
        "server_url": "gateway.test",
        "start_ns": now,
        "end_ns": now + 5_000_000,
        "request": case.body,
        "response": None if streamed or case.fails else json.loads(text),
        "stream": text if streamed and not case.fails else None,
        "status": 503 if case.fails else 200,
        "error": ERROR if case.fails else None,
        "attempts": [
            {
                "provider": attempt.partition("/")[0],
                "model": attempt.partition("/")[2],
                "start_ns": now + 1_000_000 * order,
                "end_ns": now + 1_000_000 * (order + 1),
                "status": 503 if order < last or case.fails else 200,
                "error": ERROR if order < last or case.fails else None,
                "maybe_billed": False,
            }
            for order, attempt in enumerate(case.attempts)
        ],
        "usage": case.usage and vars(case.usage),
        "cost": cost and str(cost.total),
        "guardrails": [],
    }


def put(engine: Any, *records: dict[str, Any] | bytes) -> None:
    from paddock_mlflow.database import now, usage_outbox
    from paddock_mlflow.usage_spans import encode

    with engine.begin() as connection:
        for record in records:
            content = record if isinstance(record, bytes) else encode(record)
            row = {"experiment_id": "0", "record": content, "created_at": now()}
            connection.execute(usage_outbox.insert().values(**row))


# What MLflow writes of its own process, of sizes and of the order of its writes.
PROCESS = ("mlflow.source.", "mlflow.user", "mlflow.trace.size")
# What we leave out (see usage_spans.py) or add.
OURS = ("paddock.answered_by", "paddock.reason", "paddock.fallback", "gen_ai.usage.reasoning.output_tokens")
LEFT_OUT = ("mlflow.spanFunctionName",)


def comparable(trace: dict[str, Any]) -> dict[str, Any]:
    """A stored trace without ids and times, with values parsed."""
    spans = []
    for span in trace["spans"]:
        content = json.loads(span["content"])
        attributes = {
            key: json.loads(value)
            for key, value in content["attributes"].items()
            if key not in (*OURS, *LEFT_OUT, "mlflow.traceRequestId")
        }
        if span["parent_span_id"] is not None:
            attributes.pop("mlflow.spanInputs", None)
            attributes.pop("mlflow.spanOutputs", None)
        if isinstance(inputs := attributes.get("mlflow.spanInputs"), dict):
            # MLflow fills in n = 1, which nobody asked for.
            inputs.pop("n", None)
        if isinstance(usage := attributes.get("mlflow.chat.tokenUsage"), dict):
            usage.setdefault("output_tokens", 0)
        cost = attributes.pop("mlflow.llm.cost", None)
        spans.append(
            {
                "keys": sorted(content),
                "name": (span["name"], content["name"]),
                "type": span["type"],
                "status": (span["status"], content["status"]["code"]),
                "parent": content["parent_span_id"] is not None,
                "model": (span["model_name"], span["model_provider"]),
                "cost": rounded(span, "input_cost", "output_cost", "total_cost"),
                "cost in content": cost and rounded(cost, "input_cost", "output_cost", "total_cost"),
                "attributes": attributes,
                "exceptions": [
                    {key: value for key, value in event["attributes"].items() if "stacktrace" not in key}
                    for event in content["events"]
                    if event["name"] == "exception"
                ],
            }
        )
    metadata = {k: v for k, v in trace["metadata"].items() if not k.startswith(PROCESS) and k not in OURS}
    given = json.loads(metadata.pop("mlflow.traceInputs"))
    metadata["given"] = {key: value for key, value in given.items() if key != "n"}
    # Cut after so many characters, and MLflow's schemas order the keys otherwise.
    metadata.pop("mlflow.traceOutputs")
    columns = {
        key: value
        for key, value in trace.items()
        if key
        not in (
            "request_id",
            "timestamp_ms",
            "execution_time_ms",
            "db_payload_generation",
            "tags",
            "metadata",
            "spans",
        )
    }
    return columns | rounded(trace, "input_cost", "output_cost", "total_cost") | {
        "tags": {key: value.replace(trace["request_id"], "") for key, value in trace["tags"].items()},
        "metadata": metadata,
        "spans": spans,
    }  # fmt: skip


def rounded(row: Any, *keys: str) -> dict[str, Any]:
    return {key: None if row[key] is None else round(row[key], 10) for key in keys}


@pytest.fixture(scope="module")
def both_ways(stock: Stock) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Each case as MLflow wrote it, and as we do."""
    import mlflow

    from paddock_mlflow.usage_traces import UsageTraces

    found: dict[str, Any] = {}
    seen: set[str] = set()
    writer = UsageTraces(str(stock.server.store.engine.url))
    for name, made in CASES.items():
        endpoint = made.endpoint or made.path.split("/")[2]
        body = made.body | ({"model": made.endpoint} if made.endpoint else {})
        answer = stock.call(made.path, body, made.answer)
        assert (answer.status_code == 200) != made.fails, answer.text
        found[name] = (endpoint, answer)
    mlflow.flush_trace_async_logging()
    rows: dict[str, list[dict[str, Any]]] = {}
    for endpoint in stock.endpoints:
        rows[endpoint] = stock.rows(stock.endpoints[endpoint][1])
        seen |= {trace["request_id"] for trace in rows[endpoint]}
    compared = {}
    for number, (name, (endpoint, answer)) in enumerate(found.items()):
        record = record_of(CASES[name], f"{number:032x}", stock.endpoints[endpoint], endpoint, answer)
        put(stock.server.store.engine, record)
        compared[name] = rows[endpoint].pop(0)
    assert not any(rows.values())
    assert writer.tick() == len(CASES)
    assert writer.backlog().waiting == writer.backlog().set_aside == 0
    ours = {
        trace["request_id"]: trace
        for _, experiment in stock.endpoints.values()
        for trace in stock.rows(experiment)
        if trace["request_id"] not in seen
    }
    return {name: (compared[name], ours[f"tr-{number:032x}"]) for number, name in enumerate(found)}


@pytest.mark.parametrize("name", CASES)
def test_it_is_the_trace_that_mlflow_writes(
    both_ways: dict[str, tuple[dict[str, Any], dict[str, Any]]], name: str
) -> None:
    theirs, ours = map(comparable, both_ways[name])
    if name == "openai stream":
        # MLflow keeps the chunks' Python notation in place of the answer.
        assert theirs["response_preview"].startswith("[\"b'data:")
        assert ours["response_preview"] == answers.TEXT
        for trace in theirs, ours:
            for key in ("mlflow.spanOutputs", "mlflow.llm.model"):
                trace["spans"][0]["attributes"].pop(key, None)
            trace["spans"][0]["model"] = trace["response_preview"] = None
    assert ours == theirs


def test_the_answer_is_put_together(both_ways: dict[str, Any]) -> None:
    for name in ("unified stream", "openai stream", "responses stream", "messages stream"):
        content = json.loads(both_ways[name][1]["spans"][0]["content"])
        assert answers.TEXT in content["attributes"]["mlflow.spanOutputs"], name
        assert content["events"] == []


def test_it_says_which_model_answered_and_why(both_ways: dict[str, Any]) -> None:
    trace = both_ways["fallback"][1]
    attributes = json.loads(trace["spans"][0]["content"])["attributes"]
    assert json.loads(attributes["paddock.answered_by"]) == "openai/gpt-4o-mini"
    assert json.loads(attributes["paddock.reason"]) == "openai/gpt-4o failed: HTTPException: 503: busy"
    assert trace["metadata"]["paddock.fallback"] == "openai/gpt-4o failed: HTTPException: 503: busy"
    first = json.loads(both_ways["unified"][1]["spans"][0]["content"])["attributes"]
    assert json.loads(first["paddock.reason"]) == "first choice"


def test_mlflow_reads_and_finds_them(both_ways: dict[str, Any], stock: Stock) -> None:
    import mlflow

    _, experiment = stock.endpoints["stock-openai"]
    trace = mlflow.get_trace(both_ways["unified stream"][1]["request_id"])
    assert trace.data.response and answers.TEXT in trace.data.response
    assert trace.info.token_usage["cache_read_input_tokens"] == 600
    assert trace.info.cost["total_cost"] == pytest.approx(0.000285)
    for query in (
        "metadata.`mlflow.auth.username` = 'ada' AND status = 'ERROR'",
        "span.type = 'LLM' AND span.status = 'ERROR'",
        "span.attributes.method RLIKE '^chat$' AND status = 'ERROR'",
    ):
        found = stock.server.store.search_traces(locations=[experiment], filter_string=query)[0]
        ids = {info.trace_id for info in found}
        theirs, ours = (both_ways["error"][side]["request_id"] for side in (0, 1))
        assert {theirs, ours} <= ids, query


class Outbox:
    """A database of its own with an experiment, and what is in it."""

    def __init__(self, url: str) -> None:
        from sqlalchemy import text

        from paddock_mlflow.database import engine
        from paddock_mlflow.usage_traces import UsageTraces

        self.engine = engine(url)
        self.writer = UsageTraces(url)
        with self.engine.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage)"
                    " VALUES (77, 'gateway/x', 'mlflow-artifacts:/77', 'active') ON CONFLICT DO NOTHING"
                )
            )

    def record(self, call_id: str, **changed: Any) -> dict[str, Any]:
        case = CASES["unified" if "response" in changed else "error"]
        return record_of(case, call_id, ("e-1", "77"), "x", None) | changed

    def traces(self) -> list[dict[str, Any]]:
        return stored_traces(self.engine, "77")


@pytest.fixture(params=["sqlite", "postgresql"])
def outbox(request: pytest.FixtureRequest, server: Any) -> Outbox:
    # The server sets the environment that names the prices.
    url = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    box = Outbox(url)
    from sqlalchemy import text

    with box.engine.begin() as connection:
        for table in ("paddock_usage_outbox", "spans", "trace_request_metadata", "trace_tags", "trace_info"):
            connection.execute(text(f"DELETE FROM {table}"))
    return box


class TestOutbox:
    def test_a_refused_call_leaves_an_error(self, outbox: Outbox) -> None:
        error = {"type": "insufficient_quota", "message": "budget_exceeded: the budget of user ada is spent"}
        put(outbox.engine, outbox.record("refused", attempts=[], error=error, usage=None, status=429))
        assert outbox.writer.tick() == 1
        (trace,) = outbox.traces()
        assert trace["status"] == "ERROR"
        assert trace["total_cost"] is None
        assert trace["metadata"]["mlflow.auth.username"] == "ada"
        status = json.loads(trace["spans"][0]["content"])["status"]
        assert status["message"] == "insufficient_quota: budget_exceeded: the budget of user ada is spent"

    def test_a_broken_off_call_costs_what_the_ledger_charged(self, outbox: Outbox) -> None:
        from paddock_mlflow.database import calls, now

        row = {"started_at": now(), "ended_at": now(), "endpoint_id": "e-1", "endpoint_name": "x", "workspace": "default",
               "username": "ada", "reserved_usd": Decimal("0.5"), "cost_usd": Decimal("0.5"), "reserved_tokens": 1,
               "lease_until": now()}  # fmt: skip
        with outbox.engine.begin() as connection:
            connection.execute(calls.delete())
            connection.execute(calls.insert().values(call_id="abandoned", **row))
        put(outbox.engine, outbox.record("abandoned", cost=None, usage=None))
        assert outbox.writer.tick() == 1
        (trace,) = outbox.traces()
        assert trace["total_cost"] == pytest.approx(0.5, abs=1e-12)
        assert trace["spans"][-1]["total_cost"] == pytest.approx(0.5, abs=1e-12)

    def test_an_attempt_that_may_be_billed_has_its_share(self, outbox: Outbox) -> None:
        record = outbox.record("twice", response={"model": "m"})
        first = record["attempts"][0] | {"model": "gpt-4o", "error": ERROR, "maybe_billed": True}
        record |= {"attempts": [first, *record["attempts"]], "cost": "0.0102850000"}
        put(outbox.engine, record)
        outbox.writer.tick()
        (trace,) = outbox.traces()
        assert trace["total_cost"] == pytest.approx(0.010285, abs=1e-12)
        costs = {span["model_name"]: span["total_cost"] for span in trace["spans"] if span["parent_span_id"]}
        assert costs == {
            "gpt-4o": pytest.approx(0.01, abs=1e-12),
            "gpt-4o-mini": pytest.approx(0.000285, abs=1e-12),
        }

    def test_guardrails(self, outbox: Outbox) -> None:
        guardrail = {
            "name": "pii",
            "stage": "BEFORE",
            "action": "VALIDATION",
            "passed": False,
            "rationale": "a card",
        }
        error = {"type": "guardrail_violation", "message": "a card"}
        put(outbox.engine, outbox.record("guarded", attempts=[], error=error, guardrails=[guardrail]))
        outbox.writer.tick()
        (trace,) = outbox.traces()
        span = next(span for span in trace["spans"] if span["type"] == "GUARDRAIL")
        assert (span["name"], span["status"]) == ("guardrail/pii", "ERROR")
        assert '\\"rationale\\": \\"a card\\"' in span["content"]

    def test_bad_records_are_set_aside_and_block_nobody(
        self, outbox: Outbox, caplog: pytest.LogCaptureFixture
    ) -> None:
        from paddock_mlflow.usage_spans import encode

        good = [outbox.record(f"good-{number}") for number in range(3)]
        put(
            outbox.engine,
            good[0],
            b"no record",
            encode({"v": 99}),
            {key: value for key, value in outbox.record("headless").items() if key != "request"},
            good[1],
            outbox.record("homeless", experiment_id="123456"),
            outbox.record("x" * 300, endpoint_name="n" * 9000),
            good[2],
        )
        assert outbox.writer.tick() >= 3
        expected = {f"gateway/{record['endpoint_name']}" for record in good}
        assert expected <= {trace["trace_name"] for trace in outbox.traces()}
        backlog = outbox.writer.backlog()
        assert backlog.waiting == 0
        assert backlog.set_aside >= 4
        for reason in (
            "compressed JSON record",
            "version 1, found 99",
            "KeyError: 'request'",
            "experiment 123456",
        ):
            assert reason in caplog.text
        caplog.clear()
        assert outbox.writer.tick() == 0
        assert caplog.text == ""
        assert outbox.writer.recover() == backlog.set_aside
        assert outbox.writer.tick() == 0
        assert outbox.writer.backlog() == backlog

    def test_text_that_postgresql_refuses(self, outbox: Outbox) -> None:
        said = [{"role": "user", "content": "a\x00b"}]
        put(outbox.engine, outbox.record("nul", request={"messages": said}, caller="x\x00y"))
        assert outbox.writer.tick() == 1
        (trace,) = outbox.traces()
        assert trace["request_preview"] == "ab"

    def test_a_death_in_the_middle_loses_and_doubles_nothing(
        self, outbox: Outbox, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from paddock_mlflow import usage_traces

        put(outbox.engine, *(outbox.record(f"call-{number}") for number in range(5)))
        insert = usage_traces._insert

        def dying(connection: Any, table: Any, rows: Any) -> None:
            if table.name == "spans":
                raise KeyboardInterrupt
            insert(connection, table, rows)

        monkeypatch.setattr(usage_traces, "_insert", dying)
        with pytest.raises(KeyboardInterrupt):
            outbox.writer.tick()
        assert outbox.writer.backlog().waiting == 5
        assert outbox.traces() == []
        monkeypatch.undo()
        assert outbox.writer.tick() == 5
        assert len(outbox.traces()) == 5

    def test_the_same_call_twice_is_one_trace(self, outbox: Outbox) -> None:
        for _ in range(2):
            put(outbox.engine, outbox.record("same"), outbox.record("same"))
            outbox.writer.tick()
        (trace,) = outbox.traces()
        assert len(trace["spans"]) == 2
        assert outbox.writer.backlog().set_aside == 0

    def test_more_than_a_batch_and_two_writers(self, outbox: Outbox) -> None:
        from concurrent.futures import ThreadPoolExecutor

        from paddock_mlflow.usage_traces import UsageTraces

        put(outbox.engine, *(outbox.record(f"call-{number}") for number in range(250)))
        other = UsageTraces(outbox.engine.url.render_as_string(hide_password=False))
        with ThreadPoolExecutor(2) as pool:
            written = list(pool.map(lambda writer: writer.tick(), [outbox.writer, other]))
        assert sum(written) == 250
        assert len(outbox.traces()) == 250


def test_trace_ids() -> None:
    from paddock_mlflow.usage_spans import trace_id_of

    assert trace_id_of("0192F0C1-0000-7000-8000-0123456789ab") == "tr-0192f0c1000070008000" + "0123456789ab"
    assert trace_id_of("any text") == trace_id_of("any text") != trace_id_of("other text")
