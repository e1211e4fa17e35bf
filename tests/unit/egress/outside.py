"""The outside, in this process: an authority, HTTPS servers that record, and a proxy that finds nothing else."""

import asyncio
import contextlib
import hashlib
import http.server
import io
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import certificates
import httpx

from paddock_egress.authority import Authority, write_trust
from paddock_egress.config import validation
from paddock_egress.config.source import parse
from paddock_egress.log import Log
from paddock_egress.proxy import BUFFER_BYTES, Proxy
from paddock_egress.rules import rules_of
from paddock_egress.runs import Runs

KEY = "pdk_" + "a" * 43
OTHER_KEY = "pdk_" + "b" * 43
PUBLIC = "192.88.99.7"
"""An address of the former 6to4 relays, which is routed nowhere; nothing is sent there."""
HOSTS = ("index.example", "files.index.example", "git.example", "other.example")


class Recording(http.server.BaseHTTPRequestHandler):
    """Answers what it was asked, and remembers it."""

    protocol_version = "HTTP/1.1"
    seen: list[dict[str, Any]]

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            while length := int(self.rfile.readline(), 16):
                body += self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.seen.append(
            {"method": self.command, "path": self.path, "headers": headers, "body": body.decode("latin-1")}
        )
        answer = json.dumps(self.seen[-1]).encode()
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "https://other.example/" + headers.get("authorization", ""))
            answer = b""
        elif self.path.startswith("/switching"):
            self.send_response(101)
            answer = b""
        elif self.path.startswith("/big"):
            self.send_response(200)
            answer = b"x" * 300_000
        else:
            self.send_response(200)
            self.send_header("Authorization", headers.get("authorization", ""))
            self.send_header("X-Echo", "you sent " + headers.get("authorization", ""))
            self.send_header("Set-Cookie", "session=of-the-token")
            if self.path.startswith("/gzip"):
                self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            # In pieces that split a token.
            for begin in range(0, len(answer), 7 if len(answer) < 5000 else 65536):
                self.wfile.write(answer[begin : begin + (7 if len(answer) < 5000 else 65536)])
                self.wfile.flush()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve


class Quiet(http.server.ThreadingHTTPServer):
    """Clients that hang up are what is tested."""

    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        pass


class Outside:
    """HTTPS for every host of HOSTS on one port, under certificates of one authority."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[dict[str, Any]] = []
        roots, self.certificate = certificates.write(folder, HOSTS)
        self.roots = roots.read_text()

    def __enter__(self) -> "Outside":
        handler = type("Here", (Recording,), {"seen": self.seen})
        self._server = Quiet(("127.0.0.1", 0), handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Inside:
    """What MLflow knows of keys, by their hashes; `away` makes it silent."""

    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    away: bool = False
    asked: int = 0

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.asked += 1
        if self.away:
            raise httpx.ConnectError("nobody there")
        known = self.runs.get(json.loads(request.content)["sha256"])
        if known is None:
            return httpx.Response(404, json={"detail": "expected a key, found none"})
        return httpx.Response(200, json=known)


@dataclass
class Running:
    """A proxy that runs in a thread of its own."""

    port: int
    trust: Path
    inside: Inside
    addresses: dict[str, list[str]]
    _log: io.StringIO
    _call: Callable[[Any], Any]
    _proxy: Proxy

    def lines(self, event: str = "") -> list[dict[str, Any]]:
        """What was written to the log."""
        found = [json.loads(line) for line in self._log.getvalue().splitlines()]
        return [line for line in found if not event or line["event"] == event]

    def text(self) -> str:
        return self._log.getvalue()

    def refused(self) -> dict[str, Any]:
        """The newest refusal, which a client may see before it is written."""
        deadline = time.monotonic() + 5
        while not (lines := self.lines("refused")):
            assert time.monotonic() < deadline, "nothing was refused"
            time.sleep(0.01)
        return lines[-1]

    def look_after(self) -> None:
        """One round of the watch over open connections."""
        self._call(self._proxy.look_after())

    def client(self, key: str = KEY, *, verify: Path | None = None, **options: Any) -> httpx.Client:
        """A client that uses the proxy as an agent's tools do."""
        return httpx.Client(
            proxy=f"http://run:{key}@127.0.0.1:{self.port}" if key else f"http://127.0.0.1:{self.port}",
            verify=ssl.create_default_context(cafile=str(verify or self.trust / "ca-bundle.crt")),
            trust_env=False,
            timeout=10,
            **options,
        )


@contextlib.contextmanager
def proxy(
    outside: Outside,
    folder: Path,
    configuration: str = "version: 1",
    *,
    secrets: dict[str, str] | None = None,
    allow: tuple[str, ...] = (),
) -> Iterator[Running]:
    """A proxy with this configuration, for one run that KEY belongs to."""
    checked = validation.check(parse(configuration, "egress.yaml"))
    rules = rules_of(checked, secrets or {})
    authority = Authority(rules) if rules else None
    write_trust(folder, [outside.roots], authority)
    trusted = ssl.create_default_context(cadata=outside.roots)
    inside = Inside()
    for key, run_id in ((KEY, "run-1"), (OTHER_KEY, "run-2")):
        inside.runs[hashlib.sha256(key.encode()).hexdigest()] = {
            "run_id": run_id,
            "key_id": f"pk_{run_id}",
            "state": "active",
            "allow": list(allow) if key == KEY else [],
        }
    log = io.StringIO()
    addresses = {host: [PUBLIC] for host in HOSTS}

    async def look_up(host: str) -> list[str]:
        if host not in addresses:
            raise OSError("no such host")
        return addresses[host]

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def call(work: Any) -> Any:
        waiting: Future[Any] = asyncio.run_coroutine_threadsafe(work, loop)
        return waiting.result(15)

    client = httpx.AsyncClient(transport=httpx.MockTransport(inside.handle), base_url="http://mlflow:5000")
    made = Proxy(
        checked,
        rules,
        authority,
        trusted,
        Runs(client),
        Log(log),
        look_up=look_up,
        route=lambda _, __: ("127.0.0.1", outside.port),
    )
    server = call(asyncio.start_server(made.serve, "127.0.0.1", 0, limit=BUFFER_BYTES))
    try:
        yield Running(server.sockets[0].getsockname()[1], folder, inside, addresses, log, call, made)
    finally:
        loop.call_soon_threadsafe(server.close)
        call(_end_others())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


async def _end_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
