"""One model call from its request to its settlement.

    body → endpoint → admission (ledger) → guardrails → attempts → guardrails → answer → settlement (ledger)

A call is admitted before guardrails look at it: what strangers send, or callers beyond their rates, costs no judge.
The answer goes out before the settlement is written: it is settled in any case, and nobody waits for the database.
"""

import asyncio
import logging
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import orjson
from fastapi import HTTPException
from mlflow.gateway.exceptions import AIGatewayException
from mlflow.gateway.providers.base import PassthroughAction
from mlflow.server import gateway_api
from starlette.types import Receive, Scope, Send

from paddock_mlflow.gateway import bounds, errors, lean, provider_calls, records, replies, routes, unified
from paddock_mlflow.gateway.attempts import AttemptFailed, Request, Streamed, Whole, as_json, of_connection
from paddock_mlflow.gateway.call import Call
from paddock_mlflow.gateway.callers import Callers
from paddock_mlflow.gateway.clients import ClientGone, Watch, read_body
from paddock_mlflow.gateway.connections import Connections, call_seconds
from paddock_mlflow.gateway.endpoints import Endpoint, Endpoints, Model
from paddock_mlflow.gateway.errors import GatewayError
from paddock_mlflow.gateway.hooks import GuardrailStop
from paddock_mlflow.gateway.records import Attempted
from paddock_mlflow.gateway.routes import Kind, Match
from paddock_mlflow.guardrails import streams
from paddock_mlflow.ledger import LedgerUnavailable
from paddock_mlflow.ledger.types import (
    Admission,
    Admitted,
    Credential,
    KeyCredential,
    Ledger,
    Outcome,
    Reason,
    Refused,
    Settlement,
    StaleConfiguration,
    Usage,
)
from paddock_mlflow.pricing import Prices

_logger = logging.getLogger(__name__)

LEASE_MARGIN_SECONDS = 5.0
"""Beyond the longest that its attempts may take, a call is taken for dead and charged its bound. One that lives on all
the same, behind a slow guardrail, is charged rightly by its late settlement."""

_MAX_RELOADS = 4


class Calls:
    """Serves the calls of one worker."""

    def __init__(
        self,
        ledger: Ledger,
        endpoints: Endpoints,
        connections: Connections,
        prices: Prices,
        callers: Callers,
    ) -> None:
        self._ledger = ledger
        self._endpoints = endpoints
        self._connections = connections
        self._prices = prices
        self._callers = callers

    async def serve(self, match: Match, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request on an invocation route (ASGI)."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        call = Call(match.route, headers, match.rest, time.perf_counter(), time.time_ns())
        try:
            await self._serve(call, match, scope, receive, send)
        except ClientGone:
            return
        except GatewayError as error:
            await replies.refuse(call, error, send)
        except LedgerUnavailable:
            _logger.warning("the ledger does not answer", exc_info=True)
            await replies.refuse(call, errors.ledger_away(), send)
        except Exception:
            if call.begun:
                raise
            _logger.exception("call %s failed", call.id)
            message = f"the gateway failed on this call, through no fault of its caller; its log knows it as {call.id}"
            await replies.refuse(call, GatewayError(500, "internal_error", message), send)

    async def _serve(self, call: Call, match: Match, scope: Scope, receive: Receive, send: Send) -> None:
        credential = await self._callers.identify(call.headers, scope["path"])
        raw = await read_body(receive)
        try:
            raw = await self._parse(call, raw)
            name = self._name(call, match)
            endpoint = await self._endpoints.get(name)
            if endpoint is None:
                raise errors.unknown_endpoint()
        except GatewayError:
            await self._callers.require_known(credential)
            raise
        await self._callers.require_use(credential, name)
        if query := scope.get("query_string"):
            call.rest = f"{call.rest}?{query.decode('latin-1')}" if call.rest else ""
        await self._admit(call, credential, name, endpoint, raw)
        # From here on the call is settled, whatever happens.
        try:
            await self._admitted(call, credential, receive, send)
        except BaseException:
            if not call.settled:
                await asyncio.shield(self._settle(call, Outcome.ERROR, 500, None, None))
            raise

    async def _parse(self, call: Call, raw: bytes) -> bytes:
        """Read the body; returns it as plain JSON."""
        if call.headers.get("content-encoding", "").lower() == "zstd":
            try:
                raw = await asyncio.to_thread(gateway_api._decompress_zstd, raw)
            except HTTPException as error:
                kind = "request_too_large" if error.status_code == 413 else "invalid_request_error"
                raise GatewayError(error.status_code, kind, str(error.detail)) from error
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise GatewayError(400, "invalid_request_error", f"Invalid JSON payload: {error!s}") from None
        if not isinstance(body, dict):
            raise GatewayError(
                400,
                "invalid_request_error",
                f"Invalid JSON payload: expected an object, found {type(body).__name__}",
            )
        call.body = body
        if b"\\u" not in raw:
            return raw
        try:
            # Escapes would hide from the bound what it looks for.
            return as_json(body)
        except AttemptFailed as failure:
            raise GatewayError(failure.status, failure.kind, failure.message) from failure

    def _name(self, call: Call, match: Match) -> str:
        """The endpoint's name; settles which of the unified routes it is, and whether it streams."""
        route, body = call.route, call.body
        name = match.endpoint
        if name is None:
            name = body.get("model")
            if not name or not isinstance(name, str):
                raise GatewayError(
                    400,
                    "invalid_request_error",
                    "Missing required 'model' parameter in request body: expected an endpoint's name",
                )
        elif route.kind is Kind.UNIFIED_CHAT and "messages" not in body:
            if "input" not in body:
                raise GatewayError(
                    400,
                    "invalid_request_error",
                    "Invalid request: payload format must be either chat or embeddings",
                )
            route = call.route = routes.UNIFIED_EMBEDDINGS
        if (
            match.endpoint is not None
            and route.kind in (Kind.UNIFIED_CHAT, Kind.UNIFIED_EMBEDDINGS)
            and body.get("model") is not None
        ):
            raise GatewayError(
                422,
                "invalid_request_error",
                "The parameter 'model' is not permitted to be passed. The route being queried already defines a model"
                " instance.",
            )
        wants = bool(body.get("stream"))
        if wants and route.action in (
            PassthroughAction.OPENAI_RESPONSES_COMPACT,
            PassthroughAction.TYPESAFE_SYSTEM_ONE,
        ):
            raise GatewayError(400, "invalid_request_error", "stream=true is not supported on this route")
        call.stream = route.always_streams or (wants and not route.never_streams)
        return name

    async def _admit(
        self, call: Call, credential: Credential, name: str, endpoint: Endpoint, raw: bytes
    ) -> None:
        generates = call.route.protocol != "openai_embeddings"
        call.bound = bounds.of_body(raw, call.body, generates=generates)
        for _ in range(_MAX_RELOADS):
            call.endpoint = endpoint
            admission = self._admission(call, credential, endpoint)
            answer = await self._ledger.admit(admission)
            match answer:
                case Admitted():
                    call.admitted, call.reserved = answer, admission.bound
                    return
                case Refused():
                    await self._note(call, credential, answer, admission)
                    raise errors.refusal(answer, admission)
                case StaleConfiguration():
                    reloaded = await self._endpoints.reload(name)
                    if reloaded is None:
                        await self._callers.require_known(credential)
                        raise errors.unknown_endpoint()
                    endpoint = reloaded
        raise GatewayError(
            503,
            "temporarily_unavailable",
            "expected the gateway's configuration to hold still for one call, found it changing all the time; try again",
            {"Retry-After": "1"},
        )

    def _admission(self, call: Call, credential: Credential, endpoint: Endpoint) -> Admission:
        assert call.bound is not None
        bound: Decimal | None = Decimal(0)
        tokens, unpriced = 0, ""
        for model in endpoint.models:
            name = self._model_name(call, model)
            cost = call.bound.cost(self._prices, model.provider, name)
            if cost is None:
                bound, unpriced = None, f"{model.provider}/{name}"
            elif bound is not None:
                bound = max(bound, cost)
            tokens = max(
                tokens, call.bound.input(name) + call.bound.output(self._prices, model.provider, name)
            )
        return Admission(
            call_id=call.id,
            credential=credential,
            endpoint_id=endpoint.id,
            endpoint_name=endpoint.name,
            tokens=tokens,
            bound=bound,
            lease_seconds=call_seconds() * (1 + len(endpoint.fallbacks)) + LEASE_MARGIN_SECONDS,
            config_version=endpoint.version,
            unpriced=unpriced,
        )

    def _model_name(self, call: Call, model: Model) -> str:
        # The raw proxy leaves the choice of the model to the caller.
        if call.route.kind is Kind.PROXY and isinstance(named := call.body.get("model"), str) and named:
            return named
        return model.name

    async def _admitted(self, call: Call, credential: Credential, receive: Receive, send: Send) -> None:
        try:
            request = await self._guarded_request(call)
            answer = await self._attempt(call, request)
            if isinstance(answer, Whole):
                await self._answer(call, answer, send)
            else:
                await self._stream(call, answer, receive, send)
        except GuardrailStop as stop:
            call.checks += stop.checks
            call.loggable = call.loggable or stop.loggable
            error = GatewayError(stop.status, stop.kind, str(stop), {"x-should-retry": "false"})
            await self._fail(call, error, send)
        except GatewayError as error:
            await self._fail(call, error, send)

    async def _fail(self, call: Call, error: GatewayError, send: Send) -> None:
        await asyncio.gather(
            self._settle(call, Outcome.ERROR, error.status, None, call.billed, error=error),
            replies.refuse(call, error, send),
        )

    async def _guarded_request(self, call: Call) -> Request:
        endpoint = call.endpoint
        assert endpoint is not None
        guards = call.guards
        if guards:
            guarded = await guards.before(call.route.protocol, call.body)
            call.checks += guarded.checks
            if guarded.changed:
                call.body = guarded.body
                await self._rebound(call)
            if call.stream and guards.after_needs_whole:
                call.held = True
        _check_system_one(call, endpoint)
        body, route = call.body, call.route
        if call.held:
            if route.kind is Kind.PROXY:
                raise GatewayError(
                    400,
                    "invalid_request_error",
                    "expected a request without a stream, since this endpoint's guardrails check whole answers, found one"
                    " on the raw proxy; ask for the answer in one piece",
                )
            body = streams.whole_request(body)
            if route.always_streams:
                route = routes.GEMINI_WHOLE
        match route.kind:
            case Kind.UNIFIED_CHAT:
                payload = unified.chat_payload({k: v for k, v in body.items() if k != "model"})
            case Kind.UNIFIED_EMBEDDINGS:
                payload = unified.embeddings_payload(body)
            case Kind.PROXY:
                payload = body
            case _:
                payload = {name: value for name, value in body.items() if name != "model"}
        return Request(
            route=route,
            headers=call.headers,
            body=body,
            payload=payload,
            stream=call.stream and not call.held,
            own_auth=call.has_own_auth,
            rest=call.rest,
        )

    async def _rebound(self, call: Call) -> None:
        """Reserve more where a guardrail made the request longer."""
        assert call.endpoint is not None
        call.bound = bounds.of_body(
            orjson.dumps(call.body), call.body, generates=call.route.protocol != "openai_embeddings"
        )
        now = self._admission(call, KeyCredential(b""), call.endpoint)
        if now.bound is not None and call.reserved is not None and now.bound > call.reserved:
            await self._extend(call, now.bound - call.reserved, now)

    async def _extend(self, call: Call, amount: Decimal, admission: Admission) -> None:
        refused = await self._ledger.extend(call.id, amount)
        if refused is not None:
            raise errors.refusal(refused, admission)
        if call.reserved is not None:
            call.reserved += amount

    async def _attempt(self, call: Call, request: Request) -> Whole | Streamed:
        """Ask the endpoint's models, one after the other."""
        endpoint = call.endpoint
        assert endpoint is not None
        plan = _able(endpoint.plan(), request)
        for number, model in enumerate(plan, 1):
            call.model = model
            attempted = Attempted(model.provider, self._model_name(call, model), time.time_ns())
            call.attempts.append(attempted)
            started = time.perf_counter()
            try:
                if lean.serves(request, model):
                    answer = await lean.attempt(self._connections, request, model)
                else:
                    self._connections.use_here()
                    answer = await provider_calls.attempt(request, model)
            except AttemptFailed as failure:
                call.provider_seconds += time.perf_counter() - started
                await self._failed(call, attempted, failure, last=number == len(plan))
                continue
            call.provider_seconds += time.perf_counter() - started
            attempted.end_ns = time.time_ns()
            return answer
        raise AssertionError("a plan without models")

    async def _failed(self, call: Call, attempted: Attempted, failure: AttemptFailed, *, last: bool) -> None:
        """Write an attempt down. Raises GatewayError where it was the last one."""
        model, endpoint = call.model, call.endpoint
        assert model is not None and endpoint is not None and call.bound is not None
        attempted.end_ns = time.time_ns()
        attempted.status = failure.status
        attempted.maybe_billed = failure.maybe_billed
        message = model.redact(failure.message)
        attempted.error = {"type": failure.kind, "message": message}
        level = logging.ERROR if failure.status in (401, 403) else logging.WARNING
        _logger.log(
            level,
            "endpoint %s: %s/%s answered %d (%s)%s",
            endpoint.name,
            attempted.provider,
            attempted.model,
            failure.status,
            message[:300],
            ": the gateway's own key is wrong" if level == logging.ERROR else "",
        )
        bound = None
        if failure.maybe_billed:
            bound = call.bound.cost(self._prices, model.provider, attempted.model)
            call.billed += bound or 0
        if last or not failure.again:
            raise _final(call, failure, message)
        if bound:
            await self._extend(call, bound, self._admission(call, KeyCredential(b""), endpoint))

    async def _answer(self, call: Call, answer: Whole, send: Send) -> None:
        """Send an answer in one piece, and settle."""
        body, content_type = answer.body, replies.JSON
        guards = call.guards
        cost = self._cost(call, answer.usage)
        if guards and guards.after_needs_whole:
            try:
                guarded = await guards.after(call.route.protocol, call.body, orjson.loads(body))
            except GuardrailStop as stop:
                call.checks += stop.checks
                error = GatewayError(stop.status, stop.kind, str(stop), {"x-should-retry": "false"})
                await asyncio.gather(
                    self._settle(
                        call,
                        Outcome.ERROR,
                        error.status,
                        answer.usage,
                        cost,
                        error=error,
                        response=orjson.dumps(stop.loggable),
                    ),
                    replies.refuse(call, error, send),
                )
                return
            call.checks += guarded.checks
            if guarded.changed:
                body = orjson.dumps(guarded.body)
        sent = body
        if call.held:
            sent = streams.as_stream(call.route.protocol, orjson.loads(body))
            content_type = b"text/event-stream; charset=utf-8"
        call.begun = True
        await send(
            replies.start(200, [*replies.headers_of(call), (b"content-type", content_type)], len(sent))
        )
        await send({"type": "http.response.body", "body": sent})
        if answer.usage is None:
            _no_usage(call)
        await self._settle(call, Outcome.OK, 200, answer.usage, cost, response=body)

    async def _stream(self, call: Call, answer: Streamed, receive: Receive, send: Send) -> None:
        """Pass a stream on until it ends, breaks, or the client leaves; and settle."""
        task = asyncio.current_task()
        assert task is not None and call.endpoint is not None
        watch = Watch(receive, task)
        kept: list[bytes] | None = [] if call.endpoint.experiment_id else None
        outcome, status, failure = Outcome.OK, 200, None
        try:
            watch.start()
            call.begun = True
            kind = answer.content_type.encode("latin-1")
            await send(
                replies.start(200, [*replies.headers_of(call, streaming=True), (b"content-type", kind)])
            )
            piece = answer.first
            while True:
                if kept is not None:
                    kept.append(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                try:
                    piece = await anext(answer.pieces)
                except StopAsyncIteration:
                    break
            watch.stop()
            await send({"type": "http.response.body", "body": b""})
        except asyncio.CancelledError:
            outcome, status = Outcome.ABANDONED, 499
            if not watch.gone:
                # The server is told to stop, and waited long enough.
                outcome, status = Outcome.ERROR, 503
                raise
            task.uncancel()
        except Exception as error:  # noqa: BLE001
            failure = self._broken(call, error)
            outcome, status = Outcome.ERROR, failure.status
            watch.stop()
            event = b"data: %b\n\n" % failure.render(call.route.protocol)
            if call.route.protocol == "anthropic_messages":
                event = b"event: error\n" + event
            await send({"type": "http.response.body", "body": event})
        finally:
            watch.stop()
            await asyncio.shield(self._end_stream(call, answer, outcome, status, failure, kept))

    async def _end_stream(
        self,
        call: Call,
        answer: Streamed,
        outcome: Outcome,
        status: int,
        failure: GatewayError | None,
        kept: list[bytes] | None,
    ) -> None:
        await answer.close()
        call.attempts[-1].end_ns = time.time_ns()
        usage = answer.usage.usage
        cost = None
        if answer.usage.complete and outcome is Outcome.OK:
            cost = self._cost(call, usage)
        elif outcome is Outcome.OK:
            _no_usage(call)
        if outcome is not Outcome.OK:
            last = call.attempts[-1]
            last.status, last.maybe_billed = status, True
            message = str(failure) if failure else "the client left before the end of the stream"
            last.error = {"type": "provider_error" if failure else "client_gone", "message": message}
            failure = failure or GatewayError(status, "client_gone", message)
        await self._settle(
            call, outcome, status, usage, cost, error=failure, stream=b"".join(kept) if kept else None
        )

    def _broken(self, call: Call, error: Exception) -> GatewayError:
        """What broke a stream off, for the client and the trace."""
        failed = error if isinstance(error, AttemptFailed) else of_connection(error)
        if failed is None:
            _logger.exception("a stream broke off", exc_info=error)
            failed = AttemptFailed(500, "provider_error", f"the stream broke off: {type(error).__name__}")
        message = call.model.redact(failed.message) if call.model else failed.message
        _logger.warning(
            "endpoint %s: a stream broke off: %s", call.endpoint.name if call.endpoint else "", message
        )
        return GatewayError(failed.status, failed.kind, message)

    def _cost(self, call: Call, usage: Usage | None) -> Decimal | None:
        """USD of the call, with what failed attempts may cost; None where nobody knows, which charges the bound."""
        if usage is None or call.model is None:
            return None
        cost = self._prices.cost(call.model.provider, self._model_name(call, call.model), usage)
        return cost.total + call.billed if cost is not None else None

    async def _settle(
        self,
        call: Call,
        outcome: Outcome,
        status: int,
        usage: Usage | None,
        cost: Decimal | None,
        *,
        error: GatewayError | None = None,
        response: bytes | None = None,
        stream: bytes | None = None,
    ) -> None:
        admitted, endpoint = call.admitted, call.endpoint
        if admitted is None or endpoint is None or call.settled:
            return
        # Once, whatever fails afterwards.
        call.settled = True
        record = None
        if endpoint.experiment_id:
            record = records.compressed(
                self._fields(
                    call, endpoint, admitted.username, admitted.key_id, admitted.run_id, status, error
                ),
                request=call.loggable or call.body,
                response=response,
                stream=stream,
                attempts=call.attempts,
                usage=usage,
                cost=f"{cost:f}" if cost is not None else None,
            )
        last = call.attempts[-1] if call.attempts else None
        try:
            await self._ledger.settle(
                Settlement(
                    call_id=call.id,
                    outcome=outcome,
                    cost=cost,
                    usage=usage or Usage(),
                    provider=last.provider if last else "",
                    model=last.model if last else "",
                    status=status,
                    attempts=len(call.attempts),
                    experiment_id=endpoint.experiment_id,
                    record=record,
                )
            )
        except LedgerUnavailable:
            _logger.exception("call %s could not be settled; it is charged its bound", call.id)

    def _fields(
        self,
        call: Call,
        endpoint: Endpoint,
        username: str,
        key_id: str | None,
        run_id: str | None,
        status: int,
        error: GatewayError | None,
    ) -> dict[str, Any]:
        return {
            "call_id": call.id,
            "endpoint_id": endpoint.id,
            "endpoint_name": endpoint.name,
            "experiment_id": endpoint.experiment_id,
            "protocol": call.route.protocol,
            "request_type": call.route.request_type,
            "username": username,
            "key_id": key_id,
            "run_id": run_id,
            "caller": call.caller,
            "server_url": call.headers.get("host", ""),
            "start_ns": call.start_ns,
            "end_ns": time.time_ns(),
            "status": status,
            "error": {"type": error.kind, "message": error.message} if error else None,
            "guardrails": [check.record() for check in call.checks],
        }

    async def _note(self, call: Call, credential: Credential, refused: Refused, admission: Admission) -> None:
        """Leave a trace of a call that its budget refused, as upstream does."""
        endpoint = call.endpoint
        if endpoint is None or not endpoint.experiment_id or refused.reason is not Reason.BUDGET_EXCEEDED:
            return
        error = errors.refusal(refused, admission)
        fields = self._fields(call, endpoint, refused.username, refused.key_id, None, error.status, error)
        # Nobody has looked for secrets in it yet.
        request = {} if endpoint.guards else call.body
        record = records.compressed(
            fields, request=request, response=None, stream=None, attempts=[], usage=None, cost="0"
        )
        await self._ledger.note(endpoint.experiment_id, record)


def _able(plan: tuple[Model, ...], request: Request) -> tuple[Model, ...]:
    """The models whose provider has the route at all.

    Raises:
        GatewayError: none has (400, in MLflow's own words).
    """
    action = request.route.action
    if action is None:
        return plan
    able = tuple(model for model in plan if action in model.chat.PASSTHROUGH_PROVIDER_PATHS)
    if not able:
        try:
            plan[0].chat._validate_passthrough_action(action)
        except AIGatewayException as error:
            raise GatewayError(error.status_code, "invalid_request_error", str(error.detail)) from error
    return able or plan


def _check_system_one(call: Call, endpoint: Endpoint) -> None:
    try:
        gateway_api._validate_system_one_endpoint(
            endpoint.config,
            system_one_route=call.route.action is PassthroughAction.TYPESAFE_SYSTEM_ONE,
        )
    except HTTPException as error:
        raise GatewayError(error.status_code, "invalid_request_error", str(error.detail)) from error


def _final(call: Call, failure: AttemptFailed, message: str) -> GatewayError:
    """What the client is told when no model answered."""
    headers = {"Retry-After": failure.retry_after} if failure.retry_after else {}
    if failure.status == 503 and not headers:
        headers["Retry-After"] = str(errors.RETRY_AFTER_SECONDS)
    body: Mapping[str, Any] | None = failure.body
    if failure.status in (401, 403):
        message, body = f"the provider refused the gateway's own key for this endpoint: {message}", None
    if len(call.attempts) > 1:
        message, body = f"all {len(call.attempts)} models failed; the last one: {message}", None
    return GatewayError(failure.status, failure.kind, message, headers, body)


def _no_usage(call: Call) -> None:
    _logger.warning(
        "endpoint %s: %s reported no usage; the call is charged its bound",
        call.endpoint.name if call.endpoint else "",
        call.model.provider if call.model else "the provider",
    )
