"""Requests to a declared service: looked at, given the credential, and passed on under TLS that is verified."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Sequence
from http import HTTPStatus
from typing import Any

import h11
import httpcore

from paddock_egress.errors import Refusal
from paddock_egress.log import Log
from paddock_egress.rules import Rule, rule_for
from paddock_egress.scrub import Scrubber
from paddock_egress.usage import Count

IDLE_SECONDS = 120
CONNECT_SECONDS = 10
ANSWER_SECONDS = 300
"""Between two pieces of an answer: an API may take its time."""
MAX_HEAD_BYTES = 64 * 1024
_CHUNK = 64 * 1024
_FAILURES = (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError)
_HOP_BY_HOP = frozenset(
    (
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    )
)  # fmt: skip
_OF_THE_AGENT = frozenset(
    (
        # Other credentials than the declared one.
        "authorization", "cookie",
        # Written anew.
        "accept-encoding", "content-length", "expect", "host",
        # By these some servers take a request for another one than the one that was compared.
        "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix", "x-forwarded-proto",
        "x-host", "x-http-method", "x-http-method-override", "x-method-override", "x-original-url", "x-rewrite-url",
    )
)  # fmt: skip
"""Dropped from requests."""


class Upstream:
    """One service's host, at an address that was checked."""

    def __init__(self, host: str, port: int, address: tuple[str, int], trusted: ssl.SSLContext) -> None:
        self.host = host
        self.authority = host if port == 443 else f"{host}:{port}"
        self._port = port
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=trusted,
            http1=True,
            http2=False,
            max_connections=1,
            network_backend=_Pinned(address),
        )

    async def send(
        self, method: str, target: str, headers: list[tuple[str, str]], body: AsyncIterator[bytes] | None
    ) -> httpcore.Response:
        """One request, under TLS whose certificate must be the host's. Raises httpcore's exceptions, OSError."""
        timeout = {
            "connect": CONNECT_SECONDS,
            "read": ANSWER_SECONDS,
            "write": IDLE_SECONDS,
            "pool": CONNECT_SECONDS,
        }
        request = httpcore.Request(
            method,
            httpcore.URL(
                scheme=b"https", host=self.host.encode(), port=self._port, target=target.encode("ascii")
            ),
            headers=[("host", self.authority), *headers],
            content=body,
            extensions={"timeout": timeout},
        )
        return await self._pool.handle_async_request(request)

    async def close(self) -> None:
        await self._pool.aclose()


class _Pinned(httpcore.AnyIOBackend):
    """Connects to the address that was checked, whatever name it is asked for."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address

    async def connect_tcp(
        self, host: str, port: int, *arguments: Any, **options: Any
    ) -> httpcore.AsyncNetworkStream:
        return await super().connect_tcp(*self._address, *arguments, **options)


class Exchange:
    """The requests of one connection, one after the other."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        rules: Sequence[Rule],
        upstream: Upstream,
        count: Count,
        log: Log,
        who: dict[str, str | int],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._rules = rules
        self._upstream = upstream
        self._count = count
        self._log = log
        self._who = who
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)

    async def run(self) -> None:
        """Serve until the agent closes, is refused, or is idle."""
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    event = await self._event()
            except TimeoutError:
                return
            if not isinstance(event, h11.Request):
                return
            try:
                await self._serve(event)
            except Refusal as refusal:
                await self._refuse(event, refusal)
                return
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def _serve(self, request: h11.Request) -> None:
        method, target = request.method.decode("ascii"), request.target.decode("ascii")
        given = [(name.decode("ascii").lower(), value.decode("latin-1")) for name, value in request.headers]
        rule = self._rule(method, target, given)
        headers = [(name, value) for name, value in given if name not in _dropped(given, rule)]
        # What is compressed can't be searched for the secret.
        headers.append(("accept-encoding", "identity"))
        if rule.header:
            headers.append((rule.header, rule.value))
        # A path or a header can carry things away as well as a body can.
        self._count.up(len(target) + sum(len(name) + len(value) for name, value in given))
        body = self._body_of(given, headers)
        if body is None:
            await self._event()
        try:
            answer = await self._upstream.send(method, target, headers, body)
        except _FAILURES as error:
            raise _unreachable(self._upstream.host, error) from None
        self._log.write(
            "request", **self._who, service=rule.name, method=method, path=target.partition("?")[0],
            status=answer.status,
        )  # fmt: skip
        try:
            await self._answer(method, answer, rule)
        except (h11.LocalProtocolError, *_FAILURES) as error:
            raise _unreachable(self._upstream.host, error) from None
        finally:
            await answer.aclose()

    def _rule(self, method: str, target: str, headers: list[tuple[str, str]]) -> Rule:
        hosts = [value.strip().lower() for name, value in headers if name == "host"]
        if hosts not in ([self._upstream.authority], [f"{self._upstream.host}:443"]):
            raise Refusal(
                "host-mismatch",
                f"a Host header of {self._upstream.authority}, as in CONNECT",
                ", ".join(hosts)[:120] or "none",
                "ask for another host by its own CONNECT",
            )
        if any(name == "upgrade" for name, _ in headers):
            raise Refusal(
                "upgrade",
                "plain requests to a declared service",
                "an upgrade",
                "WebSockets are not passed on",
            )
        return rule_for(self._rules, self._upstream.host, method, target)

    def _body_of(
        self, given: list[tuple[str, str]], headers: list[tuple[str, str]]
    ) -> AsyncIterator[bytes] | None:
        """The request's body, if any; adds the header that frames it."""
        length = next((value for name, value in given if name == "content-length"), None)
        chunked = any(name == "transfer-encoding" for name, _ in given)
        if chunked or (length is not None and length != "0"):
            # h11 has checked that the two don't contradict each other.
            headers.append(("transfer-encoding", "chunked") if chunked else ("content-length", str(length)))
            return self._body()
        if length is not None:
            headers.append(("content-length", "0"))
        return None

    async def _body(self) -> AsyncIterator[bytes]:
        if self._http.they_are_waiting_for_100_continue:
            await self._send(h11.InformationalResponse(status_code=100, headers=[]))
        while True:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    event = await self._event()
            except TimeoutError:
                event = h11.NEED_DATA
            if isinstance(event, h11.Data):
                data = bytes(event.data)
                self._count.up(len(data))
                yield data
            elif isinstance(event, h11.EndOfMessage):
                return
            else:
                raise Refusal("broken-off", "the rest of a body", "none", "try again", status=400)

    async def _answer(self, method: str, answer: httpcore.Response, rule: Rule) -> None:
        scrubber = Scrubber(rule.secrets)
        given = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in answer.headers]
        encoding = ",".join(value for name, value in given if name == "content-encoding").strip().lower()
        if rule.secrets and encoding not in ("", "identity") and method != "HEAD":
            raise Refusal(
                "encoded-answer",
                f"an answer of {self._upstream.host} that is not compressed",
                encoding,
                "the server ignores Accept-Encoding: identity, so its answer can't be searched for the secret",
                status=502,
            )
        # A cookie would be a credential that was made of the one that the agent must not hold.
        dropped = _HOP_BY_HOP | _named(given) | ({"set-cookie", rule.header} if rule.header else set())
        headers = [(name, scrubber.text(value)) for name, value in given if name not in dropped]
        if not any(name == "content-length" for name, _ in given) and not (
            method == "HEAD" or answer.status in (204, 304)
        ):
            headers.append(("transfer-encoding", "chunked"))
        if self._http.their_state is h11.SEND_BODY:
            # Answered before the end of its body, which nobody reads now.
            headers.append(("connection", "close"))
        await self._send(
            h11.Response(status_code=answer.status, headers=headers, reason=_reason(answer.status).encode())
        )
        async for data in answer.aiter_stream():
            self._count.down(len(data))
            if clean := scrubber.feed(data):
                await self._send(h11.Data(data=clean))
        if rest := scrubber.end():
            await self._send(h11.Data(data=rest))
        await self._send(h11.EndOfMessage())

    async def _refuse(self, request: h11.Request, refusal: Refusal) -> None:
        self._log.write(
            "refused", **self._who, reason=refusal.reason, method=request.method.decode("ascii", "replace"),
            path=request.target.decode("ascii", "replace").partition("?")[0],
        )  # fmt: skip
        if self._http.our_state not in (h11.SEND_RESPONSE, h11.IDLE):
            # In the middle of an answer only the end of the connection is left to say it.
            return
        content = body_of(refusal)
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(content))),
            ("connection", "close"),
        ]
        await self._send(
            h11.Response(status_code=refusal.status, headers=headers, reason=_reason(refusal.status).encode())
        )
        if request.method != b"HEAD":
            await self._send(h11.Data(data=content))
        await self._send(h11.EndOfMessage())

    async def _event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                raise Refusal(
                    "bad-request", "HTTP/1.1", str(error)[:120], "mend the client", status=400
                ) from None
            if event is not h11.NEED_DATA:
                return event
            self._http.receive_data(await self._reader.read(_CHUNK))

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)
            await self._writer.drain()


def body_of(refusal: Refusal) -> bytes:
    """A refusal as an answer's body: JSON, in one line."""
    return (json.dumps(refusal.as_json()) + "\n").encode()


def _dropped(headers: list[tuple[str, str]], rule: Rule) -> frozenset[str]:
    """The headers of a request that don't go on."""
    return _HOP_BY_HOP | _OF_THE_AGENT | _named(headers) | ({rule.header} if rule.header else set())


def _named(headers: list[tuple[str, str]]) -> set[str]:
    """The headers that a Connection header names: they end at the next hop."""
    values = [value for name, value in headers if name == "connection"]
    return {one.strip().lower() for one in ",".join(values).split(",") if one.strip()}


def _unreachable(host: str, error: Exception) -> Refusal:
    return Refusal(
        "unreachable",
        f"an answer of {host}",
        # Words of the library, which names addresses but no header.
        f"{type(error).__name__} ({str(error)[:160]})",
        "look whether it is up, and whether its certificate is one that CA_BUNDLE or the system trusts",
        status=502,
    )


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
