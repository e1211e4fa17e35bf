"""The way of traces into MLflow: POST /v1/traces, in front of MLflow's own handler.

Gaps closed here, all seen with MLflow 3.17.2 (mlflow/server/otel_api.py):

- Traces of OpenHands lose half of what MLflow could show; see `paddock_mlflow.translate`.
- A compressed body is inflated without a bound.
- A failure of the store is answered by 422 or 400, upon which exporters drop their spans: only 429, 502, 503 and 504 are
  retried (OTLP specification, "Retryable Response Codes"). Here it is 503 with Retry-After.
- Bodies have no limit of size.
- Spans for a trace of somebody else are added to it; see `paddock_mlflow.trace_owners`.

Both classes are plain ASGI: Starlette's BaseHTTPMiddleware costs a task and a queue a request.
"""

import logging
import re
import zlib

from anyio import to_thread
from google.protobuf.json_format import Error as JsonFormatError
from google.protobuf.json_format import Parse
from google.protobuf.message import DecodeError
from mlflow.exceptions import MlflowException
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

from paddock_mlflow import identity, trace_owners
from paddock_mlflow.asgi import Answer, App, Disconnected, Receive, Scope, Send, TooLong, read, replay
from paddock_mlflow.database import engine
from paddock_mlflow.gateway import errors, routes
from paddock_mlflow.settings import load
from paddock_mlflow.sources import strip
from paddock_mlflow.translate import EarlierSpans, PriceOf, translate

_logger = logging.getLogger(__name__)

TRACES_PATH = "/v1/traces"
MAX_DECOMPRESSED_BYTES = 64 * 1024 * 1024
RETRY_AFTER_SECONDS = 5

PROTOBUF = "application/x-protobuf"

_PIECE_BYTES = 1024 * 1024
_JSON = "application/json"
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
_STORE_FAILURE = "Failed to log OpenTelemetry spans"
_DATABASE_FAILURE = re.compile(r"https://sqlalche\.me/e/\d+/(e3q8|3o7r|rvf5)\b")
"""https://docs.sqlalchemy.org/errors.html: operational errors (a lost connection, a full disk, a shutdown), an exhausted
pool, errors of the interface."""
_DATABASE_AWAY = "the database does not answer"
_SPANS_FAILED = "the spans could not be stored"
_DATA_FAILURE = re.compile(
    r"https://sqlalche\.me/e/\d+/9h9h\b|A string literal cannot contain NUL \(0x00\) characters"
)
"""Stands in the text of a failure that is the spans' own: a value that the database can't hold, as a time after the year
2262, or psycopg2's words for a text with NUL. No later attempt can succeed."""
_SQLALCHEMY_FAILURE = "https://sqlalche.me/e/"
"""Stands in the text of each SQLAlchemy error; MLflow answers 400 with it for an exhausted pool or a lost connection."""


class BadTraces(Exception):
    """The body is no trace request; the text says what was expected and found, `status` is the HTTP status to answer."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class BodyLimitMiddleware:
    """Refuses bodies over a limit with 413, on the paths that agents may post to.

    Artifact uploads have other paths and no limit: they are files, and are streamed.
    """

    def __init__(
        self, app: App, max_body_bytes: int, paths: tuple[str, ...] = (TRACES_PATH, "/gateway/")
    ) -> None:
        self.app = app
        self._max_bytes = max_body_bytes
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(self._paths):
            await self.app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length")
        if announced is not None and announced.isdecimal():
            # The HTTP server holds the client to the length that it announced.
            if int(announced) > self._max_bytes:
                await self._refuse(scope, receive, send, f"{int(announced)} bytes")
                return
        elif Headers(scope=scope).get("transfer-encoding"):
            try:
                body = await read(receive, self._max_bytes)
            except TooLong:
                await self._refuse(scope, receive, send, "more")
                return
            except Disconnected:
                return
            receive = replay(body, receive)
        await self.app(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, found: str) -> None:
        limit = f"expected a body of at most {self._max_bytes} bytes, found {found}"
        # The rest of the body stays unread, so the connection can't be used again.
        close = {"connection": "close"}
        if scope["path"] == TRACES_PATH:
            remedy = "send fewer spans in a batch (OTEL_BSP_MAX_EXPORT_BATCH_SIZE)"
            answer = answer_of(413, f"{limit}; {remedy}, or raise MAX_TRACE_BODY_BYTES at the server", close)
        else:
            match = routes.match(scope["path"])
            message = f"{limit}; send a shorter prompt, or raise MAX_TRACE_BODY_BYTES at the server"
            body = errors.error_object(
                match.route.protocol if match else "openai_chat", 413, "request_too_large", message
            )
            answer = JSONResponse(body, 413, close)
        await answer(scope, receive, send)


class IngestMiddleware:
    """Reads, checks and translates traces before MLflow stores them.

    Stands inside MLflow's authentication. `earlier` and `price_of` default to MLflow's database and the gateway's prices.
    """

    def __init__(
        self,
        app: App,
        earlier: EarlierSpans | None = None,
        price_of: PriceOf | None = None,
        max_decompressed_bytes: int = MAX_DECOMPRESSED_BYTES,
    ) -> None:
        if earlier is None or price_of is None:
            from paddock_mlflow.costs import GatewayCosts
            from paddock_mlflow.stored_spans import earlier_spans

            earlier = earlier or earlier_spans
            price_of = price_of or GatewayCosts().price_of
        self.app = app
        self._earlier = earlier
        self._price_of = price_of
        self._max_bytes = max_decompressed_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != TRACES_PATH:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            body = await read(receive)
            body, media_type = await to_thread.run_sync(self._prepare, body, headers)
        except Disconnected:
            return
        except BadTraces as error:
            await answer_of(error.status, str(error))(scope, receive, send)
            return
        except (MlflowException, DBAPIError, PoolTimeoutError):
            _logger.warning("the database does not answer", exc_info=True)
            await unavailable(_DATABASE_AWAY)(scope, receive, send)
            return
        forwarded = dict(scope)
        forwarded["headers"] = list(scope["headers"])
        changed = MutableHeaders(scope=forwarded)
        for name in ("content-encoding", "transfer-encoding"):
            del changed[name]
        changed["content-length"] = str(len(body))
        changed["content-type"] = media_type
        answer = Answer()
        await self.app(forwarded, replay(body, receive), answer.take)
        if is_store_failure(answer):
            _logger.warning("the store refused spans: %s %s", answer.status, answer.text()[:500])
            reason = _DATABASE_AWAY if _DATABASE_FAILURE.search(answer.text()) else _SPANS_FAILED
            await unavailable(reason)(scope, receive, send)
            return
        for message in answer.messages:
            await send(message)

    def _prepare(self, body: bytes, headers: Headers) -> tuple[bytes, str]:
        """The body to store, and its media type. What needs no translation stays as it was sent, but inflated."""
        media_type = media_type_of(headers)
        body = inflate(body, headers.get("content-encoding", ""), self._max_bytes)
        request = parse(body, media_type)
        changed = strip(request)
        _require_own_traces(request, headers)
        try:
            changed = translate(request, self._earlier, self._price_of) or changed
        except MlflowException:
            raise
        except Exception:
            # A trace as it was sent is better than none.
            _logger.warning("spans are stored untranslated", exc_info=True)
        return (request.SerializeToString(), PROTOBUF) if changed else (body, media_type)


def _require_own_traces(request: ExportTraceServiceRequest, headers: Headers) -> None:
    """Refuse what a key sends for traces of others; people, and what the collector brings, are asked elsewhere."""
    key = identity.KEY.get()
    if key is None or identity.VOUCHED.get() is not None:
        return
    experiment_id = headers.get("x-mlflow-experiment-id", "")
    trace_ids = {f"tr-{span.trace_id.hex()}" for span in spans_of(request)}
    with engine(load().tracking_database).begin() as connection:
        foreign = trace_ids - trace_owners.claim(connection, trace_ids, key.id, experiment_id)
    if foreign:
        raise BadTraces(
            f"expected traces that the key {key.id} began in experiment {experiment_id}, found {min(foreign)}, which is"
            " another's; send spans of one trace with one key",
            403,
        )


def inflate(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """The body without its Content-Encoding, never more than `max_bytes` of it.

    Raises:
        BadTraces: it is of another encoding, damaged, cut short, or too large.
    """
    match encoding.strip().lower():
        case "" | "identity":
            return body
        case "gzip" | "deflate" as name:
            pass
        case other:
            raise BadTraces(f"expected Content-Encoding gzip, deflate or none, found {other}")
    try:
        return _inflate(body, _WINDOW_BITS[name], max_bytes)
    except zlib.error as error:
        if name == "deflate":
            # Some clients send it without its zlib frame; MLflow accepts both.
            try:
                return _inflate(body, -zlib.MAX_WBITS, max_bytes)
            except zlib.error:
                pass
        raise BadTraces(f"expected a body compressed by {name}, found damaged data: {error}") from None


def _inflate(body: bytes, window_bits: int, max_bytes: int) -> bytes:
    inflated = bytearray()
    rest = body
    # gzip allows several members, one after the other.
    while True:
        stream = zlib.decompressobj(window_bits)
        # By pieces: the memory of a bomb is bounded, and that of an honest body is not taken twice.
        while not stream.eof:
            piece = stream.decompress(rest, _PIECE_BYTES)
            rest = stream.unconsumed_tail
            inflated += piece
            if len(inflated) > max_bytes:
                raise BadTraces(
                    f"expected at most {max_bytes} bytes of spans, found more after decompression", 413
                )
            if not piece and not rest and not stream.eof:
                raise zlib.error("the data ends too early")
        rest = stream.unused_data
        if not rest or window_bits < _WINDOW_BITS["gzip"]:
            return bytes(inflated)


def parse(body: bytes, media_type: str) -> ExportTraceServiceRequest:
    """An OTLP request of protobuf or JSON.

    Raises:
        BadTraces: the body is neither, or holds no spans.
    """
    request = ExportTraceServiceRequest()
    try:
        if media_type == _JSON:
            from mlflow.server.otel_api import _convert_otlp_json_ids_to_base64

            Parse(_convert_otlp_json_ids_to_base64(body), request, ignore_unknown_fields=True)
        elif media_type == PROTOBUF:
            request.ParseFromString(body)
        else:
            raise BadTraces(f"expected Content-Type {PROTOBUF} or {_JSON}, found {media_type or 'none'}")
    except (DecodeError, JsonFormatError, ValueError, AttributeError, TypeError, RecursionError) as error:
        detail = str(error).partition("\n")[0][:200]
        raise BadTraces(
            f"expected an OTLP ExportTraceServiceRequest, found a body that is none: {detail}"
        ) from None
    spans = spans_of(request)
    if not request.resource_spans:
        raise BadTraces("expected an OTLP ExportTraceServiceRequest with spans, found none")
    for span in spans:
        if len(span.trace_id) != 16 or len(span.span_id) != 8:
            raise BadTraces(
                "expected a trace id of 16 bytes and a span id of 8 on each span,"
                f" found {len(span.trace_id)} and {len(span.span_id)} on {span.name[:100]!r}"
            )
    return request


def spans_of(request: ExportTraceServiceRequest) -> list[Span]:
    """All spans of a request."""
    return [
        span for resource in request.resource_spans for scope in resource.scope_spans for span in scope.spans
    ]


def media_type_of(headers: Headers) -> str:
    """The content type, without its parameters."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def is_store_failure(answer: Answer) -> bool:
    """Whether a later attempt may succeed: the store failed, rather than refused what it was given."""
    if answer.status == 501:
        return False
    text = answer.text()
    if answer.status in (400, 500) and _DATA_FAILURE.search(text):
        return False
    return (
        answer.status >= 500
        or (answer.status == 422 and _STORE_FAILURE in text)
        or (answer.status == 400 and _SQLALCHEMY_FAILURE in text)
    )


def spans_failed(answer: Answer) -> bool:
    """Whether an answer to be tried again, `IngestMiddleware`'s, is about the spans rather than the database."""
    return answer.status == 503 and _SPANS_FAILED in answer.text()


def answer_of(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """An answer in MLflow's form."""
    code = "TEMPORARILY_UNAVAILABLE" if status == 503 else "INVALID_PARAMETER_VALUE"
    return JSONResponse({"error_code": code, "message": message}, status, headers)


def unavailable(reason: str) -> JSONResponse:
    """An answer upon which exporters send again."""
    return answer_of(503, f"{reason}; try again", {"retry-after": str(RETRY_AFTER_SECONDS)})
