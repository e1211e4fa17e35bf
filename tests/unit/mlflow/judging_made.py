"""Judging in a test: a database with judges and traces, and a gateway whose every answer the test decides."""

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENDPOINT = "judge"
SECONDS = 20.0
"""A judgment of a test takes a fraction of it."""


@dataclass(frozen=True)
class Reply:
    """A status, a body and headers; `hold` keeps it back until it is set."""

    body: dict[str, Any] | str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hold: threading.Event | None = None


def verdict(result: Any = "yes", rationale: str = "because") -> Reply:
    """A judge's answer in the protocol of chat completions."""
    return said(json.dumps({"result": result, "rationale": rationale}))


def said(text: str) -> Reply:
    """Any text as the judge's answer."""
    return Reply(
        {
            "id": "c-1",
            "object": "chat.completion",
            "created": 1,
            "model": "gpt-4o-mini",
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {"role": "assistant", "content": text},
                }
            ],
            "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
        },
        headers={"x-paddock-model": "openai/gpt-4o-mini"},
    )


def refused(status: int, code: str, message: str = "no", **headers: str) -> Reply:
    """An answer of the gateway's that is none of a model."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply({"error": {"message": message, "code": code}}, status, named)


@dataclass
class PlayedGateway:
    """`answer` gets the request's body."""

    url: str
    answer: Callable[[dict[str, Any]], Reply]
    requests: list[dict[str, Any]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    connections: int = 0


@contextmanager
def played_gateway() -> Iterator[PlayedGateway]:
    """Serve on a free port of the loopback address; says yes until told otherwise."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            gateway.connections += 1

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                gateway.requests.append(body)
                gateway.at_once += 1
                gateway.most_at_once = max(gateway.most_at_once, gateway.at_once)
            reply = gateway.answer(body)
            if reply.hold is not None:
                reply.hold.wait(SECONDS)
            content = (reply.body if isinstance(reply.body, str) else json.dumps(reply.body)).encode()
            with lock:
                gateway.at_once -= 1
            self.send_response(reply.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            # Who asked may have been killed.
            with suppress(ConnectionError):
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: what arrived is in `requests`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    gateway = PlayedGateway(f"http://127.0.0.1:{server.server_port}", lambda _: verdict())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield gateway
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def require_endpoint(engine: Any) -> None:
    """The judges' endpoint by its name alone, where no test has made it: what answers is played."""
    from mlflow.store.tracking.dbmodels.models import SqlGatewayEndpoint
    from sqlalchemy import insert, select

    with engine.begin() as connection:
        here = select(SqlGatewayEndpoint.name).where(SqlGatewayEndpoint.name == ENDPOINT)
        if connection.execute(here).first():
            return
        row = {"endpoint_id": "e-judge", "name": ENDPOINT, "created_at": 1, "last_updated_at": 1}
        connection.execute(insert(SqlGatewayEndpoint.__table__).values(workspace="default", **row))


class Bench:
    """A database in which a test judges."""

    def __init__(self, url: str) -> None:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        from paddock_mlflow.database import engine

        self.url = url
        self.store = SqlAlchemyStore(url, "mlflow-artifacts:/")
        self.engine = engine(url)
        require_endpoint(self.engine)

    def experiment(self) -> str:
        return str(self.store.create_experiment(f"judged-{secrets.token_hex(6)}"))

    def forget(self, experiment: str) -> None:
        """Let its judges rest, so that the next test's are alone."""
        from mlflow.store.tracking.dbmodels.models import SqlOnlineScoringConfig
        from sqlalchemy import delete

        from paddock_mlflow.database import judgments

        mine = SqlOnlineScoringConfig.experiment_id == int(experiment)
        with self.engine.begin() as connection:
            connection.execute(delete(SqlOnlineScoringConfig).where(mine))
            connection.execute(delete(judgments).where(judgments.c.experiment_id == experiment))

    def register(
        self, experiment: str, scorer: Any, rate: float = 1.0, filter_string: str | None = None
    ) -> None:
        """As the UI does: a rate of 0 leaves it to be asked."""
        self.store.register_scorer(experiment, scorer.name, json.dumps(scorer.model_dump()))
        if rate:
            self.store.upsert_online_scoring_config(experiment, scorer.name, rate, filter_string)

    def trace(
        self,
        experiment: str,
        *,
        root: bool = True,
        session: str | None = None,
        text: str = "done",
        ended_seconds_ago: float = 5.0,
        trace_id: str | None = None,
        tags: dict[str, str] | None = None,
    ) -> str:
        """A trace of one span, as OpenTelemetry brings it; without a root it is not ended."""
        from mlflow.entities.span import Span
        from opentelemetry.proto.trace.v1.trace_pb2 import Span as Proto

        ident = bytes.fromhex(trace_id.removeprefix("tr-")) if trace_id else secrets.token_bytes(16)
        end = int((time.time() - ended_seconds_ago) * 1e9)
        span = Proto(
            trace_id=ident,
            span_id=secrets.token_bytes(8),
            parent_span_id=b"" if root else secrets.token_bytes(8),
            name="conversation" if root else "step",
            start_time_unix_nano=end - 1_000_000_000,
            end_time_unix_nano=end,
        )
        attributes = {"mlflow.spanInputs": json.dumps("What?"), "mlflow.spanOutputs": json.dumps(text)}
        if session:
            attributes["session.id"] = session
        attributes |= {f"mlflow.traceTag.{key}": value for key, value in (tags or {}).items()}
        for key, value in attributes.items():
            span.attributes.add(key=key).value.string_value = value
        self.store.log_spans(experiment, [Span.from_otel_proto(span)])
        return f"tr-{ident.hex()}"

    def expect(self, trace_id: str, facts: list[str]) -> None:
        from mlflow.entities import AssessmentSource, Expectation

        self.store.create_assessment(
            Expectation(
                name="expected_facts",
                value=facts,
                trace_id=trace_id,
                source=AssessmentSource(source_type="HUMAN", source_id="ada"),
            )
        )

    def assessments(self, trace_id: str, *, valid: bool = True) -> list[Any]:
        """The feedbacks of a trace, by name."""
        found = [
            one
            for one in self.store.get_trace_info(trace_id).assessments
            if one.feedback is not None and (one.valid or not valid)
        ]
        return sorted(found, key=lambda one: (one.name, one.create_time_ms))

    def tag(self, trace_id: str) -> str | None:
        return self.store.get_trace_info(trace_id).tags.get("paddock.judges")

    def rows(self, experiment: str) -> dict[tuple[str, str], dict[str, Any]]:
        """The rows of an experiment by judge and subject."""
        from sqlalchemy import select

        from paddock_mlflow.database import judgments

        query = select(judgments).where(judgments.c.experiment_id == experiment)
        with self.engine.connect() as connection:
            return {(row.judge, row.subject): dict(row._mapping) for row in connection.execute(query)}

    def states(self, experiment: str) -> dict[tuple[str, str], str]:
        return {key: row["state"] for key, row in self.rows(experiment).items()}

    def change(self, experiment: str, **values: Any) -> None:
        """Change rows as time would."""
        from sqlalchemy import update

        from paddock_mlflow.database import judgments

        with self.engine.begin() as connection:
            connection.execute(
                update(judgments).where(judgments.c.experiment_id == experiment).values(**values)
            )


class Judging:
    """One process's judging, in threads of this one."""

    def __init__(self, bench: Bench, **given: Any) -> None:
        from mlflow.genai.judges.adapters import gateway_adapter

        from paddock_mlflow.judges import calls
        from paddock_mlflow.judges.admission import Admission
        from paddock_mlflow.judges.calls import Sender
        from paddock_mlflow.judges.work import Limits, Work
        from paddock_mlflow.pricing import Prices

        self.bench = bench
        # Other tests of this process ask judges as upstream does.
        self.adapter = gateway_adapter
        self.stock = vars(gateway_adapter)["send_chat_request"]
        self.stop = threading.Event()
        self.slept: list[float] = []

        def sleep(seconds: float) -> bool:
            self.slept.append(seconds)
            return self.stop.is_set()

        calls.install(
            Sender(
                given.pop("timeout_seconds", 5.0), Prices.of_environment(), given.pop("pause", 300.0), sleep
            )
        )
        self.admission = Admission(bench.store, bench.url, given.pop("idle", 0.5))
        self.limits = Limits(**{"parallelism": 4, "trace_bytes": 1_000_000, "lease_seconds": 5.0} | given)
        self.work = Work(bench.store, bench.url, self.limits, self.stop)

    def settle(self) -> None:
        """Admit and judge until nothing is due."""
        self.admission.tick()
        self.judge()

    def judge(self) -> None:
        deadline = time.monotonic() + SECONDS
        while self.work.tick() or not self.work.idle:
            assert time.monotonic() < deadline, "judging does not come to an end"
            time.sleep(0.01)

    def close(self) -> None:
        self.work.close()
        vars(self.adapter)["send_chat_request"] = self.stock
