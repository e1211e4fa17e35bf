"""Spans that the collector brings: whose they are, where they belong, and what is refused.

The collector acknowledged them long ago, so nobody is left who could mend a header and send again. What can be stored is
stored, a fault that may pass is 503 until it has passed, and what is refused stands in the logs of both and in the
collector's metrics.

Agents write what they like into their spans. What the collector knows of a batch (services/collector/source) it writes
over it, under `paddock.source.`, and it is believed from the collector's own key alone:

- the SHA-256 of the key that was presented names the run, its user and the experiments that it may write to. Spans
  without a key are the stack's own, as those of plain scripts in an agent's container are;
- a key is judged by the moment at which the spans came, not by the one at which they arrive here. A run's key counts for
  `LATE_SECONDS` after its end, because the last spans leave when it is revoked already;
- a trace belongs to the key that began it (`paddock_mlflow.trace_owners`).
"""

import hashlib
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from anyio import to_thread
from mlflow.exceptions import MlflowException
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from sqlalchemy import Connection, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.datastructures import Headers
from starlette.responses import Response

from paddock_mlflow import identity, keys, trace_owners
from paddock_mlflow.asgi import Answer, App, Disconnected, Receive, Scope, Send, read, replay
from paddock_mlflow.database import engine
from paddock_mlflow.database import keys as keys_table
from paddock_mlflow.ingest import (
    MAX_DECOMPRESSED_BYTES,
    PROTOBUF,
    TRACES_PATH,
    BadTraces,
    inflate,
    is_store_failure,
    media_type_of,
    parse,
    spans_failed,
    spans_of,
    unavailable,
)
from paddock_mlflow.sources import Source, Unnamed, source_of, strip
from paddock_mlflow.spans import plain

_logger = logging.getLogger(__name__)

LATE_SECONDS = 600
"""How long after its end a run's key still says whose spans are: an exporter's last attempts, and its delay."""

PATIENCE_SECONDS = 120
PATIENCE_ATTEMPTS = 8
"""After so many attempts and so long, spans that fail while the database answers are taken for the fault themselves."""

DISTRUST_SECONDS = 600
"""How long after that others of the same key are so taken at their first failure."""

_RUN_TAG = "mlflow.traceTag.paddock.run_id"
_REMEMBERED = 1000


@dataclass
class Part:
    """Spans of one key, for one experiment."""

    key: keys.Key
    experiment_id: str
    request: ExportTraceServiceRequest


@dataclass
class Sorted:
    """A body, by whose spans are in it: how many spans were `refused`, and why (each reason once), and `stored` parts."""

    parts: list[Part] = field(default_factory=list)
    stored: int = 0
    refused: int = 0
    reasons: list[str] = field(default_factory=list)

    def refuse(self, spans: int, reason: str) -> None:
        self.refused += spans
        if spans and reason not in self.reasons:
            self.reasons.append(reason)


class CollectorMiddleware:
    """POST /v1/traces with the collector's key: each part goes on in the name of the key that its sender presented.

    Stands outside MLflow's authentication, which a part then passes as its key's user. Other requests pass as they are.
    """

    def __init__(self, app: App, collector_key: str, database_url: str) -> None:
        self.app = app
        self._credentials = f"Bearer {collector_key}".encode() if collector_key else b""
        self._database = database_url
        self._patience = _Patience()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (
            scope["type"] != "http"
            or scope["path"] != TRACES_PATH
            or scope["method"] != "POST"
            or not self._is_collector(Headers(scope=scope))
        ):
            await self.app(scope, receive, send)
            return
        try:
            body = await read(receive)
        except Disconnected:
            return
        try:
            found = await to_thread.run_sync(self._sort, body, Headers(scope=scope))
        except BadTraces as error:
            _logger.error("spans from the collector are refused: %s", error)
            await _refused(error.status, str(error))(scope, receive, send)
            return
        except (DBAPIError, PoolTimeoutError, MlflowException):
            _logger.warning("the database does not answer", exc_info=True)
            await unavailable("the database does not answer")(scope, receive, send)
            return
        for part in found.parts:
            if not await self._store(part, found, scope, receive):
                await unavailable("the spans could not be stored")(scope, receive, send)
                return
        await _outcome(found)(scope, receive, send)

    def _is_collector(self, headers: Headers) -> bool:
        given = headers.get("authorization", "").encode()
        return bool(self._credentials) and hmac.compare_digest(given, self._credentials)

    def _sort(self, body: bytes, headers: Headers) -> Sorted:
        body = inflate(body, headers.get("content-encoding", ""), MAX_DECOMPRESSED_BYTES)
        request = parse(body, media_type_of(headers))
        with engine(self._database).begin() as connection:
            return sort(connection, request)

    async def _store(self, part: Part, found: Sorted, scope: Scope, receive: Receive) -> bool:
        """Pass a part on to MLflow; False where it is worth another attempt."""
        body = part.request.SerializeToString()
        forwarded = dict(scope)
        forwarded["headers"] = [
            (name, value) for name, value in scope["headers"] if name in (b"host", b"user-agent")
        ] + [
            (b"content-type", PROTOBUF.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"x-mlflow-experiment-id", part.experiment_id.encode()),
        ]
        answer = Answer()
        token = identity.VOUCHED.set(part.key)
        try:
            await self.app(forwarded, replay(body, receive), answer.take)
        finally:
            identity.VOUCHED.reset(token)
        if 200 <= answer.status < 300:
            found.stored += 1
            return True
        # MLflow's authentication takes a database that fails it for a stranger.
        if is_store_failure(answer) or answer.status in (401, 429):
            # That it answers is known by what `sort` has just written.
            if not spans_failed(answer) or not self._patience.is_over(part, body):
                return False
            reason = "they fail while the database answers"
        else:
            reason = f"MLflow refused them: {answer.status} {answer.text()[:300]}"
        found.refuse(
            _count(part.request), f"spans of {part.key.id} for experiment {part.experiment_id}: {reason}"
        )
        return True


def sort(connection: Connection, request: ExportTraceServiceRequest) -> Sorted:
    """Split a request by whose its spans are, take the collector's notes off, and refuse what belongs to somebody else.

    Changes `request`. Raises BadTraces where the notes are missing: the collector always writes them.
    """
    found = Sorted()
    groups: dict[Source, ExportTraceServiceRequest] = {}
    for resource_spans in request.resource_spans:
        try:
            source = source_of(resource_spans.resource)
        except Unnamed as error:
            raise BadTraces(
                f"expected the collector's notes of the sender on each resource, found none or damaged ones: {error};"
                " run a collector that was built from the same release"
            ) from None
        groups.setdefault(source, ExportTraceServiceRequest()).resource_spans.append(resource_spans)
    for source, spans in groups.items():
        strip(spans)
        named = _resolve(connection, source)
        if isinstance(named, str):
            found.refuse(_count(spans), f"{named}, from {source.address}")
            continue
        key, experiment_id = named
        _name_run(connection, spans, key)
        owned = trace_owners.claim(connection, _trace_ids(spans), key.id, experiment_id)
        kept = _keep(spans, lambda trace_id, owned=owned: trace_id in owned)
        found.refuse(
            _count(spans) - _count(kept),
            f"expected traces that the key {key.id} began in experiment {experiment_id}, found others' traces,"
            f" from {source.address}",
        )
        if _count(kept):
            found.parts.append(Part(key, experiment_id, kept))
    return found


def _resolve(connection: Connection, source: Source) -> tuple[keys.Key, str] | str:
    """The key and the experiment of a batch, or why there is none."""
    if source.key_sha256 is None:
        key = keys.by_id(connection, keys.STACK_KEY_ID)
        if key is None:
            raise MlflowException("the stack's own key is not registered yet")
    else:
        key = keys.find(connection, source.key_sha256)
    if key is None:
        return "expected spans with a key that this stack made, or with none, found an unknown key"
    if (ended := _ended(key)) is not None and source.received > ended:
        return f"expected a key that was valid when the spans came, found {key.id}, which ended at {ended:%F %T} UTC"
    claimed = source.experiment_id
    if not claimed and len(key.experiment_ids) == 1:
        claimed = key.experiment_ids[0]
    if claimed not in key.experiment_ids:
        return (
            f"expected an experiment that the key {key.id} may write to ({', '.join(key.experiment_ids) or 'none'}),"
            f" found {claimed[:100]!r}; mend x-mlflow-experiment-id in OTEL_EXPORTER_OTLP_HEADERS"
        )
    return key, claimed


def _ended(key: keys.Key) -> datetime | None:
    """When a key ceased to say whose spans are; None while it does not."""
    ends = [moment for moment in (key.revoked_at, key.expires_at) if moment is not None]
    if not ends:
        return None
    # Somebody who revokes another key means it now.
    return min(ends) + timedelta(seconds=LATE_SECONDS if key.run_id else 0)


def _name_run(connection: Connection, request: ExportTraceServiceRequest, key: keys.Key) -> None:
    """See to it that a trace names the run whose key it came with, and no run that has a key it did not come with."""
    for span in spans_of(request):
        tags = [item for item in span.attributes if item.key == _RUN_TAG]
        for item in tags:
            if key.run_id is not None:
                item.value.string_value = key.run_id
            elif _has_key(connection, str(plain(item.value))):
                item.key = f"{_RUN_TAG}.claimed"
        if key.run_id is not None and not tags and not span.parent_span_id:
            span.attributes.add(key=_RUN_TAG).value.string_value = key.run_id


def _has_key(connection: Connection, run_id: str) -> bool:
    # PostgreSQL refuses a text with NUL.
    run_id = run_id.replace("\x00", "")[:64]
    query = select(keys_table.c.id).where(keys_table.c.run_id == run_id).limit(1)
    return connection.execute(query).first() is not None


def _count(request: ExportTraceServiceRequest) -> int:
    return len(spans_of(request))


def _trace_ids(request: ExportTraceServiceRequest) -> set[str]:
    return {f"tr-{span.trace_id.hex()}" for span in spans_of(request)}


def _keep(request: ExportTraceServiceRequest, of_trace: Callable[[str], bool]) -> ExportTraceServiceRequest:
    """The request with the spans of some traces only; the same one where that is all of them."""
    if all(of_trace(trace_id) for trace_id in _trace_ids(request)):
        return request
    kept = ExportTraceServiceRequest()
    for resource_spans in request.resource_spans:
        scopes = [
            (scope, spans)
            for scope in resource_spans.scope_spans
            if (spans := [span for span in scope.spans if of_trace(f"tr-{span.trace_id.hex()}")])
        ]
        if not scopes:
            continue
        resource = kept.resource_spans.add(schema_url=resource_spans.schema_url)
        resource.resource.CopyFrom(resource_spans.resource)
        for scope, spans in scopes:
            copy = resource.scope_spans.add(schema_url=scope.schema_url)
            copy.scope.CopyFrom(scope.scope)
            copy.spans.extend(spans)
    return kept


def _refused(status: int, message: str) -> Response:
    """As OTLP answers errors: a google.rpc.Status, whose text the collector logs; a span's has it as field 2, too."""
    return Response(Status(message=message).SerializeToString(), status, media_type=PROTOBUF)


def _outcome(found: Sorted) -> Response:
    """The answer to the collector, which logs a refusal and counts what was refused whole."""
    if not found.refused:
        return Response(ExportTraceServiceResponse().SerializeToString(), 200, media_type=PROTOBUF)
    why = "; ".join(found.reasons)
    _logger.error("%d span(s) from the collector are refused: %s", found.refused, why)
    if not found.stored:
        return _refused(403, f"{found.refused} span(s) are refused: {why}")
    answer = ExportTraceServiceResponse()
    answer.partial_success.rejected_spans = found.refused
    answer.partial_success.error_message = why
    return Response(answer.SerializeToString(), 200, media_type=PROTOBUF)


class _Patience:
    """Tells spans that no attempt can store from a store that is away.

    The collector sends one request after the other, each without end. Spans that fail while the database answers would
    hold up all others for ever, and an agent can make such spans on purpose, again and again.
    """

    def __init__(self) -> None:
        self._failed: OrderedDict[bytes, tuple[float, int]] = OrderedDict()
        self._given_up: dict[str, float] = {}

    def is_over(self, part: Part, body: bytes) -> bool:
        """Count a failure; whether that was the last attempt."""
        name, now = hashlib.blake2b(body, digest_size=16).digest(), time.monotonic()
        began, attempts = self._failed.pop(name, (now, 0))
        distrusted = now - self._given_up.get(part.key.id, float("-inf")) < DISTRUST_SECONDS
        if distrusted or (attempts + 1 >= PATIENCE_ATTEMPTS and now - began >= PATIENCE_SECONDS):
            self._given_up = {
                key: moment for key, moment in self._given_up.items() if now - moment < DISTRUST_SECONDS
            } | {part.key.id: now}
            return True
        self._failed[name] = (began, attempts + 1)
        if len(self._failed) > _REMEMBERED:
            self._failed.popitem(last=False)
        return False
