"""The proxy: takes CONNECT from agents, decides, and passes bytes on.

Every connection goes the same way: the request's form, the run by its key, the rules for the name, the name's addresses;
then either a tunnel, whose TLS is left alone but whose name in the ClientHello must be the one that was asked for, or the
exchange with a declared service. Whatever is not clearly allowed is refused, and written down with its run.
"""

import asyncio
import base64
import binascii
import contextlib
import hashlib
import ipaddress
import ssl
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import h11

from paddock_egress import addresses
from paddock_egress.authority import Authority
from paddock_egress.clienthello import ClientHello, NotTls
from paddock_egress.config import hosts
from paddock_egress.config.model import Configuration
from paddock_egress.errors import Refusal
from paddock_egress.intercept import Exchange, Upstream, body_of
from paddock_egress.log import Log
from paddock_egress.rules import Rule
from paddock_egress.runs import Run, Runs
from paddock_egress.usage import Count, Meter

PORT = 443
HEAD_SECONDS = 10
"""For the request, and again for the ClientHello."""
CONNECT_SECONDS = 10
IDLE_SECONDS = 600
WATCH_SECONDS = 2.0
OUTAGE_SECONDS = 60.0
"""How long an open connection outlives a MLflow that does not answer: a restart must not break a download."""
MAX_HEAD_BYTES = 16 * 1024
MAX_CONNECTIONS = 1024
MAX_OF_CLIENT = 200
"""Connections of one container, whether they show a key or not: another run must not notice."""
BUFFER_BYTES = 64 * 1024
"""Of each direction of a connection, twice at most."""
_CHUNK = 64 * 1024

Route = Callable[[str, int], tuple[str, int]]
"""From the address and port that were checked to where they are."""


@dataclass(frozen=True)
class Target:
    """What a client asks for, and by which key."""

    host: str
    port: int
    key: str = field(repr=False)


@dataclass(eq=False)
class _Open:
    """A connection that the watch may end."""

    task: "asyncio.Task[None]"
    sha256: str
    last_good: float
    ended_by: Refusal | None = None


class Proxy:
    """Serves connections.

    Args:
        rules: declared services by host.
        authority: shows them inside the stack; None where there are none.
        trusted: what their certificates are verified against.
        look_up, route: for tests that have no network.
    """

    def __init__(
        self,
        configuration: Configuration,
        rules: Mapping[str, list[Rule]],
        authority: Authority | None,
        trusted: ssl.SSLContext,
        runs: Runs,
        log: Log,
        *,
        look_up: addresses.Lookup = addresses.lookup,
        route: Route = lambda address, port: (address, port),
    ) -> None:
        self._configuration = configuration
        self._rules = rules
        self._authority = authority
        self._trusted = trusted
        self._runs = runs
        self._log = log
        self._look_up = look_up
        self._route = route
        self._meter = Meter(configuration.limits)
        self._open: set[_Open] = set()
        self._connections: Counter[str] = Counter()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection from its first byte to its end."""
        client = str((writer.get_extra_info("peername") or ("",))[0])
        self._connections[client] += 1
        try:
            await self._serve(reader, writer, client)
        except OSError:
            # Somebody hung up.
            pass
        finally:
            self._connections[client] -= 1
            if not self._connections[client]:
                del self._connections[client]
            with contextlib.suppress(OSError):
                writer.close()

    async def watch(self) -> None:
        """Ends connections whose run has ended; runs for ever."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await self.look_after()

    async def look_after(self) -> None:
        """One round of `watch`."""
        clock = asyncio.get_running_loop().time
        by_key: dict[str, list[_Open]] = {}
        for one in self._open:
            by_key.setdefault(one.sha256, []).append(one)
        for sha256, connections in by_key.items():
            try:
                await self._runs.of_hash(sha256, fresh=True)
            except Refusal as refusal:
                for one in connections:
                    if refusal.status == 503 and clock() - one.last_good < OUTAGE_SECONDS:
                        continue
                    one.ended_by = refusal
                    one.task.cancel()
            else:
                for one in connections:
                    one.last_good = clock()

    # One connection

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, client: str) -> None:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)
        about: dict[str, str | int] = {"client": client}
        try:
            if self._connections[client] > MAX_OF_CLIENT or self._connections.total() > MAX_CONNECTIONS:
                # An answer is lost where what came before it has not been read.
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await reader.read(_CHUNK)
                raise Refusal(
                    "busy",
                    f"at most {MAX_OF_CLIENT} connections of a client",
                    "more",
                    "try again",
                    status=503,
                )
            request = await _request(http, reader)
            if request is None:
                return
            if (request.method, request.target) == (b"GET", b"/healthz"):
                await _answer(http, writer, 200, b"ok\n", [])
                return
            headers = [
                (name.decode("ascii").lower(), value.decode("latin-1")) for name, value in request.headers
            ]
            _describe(request, about)
            # Before anything is looked at, so that every refusal of a run is written down with it.
            key = _key(headers)
            run = await self._runs.of(key)
            about |= {"run_id": run.run_id, "key_id": run.key_id}
            target = _target(request, headers, key)
            self._check(target, run)
            with self._meter.connection(run.run_id) as count:
                await self._through(target, run, http, reader, writer, count, about)
        except Refusal as refusal:
            self._log.write("refused", **about, reason=refusal.reason, found=refusal.found)
            with contextlib.suppress(OSError, h11.LocalProtocolError):
                await _refuse(http, writer, refusal)

    def _check(self, target: Target, run: Run) -> None:
        """Raises Refusal where neither the defaults nor the run's own list has the host."""
        entries = (*self._configuration.defaults.allow, *run.allow)
        if not any(hosts.matches(entry, target.host) for entry in entries):
            raise Refusal(
                "not-allowed",
                "a host that this run may reach",
                target.host,
                f"start the run with --allow {target.host}, or add it to defaults.allow in egress.yaml",
            )

    async def _through(
        self,
        target: Target,
        run: Run,
        http: h11.Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        count: Count,
        about: dict[str, str | int],
    ) -> None:
        """Resolve, connect and pass on, watched and bounded."""
        task = asyncio.current_task()
        assert task is not None
        loop = asyncio.get_running_loop()
        one = _Open(task, hashlib.sha256(target.key.encode()).hexdigest(), loop.time())
        rules = self._rules.get(target.host, [])
        began = loop.time()
        self._open.add(one)
        reason = "done"
        try:
            async with asyncio.timeout(self._configuration.limits.connection_seconds):
                private = any(rule.service.private for rule in rules)
                found = await addresses.checked(target.host, private=private, look_up=self._look_up)
                if rules:
                    await self._exchange(target, found, rules, http, reader, writer, count, about)
                else:
                    await self._tunnel(target, found, http, reader, writer, count, about)
        except TimeoutError:
            reason = "connection_seconds"
        except asyncio.CancelledError:
            if one.ended_by is None:
                raise
            task.uncancel()
            reason = one.ended_by.reason
            self._log.write("refused", **about, reason=reason, found=one.ended_by.found)
        except Refusal as refusal:
            if http.our_state is not h11.SWITCHED_PROTOCOL:
                # Answered where it was asked.
                raise
            reason = refusal.reason
            self._log.write("refused", **about, reason=reason, found=refusal.found)
        finally:
            self._open.discard(one)
            if http.our_state is h11.SWITCHED_PROTOCOL:
                self._log.write(
                    "closed", **about, reason=reason, sent=count.sent, received=count.received,
                    seconds=round(loop.time() - began, 3),
                )  # fmt: skip
                if reason != "done":
                    writer.transport.abort()

    async def _tunnel(
        self,
        target: Target,
        found: Iterable[str],
        http: h11.Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        count: Count,
        about: dict[str, str | int],
    ) -> None:
        """Bytes to and fro, once the ClientHello named the host that was asked for."""
        far_reader, far_writer, address = await self._connected(target, found)
        try:
            await _accept(http, writer)
            self._log.write("allowed", **about, address=address)
            hello = await _hello(http.trailing_data[0], reader, target.host)
            count.up(len(hello))
            far_writer.write(hello)
            await _relay(reader, writer, far_reader, far_writer, count)
        finally:
            far_writer.close()

    async def _exchange(
        self,
        target: Target,
        found: list[str],
        rules: list[Rule],
        http: h11.Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        count: Count,
        about: dict[str, str | int],
    ) -> None:
        """Requests to a declared service, under our certificate for it."""
        assert self._authority is not None
        # Looked at before TLS begins, so that a service that is down is told as what it is.
        _, probe, address = await self._connected(target, found)
        probe.close()
        await _accept(http, writer)
        self._log.write("allowed", **about, address=address, service=rules[0].name)
        if http.trailing_data[0]:
            raise Refusal("early-data", "a ClientHello after the answer", "one before it", "mend the client")
        context, asked = self._authority.connection(target.host)
        try:
            async with asyncio.timeout(HEAD_SECONDS):
                await writer.start_tls(context)
        except (OSError, TimeoutError) as error:
            if asked and asked[0] != target.host:
                raise _mismatch(target.host, asked[0]) from None
            raise Refusal(
                "tls",
                f"a TLS connection to {target.host} that trusts the proxy's certificate",
                type(error).__name__,
                "programs with certificates of their own need SSL_CERT_FILE's",
            ) from None
        upstream = Upstream(target.host, target.port, self._route(address, target.port), self._trusted)
        try:
            await Exchange(reader, writer, rules, upstream, count, self._log, about).run()
        finally:
            await upstream.close()

    async def _connected(
        self, target: Target, found: Iterable[str]
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
        """A connection to one of the addresses that were checked, the first that answers."""
        failure = "no address"
        for address in found:
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    reader, writer = await asyncio.open_connection(
                        *self._route(address, target.port), limit=BUFFER_BYTES
                    )
            except (OSError, TimeoutError) as error:
                failure = str(error) or type(error).__name__
            else:
                return reader, writer, address
        raise Refusal(
            "unreachable",
            f"{target.host} to take a connection",
            failure[:160],
            "look whether it is up",
            status=502,
        )


async def _request(http: h11.Connection, reader: asyncio.StreamReader) -> h11.Request | None:
    """The request; None where the client hangs up first."""
    try:
        async with asyncio.timeout(HEAD_SECONDS):
            while True:
                event = http.next_event()
                if isinstance(event, h11.Request):
                    return event
                if event is not h11.NEED_DATA:
                    return None
                http.receive_data(await reader.read(_CHUNK))
    except TimeoutError:
        raise Refusal(
            "slow", f"a request within {HEAD_SECONDS} s", "none", "mend the client", status=408
        ) from None
    except h11.RemoteProtocolError as error:
        raise Refusal(
            "bad-request", "an HTTP/1.1 request", str(error)[:120], "mend the client", status=400
        ) from None


def _describe(request: h11.Request, about: dict[str, str | int]) -> None:
    """Note for the log what is asked for, whatever its form."""
    text = request.target.decode("ascii", "replace")
    if request.method != b"CONNECT":
        about |= {"host": text.partition("?")[0], "method": request.method.decode("ascii", "replace")}
        return
    host, _, port = text.rpartition(":")
    about |= {"host": host or text, "port": int(port) if port.isdecimal() and len(port) < 6 else 0}


def _target(request: h11.Request, headers: list[tuple[str, str]], key: str) -> Target:
    """What is asked for, from a request of the right form. Raises Refusal."""
    text = request.target.decode("ascii", "replace")
    if request.method != b"CONNECT":
        raise Refusal(
            "plain-http",
            "CONNECT to port 443",
            f"{request.method.decode('ascii', 'replace')[:20]}",
            "write https:// for http://: what is not encrypted can be changed on its way",
        )
    host, _, port = text.rpartition(":")
    if any(name in ("transfer-encoding", "upgrade") for name, _ in headers) or any(
        name == "content-length" and value.strip() != "0" for name, value in headers
    ):
        raise Refusal("body", "CONNECT without a body", "one with", "mend the client", status=400)
    for value in (value.strip().lower() for name, value in headers if name == "host"):
        if value not in (text.lower(), host.lower()):
            raise Refusal(
                "host-mismatch",
                f"a Host header of {text[:120]}",
                repr(value[:120]),
                "mend the client",
                status=400,
            )
    if not port.isascii() or not port.isdecimal() or int(port) != PORT:
        raise Refusal("port", "port 443", repr(port[:20]), "use https on its own port")
    return Target(_name(host), PORT, key)


def _name(host: str) -> str:
    """The host's name in the form of lists. Raises Refusal for an address and for what no list can hold."""
    name = host.lower()
    if hosts.is_name(name):
        return name
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        kind = "another form"
    else:
        kind = "an address"
    raise Refusal(
        "no-host-name",
        "the name of a host, like index.example",
        f"{kind} ({host[:120]})",
        "addresses, single words and the stack's own services are never reached this way",
    )


def _key(headers: list[tuple[str, str]]) -> str:
    """The password of the proxy's own authentication. Raises Refusal."""
    given = [value for name, value in headers if name == "proxy-authorization"]
    scheme, _, credentials = (given[0] if len(given) == 1 else "").partition(" ")
    if scheme.lower() == "basic":
        try:
            _, separator, password = (
                base64.b64decode(credentials.strip(), validate=True).decode().partition(":")
            )
        except (binascii.Error, UnicodeDecodeError):
            separator, password = "", ""
        if separator:
            return password
    raise Refusal(
        "no-key",
        "the run's key as the proxy's password",
        "none",
        "start the agent by ./paddock run, which sets http_proxy",
        status=407,
    )


async def _hello(begun: bytes, reader: asyncio.StreamReader, host: str) -> bytes:
    """The ClientHello, whole, for the host that was asked for.

    Raises:
        Refusal: no TLS, or another name in it.
    """
    hello, data = ClientHello(), begun
    try:
        async with asyncio.timeout(HEAD_SECONDS):
            known = bool(data) and hello.feed(data)
            while not known:
                more = await reader.read(_CHUNK)
                if not more:
                    raise NotTls("the end of the connection")
                data += more
                known = hello.feed(more)
    except (TimeoutError, NotTls) as error:
        raise Refusal(
            "not-tls", "a TLS ClientHello", str(error)[:80] or "none in time", "only TLS passes through"
        ) from None
    if hello.name != host:
        raise _mismatch(host, hello.name)
    return data


def _mismatch(host: str, found: str) -> Refusal:
    return Refusal(
        "sni-mismatch",
        f"{host} in the ClientHello, as in CONNECT",
        repr(found[:120]) if found else "no name",
        "ask for the host itself by CONNECT",
    )


async def _relay(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    far_reader: asyncio.StreamReader,
    far_writer: asyncio.StreamWriter,
    count: Count,
) -> None:
    """Until both sides have ended, one breaks off, or a limit is reached."""

    async def pass_on(
        source: asyncio.StreamReader, sink: asyncio.StreamWriter, counted: Callable[[int], None]
    ) -> None:
        while True:
            async with asyncio.timeout(IDLE_SECONDS):
                data = await source.read(_CHUNK)
            if not data:
                break
            counted(len(data))
            sink.write(data)
            await sink.drain()
        if sink.can_write_eof():
            sink.write_eof()

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(pass_on(reader, far_writer, count.up))
            group.create_task(pass_on(far_reader, writer, count.down))
    except BaseExceptionGroup as failed:
        refused, others = failed.split(Refusal)
        if refused is not None:
            raise refused.exceptions[0] from None
        # Hung up, or idle for long: the same end.
        if others is not None and others.split((OSError, TimeoutError))[1] is not None:
            raise


async def _accept(http: h11.Connection, writer: asyncio.StreamWriter) -> None:
    """Say that the connection stands; what follows is the agent's and the host's alone."""
    # h11 wants to see the end of the request, which has no body.
    http.next_event()
    writer.write(
        http.send(h11.Response(status_code=200, headers=[], reason=b"Connection established")) or b""
    )
    await writer.drain()


async def _refuse(http: h11.Connection, writer: asyncio.StreamWriter, refusal: Refusal) -> None:
    headers = [("content-type", "application/json")]
    if refusal.status == 407:
        headers.append(("proxy-authenticate", 'Basic realm="paddock egress"'))
    # Clients such as pip and git show no body of a refused CONNECT, but some the reason.
    words = f"{refusal.reason}: {refusal.remedy}".encode("ascii", "replace")[:200]
    await _answer(http, writer, refusal.status, body_of(refusal), headers, words)


async def _answer(
    http: h11.Connection,
    writer: asyncio.StreamWriter,
    status: int,
    content: bytes,
    headers: list[tuple[str, str]],
    reason: bytes = b"",
) -> None:
    if http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    every = [*headers, ("content-length", str(len(content))), ("connection", "close")]
    for event in (
        h11.Response(status_code=status, headers=every, reason=reason),
        h11.Data(data=content),
        h11.EndOfMessage(),
    ):
        writer.write(http.send(event) or b"")
    await writer.drain()
